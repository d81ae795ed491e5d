//! The audit trail: who asked for what change, and what came of it.
//!
//! A record says what was asked in the words of the request. Of these only the fields named here are written down, so
//! that a field that somebody adds is withheld until it is known to hold no secret, and all of them are cut to a
//! size: what a caller sends must not fill disks.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::records::job_id::JobId;
use crate::types::code::Code;
use crate::types::json;

/// Identifies a record for ever; ids sort by the time of their calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AuditId(Uuid);

/// The text is not the id of an audit record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the id of an audit record")]
pub struct AuditIdError(String);

impl AuditId {
    /// From a version 7 UUID, which sorts by time.
    #[must_use]
    pub fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl FromStr for AuditId {
    type Err = AuditIdError;
    fn from_str(text: &str) -> Result<Self, AuditIdError> {
        // Only the hyphenated form: an id is a key in etcd and must have one spelling.
        let bad = || AuditIdError(text.chars().take(60).collect());
        let uuid = Uuid::try_parse(text).map_err(|_| bad())?;
        if uuid.to_string() == text { Ok(Self(uuid)) } else { Err(bad()) }
    }
}

impl TryFrom<String> for AuditId {
    type Error = AuditIdError;
    fn try_from(text: String) -> Result<Self, AuditIdError> {
        text.parse()
    }
}

impl From<AuditId> for String {
    fn from(id: AuditId) -> String {
        id.to_string()
    }
}

impl fmt::Display for AuditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AuditOutcome {
    /// It was let in, and nothing has been done yet. In the log file only, where the call's second line has its end.
    #[serde(rename = "AUDIT_OUTCOME_BEGUN")]
    Begun,
    /// It was done; a job that it asked for was recorded, which says nothing of how that job ended.
    #[serde(rename = "AUDIT_OUTCOME_ALLOWED")]
    Allowed,
    /// The caller may not; nothing was changed.
    #[serde(rename = "AUDIT_OUTCOME_REFUSED")]
    Refused,
    /// The caller may, and it was not done: see the code.
    #[serde(rename = "AUDIT_OUTCOME_FAILED")]
    Failed,
}

impl AuditOutcome {
    /// What a call that ended with an error counts as.
    #[must_use]
    pub fn of_error(code: Code) -> Self {
        if code == Code::PermissionDenied { Self::Refused } else { Self::Failed }
    }
}

/// One call of a method that changes something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// Its id.
    pub id: AuditId,
    /// When the call came.
    #[serde(with = "json::time")]
    pub time: Timestamp,
    /// When it was answered; none in a record of its beginning.
    #[serde(default, with = "json::opt_time", skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Timestamp>,
    /// The URI in the caller's certificate, else its common name; empty without a certificate.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identity: String,
    /// The caller's IP address and port; empty when unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer: String,
    /// The method's name, such as `Backup`.
    pub rpc: String,
    /// What was asked, as [`recordable`] leaves it. Empty for a call that was turned away at the door, where nobody
    /// reads the request.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub arguments: Map<String, Value>,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// Why it was refused or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// The same in words, as the caller was told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The job that it made, or changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

impl AuditRecord {
    /// The record of the same call, ended.
    #[must_use]
    pub fn ended(&self, end: Result<Option<JobId>, (Code, &str)>, now: Timestamp) -> Self {
        let mut record = Self { end_time: Some(now), ..self.clone() };
        match end {
            Ok(job) => (record.outcome, record.job) = (AuditOutcome::Allowed, job),
            Err((code, message)) => {
                record.outcome = AuditOutcome::of_error(code);
                record.code = Some(code);
                record.message = cut(message, LONGEST_MESSAGE);
            }
        }
        record
    }

    /// Whether the call is about a job: it made or changed it, or named it.
    #[must_use]
    pub fn is_about(&self, job: &JobId) -> bool {
        let named = self.arguments.get("id").and_then(Value::as_str);
        self.job == Some(*job) || named.is_some_and(|id| id == job.to_string())
    }
}

/// Fields of requests that are written down, by their names in JSON.
pub const RECORDED: &[&str] = &[
    "allowPrimary",
    // What a user writes on a backup, for others to read.
    "annotations",
    "backup",
    "cell",
    "checkDatabase",
    "cron",
    "database",
    "directory",
    "dryRun",
    "host",
    "id",
    "inPlace",
    "listen",
    "maxBytesPerSecond",
    "maxLagBytes",
    "name",
    "nice",
    "onto",
    "paused",
    "queue",
    "requestId",
    // The schedule that asked.
    "schedule",
    "skipAmcheck",
    "target",
    "timeZone",
    "timeline",
    "timeout",
    "type",
    "work",
];

/// Fields of requests of which only the fact is written down that they were given.
pub const WITHHELD: &[&str] = &[
    // SQL may hold anything, a password for another server for instance. The job has it.
    "checks",
];

/// What stands for a value that is not written down.
const WITHHELD_VALUE: &str = "(withheld)";

/// Characters kept of one text, and of an error's message.
const LONGEST_TEXT: usize = 200;
const LONGEST_MESSAGE: usize = 500;

/// Parts kept of one list or one map.
const MOST_PARTS: usize = 32;

/// Characters kept of all arguments together.
const ALL_TEXT: usize = 4000;

/// The beginning of a text, and how long it was when that is not all of it.
fn cut(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
    }
}

/// The texts in `value` cut so that all together stay within `left`.
fn fit(value: Value, left: &mut usize) -> Value {
    match value {
        Value::String(text) => Value::String(take(&text, left)),
        Value::Array(items) => {
            let surplus = items.len().saturating_sub(MOST_PARTS);
            let mut kept: Vec<Value> =
                items.into_iter().take(MOST_PARTS).map(|item| fit(item, left)).collect();
            if surplus > 0 {
                kept.push(Value::String(format!("... ({surplus} more)")));
            }
            Value::Array(kept)
        }
        Value::Object(fields) => Value::Object(fit_fields(fields, left)),
        other => other,
    }
}

fn fit_fields(fields: Map<String, Value>, left: &mut usize) -> Map<String, Value> {
    let surplus = fields.len().saturating_sub(MOST_PARTS);
    let mut kept: Map<String, Value> = fields
        .into_iter()
        .take(MOST_PARTS)
        .map(|(name, value)| (take(&name, left), fit(value, left)))
        .collect();
    if surplus > 0 {
        kept.insert("...".to_owned(), Value::String(format!("({surplus} more)")));
    }
    kept
}

fn take(text: &str, left: &mut usize) -> String {
    let kept = cut(text, LONGEST_TEXT.min(*left));
    *left = left.saturating_sub(text.chars().count());
    kept
}

/// `value` without what is withheld, however deep it lies.
fn veiled(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(veiled).collect()),
        Value::Object(fields) => {
            let open = |name: &str| !WITHHELD.contains(&name);
            Value::Object(veiled_fields(fields, open))
        }
        other => other,
    }
}

fn veiled_fields(fields: Map<String, Value>, open: impl Fn(&str) -> bool) -> Map<String, Value> {
    let shown = fields.into_iter().map(|(name, value)| {
        let value = if open(&name) { veiled(value) } else { Value::String(WITHHELD_VALUE.to_owned()) };
        (name, value)
    });
    shown.collect()
}

/// What of a request's fields may be written down: those that are known to hold no secret, cut to a size.
#[must_use]
pub fn recordable(fields: Map<String, Value>) -> Map<String, Value> {
    fit_fields(veiled_fields(fields, |name| RECORDED.contains(&name)), &mut { ALL_TEXT })
}

/// Newest records that etcd keeps.
pub const AUDIT_KEPT: usize = 1000;

/// How many of them are refusals when there are more than enough. Anybody with a certificate can be refused as often as
/// he likes; that must not push out what was done.
const REFUSALS_KEPT: usize = 250;

/// Which records etcd is to forget, of those it has in the order of their ids.
#[must_use]
pub fn forgettable_audit<'a>(
    records: impl ExactSizeIterator<Item = &'a AuditRecord> + Clone,
) -> Vec<AuditId> {
    let Some(surplus) = records.len().checked_sub(AUDIT_KEPT).filter(|surplus| *surplus > 0) else {
        return Vec::new();
    };
    let is_refusal = |record: &&AuditRecord| record.outcome == AuditOutcome::Refused;
    let spare = records.clone().filter(is_refusal).count().saturating_sub(REFUSALS_KEPT).min(surplus);
    let mut forgotten: Vec<AuditId> =
        records.clone().filter(is_refusal).take(spare).map(|record| record.id).collect();
    // The oldest of the others, and of the refusals that were to stay.
    let gone = forgotten.last().copied();
    let others = records.filter(|record| !is_refusal(record) || gone.is_none_or(|gone| record.id > gone));
    forgotten.extend(others.take(surplus - spare).map(|record| record.id));
    forgotten
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn only_what_is_known_to_hold_no_secret_is_written_down() {
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
        assert!(WITHHELD.iter().all(|name| !RECORDED.contains(name)));
    }

    #[test]
    fn what_is_long_is_cut() {
        let kept = arguments(json!({"name": "é".repeat(1000), "cell": "zone1"}));
        let name = kept["name"].as_str().unwrap();
        assert!(name.starts_with("éé") && name.ends_with("... (2000 bytes)"), "{name}");
        assert_eq!(kept["cell"], "zone1");
        let many: BTreeMap<String, String> =
            (0..100).map(|n| (format!("{n:03}"), "v".repeat(9999))).collect();
        let kept = arguments(json!({ "annotations": many }));
        assert_eq!(kept["annotations"]["..."], "(68 more)");
        let ended = record(1, AuditOutcome::Begun)
            .ended(Err((Code::InvalidArgument, &"x".repeat(5000))), Timestamp::UNIX_EPOCH);
        assert!(ended.message.len() < 600 && ended.message.ends_with("(5000 bytes)"));
    }

    #[test]
    fn an_outcome_follows_from_the_answer() {
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

    #[test]
    fn a_flood_of_refusals_does_not_push_out_what_was_done() {
        let mut records: Vec<AuditRecord> = (0..600).map(|n| record(n, AuditOutcome::Allowed)).collect();
        assert_eq!(forgettable_audit(records.iter()), []);
        records.extend((600..3000).map(|n| record(n, AuditOutcome::Refused)));
        let forgotten = forgettable_audit(records.iter());
        assert_eq!(forgotten.len(), 2000);
        assert!(forgotten.iter().all(|id| *id > records[599].id), "refusals only");
        assert_eq!(forgotten.last(), Some(&records[2599].id), "the oldest of them");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_newest_are_kept_and_never_more(refused in proptest::collection::vec(any::<bool>(), 0..2500)) {
            let outcome = |refused| if refused { AuditOutcome::Refused } else { AuditOutcome::Allowed };
            let mut records: Vec<AuditRecord> =
                refused.into_iter().enumerate().map(|(n, refused)| record(n, outcome(refused))).collect();
            let newest = records.last().map(|record| record.id);
            let before = records.len();
            let forgotten = forgettable_audit(records.iter());
            prop_assert!(forgotten.iter().all(|id| Some(*id) != newest));
            records.retain(|record| !forgotten.contains(&record.id));
            prop_assert_eq!(records.len(), before.min(AUDIT_KEPT));
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
            prop_assert!(characters < 6 * ALL_TEXT + 6000, "{}", characters);
        }
    }
}
