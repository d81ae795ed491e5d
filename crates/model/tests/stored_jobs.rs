//! Jobs and runs exactly as etcd holds them: processes of different versions read each other's records.

#![expect(clippy::unwrap_used, reason = "a test ends where it must not go on")]

use cellar_model::{Job, JobRecord, Run};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const OTHER: &str = "01890a5d-ac96-774b-bcce-b302099a8058";
const LABEL: &str = "20260301-101500F";
const TIME: &str = "2026-03-01T10:00:00Z";

/// Reads the stored text and writes the same.
fn kept<R: Serialize + DeserializeOwned>(stored: &Value) {
    let record: R = serde_json::from_str(&stored.to_string()).unwrap();
    let written: Value = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
    assert_eq!(written, *stored);
}

fn with(mut document: Value, more: &Value) -> Value {
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    document
}

fn record(spec: &Value) -> Value {
    with(
        json!({
            "id": ID, "database": "app", "cell": "zone2", "requestedBy": "spiffe://demo/admin/ann",
            "createTime": TIME, "deadline": "2026-03-04T10:00:00Z",
        }),
        spec,
    )
}

fn run(result: &Value) -> Value {
    json!({
        "id": ID, "database": "app", "cell": "zone2", "state": "JOB_STATE_SUCCEEDED", "epoch": "e",
        "startTime": TIME, "endTime": TIME,
        "progress": {"phase": "copying", "bytesDone": "1", "bytesTotal": "2"}, "result": result,
        "history": [{"state": "JOB_STATE_RUNNING", "time": TIME, "epoch": "e"}],
    })
}

/// What multiadmin records for each kind.
fn specs() -> Vec<Value> {
    let restore = json!({"target": {"latest": {}}, "inPlace": false, "onto": "zone2"});
    vec![
        json!({
            "kind": "JOB_KIND_BACKUP",
            "backup": {"type": "BACKUP_TYPE_INCR", "allowPrimary": false, "maxLagBytes": "268435456"},
        }),
        json!({"kind": "JOB_KIND_REBUILD", "rebuild": {}}),
        json!({"kind": "JOB_KIND_REBUILD", "rebuild": {"keepFor": OTHER}, "parent": OTHER}),
        json!({"kind": "JOB_KIND_REBUILD", "rebuild": {"putBack": OTHER}, "parent": OTHER}),
        json!({"kind": "JOB_KIND_RESTORE", "restore": restore, "requestId": "r"}),
        json!({"kind": "JOB_KIND_RESTORE", "restore": restore, "deadPrimary": {"cell": "zone1"}}),
        json!({"kind": "JOB_KIND_ROLLBACK", "subject": OTHER, "deadPrimary": {"cell": "zone1", "reported": true}}),
        json!({"kind": "JOB_KIND_PLAN", "restore": with(restore, &json!({"timeline": 1, "target": {"lsn": "0/1"}}))}),
        json!({"kind": "JOB_KIND_ROLLBACK", "subject": OTHER}),
        json!({"kind": "JOB_KIND_CONFIRM", "subject": OTHER}),
        json!({"kind": "JOB_KIND_FENCE", "parent": OTHER}),
        json!({
            "kind": "JOB_KIND_RECOVER", "parent": OTHER,
            "recover": {
                "set": LABEL, "target": {"time": "2026-03-01T10:00:00.120456Z"}, "timeline": 1,
                "lastSegment": "000000010000000000000007", "incarnation": 1, "inPlace": false,
            },
        }),
        json!({
            "kind": "JOB_KIND_RECOVER", "parent": OTHER,
            "recover": {
                "kept": OTHER, "target": {"latest": {}}, "timeline": 1, "incarnation": 2, "inPlace": false,
            },
        }),
        json!({"kind": "JOB_KIND_SWAP", "parent": OTHER}),
        json!({"kind": "JOB_KIND_DISCARD", "subject": OTHER, "parent": OTHER}),
        json!({
            "kind": "JOB_KIND_DRILL",
            "drill": {
                "checks": ["SELECT true"], "checkDatabase": "", "skipAmcheck": false, "nice": 10,
                "maxBytesPerSecond": "0",
            },
        }),
        json!({"kind": "JOB_KIND_EXPIRE", "expire": {"dryRun": true}}),
        json!({
            "kind": "JOB_KIND_EXPIRE",
            "expire": {"backup": LABEL, "dryRun": false, "drilled": [{"job": OTHER, "backup": LABEL}]},
        }),
        json!({"kind": "JOB_KIND_VERIFY"}),
        json!({"kind": "JOB_KIND_CHECK"}),
        json!({"kind": "JOB_KIND_RESTART", "restart": {"isPrimary": true}}),
    ]
}

fn results() -> Vec<Value> {
    let recovery = json!({
        "timeline": 2, "fromTimeline": 1, "lsn": "0/1", "lastCommit": TIME, "stopped": "s", "sizeBytes": "1",
        "restoreMillis": "2", "recoveryMillis": "3",
    });
    vec![
        json!({}),
        json!({"backup": {
            "label": LABEL, "type": "BACKUP_TYPE_FULL", "startLsn": "0/1", "stopLsn": "0/2", "walStart": "a",
            "walStop": "b", "sizeBytes": "3", "repoBytes": "4",
            "source": {
                "cell": "zone2", "dataDirectory": "/d", "systemIdentifier": "7", "timeline": 1, "replayLsn": "0/3",
                "filesFromSource": "5", "filesFromPrimary": "6", "verified": true,
            },
        }}),
        json!({"plan": {
            "target": {"latest": {}}, "resolved": {"latest": {}}, "found": "f", "timeline": 1, "backup": LABEL,
            "why": "w", "walStart": "a", "walStop": "b", "walSegments": "3", "sizeBytes": "4",
            "estimatedSeconds": 0,
        }}),
        json!({"fence": {"wasPrimary": true, "whole": true, "timeline": 1, "lastSegment": "s"}}),
        json!({"recovery": recovery}),
        json!({"restore": {"cell": "zone2", "incarnation": 1, "recovery": recovery, "backup": LABEL, "kept": true}}),
        json!({"restore": {"cell": "zone2", "incarnation": 1, "recovery": recovery, "kept": true, "notFenced": "zone1"}}),
        json!({"rebuild": {"backup": LABEL, "delta": false, "sizeBytes": "1", "restoreMillis": "2"}}),
        json!({"drill": {
            "backup": LABEL, "sizeBytes": "1", "restoreMillis": "2", "readableMillis": "3", "replayedMillis": "4",
            "lsn": "0/1", "lastCommit": TIME, "checks": [{"name": "n", "passed": false, "detail": "d"}],
        }}),
        json!({"expire": {"dryRun": true}}),
        json!({"verify": {"damaged": ["d"]}}),
        json!({"check": {"segment": "s", "millis": "1"}}),
    ]
}

#[test]
fn job_of_every_kind_is_stored_as_ever() {
    for spec in specs() {
        kept::<JobRecord>(&record(&spec));
    }
}

#[test]
fn canceled_and_closed_job_is_stored_as_ever() {
    let error = json!({"code": "CANCELED", "message": "m"});
    kept::<JobRecord>(&with(
        record(&specs()[0]),
        &json!({
            "cancel": {"requestedBy": "you", "time": TIME},
            "closure": {"state": "JOB_STATE_CANCELED", "time": TIME, "error": error},
        }),
    ));
    for result in results().iter().skip(1) {
        let closure = json!({"state": "JOB_STATE_SUCCEEDED", "time": TIME, "result": result});
        kept::<JobRecord>(&with(record(&specs()[4]), &json!({ "closure": closure })));
    }
}

#[test]
fn run_with_every_outcome_is_stored_as_ever() {
    for result in results() {
        kept::<Run>(&run(&result));
    }
}

#[test]
fn failed_run_keeps_its_outcome() {
    let error = json!({"code": "CHECK_FAILED", "message": "m"});
    for result in results() {
        kept::<Run>(&with(run(&result), &json!({"state": "JOB_STATE_FAILED", "error": error})));
    }
}

#[test]
fn job_of_every_kind_is_shown_as_ever() {
    for spec in specs() {
        kept::<Job>(&with(record(&spec), &json!({"state": "JOB_STATE_PENDING"})));
    }
    for result in results().iter().skip(1) {
        kept::<Job>(&with(record(&specs()[0]), &json!({"state": "JOB_STATE_SUCCEEDED", "result": result})));
    }
}

#[test]
fn what_a_newer_version_adds_is_passed_over() {
    let more = with(record(&specs()[0]), &json!({"surprise": 1}));
    assert_eq!(
        serde_json::from_value::<JobRecord>(more).unwrap(),
        serde_json::from_value(record(&specs()[0])).unwrap()
    );
    let known: Run = serde_json::from_value(run(&json!({}))).unwrap();
    assert_eq!(serde_json::from_value::<Run>(run(&json!({"surprise": {}}))).unwrap(), known);
    let mut without = run(&json!({}));
    without.as_object_mut().unwrap().remove("result");
    assert_eq!(serde_json::from_value::<Run>(without).unwrap(), known);
}

#[test]
fn code_of_a_newer_build_does_not_make_a_record_unreadable() {
    let error = serde_json::json!({"code": "A_NEWER_ONE", "message": "no"});
    let error: cellar_model::JobError = serde_json::from_value(error).unwrap();
    assert_eq!((error.code, error.message.as_str()), (cellar_model::Code::Internal, "no"));
}
