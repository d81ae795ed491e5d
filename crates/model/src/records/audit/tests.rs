use super::*;
use crate::records::recordable::{MAX_ARGUMENTS_LENGTH, RECORDED, RECORDED_INSIDE, WITHHELD, recordable};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

fn record(n: usize, outcome: AuditOutcome) -> AuditRecord {
    AuditRecord {
        id: AuditId::new(Uuid::from_u128(n as u128 + 1)),
        time: Timestamp::from_second(n as i64).unwrap(),
        end_time: None,
        identity: "spiffe://demo/admin/ann".into(),
        peer: "127.0.0.1:7".into(),
        rpc: "Backup".into(),
        arguments: Map::new(),
        outcome,
        code: None,
        message: String::new(),
        job: None,
    }
}

fn arguments(value: Value) -> Map<String, Value> {
    let Value::Object(fields) = value else { panic!("not an object") };
    recordable(fields)
}

#[test]
fn fields_not_known_to_be_harmless_are_withheld() {
    let kept = arguments(json!({
        "cell": "zone3", "queue": true, "checks": ["SELECT 'hunter2'"], "repoKey": "hunter2",
        "target": {"lsn": "0/1"},
    }));
    let expected = json!({
        "cell": "zone3", "queue": true, "checks": "(withheld)", "repoKey": "(withheld)", "target": {"lsn": "0/1"},
    });
    assert_eq!(Value::Object(kept), expected);
    let kept = arguments(json!({"work": {"drill": {"cell": "zone3", "checks": ["SELECT 'hunter2'"]}}}));
    let expected = json!({"work": {"drill": {"cell": "zone3", "checks": "(withheld)"}}});
    assert_eq!(Value::Object(kept), expected);
    assert!(WITHHELD.iter().all(|name| !RECORDED.contains(name) && !RECORDED_INSIDE.contains(name)));
    // A field that nobody has thought of, at any depth.
    let kept = arguments(json!({
        "work": {"drill": {"repoKey": "hunter2", "verify": [{"secret": {"lsn": "hunter2"}, "cells": ["zone1"]}]}},
        "target": {"password": "hunter2"}, "annotations": {"ticket": "17"},
    }));
    let expected = json!({
        "work": {"drill": {"repoKey": "(withheld)", "verify": [{"secret": "(withheld)", "cells": ["zone1"]}]}},
        "target": {"password": "(withheld)"}, "annotations": {"ticket": "17"},
    });
    assert_eq!(Value::Object(kept), expected);
}

#[test]
fn long_values_are_cut() {
    let kept = arguments(json!({"name": "é".repeat(1000), "cell": "zone1"}));
    let name = kept["name"].as_str().unwrap();
    assert!(name.starts_with("éé") && name.ends_with("... (2000 bytes)"), "{name}");
    assert_eq!(kept["cell"], "zone1");
    let many: BTreeMap<String, String> = (0..100).map(|n| (format!("{n:03}"), "v".repeat(9999))).collect();
    let kept = arguments(json!({ "annotations": many }));
    assert_eq!(kept["annotations"]["..."], "(68 more)");
    let ended = record(1, AuditOutcome::Begun)
        .ended(Err((Code::InvalidArgument, &"x".repeat(5000))), Timestamp::UNIX_EPOCH);
    assert!(ended.message.len() < 600 && ended.message.ends_with("(5000 bytes)"));
}

#[test]
fn outcome_follows_from_the_answer() {
    let begun = record(1, AuditOutcome::Begun);
    let now = Timestamp::from_second(9).unwrap();
    let job = JobId::new(Uuid::from_u128(5));
    let done = begun.ended(Ok(Some(job)), now);
    assert_eq!((done.outcome, done.job, done.end_time), (AuditOutcome::Allowed, Some(job), Some(now)));
    assert!(done.is_about(&job) && !begun.is_about(&job));
    let refused = begun.ended(Err((Code::PermissionDenied, "no")), now);
    assert_eq!((refused.outcome, refused.message.as_str()), (AuditOutcome::Refused, "no"));
    let failed = begun.ended(Err((Code::UnknownCell, "no")), now);
    assert_eq!((failed.outcome, failed.code), (AuditOutcome::Failed, Some(Code::UnknownCell)));
    let named = AuditRecord { arguments: arguments(json!({ "id": job })), ..begun };
    assert!(named.is_about(&job));
}

fn outcome(record: &AuditRecord) -> (AuditId, AuditOutcome) {
    (record.id, record.outcome)
}

#[test]
fn refusals_do_not_push_out_changes() {
    let mut records: Vec<AuditRecord> = (0..600).map(|n| record(n, AuditOutcome::Allowed)).collect();
    assert_eq!(forgettable_audit(records.iter().map(outcome)), []);
    records.extend((600..3000).map(|n| record(n, AuditOutcome::Refused)));
    let forgotten = forgettable_audit(records.iter().map(outcome));
    assert_eq!(forgotten.len(), 2000);
    assert!(forgotten.iter().all(|id| *id > records[599].id), "refusals only");
    assert_eq!(forgotten.last(), Some(&records[2599].id), "the oldest of them");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn newest_records_are_kept_up_to_the_limit(refused in proptest::collection::vec(any::<bool>(), 0..2500)) {
        let outcome = |refused| if refused { AuditOutcome::Refused } else { AuditOutcome::Allowed };
        let mut records: Vec<AuditRecord> =
            refused.into_iter().enumerate().map(|(n, refused)| record(n, outcome(refused))).collect();
        let newest = records.last().map(|record| record.id);
        let before = records.len();
        let forgotten = forgettable_audit(records.iter().map(self::outcome));
        prop_assert!(forgotten.iter().all(|id| Some(*id) != newest));
        records.retain(|record| !forgotten.contains(&record.id));
        prop_assert_eq!(records.len(), before.min(MAX_AUDIT_RECORDS));
        prop_assert_eq!(before - records.len(), forgotten.len(), "each is named once");
    }

    #[test]
    fn no_arguments_are_too_long(
        texts in proptest::collection::vec((".{0,250}", ".{0,400}"), 0..60), lists in 0usize..90,
    ) {
        let annotations: BTreeMap<String, String> = texts.iter().cloned().collect();
        let target: Vec<&str> = texts.iter().map(|(_, text)| text.as_str()).cycle().take(lists).collect();
        let kept = arguments(json!({ "annotations": annotations, "target": target, "id": "x".repeat(9999) }));
        let characters: usize = Value::Object(kept).to_string().chars().count();
        // Twice for what JSON escapes and six times at worst, plus the marks of what was cut.
        prop_assert!(characters < 6 * MAX_ARGUMENTS_LENGTH + 6000, "{}", characters);
    }
}
