//! The report of a drill.

use cellar_api::v1::Job;
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::messages::{changed, ended};
use crate::render::drill::report;
use crate::render::job::details;

pub(super) fn drill(state: &str, checks: &Value, change: &Value) -> Job {
    let result = json!({
        "backup": "20260301-101500F", "sizeBytes": "23173529", "restoreMillis": "1200", "readableMillis": "3200",
        "replayedMillis": "4050", "lsn": "0/7000060", "lastCommit": "2026-03-02T10:09:59.987654Z", "checks": checks
    });
    let params = json!({
        "checks": ["select count(*) > 1000\n  from orders"], "checkDatabase": "shop", "nice": 19,
        "maxBytesPerSecond": "67108864"
    });
    ended(
        "DRILL",
        &json!({ "drill": changed(result, change) }),
        &json!({"state": state, "cell": "zone3", "drill": params}),
    )
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
fn a_drill_reports_its_checks() {
    let good = drill("JOB_STATE_SUCCEEDED", &checks(true), &json!({}));
    let bad = drill("JOB_STATE_FAILED", &checks(false), &json!({}));
    let nothing = json!({"readableMillis": "0", "replayedMillis": "0", "lsn": "", "lastCommit": null});
    let stuck = drill("JOB_STATE_FAILED", &json!([]), &nothing);
    let text = [&good, &bad, &stuck].map(|job| report(job, job.result.as_ref().unwrap().drill().unwrap()));
    assert_snapshot!(format!("{}----\n{}", text.join("----\n"), details(&good)));
}
