//! Jobs as they are listed, shown and followed.

use cellar_api::v1::{Job, ListJobsResponse};
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::messages::{changed, job};
use crate::render::backup::summary;
use crate::render::job::details;
use crate::render::job_list::list;
use crate::render::progress::Lines;

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

fn backup_job(change: &Value) -> Job {
    let backup = json!({"cell": "zone3", "backup": {"type": "BACKUP_TYPE_INCR"}});
    job("BACKUP", &changed(backup, change))
}

pub(super) fn succeeded() -> Job {
    backup_job(&json!({
        "state": "JOB_STATE_SUCCEEDED", "endTime": "2026-03-02T10:15:03.900Z",
        "result": {"backup": backup_result()},
        "history": [
            {"state": "JOB_STATE_RUNNING", "time": "2026-03-02T10:15:00.500Z", "epoch": "e"},
            {"state": "JOB_STATE_SUCCEEDED", "time": "2026-03-02T10:15:03.900Z", "epoch": "e"}
        ]
    }))
}

fn failed() -> Job {
    backup_job(&json!({
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
    backup_job(&json!({ "progress": progress }))
}

fn queued() -> Job {
    backup_job(&json!({
        "state": "JOB_STATE_PENDING", "startTime": null,
        "waitsFor": ["019596a8-0000-7b52-9f2e-3a1c5d8e9f00"]
    }))
}

#[test]
fn an_ended_backup_shows_its_proof() {
    let job = succeeded();
    let mut result = job.result.as_ref().unwrap().backup().unwrap().clone();
    let mut text = summary(&job, &result, Some("zone1"));
    if let Some(source) = &mut result.source {
        (source.cell, source.files_from_primary, source.files_from_source) = ("zone1".into(), 0, 1);
    }
    text.push_str(&summary(&job, &result, Some("zone1")));
    if let Some(source) = &mut result.source {
        source.verified = false;
    }
    text.push_str(&summary(&job, &result, None));
    assert_snapshot!(text);
}

#[test]
fn a_job_is_shown_with_its_outcome() {
    let canceled = backup_job(&json!({
        "cancel": {"requestedBy": "spiffe://demo/admin/ada", "time": "2026-03-02T10:16:00Z"},
        "progress": {"phase": "copying", "bytesDone": "1048576", "bytesTotal": "4194304"}
    }));
    let text: Vec<String> = [succeeded(), failed(), canceled, queued()].iter().map(details).collect();
    assert_snapshot!(text.join("----\n"));
}

#[test]
fn jobs_are_listed_with_a_detail() {
    let lost = backup_job(&json!({"state": "JOB_STATE_LOST", "kind": "JOB_KIND_REBUILD"}));
    let jobs = vec![succeeded(), failed(), running("copying", 50, 100), queued(), lost];
    let none = list(&ListJobsResponse::default(), false);
    let text = list(&ListJobsResponse { jobs, next_page_token: String::new() }, false);
    assert_snapshot!(format!("{text}{none}"));
}

#[test]
fn progress_without_a_terminal_is_a_line_for_each_tenth() {
    let mut lines = Lines::default();
    let lost = backup_job(&json!({"state": "JOB_STATE_LOST"}));
    let updates = [
        queued(),
        backup_job(&json!({"state": "JOB_STATE_PENDING"})),
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

#[test]
fn backup_with_page_errors_says_so_and_why_it_is_full() {
    let more = json!({"pageErrors": true, "warnings": ["a full backup was taken, because"]});
    let job = backup_job(&json!({
        "state": "JOB_STATE_FAILED", "result": {"backup": changed(backup_result(), &more)}
    }));
    let result = job.result.as_ref().and_then(|result| result.backup()).expect("a backup's result");
    let text = summary(&job, result, None);
    assert!(text.contains("page errors  FOUND") && text.contains("warnings:\n  a full backup"), "{text}");
}

#[test]
fn large_file_that_is_being_copied_is_named_with_its_size() {
    let progress = json!({
        "phase": "copying", "bytesDone": "0", "bytesTotal": "4294967296", "file": "base/5/16385",
        "fileBytes": "1073741824"
    });
    let lines = Lines::default().update(&backup_job(&json!({ "progress": progress })));
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("base/5/16385 (1.0 GiB)"), "{lines:?}");
}
