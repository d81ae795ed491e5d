//! The status of a cluster, its cells and its problems.

use cellar_api::v1::{DatabaseView, ListCellsResponse, ListPoolersResponse};
use cellar_provisioner::{Finding, ProcessHealth};
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::messages::message;
use crate::commands::doctor::Scope;
use crate::commands::{cells, doctor, status};
use crate::render::status::database;

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
        "versions": {"postgres": "15.18", "pgbackrest": "2.45", "notes": ["pgBackRest 9.1 is new"]}
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
fn status_shows_cells_and_notes() {
    let view: DatabaseView = message(json!({
        "database": {"name": "app", "stanza": "app", "repoPath": "/c/repo"},
        "leader": {"cell": "zone1", "term": 2},
        "lock": {"holder": "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00", "queue": ["a", "b"]},
        "conditions": [
            {"kind": "locked", "message": "backup 019596a8 holds the stanza, 2 waiting behind it",
             "wayOut": "it ends with the job: `cellar jobs cancel 019596a8` ends it"},
            {"kind": "restore-open", "message": "restore 019596a7 keeps the data from before it, in zone1",
             "wayOut": "`cellar restore confirm 019596a7` deletes it"}
        ]
    }));
    let process = |what: &str, pid| ProcessHealth { what: what.into(), pid, note: None, repair: None };
    let services = status::render_services("localhost:15070", &[process("etcd", Some(17))]);
    let without = status::render_services("localhost:15070", &[process("etcd", None)]);
    let text = database(&view, &poolers().poolers);
    let empty = database(&DatabaseView::default(), &[]);
    assert_snapshot!(format!("{services}{without}\n{text}----\n{empty}"));
}

#[test]
fn a_repository_that_nobody_serves_is_told() {
    let told = |home: &str| {
        let record =
            json!({"name": "app", "stanza": "app", "repoInCell": {"cell": home, "path": "/srv/repo"}});
        let view: DatabaseView = message(json!({"database": record}));
        database(&view, &poolers().poolers)
            .lines()
            .find(|line| line.contains("no WAL is archived"))
            .map(str::to_owned)
    };
    // Its multipooler does not report; its server does not answer; it is well.
    assert!(told("zone4").is_some_and(|note| note.contains("cellar host start")));
    assert!(told("zone2").is_some_and(|note| note.contains("the host of zone2")));
    assert_eq!((told("zone1"), told("zone3")), (None, None));
}

#[test]
fn doctor_lists_problems_with_their_repair() {
    let finding = Finding {
        message: "port 8432, needed by the pgBackRest TLS server of cell zone1, is in use by process 7 (x)"
            .into(),
        hint: Some("end that process".into()),
    };
    let dead = ProcessHealth { what: "multiadmin".into(), pid: None, note: None, repair: None };
    let cells = doctor::cell_problems(&poolers());
    let problems = doctor::render(&[finding], &[&dead], &cells, Scope::ThisMachine);
    let none = doctor::render(&[], &[], &[], Scope::ThisMachine);
    assert_snapshot!(format!("{problems}----\n{none}"));
    // What multipooler cannot start `up` does not start either.
    let repair = Some("why is in /c/zone1/log/postgres.log".to_owned());
    let postgres = ProcessHealth { what: "PostgreSQL of cell zone1".into(), repair, ..dead };
    let told = doctor::render(&[], &[&postgres], &[], Scope::ThisMachine);
    assert!(told.contains("repair: why is in /c/zone1") && !told.contains("cellar up"), "{told}");
    // What is on other hosts was not looked at.
    let on_hosts = doctor::render(&[], &[], &[], Scope::Hosts);
    assert!(on_hosts.contains("multiadmin answers") && !on_hosts.contains("programs, ports"), "{on_hosts}");
}

#[test]
fn cells_are_listed() {
    let answer: ListCellsResponse = message(json!({"cells": [
        {"name": "zone1", "host": "localhost", "directory": "/c/zone1"},
        {"name": "zone2", "index": 1, "host": "localhost", "directory": "/c/zone2"}
    ]}));
    assert_snapshot!(cells::render_list(&answer));
}

#[test]
fn doctor_notes_a_version_that_was_not_tested_and_counts_it_as_no_problem() {
    assert_eq!(doctor::cell_notes(&poolers()), ["cell zone1: pgBackRest 9.1 is new"]);
    assert!(!doctor::cell_problems(&poolers()).join("\n").contains("9.1"));
}

#[test]
fn commands_name_the_database_where_there_are_several() {
    let mut several = poolers();
    let repair = |answer: &ListPoolersResponse| doctor::cell_problems(answer).join("\n");
    assert!(repair(&several).contains("run `cellar rebuild zone3`"));
    several.poolers[0].pooler.as_mut().unwrap().database = "sales".into();
    let told = repair(&several);
    assert!(told.contains("run `cellar rebuild --database app zone3`"), "{told}");
}
