//! Expiries, verifications and checks.

use cellar_api::v1::ListJobsResponse;
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::messages::{ended, job};
use crate::render::job::details;
use crate::render::job_list::list as list_jobs;

const OLD: &str = "20260301-101500F";

const NEW: &str = "20260302-101500F";

fn expiry(dry_run: bool) -> Value {
    json!({"expire": {
        "dryRun": dry_run, "backups": [OLD, "20260301-101500F_20260301-201500I"], "kept": [NEW],
        "wal": [{"archive": "15-1", "start": "000000010000000000000001", "stop": "000000010000000000000006"}],
    }})
}

#[test]
fn an_expiry_lists_what_is_deleted() {
    let params = |dry_run| json!({"expire": {"backup": OLD, "dryRun": dry_run}});
    let dry = ended("EXPIRE", &expiry(true), &params(true));
    let done = ended("EXPIRE", &expiry(false), &json!({"expire": {}}));
    let warned = json!({"expire": {"dryRun": true, "kept": [NEW], "warnings": ["no retention is set"]}});
    let nothing = ended("EXPIRE", &warned, &json!({}));
    let list = ListJobsResponse { jobs: vec![dry.clone(), done.clone()], ..Default::default() };
    let each = [&dry, &done, &nothing].map(details).join("----\n");
    assert_snapshot!(format!("{}----\n{each}", list_jobs(&list, false)));
}

#[test]
fn a_verification_lists_the_damage() {
    let valid = |name: &str| json!({"name": name, "valid": true, "files": "965", "validFiles": "965"});
    let bad = json!({
        "name": NEW, "files": "965", "validFiles": "962", "missing": "1", "checksumInvalid": "2",
    });
    let window = json!({
        "backup": OLD, "timeline": 1, "fromLsn": "0/2000100", "fromTime": "2026-03-01T10:15:04Z", "toLsn": "0/4000000",
        "toTime": "2026-03-01T11:15:04Z", "gap": "000000010000000000000004",
    });
    let damaged = json!({"verify": {
        "backups": [valid(OLD), bad], "archives": [valid("15-1")],
        "damaged": ["20260302-101500F/pg_data/base/1/2838.zst: invalid checksum"], "windows": [window],
        "warnings": ["WAL segment 000000010000000000000004 is missing"],
    }});
    let error = json!({"code": "REPO_DAMAGED", "message": "backup 20260302-101500F: 1 missing", "hint": "take a full one"});
    let failed = ended("VERIFY", &damaged, &json!({"state": "JOB_STATE_FAILED", "error": error}));
    let well = ended(
        "VERIFY",
        &json!({"verify": {"backups": [valid(OLD)], "archives": [valid("15-1")]}}),
        &json!({}),
    );
    assert_snapshot!([&failed, &well].map(details).join("----\n"));
}

#[test]
fn a_check_names_the_segment() {
    let seen = json!({"check": {"segment": "000000010000000000000009", "millis": "912"}});
    let waits = job("CHECK", &json!({"progress": {"phase": "waiting for a WAL segment to arrive"}}));
    let list =
        ListJobsResponse { jobs: vec![ended("CHECK", &seen, &json!({})), waits], ..Default::default() };
    let one = details(&list.jobs[0]);
    assert_snapshot!(format!("{}----\n{one}", list_jobs(&list, false)));
}
