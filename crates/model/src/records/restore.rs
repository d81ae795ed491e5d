//! Restores: what is asked, what its steps produce, and the record that says which copy of a database
//! is the true one.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::records::backup::BackupLabel;
use crate::records::job_id::JobId;
use crate::types::json;
use crate::types::lsn::{Lsn, Timeline};
use crate::types::name::CellName;

/// The name of a restore point, as `pg_create_restore_point` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RestorePointName(String);

/// The text cannot be the name of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a restore point: 1 to 63 bytes without control characters")]
pub struct RestorePointError(String);

impl RestorePointName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RestorePointName {
    type Err = RestorePointError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // MAXFNAMELEN in PostgreSQL's xlog_internal.h is 64 with the final NUL.
        if text.is_empty() || text.len() > 63 || text.chars().any(char::is_control) {
            return Err(RestorePointError(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for RestorePointName {
    type Error = RestorePointError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RestorePointName> for String {
    fn from(name: RestorePointName) -> String {
        name.0
    }
}

impl fmt::Display for RestorePointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a restore goes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The end of what is archived.
    #[serde(rename = "latest")]
    Latest {},
    /// Everything that was committed at this time or before.
    #[serde(rename = "time")]
    Time(#[serde(with = "json::time")] Timestamp),
    /// The record at this position, included.
    #[serde(rename = "lsn")]
    Lsn(Lsn),
    /// The newest restore point of this name.
    #[serde(rename = "name")]
    Name(RestorePointName),
    /// The commit of this transaction, included. The low 32 bits count, as PostgreSQL's own target does.
    #[serde(rename = "xid")]
    Xid(#[serde(with = "json::u64_text")] u64),
    /// The end of this backup, the earliest moment that it can give.
    #[serde(rename = "backup")]
    Backup(BackupLabel),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest {} => f.write_str("the end of the archive"),
            Self::Time(time) => write!(f, "time {}", crate::types::json::timestamp_text(*time)),
            Self::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Self::Name(name) => write!(f, "restore point {name:?}", name = name.as_str()),
            Self::Xid(xid) => write!(f, "transaction {xid}"),
            Self::Backup(label) => write!(f, "the end of backup {label}"),
        }
    }
}

/// Parameters of a restore, and of the plan of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreParams {
    /// Where to.
    pub target: Target,
    /// On which timeline the target lies; the present primary's when not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timeline: Option<Timeline>,
    /// Restore over the old data rather than beside it: no rollback.
    #[serde(default)]
    pub in_place: bool,
    /// The cell that is restored first and becomes the primary; chosen when not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub onto: Option<CellName>,
}

/// What a recovery is told to stop at, after planning: names and transactions have become positions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoverParams {
    /// The backup to restore; none when the source is a copy that was kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub set: Option<BackupLabel>,
    /// The restore whose kept copy of the old data is the source; none when it is a backup.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kept: Option<JobId>,
    /// `Latest`, `Time`, `Lsn` or `Backup`.
    pub target: Target,
    /// The timeline to follow.
    pub timeline: Timeline,
    /// The last segment that must have been replayed when there is no earlier target.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_segment: Option<String>,
    /// The number of the incarnation that this makes.
    pub incarnation: u32,
    /// Over the old data.
    #[serde(default)]
    pub in_place: bool,
}

/// Parameters of a drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrillParams {
    /// The backup; the newest when not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub backup: Option<BackupLabel>,
    /// SQL that must run without error, and whose rows, if it returns any, must begin with true.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub checks: Vec<String>,
    /// The database in which the checks run.
    #[serde(default)]
    pub check_database: String,
    /// Leave `pg_amcheck` out.
    #[serde(default)]
    pub skip_amcheck: bool,
    /// Niceness of everything it runs, 0 to 19.
    #[serde(default)]
    pub nice: u32,
    /// Bytes that may be restored per second; 0 for no limit.
    #[serde(with = "json::u64_text", default)]
    pub max_bytes_per_second: u64,
}

/// From where to where one backup can be taken on one timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryWindow {
    /// The backup.
    pub backup: BackupLabel,
    /// The timeline that is followed from it.
    pub timeline: Timeline,
    /// The earliest position: the end of the backup.
    pub from_lsn: Lsn,
    /// When the backup ended.
    #[serde(with = "json::time")]
    pub from_time: Timestamp,
    /// The end of the last segment that the archive has without a gap.
    pub to_lsn: Lsn,
    /// When that segment was archived.
    #[serde(with = "json::opt_time", skip_serializing_if = "Option::is_none", default)]
    pub to_time: Option<Timestamp>,
    /// The first segment that is missing though later ones are there.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub gap: String,
}

/// What a restore does to one cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CellPlan {
    /// The cell.
    pub cell: CellName,
    /// What happens to it, in words.
    pub action: String,
    /// Bytes that it needs beside what it has.
    #[serde(with = "json::u64_text", default)]
    pub needed_bytes: u64,
    /// Bytes that are free there; 0 when it does not answer.
    #[serde(with = "json::u64_text", default)]
    pub free_bytes: u64,
}

/// What a restore would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestorePlan {
    /// The target as it was understood.
    pub target: Target,
    /// The target that recovery is given.
    pub resolved: Target,
    /// What the target was found to be, in words.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub found: String,
    /// The timeline that is followed.
    pub timeline: Timeline,
    /// The backup that is restored.
    pub backup: BackupLabel,
    /// Why this one.
    pub why: String,
    /// First WAL file that is replayed.
    pub wal_start: String,
    /// Last one, as far as it is known before the recovery.
    pub wal_stop: String,
    /// How many there are between the two.
    #[serde(with = "json::u64_text", default)]
    pub wal_segments: u64,
    /// Bytes of the restored data directory, without WAL.
    #[serde(with = "json::u64_text", default)]
    pub size_bytes: u64,
    /// How long it is going to take, from past jobs; 0 when there are none.
    #[serde(default)]
    pub estimated_seconds: u32,
    /// Where each backup can be taken.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub windows: Vec<RecoveryWindow>,
    /// What happens to each cell.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub cells: Vec<CellPlan>,
    /// What an operator should know before saying yes.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
}

/// What fencing a member found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FenceResult {
    /// Whether it was the primary, and is stopped now; a standby goes on reading.
    #[serde(default)]
    pub was_primary: bool,
    /// Whether its data is whole, so that a rollback could return to it.
    #[serde(default)]
    pub whole: bool,
    /// Its timeline.
    pub timeline: Timeline,
    /// The last WAL file of a stopped primary, which is in the archive.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub last_segment: String,
}

/// What a recovery reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryResult {
    /// The timeline that begins there.
    pub timeline: Timeline,
    /// The timeline that it came from.
    pub from_timeline: Timeline,
    /// The end of the last record that was replayed.
    pub lsn: Lsn,
    /// The last commit that is in it.
    #[serde(with = "json::opt_time", skip_serializing_if = "Option::is_none", default)]
    pub last_commit: Option<Timestamp>,
    /// Why it stopped there.
    pub stopped: String,
    /// Bytes of the data directory.
    #[serde(with = "json::u64_text", default)]
    pub size_bytes: u64,
    /// Milliseconds that copying took.
    #[serde(with = "json::u64_text", default)]
    pub restore_millis: u64,
    /// Milliseconds from the first start until the target.
    #[serde(with = "json::u64_text", default)]
    pub recovery_millis: u64,
}

/// How a restore of a database, or the rollback of one, left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreResult {
    /// The cell that has the primary now.
    pub cell: CellName,
    /// The incarnation that it made.
    pub incarnation: u32,
    /// What was reached.
    pub recovery: RecoveryResult,
    /// The backup that was restored; none for a rollback.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub backup: Option<BackupLabel>,
    /// Cells that were down or could not be rebuilt; they rebuild themselves when they return.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub left_out: Vec<CellName>,
    /// Whether the old data is kept, so that a rollback is possible.
    #[serde(default)]
    pub kept: bool,
    /// The first backup on the new timeline.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_backup: Option<BackupLabel>,
}

/// What a rebuild did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuildResult {
    /// The backup that was restored; none when a kept copy was put back.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub backup: Option<BackupLabel>,
    /// Whether files that were the same already were kept.
    #[serde(default)]
    pub delta: bool,
    /// Bytes of the data directory.
    #[serde(with = "json::u64_text", default)]
    pub size_bytes: u64,
    /// Milliseconds that copying took.
    #[serde(with = "json::u64_text", default)]
    pub restore_millis: u64,
}

/// One check of a drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrillCheck {
    /// What was checked.
    pub name: String,
    /// Whether it held.
    #[serde(default)]
    pub passed: bool,
    /// What was seen.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub detail: String,
}

/// What a drill proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrillResult {
    /// The backup that was restored.
    pub backup: BackupLabel,
    /// Bytes restored.
    #[serde(with = "json::u64_text", default)]
    pub size_bytes: u64,
    /// Milliseconds that copying took.
    #[serde(with = "json::u64_text", default)]
    pub restore_millis: u64,
    /// Milliseconds from the beginning until it could be read.
    #[serde(with = "json::u64_text", default)]
    pub readable_millis: u64,
    /// Milliseconds from the beginning until all archived WAL was replayed.
    #[serde(with = "json::u64_text", default)]
    pub replayed_millis: u64,
    /// Where that was.
    pub lsn: Lsn,
    /// The last commit in it.
    #[serde(with = "json::opt_time", skip_serializing_if = "Option::is_none", default)]
    pub last_commit: Option<Timestamp>,
    /// Every check and how it went.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub checks: Vec<DrillCheck>,
}

/// Which copy of a database is the true one.
///
/// A restore makes the next incarnation, and so does its rollback. Every data directory carries the number of
/// the one that it belongs to; one of another number is never started as a primary. Written by
/// multiadmin only; a database that was never restored has none and is at number 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incarnation {
    /// Counted from 1.
    pub number: u32,
    /// The cell that has its first copy, once a restore has made one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cell: Option<CellName>,
    /// The restore or rollback that made it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub job: Option<JobId>,
    /// The restore for which no member may take writes now.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fence: Option<JobId>,
    /// The cell that keeps the data of the incarnation before, to which a rollback returns. None once that is
    /// confirmed, or when nothing was kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kept_in: Option<CellName>,
}

impl Default for Incarnation {
    fn default() -> Self {
        Self { number: 1, cell: None, job: None, fence: None, kept_in: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_oneofs_in_json() {
        let json = |target: &Target| serde_json::to_string(target).unwrap();
        assert_eq!(json(&Target::Latest {}), r#"{"latest":{}}"#);
        assert_eq!(json(&Target::Xid(742)), r#"{"xid":"742"}"#);
        let time = Target::Time("2026-03-01T10:00:00.123456Z".parse().unwrap());
        assert_eq!(json(&time), r#"{"time":"2026-03-01T10:00:00.123456Z"}"#);
        assert_eq!(serde_json::from_str::<Target>(&json(&time)).unwrap(), time);
    }

    #[test]
    fn a_restore_point_is_one_line() {
        assert!("before the change".parse::<RestorePointName>().is_ok());
        assert!("it's".parse::<RestorePointName>().is_ok());
        for bad in ["", "a\nb", &"x".repeat(64)] {
            assert!(bad.parse::<RestorePointName>().is_err());
        }
    }
}
