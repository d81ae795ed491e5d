//! Restores and drills as a person sees them.

use cellar_api::v1::job_result::Outcome;
use cellar_api::v1::{Job, ListJobsResponse};
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::message;
use crate::client::follow::Lines;
use crate::commands::{jobs, restore};
use crate::failure::Failure;
use crate::render::drill;
use crate::render::restore as restored;

const RESTORE: &str = "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00";

pub(super) fn job(kind: &str, change: &Value) -> Job {
    let mut value = json!({
        "id": RESTORE, "kind": format!("JOB_KIND_{kind}"), "database": "app", "cell": "zone1",
        "requestedBy": "spiffe://demo/admin/ada", "createTime": "2026-03-02T10:15:00Z",
        "deadline": "2026-03-05T10:15:00Z", "startTime": "2026-03-02T10:15:00.500Z", "state": "JOB_STATE_RUNNING",
    });
    for (key, part) in change.as_object().unwrap() {
        value[key] = part.clone();
    }
    message(value)
}

pub(super) fn ended(kind: &str, result: &Value, change: &Value) -> Job {
    let mut all =
        json!({"state": "JOB_STATE_SUCCEEDED", "endTime": "2026-03-02T10:16:15Z", "result": result});
    for (key, part) in change.as_object().unwrap() {
        all[key] = part.clone();
    }
    job(kind, &all)
}

fn time_target() -> Value {
    json!({"target": {"time": "2026-03-02T10:10:00.123456Z"}, "onto": "zone2"})
}

fn plan() -> Job {
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
fn the_plan_of_a_restore() {
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
            let plan = restore::plan_of(job).unwrap();
            format!("{}----\n{}\n", restored::plan(job, plan), restore::question(job, plan))
        })
        .to_vec();
    assert_snapshot!(text.join("----\n"));
}

#[test]
fn a_plan_that_fails_changes_nothing_and_is_a_refusal() {
    let error = json!({
        "code": "TARGET_UNREACHABLE", "message": "time 2026-01-01T00:00:00Z lies before the end of the first backup",
        "hint": "the earliest that can be reached is 2026-03-01T10:16:15Z (0/2000138)"
    });
    let failed = job("PLAN", &json!({"state": "JOB_STATE_FAILED", "error": error}));
    let failure = restore::plan_of(&failed).unwrap_err();
    assert_eq!(failure.exit_code(), 3);
    assert_eq!(
        failure.message(),
        "time 2026-01-01T00:00:00Z lies before the end of the first backup (TARGET_UNREACHABLE)"
    );
    assert!(failure.hint().unwrap().starts_with("the earliest"));
    let canceled = job("PLAN", &json!({"state": "JOB_STATE_CANCELED"}));
    assert_eq!(restore::plan_of(&canceled).unwrap_err().message(), "plan of database app was canceled");
    assert!(matches!(restore::plan_of(&ended("PLAN", &json!({}), &json!({}))), Err(Failure::Bug(_))));
}

fn restore_result() -> Value {
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

fn restored_job() -> Job {
    ended(
        "RESTORE",
        &json!({"restore": restore_result()}),
        &json!({"restore": time_target(), "cell": "zone2"}),
    )
}

#[test]
fn what_came_of_a_restore() {
    let tell = |job: &Job| {
        let result = job.result.as_ref().unwrap().restore().unwrap().clone();
        format!("{}{}", restored::summary(job, &result), restored::next(job, &result))
    };
    let mut in_place = restored_job();
    let Some(Outcome::Restore(result)) = &mut in_place.result.as_mut().unwrap().outcome else {
        unreachable!()
    };
    (result.kept, result.first_backup) = (false, None);
    result.left_out = vec!["zone1".into(), "zone3".into()];
    result.recovery.as_mut().unwrap().last_commit = None;
    let mut back = restore_result();
    (back["kept"], back["leftOut"], back["backup"]) = (json!(false), json!([]), Value::Null);
    let back = ended("ROLLBACK", &json!({"restore": back}), &json!({"subject": RESTORE}));
    let text = [restored_job(), in_place, back].map(|job| tell(&job));
    assert_snapshot!(text.join("----\n"));
}

fn step(kind: &str, cell: &str, state: &str, change: &Value) -> Value {
    let mut value = json!({
        "id": format!("{kind}-{cell}"), "kind": format!("JOB_KIND_{kind}"), "cell": cell,
        "state": format!("JOB_STATE_{state}")
    });
    if state != "PENDING" {
        value["startTime"] = json!("2026-03-02T10:15:01Z");
    }
    if matches!(state, "SUCCEEDED" | "FAILED" | "CANCELED") {
        value["endTime"] = json!("2026-03-02T10:15:01.400Z");
    }
    for (key, part) in change.as_object().unwrap() {
        value[key] = part.clone();
    }
    value
}

fn progress(phase: &str, done: u64, total: u64) -> Value {
    json!({"progress": {"phase": phase, "bytesDone": done.to_string(), "bytesTotal": total.to_string()}})
}

fn with_steps(steps: &[Value], change: &Value) -> Job {
    let mut all = json!({"steps": steps, "restore": time_target()});
    for (key, part) in change.as_object().unwrap() {
        all[key] = part.clone();
    }
    job("RESTORE", &all)
}

fn no_room() -> Value {
    json!({"error": {"code": "DISK_FULL", "message": "there is no room for a second copy", "hint": "use --in-place"}})
}

#[test]
fn a_job_with_steps() {
    let running = with_steps(
        &[
            step("PLAN", "zone1", "SUCCEEDED", &json!({})),
            step("FENCE", "zone1", "SUCCEEDED", &json!({})),
            step("FENCE", "zone2", "SUCCEEDED", &json!({})),
            step("RECOVER", "zone2", "RUNNING", &progress("restoring", 1 << 20, 4 << 20)),
            step("REBUILD", "zone1", "PENDING", &json!({})),
        ],
        &progress("recover zone2: restoring", 1 << 20, 4 << 20),
    );
    let failed = with_steps(
        &[step("FENCE", "zone1", "SUCCEEDED", &json!({})), step("RECOVER", "zone2", "FAILED", &no_room())],
        &json!({
            "state": "JOB_STATE_FAILED", "endTime": "2026-03-02T10:15:33Z",
            "error": {"code": "DISK_FULL", "message": "recover of cell zone2: there is no room for a second copy; the database is as it was before"}
        }),
    );
    let text = [running, failed, restored_job(), plan()].map(|job| jobs::render_one(&job));
    assert_snapshot!(text.join("----\n"));
}

#[test]
fn steps_and_their_results() {
    let recovery = restore_result()["recovery"].clone();
    let fence = json!({"wasPrimary": true, "timeline": 1, "lastSegment": "000000010000000000000007"});
    let recover = json!({
        "set": "20260301-101500F", "target": {"lsn": "0/5000060"}, "timeline": 1, "incarnation": 2,
        "lastSegment": "000000010000000000000007"
    });
    let rebuild =
        json!({"backup": "20260301-101500F", "delta": true, "sizeBytes": "23173529", "restoreMillis": "900"});
    let parent = json!({"parent": RESTORE});
    let with = |key: &str, value: Value| {
        let mut all = parent.clone();
        all[key] = value;
        all
    };
    let text = [
        ended("FENCE", &json!({ "fence": fence }), &parent),
        ended("RECOVER", &json!({ "recovery": recovery }), &with("recover", recover)),
        ended("REBUILD", &json!({ "rebuild": rebuild }), &with("rebuild", json!({"keepFor": RESTORE}))),
        ended("DISCARD", &json!({}), &with("subject", json!(RESTORE))),
    ]
    .map(|job| jobs::render_one(&job));
    assert_snapshot!(text.join("----\n"));
}

#[test]
fn steps_for_somebody_without_a_terminal() {
    let mut lines = Lines::default();
    let fence = |state| step("FENCE", "zone1", state, &json!({}));
    let done = fence("SUCCEEDED");
    let recover = |change: &Value| step("RECOVER", "zone2", "RUNNING", change);
    let over = |steps: &[Value]| with_steps(steps, &json!({}));
    let updates = [
        with_steps(&[], &json!({"state": "JOB_STATE_PENDING"})),
        over(&[fence("PENDING")]),
        over(&[fence("RUNNING"), step("FENCE", "zone2", "RUNNING", &json!({}))]),
        over(&[fence("RUNNING"), step("FENCE", "zone2", "SUCCEEDED", &json!({}))]),
        over(&[done.clone(), recover(&json!({}))]),
        over(&[done.clone(), recover(&progress("restoring", 0, 1000))]),
        over(&[done.clone(), recover(&progress("restoring", 50, 1000))]),
        over(&[done.clone(), recover(&progress("restoring", 550, 1000))]),
        over(&[done.clone(), recover(&progress("replaying WAL", 0, 0))]),
        over(&[done.clone(), recover(&progress("replaying WAL", 0, 0))]),
        with_steps(
            &[done, step("RECOVER", "zone2", "FAILED", &no_room())],
            &json!({"state": "JOB_STATE_FAILED", "endTime": "2026-03-02T10:15:33Z"}),
        ),
    ];
    let text: Vec<String> = updates.iter().flat_map(|job| lines.update(job)).collect();
    assert_snapshot!(text.join("\n"));
}

fn drill(state: &str, checks: &Value, change: &Value) -> Job {
    let mut result = json!({
        "backup": "20260301-101500F", "sizeBytes": "23173529", "restoreMillis": "1200", "readableMillis": "3200",
        "replayedMillis": "4050", "lsn": "0/7000060", "lastCommit": "2026-03-02T10:09:59.987654Z", "checks": checks
    });
    for (key, part) in change.as_object().unwrap() {
        result[key] = part.clone();
    }
    let asked = json!({
        "checks": ["select count(*) > 1000\n  from orders"], "checkDatabase": "shop", "nice": 19,
        "maxBytesPerSecond": "67108864"
    });
    ended("DRILL", &json!({ "drill": result }), &json!({"state": state, "cell": "zone3", "drill": asked}))
}

fn checks(passed: bool) -> Value {
    json!([
        {"name": "pg_amcheck", "passed": true, "detail": "no corruption in 3 databases"},
        {
            "name": "select count(*) > 1000\n  from orders where created_at > now() - interval '1 day'",
            "passed": passed, "detail": if passed { "true" } else { "it returned f" }
        }
    ])
}

#[test]
fn the_report_of_a_drill() {
    let good = drill("JOB_STATE_SUCCEEDED", &checks(true), &json!({}));
    let bad = drill("JOB_STATE_FAILED", &checks(false), &json!({}));
    let nothing = json!({"readableMillis": "0", "replayedMillis": "0", "lsn": "", "lastCommit": null});
    let stuck = drill("JOB_STATE_FAILED", &json!([]), &nothing);
    let text =
        [&good, &bad, &stuck].map(|job| drill::report(job, job.result.as_ref().unwrap().drill().unwrap()));
    assert_snapshot!(format!("{}----\n{}", text.join("----\n"), jobs::render_one(&good)));
}

#[test]
fn a_list_with_and_without_steps() {
    let of_step = json!({"parent": RESTORE, "id": "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f01"});
    let jobs = vec![
        job("ROLLBACK", &json!({"subject": RESTORE, "progress": {"phase": "fence zone1: stopping"}})),
        ended("CONFIRM", &json!({}), &json!({"subject": RESTORE})),
        restored_job(),
        job("RECOVER", &of_step),
        drill("JOB_STATE_SUCCEEDED", &json!([]), &json!({})),
        plan(),
        job("RESTORE", &json!({"state": "JOB_STATE_FAILED", "error": {"code": "WAL_MISSING"}})),
    ];
    let list =
        |steps| jobs::render_list(&ListJobsResponse { jobs: jobs.clone(), ..Default::default() }, steps);
    assert_snapshot!(format!("{}----\n{}", list(false), list(true)));
}
