//! The plan of a restore, and its outcome.

use cellar_api::v1::job_result::Outcome;
use cellar_api::v1::{Job, JobState};
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::messages::{ID, ended, job, message};
use crate::commands::restore::plan_of;
use crate::failure::Failure;
use crate::render::plan as render;
use crate::render::restore::report;

pub(super) fn time_target() -> Value {
    json!({"target": {"time": "2026-03-02T10:10:00.123456Z"}, "onto": "zone2"})
}

pub(super) fn plan() -> Job {
    let window = |backup: &str, gap: &str| {
        json!({
            "backup": backup, "timeline": 1, "fromLsn": "0/2000138", "fromTime": "2026-03-01T10:16:15Z",
            "toLsn": "0/8000000", "toTime": "2026-03-02T10:14:00Z", "gap": gap
        })
    };
    let plan = json!({
        "target": {"time": "2026-03-02T10:10:00.123456Z"}, "resolved": {"time": "2026-03-02T10:10:00.123456Z"},
        "timeline": 1, "backup": "20260301-101500F",
        "why": "it is the newest of 2 on timeline 1 that ended before the target",
        "walStart": "000000010000000000000002", "walStop": "000000010000000000000007", "walSegments": "6",
        "sizeBytes": "23173529", "estimatedSeconds": 95,
        "windows": [window("20260301-101500F", ""), window("20260302-101500F", "000000010000000000000009")],
        "cells": [
            {"cell": "zone1", "action": "rebuilt from the new primary", "neededBytes": "23173529", "freeBytes": "5000000000"},
            {"cell": "zone2", "action": "restored, becomes the primary", "neededBytes": "23173529", "freeBytes": "5000000000"},
            {"cell": "zone3", "action": "left out: it is down"}
        ],
        "warnings": ["cell zone3 is down and rebuilds itself when it returns"]
    });
    ended("PLAN", &json!({ "plan": plan }), &json!({"restore": time_target()}))
}

#[test]
fn a_plan_shows_target_cells_and_windows() {
    let timed = plan();
    let mut named = plan();
    let Some(Outcome::Plan(parts)) = &mut named.result.as_mut().unwrap().outcome else { unreachable!() };
    parts.target = Some(message(json!({"name": "before the migration"})));
    parts.resolved = Some(message(json!({"lsn": "0/5000060"})));
    parts.found = "the restore point at 0/5000060".into();
    (parts.estimated_seconds, parts.wal_segments) = (0, 1);
    (parts.cells, parts.windows, parts.warnings) = Default::default();
    let text: Vec<String> = [&timed, &named]
        .map(|job| {
            let plan = plan_of(job).unwrap();
            format!("{}----\n{}\n", render::plan(job, plan), render::question(job, plan))
        })
        .to_vec();
    assert_snapshot!(text.join("----\n"));
}

#[test]
fn a_failed_plan_is_a_refusal() {
    let error = json!({
        "code": "TARGET_UNREACHABLE", "message": "time 2026-01-01T00:00:00Z lies before the end of the first backup",
        "hint": "the earliest that can be reached is 2026-03-01T10:16:15Z (0/2000138)"
    });
    let failed = job("PLAN", &json!({"state": "JOB_STATE_FAILED", "error": error}));
    let failure = plan_of(&failed).unwrap_err();
    assert_eq!(failure.exit_code(), 3);
    assert_eq!(
        failure.message(),
        "time 2026-01-01T00:00:00Z lies before the end of the first backup (TARGET_UNREACHABLE)"
    );
    assert!(failure.hint().unwrap().starts_with("the earliest"));
    let canceled = job("PLAN", &json!({"state": "JOB_STATE_CANCELED"}));
    assert_eq!(plan_of(&canceled).unwrap_err().message(), "plan of database app was canceled");
    assert!(matches!(plan_of(&ended("PLAN", &json!({}), &json!({}))), Err(Failure::Bug(_))));
}

pub(super) fn restore_result() -> Value {
    json!({
        "cell": "zone2", "incarnation": 2, "backup": "20260301-101500F", "leftOut": ["zone3"], "kept": true,
        "firstBackup": "20260301-101500F_20260302-101600I",
        "recovery": {
            "timeline": 2, "fromTimeline": 1, "lsn": "0/5000060", "lastCommit": "2026-03-02T10:09:59.987654Z",
            "stopped": "before the commit of transaction 743 at 2026-03-02T10:10:01Z", "sizeBytes": "23173529",
            "restoreMillis": "1200", "recoveryMillis": "2400"
        }
    })
}

pub(super) fn restored_job() -> Job {
    ended(
        "RESTORE",
        &json!({"restore": restore_result()}),
        &json!({"restore": time_target(), "cell": "zone2"}),
    )
}

#[test]
fn an_ended_restore_shows_what_it_reached() {
    let mut in_place = restored_job();
    let Some(Outcome::Restore(result)) = &mut in_place.result.as_mut().unwrap().outcome else {
        unreachable!()
    };
    (result.kept, result.first_backup) = (false, None);
    result.left_out = vec!["zone1".into(), "zone3".into()];
    result.recovery.as_mut().unwrap().last_commit = None;
    let mut back = restore_result();
    (back["kept"], back["leftOut"], back["backup"]) = (json!(false), json!([]), Value::Null);
    let back = ended("ROLLBACK", &json!({"restore": back}), &json!({"subject": ID}));
    let mut beside = restored_job();
    let Some(Outcome::Restore(result)) = &mut beside.result.as_mut().unwrap().outcome else { unreachable!() };
    result.not_fenced = Some("zone1".into());
    let canceled = Job { state: JobState::Canceled.into(), ..restored_job() };
    let told = report(&canceled).unwrap();
    assert!(told.starts_with("database app is to be the one restored in cell zone2"), "{told}");
    assert!(!told.contains("is restored") && told.contains("the job was canceled before"), "{told}");
    assert!(told.contains("cellar restore rollback"), "it took effect: {told}");
    let text = [restored_job(), in_place, back, beside].map(|job| report(&job).unwrap());
    assert_snapshot!(text.join("----\n"));
}
