//! Fixed messages that several tests show.

use cellar_api::v1::Job;
use serde_json::{Value, json};

pub(super) const ID: &str = "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00";

/// A message from its JSON.
pub(super) fn message<M: serde::de::DeserializeOwned>(value: Value) -> M {
    serde_json::from_value(value).unwrap()
}

/// The object with the fields of `change` set.
pub(super) fn changed(mut value: Value, change: &Value) -> Value {
    for (key, part) in change.as_object().unwrap() {
        value[key] = part.clone();
    }
    value
}

/// A running job.
pub(super) fn job(kind: &str, change: &Value) -> Job {
    let value = json!({
        "id": ID, "kind": format!("JOB_KIND_{kind}"), "database": "app", "cell": "zone1",
        "requestedBy": "spiffe://demo/admin/ada", "createTime": "2026-03-02T10:15:00Z",
        "deadline": "2026-03-05T10:15:00Z", "startTime": "2026-03-02T10:15:00.500Z", "state": "JOB_STATE_RUNNING",
    });
    message(changed(value, change))
}

/// A job that succeeded, unless the change is another state.
pub(super) fn ended(kind: &str, result: &Value, change: &Value) -> Job {
    let all = json!({"state": "JOB_STATE_SUCCEEDED", "endTime": "2026-03-02T10:16:15Z", "result": result});
    job(kind, &changed(all, change))
}
