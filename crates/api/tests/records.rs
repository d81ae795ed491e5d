//! Model and proto define the same records: every record, with every field set, goes through the
//! API's message and comes back the same, and the JSON in etcd is the API's JSON.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test ends where it must not go on")]

use cellar_api::{from_message, to_message, v1};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// `document` is canonical JSON with every field of the record set to something that is not its default.
fn same<R, M>(document: &Value)
where
    R: Serialize + DeserializeOwned,
    M: Serialize + DeserializeOwned,
{
    let record: R = serde_json::from_value(document.clone()).expect("the model reads it");
    assert_eq!(serde_json::to_value(&record).unwrap(), *document, "the model writes what it read");
    let message: M = to_message(&record).expect("the API reads the model's JSON");
    assert_eq!(serde_json::to_value(&message).unwrap(), *document, "the API writes the same JSON");
    let back: R = from_message(&message).expect("the model reads the API's JSON");
    assert_eq!(serde_json::to_value(&back).unwrap(), *document);
}

const TIME: &str = "2026-03-01T10:00:00.120Z";
const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const OTHER: &str = "01890a5d-ac96-774b-bcce-b302099a8058";

fn backup_params() -> Value {
    json!({"type": "BACKUP_TYPE_DIFF", "allowPrimary": true, "maxLagBytes": "77"})
}

fn error() -> Value {
    json!({"code": "LAGGING", "message": "m", "hint": "h", "toolOutput": "t"})
}

const LABEL: &str = "20260301-101500F";

fn targets() -> [Value; 6] {
    [
        json!({"latest": {}}),
        json!({"time": "2026-03-01T10:00:00.120456Z"}),
        json!({"lsn": "0/1"}),
        json!({"name": "it's"}),
        json!({"xid": "742"}),
        json!({"backup": LABEL}),
    ]
}

fn restore_params() -> Value {
    json!({"target": {"lsn": "0/1"}, "timeline": 2, "inPlace": true, "onto": "zone2"})
}

/// Every kind with all its parameters.
fn specs() -> Vec<Value> {
    let restore = restore_params();
    let recover = json!({
        "set": LABEL, "kept": OTHER, "target": {"xid": "7"}, "timeline": 1, "lastSegment": "000000010000000000000001",
        "incarnation": 2, "inPlace": true,
    });
    let drill = json!({
        "backup": LABEL, "checks": ["SELECT true"], "checkDatabase": "app", "skipAmcheck": true, "nice": 5,
        "maxBytesPerSecond": "9",
    });
    let expire = json!({"backup": LABEL, "dryRun": true, "drilled": [{"job": OTHER, "backup": LABEL}]});
    vec![
        json!({"kind": "JOB_KIND_BACKUP", "backup": backup_params()}),
        json!({"kind": "JOB_KIND_REBUILD", "rebuild": {"keepFor": OTHER, "putBack": OTHER}}),
        json!({"kind": "JOB_KIND_RESTORE", "restore": restore}),
        json!({"kind": "JOB_KIND_ROLLBACK", "subject": OTHER}),
        json!({"kind": "JOB_KIND_CONFIRM", "subject": OTHER}),
        json!({"kind": "JOB_KIND_PLAN", "restore": restore}),
        json!({"kind": "JOB_KIND_FENCE"}),
        json!({"kind": "JOB_KIND_RECOVER", "recover": recover}),
        json!({"kind": "JOB_KIND_SWAP"}),
        json!({"kind": "JOB_KIND_DISCARD", "subject": OTHER}),
        json!({"kind": "JOB_KIND_DRILL", "drill": drill}),
        json!({"kind": "JOB_KIND_EXPIRE", "expire": expire}),
        json!({"kind": "JOB_KIND_VERIFY"}),
        json!({"kind": "JOB_KIND_CHECK"}),
        json!({"kind": "JOB_KIND_RESTART", "restart": {"isPrimary": true}}),
    ]
}

fn with(mut document: Value, more: &Value) -> Value {
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    document
}

fn record(spec: &Value, result: &Value) -> Value {
    with(
        json!({
            "id": ID, "database": "app", "cell": "zone1",
            "requestedBy": "me", "requestId": "r", "createTime": TIME, "deadline": TIME,
            "parent": OTHER, "failedDrills": [LABEL], "cancel": {"requestedBy": "you", "time": TIME},
            "closure": {"state": "JOB_STATE_CANCELED", "time": TIME, "error": error(), "result": result},
        }),
        spec,
    )
}

fn progress() -> Value {
    json!({"phase": "copying", "bytesDone": "1", "bytesTotal": "2", "file": "base/5/1", "fileBytes": "3"})
}

/// Every outcome with all its fields.
fn results() -> Vec<Value> {
    let all = json!({"backup": {
        "label": "20260301-101500F_20260302-101500I", "type": "BACKUP_TYPE_INCR", "prior": "20260301-101500F",
        "startLsn": "0/1", "stopLsn": "0/2", "walStart": "000000010000000000000001",
        "walStop": "000000010000000000000002", "sizeBytes": "3", "repoBytes": "4",
        "source": {
            "cell": "zone1", "dataDirectory": "/d", "systemIdentifier": "7", "timeline": 1, "replayLsn": "0/3",
            "filesFromSource": "5", "filesFromPrimary": "6", "verified": true,
        },
        "pageErrors": true, "warnings": ["w"],
    },
    "plan": {
        "target": {"name": "x"}, "resolved": {"lsn": "0/1"}, "found": "f", "timeline": 1, "backup": LABEL, "why": "w",
        "walStart": "a", "walStop": "b", "walSegments": "3", "sizeBytes": "4", "estimatedSeconds": 5,
        "windows": [{
            "backup": LABEL, "timeline": 1, "fromLsn": "0/1", "fromTime": TIME, "toLsn": "0/2", "toTime": TIME, "gap": "g",
        }],
        "cells": [{"cell": "zone1", "action": "a", "neededBytes": "1", "freeBytes": "2"}],
        "warnings": ["w"],
    },
    "fence": {"wasPrimary": true, "whole": true, "timeline": 1, "lastSegment": "s"},
    "recovery": recovery(),
    "restore": {
        "cell": "zone1", "incarnation": 2, "recovery": recovery(), "backup": LABEL, "leftOut": ["zone2"], "kept": true,
        "firstBackup": LABEL,
    },
    "rebuild": {"backup": LABEL, "delta": true, "sizeBytes": "1", "restoreMillis": "2", "warnings": ["w"]},
    "drill": {
        "backup": LABEL, "sizeBytes": "1", "restoreMillis": "2", "readableMillis": "3", "replayedMillis": "4", "lsn": "0/1",
        "lastCommit": TIME, "checks": [{"name": "n", "passed": true, "detail": "d"}],
    },
    "expire": {
        "dryRun": true, "backups": [LABEL], "wal": [{"archive": "15-1", "start": "a", "stop": "b"}], "kept": [LABEL],
        "warnings": ["w"],
    },
    "verify": {
        "backups": [verified()], "archives": [verified()], "damaged": ["d"],
        "windows": [{
            "backup": LABEL, "timeline": 1, "fromLsn": "0/1", "fromTime": TIME, "toLsn": "0/2", "toTime": TIME, "gap": "g",
        }],
        "warnings": ["w"],
    },
    "check": {"segment": "s", "millis": "1"}});
    all.as_object().unwrap().iter().map(|(name, outcome)| json!({name.clone(): outcome})).collect()
}

fn verified() -> Value {
    json!({
        "name": "n", "valid": true, "files": "1", "validFiles": "2", "missing": "3", "checksumInvalid": "4", "sizeInvalid": "5",
        "other": "6",
    })
}

fn recovery() -> Value {
    json!({
        "timeline": 2, "fromTimeline": 1, "lsn": "0/1", "lastCommit": TIME, "stopped": "s", "sizeBytes": "1",
        "restoreMillis": "2", "recoveryMillis": "3",
    })
}

fn history() -> Value {
    json!([{"state": "JOB_STATE_RUNNING", "time": TIME, "epoch": "e", "note": "n"}])
}

#[test]
fn cell() {
    same::<cellar_model::Cell, v1::Cell>(
        &json!({"name": "zone1", "index": 3, "host": "h", "directory": "/c"}),
    );
}

#[test]
fn schedule() {
    let last = [json!({"due": TIME, "job": ID}), json!({"due": TIME, "error": error()})];
    let works = [
        json!({"backup": {"cells": ["zone3", "zone2"], "type": "BACKUP_TYPE_FULL", "allowPrimary": true, "maxLagBytes": "7"}}),
        json!({"expire": {}}),
        json!({"verify": {}}),
        json!({"check": {}}),
        json!({"drill": {
            "cell": "zone2", "checks": ["SELECT true"], "checkDatabase": "app", "skipAmcheck": true, "nice": 5,
            "maxBytesPerSecond": "9",
        }}),
    ];
    for (at, work) in works.iter().enumerate() {
        same::<cellar_model::Schedule, v1::Schedule>(&json!({
            "database": "app", "name": "nightly", "calendar": {"cron": "30 1 * * *", "timeZone": "Europe/Berlin"},
            "work": work, "paused": true, "setBy": "me", "settled": TIME, "last": last[at % 2],
            "newestJob": OTHER,
        }));
    }
}

#[test]
fn database() {
    same::<cellar_model::Database, v1::Database>(&json!({
        "name": "app", "stanza": "s", "repoPath": "/r", "retention": {"full": 7}, "bootstrapCell": "zone1", "portOffset": 9,
        "repoCipher": "REPO_CIPHER_AES_256_CBC", "pgbackrestNames": ["pgbackrest:2", "pgbackrest:1"],
    }));
    same::<cellar_model::Database, v1::Database>(&json!({
        "name": "app", "stanza": "s", "repoInCell": {"cell": "zone3", "path": "/r"}, "retention": {"full": 7},
        "bootstrapCell": "zone1", "portOffset": 9, "cells": ["zone1", "zone3"], "isQualified": true,
    }));
    same::<cellar_model::Database, v1::Database>(&json!({
        "name": "app", "stanza": "s", "repoUrl": "s3://backups/demo?region=us-east-1", "retention": {"full": 7},
        "bootstrapCell": "zone1", "portOffset": 9,
    }));
}

#[test]
fn pooler() {
    same::<cellar_model::Pooler, v1::Pooler>(&json!({
        "database": "app", "cell": "zone1", "index": 1, "host": "h", "postgresPort": 1, "pgbackrestPort": 2,
        "grpcPort": 3, "listen": "127.0.0.1", "dataDirectory": "/d", "socketDirectory": "/s",
        "configPath": "/c", "tlsDirectory": "/t", "logDirectory": "/l", "lockDirectory": "/k", "spoolDirectory": "/p",
        "revocations": 3, "healthPort": 4, "poolPort": 5,
    }));
}

#[test]
fn pooler_status() {
    same::<cellar_model::PoolerStatus, v1::PoolerStatus>(&json!({
        "database": "app", "cell": "zone1", "epoch": "e", "pid": 4711, "state": "INSTANCE_STATE_BROKEN", "message": "m",
        "role": "ROLE_STANDBY", "systemIdentifier": "7", "timeline": 2, "streamsFrom": "zone2",
        "receiveLag": "LAG_CLASS_CURRENT", "replayLag": "LAG_CLASS_FAR", "heldLsn": "0/3000148", "heldTimeline": 2,
        "archiver": {"lastArchivedWal": "a", "lastArchivedTime": TIME, "lastFailedWal": "f", "lastFailedTime": TIME},
        "versions": {"postgres": "15", "pgbackrest": "2.45", "multipooler": "0.1", "notes": ["n"]},
        "certificateExpiry": TIME, "tlsServerUp": true, "tlsServerAccepts": ["pgbackrest"], "unreadableRecords": ["k"], "updateTime": TIME,
    }));
}

#[test]
fn leader_and_lock() {
    same::<cellar_model::Leader, v1::Leader>(
        &json!({"cell": "zone1", "term": 2, "systemIdentifier": "7", "lsn": "0/1"}),
    );
    same::<cellar_model::Lock, v1::Lock>(&json!({"holder": ID, "queue": [OTHER]}));
}

#[test]
fn failovers() {
    same::<cellar_model::FailoverHistory, v1::FailoverHistory>(&json!({"failovers": [
        {"term": 2, "kind": "FAILOVER_KIND_LOST", "from": "zone1", "why": "it is silent", "beginTime": TIME},
        {"term": 3, "kind": "FAILOVER_KIND_PLANNED", "from": "zone2", "why": "w", "beginTime": TIME, "unheard": 2100,
         "to": "zone3", "floor": {"term": 2, "lsn": "0/3000028"}, "leftBehind": 120, "promises": 300, "promotion": 250},
    ]}));
}

#[test]
fn incarnation() {
    same::<cellar_model::Incarnation, v1::Incarnation>(
        &json!({"number": 2, "cell": "zone1", "job": ID, "fence": OTHER, "keptIn": "zone2"}),
    );
}

#[test]
fn every_target_of_a_restore() {
    for target in targets() {
        same::<cellar_model::Target, v1::RestoreTarget>(&target);
    }
}

#[test]
fn job_record_of_every_kind() {
    let kinds: Vec<cellar_model::JobKind> =
        specs().iter().map(|spec| serde_json::from_value(spec["kind"].clone()).unwrap()).collect();
    assert_eq!(kinds, cellar_model::JobKind::ALL);
    for spec in specs() {
        same::<cellar_model::JobRecord, v1::JobRecord>(&record(&spec, &results()[0]));
    }
}

#[test]
fn run_with_every_outcome_and_with_none() {
    for result in results().into_iter().chain([json!({})]) {
        same::<cellar_model::Run, v1::Run>(&json!({
            "id": ID, "database": "app", "cell": "zone1", "state": "JOB_STATE_FAILED", "epoch": "e", "startTime": TIME,
            "endTime": TIME, "progress": progress(), "result": result, "error": error(), "history": history(),
        }));
    }
}

#[test]
fn job() {
    for (at, result) in results().iter().enumerate() {
        let shown = json!({
            "state": "JOB_STATE_LOST", "startTime": TIME, "endTime": TIME, "progress": progress(), "result": result,
            "error": error(), "waitsFor": [OTHER], "history": history(),
            "steps": [{
                "id": OTHER, "kind": "JOB_KIND_SWAP", "cell": "zone1", "state": "JOB_STATE_RUNNING", "startTime": TIME,
                "endTime": TIME, "progress": progress(), "error": error(),
            }],
        });
        for spec in &specs() {
            same::<cellar_model::Job, v1::Job>(&with(record(spec, &results()[at]), &shown));
        }
    }
}

#[test]
fn audit_record() {
    for outcome in ["BEGUN", "ALLOWED", "REFUSED", "FAILED"] {
        same::<cellar_model::AuditRecord, v1::AuditRecord>(&json!({
            "id": ID, "time": TIME, "endTime": TIME, "identity": "spiffe://demo/admin/ann", "peer": "[::1]:7",
            "rpc": "Backup", "arguments": {"cell": "zone1", "queue": true, "nice": 5, "target": {"lsn": "0/1"}, "list": ["x"]},
            "outcome": format!("AUDIT_OUTCOME_{outcome}"), "code": "LAGGING", "message": "m", "job": OTHER,
        }));
    }
    // Turned away at the door: nobody has read the request.
    same::<cellar_model::AuditRecord, v1::AuditRecord>(
        &json!({"id": ID, "time": TIME, "rpc": "Backup", "outcome": "AUDIT_OUTCOME_REFUSED"}),
    );
}

/// A field that only one side knows would be lost on the way: the two name the same fields.
#[test]
fn a_message_refuses_what_the_model_does_not_know() {
    let mut document = record(&specs()[0], &results()[0]);
    document["surprise"] = json!(1);
    assert!(serde_json::from_value::<v1::JobRecord>(document).is_err());
}
