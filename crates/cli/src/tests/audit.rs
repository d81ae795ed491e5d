//! Audit records.

use cellar_api::v1::ListAuditResponse;
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::messages::message;
use crate::commands::audit;

#[test]
fn audit_records_show_outcome_and_arguments() {
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
