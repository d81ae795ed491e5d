//! Every human output as a person sees it, from fixed messages, and every `--help`.

mod restores;
mod schedules;
mod upkeep;

use cellar_api::v1::{
    Backup, DatabaseView, Job, ListAuditResponse, ListBackupsResponse, ListCellsResponse, ListJobsResponse,
    ListPoolersResponse,
};
use cellar_provisioner::{Finding, ProcessHealth};
use clap::CommandFactory;
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::client::follow::Lines;
use crate::commands::{audit, backups, cells, doctor, jobs, status};
use crate::render::proof;

fn message<M: serde::de::DeserializeOwned>(value: Value) -> M {
    serde_json::from_value(value).unwrap()
}

fn backup_result() -> Value {
    json!({
        "label": "20260301-101500F_20260302-101500I", "type": "BACKUP_TYPE_INCR", "prior": "20260301-101500F",
        "startLsn": "0/4000028", "stopLsn": "0/4000138", "walStart": "000000010000000000000004",
        "walStop": "000000010000000000000004", "sizeBytes": "23173529", "repoBytes": "781000",
        "source": {
            "cell": "zone3", "dataDirectory": "/c/zone3/pg_data", "systemIdentifier": "7", "timeline": 1,
            "replayLsn": "0/4000000", "filesFromSource": "956", "filesFromPrimary": "7", "verified": true
        }
    })
}

fn job(change: &Value) -> Job {
    let mut value = json!({
        "id": "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00", "kind": "JOB_KIND_BACKUP", "database": "app",
        "cell": "zone3", "backup": {"type": "BACKUP_TYPE_INCR"}, "requestedBy": "spiffe://demo/admin/ada",
        "createTime": "2026-03-02T10:15:00Z", "deadline": "2026-03-05T10:15:00Z",
        "startTime": "2026-03-02T10:15:00.500Z", "state": "JOB_STATE_RUNNING",
    });
    for (key, part) in change.as_object().unwrap() {
        value[key] = part.clone();
    }
    message(value)
}

fn succeeded() -> Job {
    job(&json!({
        "state": "JOB_STATE_SUCCEEDED", "endTime": "2026-03-02T10:15:03.900Z",
        "result": {"backup": backup_result()},
        "history": [
            {"state": "JOB_STATE_RUNNING", "time": "2026-03-02T10:15:00.500Z", "epoch": "e"},
            {"state": "JOB_STATE_SUCCEEDED", "time": "2026-03-02T10:15:03.900Z", "epoch": "e"}
        ]
    }))
}

fn failed() -> Job {
    job(&json!({
        "state": "JOB_STATE_FAILED", "endTime": "2026-03-02T10:15:33Z",
        "error": {
            "code": "PGBACKREST_FAILED", "message": "pgbackrest backup ended with exit code 82",
            "hint": "look at the archiver of the primary",
            "toolOutput": "P00   INFO: backup command begin\nP00  ERROR: [082]: WAL segment was not archived\n"
        }
    }))
}

fn running(phase: &str, done: u64, total: u64) -> Job {
    let progress = json!({"phase": phase, "bytesDone": done.to_string(), "bytesTotal": total.to_string()});
    job(&json!({ "progress": progress }))
}

fn queued() -> Job {
    job(&json!({
        "state": "JOB_STATE_PENDING", "startTime": null,
        "waitsFor": ["019596a8-0000-7b52-9f2e-3a1c5d8e9f00"]
    }))
}

#[test]
fn the_audit_trail() {
    let call = |change: Value| {
        let mut value = json!({
            "id": "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00", "time": "2026-03-02T10:15:00.250Z",
            "identity": "spiffe://demo/admin/ada", "peer": "127.0.0.1:40112", "rpc": "Backup",
            "outcome": "AUDIT_OUTCOME_ALLOWED",
        });
        value.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        value
    };
    let answer: ListAuditResponse = message(json!({"records": [
        call(json!({
            "arguments": {"cell": "zone3", "queue": true}, "job": "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f01",
        })),
        call(json!({
            "rpc": "RestoreDatabase", "outcome": "AUDIT_OUTCOME_REFUSED", "code": "PERMISSION_DENIED", "message": "m",
            "identity": "spiffe://demo/viewer/grafana", "peer": "[::1]:7",
        })),
        call(json!({
            "rpc": "DrillRestore", "outcome": "AUDIT_OUTCOME_FAILED", "code": "UNKNOWN_CELL", "message": "m",
            "arguments": {"cell": "zone9\n\u{1b}[2J", "checks": "(withheld)", "target": {"lsn": "0/1"}, "list": ["a", 1]},
            "peer": "", "identity": "",
        })),
    ]}));
    assert_snapshot!(format!(
        "{}{}",
        audit::render_list(&answer),
        audit::render_list(&ListAuditResponse::default())
    ));
}

#[test]
fn a_finished_backup_shows_its_proof() {
    let job = succeeded();
    let mut result = job.result.as_ref().unwrap().backup().unwrap().clone();
    let mut text = proof::summary(&job, &result, Some("zone1"));
    if let Some(source) = &mut result.source {
        (source.cell, source.files_from_primary, source.files_from_source) = ("zone1".into(), 0, 1);
    }
    text.push_str(&proof::summary(&job, &result, Some("zone1")));
    if let Some(source) = &mut result.source {
        source.verified = false;
    }
    text.push_str(&proof::summary(&job, &result, None));
    assert_snapshot!(text);
}

#[test]
fn one_job() {
    let canceled = job(&json!({
        "cancel": {"requestedBy": "spiffe://demo/admin/ada", "time": "2026-03-02T10:16:00Z"},
        "progress": {"phase": "copying", "bytesDone": "1048576", "bytesTotal": "4194304"}
    }));
    let text: Vec<String> =
        [succeeded(), failed(), canceled, queued()].iter().map(jobs::render_one).collect();
    assert_snapshot!(text.join("----\n"));
}

#[test]
fn all_jobs() {
    let lost = job(&json!({"state": "JOB_STATE_LOST", "kind": "JOB_KIND_REBUILD"}));
    let jobs = vec![succeeded(), failed(), running("copying", 50, 100), queued(), lost];
    let none = jobs::render_list(&ListJobsResponse::default(), false);
    let text = jobs::render_list(&ListJobsResponse { jobs, next_page_token: String::new() }, false);
    assert_snapshot!(format!("{text}{none}"));
}

#[test]
fn progress_for_somebody_without_a_terminal() {
    let mut lines = Lines::default();
    let lost = job(&json!({"state": "JOB_STATE_LOST"}));
    let updates = [
        queued(),
        job(&json!({"state": "JOB_STATE_PENDING"})),
        running("checking the instance", 0, 0),
        running("checking the instance", 0, 0),
        running("copying", 0, 1000),
        running("copying", 99, 1000),
        running("copying", 100, 1000),
        running("copying", 750, 1000),
        lost,
        running("copying", 2000, 1000),
        succeeded(),
    ];
    let text: Vec<String> = updates.iter().flat_map(|job| lines.update(job)).collect();
    assert_snapshot!(text.join("\n"));
}

fn full() -> Backup {
    message(json!({
        "label": "20260301-101500F", "type": "BACKUP_TYPE_FULL", "startTime": "2026-03-01T10:15:00Z",
        "stopTime": "2026-03-01T10:16:15Z", "startLsn": "0/2000028", "stopLsn": "0/2000138",
        "walStart": "000000010000000000000002", "walStop": "000000010000000000000002",
        "sizeBytes": "23173529", "repoBytes": "2900000", "cell": "zone3", "verified": true,
        "job": "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00", "fromStandby": true
    }))
}

#[test]
fn backups_of_a_repo() {
    let foreign: Backup =
        message(json!({"label": "20260302-101500F", "type": "BACKUP_TYPE_FULL", "error": true}));
    let drilled = |passed: bool| {
        let drill = json!({
            "job": "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f01", "cell": "zone2", "time": "2026-03-03T10:15:20Z",
            "passed": passed, "readableMillis": if passed { "3200" } else { "0" }
        });
        Backup { last_drill: Some(message(drill)), ..full() }
    };
    let none = backups::render_list(&ListBackupsResponse::default());
    let backups = vec![full(), drilled(true), drilled(false), foreign];
    let list = backups::render_list(&ListBackupsResponse { backups, read_by: "zone1".into() });
    let each: String = [full(), drilled(true), drilled(false)]
        .iter()
        .map(|one| format!("----\n{}", backups::render_one(one)))
        .collect();
    assert_snapshot!(format!("{list}{none}{each}"));
}

fn pooler(cell: &str, status: &Value) -> Value {
    json!({"pooler": {"database": "app", "cell": cell}, "status": status})
}

fn poolers() -> ListPoolersResponse {
    let primary = json!({
        "database": "app", "cell": "zone1", "state": "INSTANCE_STATE_RUNNING", "role": "ROLE_PRIMARY",
        "timeline": 2, "tlsServerUp": true, "certificateExpiry": "2027-03-01T00:00:00Z",
        "archiver": {
            "lastArchivedWal": "000000020000000000000004", "lastArchivedTime": "2026-03-01T10:00:00Z",
            "lastFailedWal": "000000020000000000000005", "lastFailedTime": "2026-03-01T11:00:00Z"
        },
        "versions": {"postgres": "15.18", "pgbackrest": "2.45"}
    });
    let standby = json!({
        "database": "app", "cell": "zone2", "state": "INSTANCE_STATE_RUNNING", "role": "ROLE_STANDBY",
        "timeline": 2, "streamsFrom": "zone1", "replayLag": "LAG_CLASS_CURRENT",
        "certificateExpiry": "2027-03-01T00:00:00Z", "versions": {"postgres": "15.18", "pgbackrest": "2.45"},
        "unreadableRecords": ["/cellar/demo/cells/x"]
    });
    let broken = json!({
        "database": "app", "cell": "zone3", "state": "INSTANCE_STATE_BROKEN", "tlsServerUp": true,
        "message": "its data directory belongs to another database: run `cellar rebuild zone3`"
    });
    message(json!({
        "poolers": [
            pooler("zone1", &primary), pooler("zone2", &standby), pooler("zone3", &broken),
            pooler("zone4", &Value::Null)
        ],
        "unreadableRecords": ["/cellar/demo/poolers/app/x"]
    }))
}

#[test]
fn the_status_of_a_database() {
    let view: DatabaseView = message(json!({
        "database": {"name": "app", "stanza": "app", "repoPath": "/c/repo"},
        "leader": {"cell": "zone1", "term": 2},
        "lock": {"holder": "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00", "queue": ["a", "b"]}
    }));
    let process = |what: &str, pid| ProcessHealth { what: what.into(), pid };
    let services = status::render_services("localhost:15070", &[process("etcd", Some(17))]);
    let without = status::render_services("localhost:15070", &[process("etcd", None)]);
    let text = status::render_database(&view, &poolers().poolers);
    let empty = status::render_database(&DatabaseView::default(), &[]);
    assert_snapshot!(format!("{services}{without}\n{text}----\n{empty}"));
}

#[test]
fn what_the_doctor_finds() {
    let finding = Finding {
        message: "port 8432, needed by the pgBackRest TLS server of cell zone1, is in use by process 7 (x)"
            .into(),
        hint: Some("end that process".into()),
    };
    let dead = ProcessHealth { what: "multiadmin".into(), pid: None };
    let cells = doctor::cell_problems(&poolers());
    let ill = doctor::render(&[finding], &[&dead], &cells);
    assert_snapshot!(format!("{ill}----\n{}", doctor::render(&[], &[], &[])));
}

#[test]
fn the_cells() {
    let answer: ListCellsResponse = message(json!({"cells": [
        {"name": "zone1", "host": "localhost", "directory": "/c/zone1"},
        {"name": "zone2", "index": 1, "host": "localhost", "directory": "/c/zone2"}
    ]}));
    assert_snapshot!(cells::render_list(&answer));
}

/// The help of a command and of everything below it.
fn helps(mut command: clap::Command, path: &str, all: &mut String) {
    let path = format!("{path}{}", command.get_name());
    all.push_str(&format!("$ {path} --help\n{}\n", command.render_long_help()));
    for sub in command.get_subcommands() {
        helps(sub.clone(), &format!("{path} "), all);
    }
}

#[test]
fn every_help() {
    let mut command = Arguments::command();
    command.build();
    command.clone().debug_assert();
    let mut all = String::new();
    helps(command.clone(), "", &mut all);
    assert_snapshot!(all);
    let leaves = |command: &clap::Command| {
        let mut open = vec![command.clone()];
        let mut found = Vec::new();
        while let Some(next) = open.pop() {
            let below: Vec<_> = next.get_subcommands().cloned().collect();
            if below.is_empty() {
                found.push(next);
            }
            open.extend(below);
        }
        found
    };
    for leaf in leaves(&command) {
        let help = leaf.clone().render_long_help().to_string();
        assert!(help.contains("Example"), "{} has no example", leaf.get_name());
    }
}
