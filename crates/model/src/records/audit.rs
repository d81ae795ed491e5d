//! The audit trail: who asked for what change, and what came of it. [`crate::records::recordable`] says what of a request
//! is written down.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::records::job::id::JobId;
use crate::records::recordable::cut;
use crate::types::code::Code;
use crate::types::json;

/// Identifies a record; ids sort by the time of their calls.
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
    /// What was asked, as [`crate::records::recordable::recordable`] leaves it. Empty for a call that was refused before its request was
    /// read.
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
                record.message = cut(message, MAX_MESSAGE_LENGTH);
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

/// Characters kept of an error's message.
const MAX_MESSAGE_LENGTH: usize = 500;

/// Newest records that etcd keeps.
pub const MAX_AUDIT_RECORDS: usize = 1000;

/// Refusals among them when there are more records than are kept. Anybody with a certificate can cause any number of
/// refusals, which must not push out the records of changes.
const MAX_REFUSALS: usize = 250;

/// Which records are to be deleted from etcd, of those it has: their ids, in that order, and how the calls ended.
#[must_use]
pub fn forgettable_audit(
    records: impl ExactSizeIterator<Item = (AuditId, AuditOutcome)> + Clone,
) -> Vec<AuditId> {
    let Some(surplus) = records.len().checked_sub(MAX_AUDIT_RECORDS).filter(|surplus| *surplus > 0) else {
        return Vec::new();
    };
    let is_refusal = |(_, outcome): &(AuditId, AuditOutcome)| *outcome == AuditOutcome::Refused;
    let spare = records.clone().filter(is_refusal).count().saturating_sub(MAX_REFUSALS).min(surplus);
    let mut forgotten: Vec<AuditId> =
        records.clone().filter(is_refusal).take(spare).map(|(id, _)| id).collect();
    // The oldest of the others, and of the refusals that were to stay.
    let gone = forgotten.last().copied();
    let others = records.filter(|record| !is_refusal(record) || gone.is_none_or(|gone| record.0 > gone));
    forgotten.extend(others.take(surplus - spare).map(|(id, _)| id));
    forgotten
}

#[cfg(test)]
mod tests;
