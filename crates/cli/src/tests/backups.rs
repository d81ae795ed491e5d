//! The backups of a repository.

use cellar_api::v1::{Backup, ListBackupsResponse};
use insta::assert_snapshot;
use serde_json::json;

use super::messages::message;
use crate::commands::backups;

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
fn backups_are_listed_with_proof_and_last_drill() {
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
