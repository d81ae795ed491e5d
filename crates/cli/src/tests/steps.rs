//! Jobs with steps, and the steps themselves.

use cellar_api::v1::{Job, ListJobsResponse};
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::drills::drill;
use super::messages::{ID, changed, ended, job};
use super::restores::{plan, restore_result, restored_job, time_target};
use crate::render::job::details;
use crate::render::job_list::list;
use crate::render::progress::Lines;

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
    changed(value, change)
}

fn progress(phase: &str, done: u64, total: u64) -> Value {
    json!({"progress": {"phase": phase, "bytesDone": done.to_string(), "bytesTotal": total.to_string()}})
}

fn with_steps(steps: &[Value], change: &Value) -> Job {
    let all = json!({"steps": steps, "restore": time_target()});
    job("RESTORE", &changed(all, change))
}

fn no_room() -> Value {
    json!({"error": {"code": "DISK_FULL", "message": "there is no room for a second copy", "hint": "use --in-place"}})
}

#[test]
fn a_job_is_shown_with_its_steps() {
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
    let text = [running, failed, restored_job(), plan()].map(|job| details(&job));
    assert_snapshot!(text.join("----\n"));
}

#[test]
fn each_step_shows_its_result() {
    let recovery = restore_result()["recovery"].clone();
    let fence = json!({"wasPrimary": true, "timeline": 1, "lastSegment": "000000010000000000000007"});
    let recover = json!({
        "set": "20260301-101500F", "target": {"lsn": "0/5000060"}, "timeline": 1, "incarnation": 2,
        "lastSegment": "000000010000000000000007"
    });
    let rebuild =
        json!({"backup": "20260301-101500F", "delta": true, "sizeBytes": "23173529", "restoreMillis": "900"});
    let parent = json!({"parent": ID});
    let with = |key: &str, value: Value| {
        let mut all = parent.clone();
        all[key] = value;
        all
    };
    let text = [
        ended("FENCE", &json!({ "fence": fence }), &parent),
        ended("RECOVER", &json!({ "recovery": recovery }), &with("recover", recover)),
        ended("REBUILD", &json!({ "rebuild": rebuild }), &with("rebuild", json!({"keepFor": ID}))),
        ended("DISCARD", &json!({}), &with("subject", json!(ID))),
    ]
    .map(|job| details(&job));
    assert_snapshot!(text.join("----\n"));
}

#[test]
fn steps_without_a_terminal_are_lines() {
    let mut lines = Lines::default();
    let fence = |state| step("FENCE", "zone1", state, &json!({}));
    let done = fence("SUCCEEDED");
    let recover = |change: &Value| step("RECOVER", "zone2", "RUNNING", change);
    let with = |steps: &[Value]| with_steps(steps, &json!({}));
    let updates = [
        with_steps(&[], &json!({"state": "JOB_STATE_PENDING"})),
        with(&[fence("PENDING")]),
        with(&[fence("RUNNING"), step("FENCE", "zone2", "RUNNING", &json!({}))]),
        with(&[fence("RUNNING"), step("FENCE", "zone2", "SUCCEEDED", &json!({}))]),
        with(&[done.clone(), recover(&json!({}))]),
        with(&[done.clone(), recover(&progress("restoring", 0, 1000))]),
        with(&[done.clone(), recover(&progress("restoring", 50, 1000))]),
        with(&[done.clone(), recover(&progress("restoring", 550, 1000))]),
        with(&[done.clone(), recover(&progress("replaying WAL", 0, 0))]),
        with(&[done.clone(), recover(&progress("replaying WAL", 0, 0))]),
        with_steps(
            &[done, step("RECOVER", "zone2", "FAILED", &no_room())],
            &json!({"state": "JOB_STATE_FAILED", "endTime": "2026-03-02T10:15:33Z"}),
        ),
    ];
    let text: Vec<String> = updates.iter().flat_map(|job| lines.update(job)).collect();
    assert_snapshot!(text.join("\n"));
}

#[test]
fn steps_are_listed_with_their_job() {
    let of_step = json!({"parent": ID, "id": "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f01"});
    let jobs = vec![
        job("ROLLBACK", &json!({"subject": ID, "progress": {"phase": "fence zone1: stopping"}})),
        ended("CONFIRM", &json!({}), &json!({"subject": ID})),
        restored_job(),
        job("RECOVER", &of_step),
        drill("JOB_STATE_SUCCEEDED", &json!([]), &json!({})),
        plan(),
        job("RESTORE", &json!({"state": "JOB_STATE_FAILED", "error": {"code": "WAL_MISSING"}})),
    ];
    let list = |steps| list(&ListJobsResponse { jobs: jobs.clone(), ..Default::default() }, steps);
    assert_snapshot!(format!("{}----\n{}", list(false), list(true)));
}
