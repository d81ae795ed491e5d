//! Backups: their labels, types, and what is known of a finished one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::json;
use crate::types::lsn::{Lsn, SystemIdentifier, Timeline};
use crate::types::name::CellName;

/// pgBackRest's name of a backup: `20260301-101500F`, or for diff and incr
/// `20260301-101500F_20260302-101500I`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupLabel(String);

/// The text is not a backup label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a backup label such as 20260301-101500F or 20260301-101500F_20260302-101500I")]
pub struct LabelError(String);

fn is_stamp(text: &str) -> bool {
    text.len() == 15
        && text.bytes().enumerate().all(|(at, b)| if at == 8 { b == b'-' } else { b.is_ascii_digit() })
}

impl BackupLabel {
    /// The label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a full backup's: that of any other has its full backup's in front.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.0.contains('_')
    }
}

impl FromStr for BackupLabel {
    type Err = LabelError;
    fn from_str(text: &str) -> Result<Self, LabelError> {
        let valid = match text.split_once('_') {
            None => text.strip_suffix('F').is_some_and(is_stamp),
            Some((full, rest)) => {
                full.strip_suffix('F').is_some_and(is_stamp)
                    && rest.strip_suffix(['D', 'I']).is_some_and(is_stamp)
            }
        };
        if valid { Ok(Self(text.to_owned())) } else { Err(LabelError(text.chars().take(60).collect())) }
    }
}

impl TryFrom<String> for BackupLabel {
    type Error = LabelError;
    fn try_from(text: String) -> Result<Self, LabelError> {
        text.parse()
    }
}

impl From<BackupLabel> for String {
    fn from(label: BackupLabel) -> String {
        label.0
    }
}

impl fmt::Display for BackupLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Annotation in the repo that names the cell a backup was asked of. A claim of ours, not a proof.
pub const CELL_ANNOTATION: &str = "cellar-cell";

/// Annotation in the repo that names the job that made a backup.
pub const JOB_ANNOTATION: &str = "cellar-job";

/// Annotation in the repo that says what came of the proof, see [`crate::Mark`]: the job's id, or `unproven`.
pub const PROOF_ANNOTATION: &str = "cellar-proof";

/// How much a backup copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupType {
    /// Every file.
    #[serde(rename = "BACKUP_TYPE_FULL")]
    Full,
    /// What changed since the last full backup.
    #[serde(rename = "BACKUP_TYPE_DIFF")]
    Diff,
    /// What changed since the last backup of any type.
    #[serde(rename = "BACKUP_TYPE_INCR")]
    Incr,
}

impl BackupType {
    /// pgBackRest's word for it, the value of `--type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Diff => "diff",
            Self::Incr => "incr",
        }
    }
}

impl FromStr for BackupType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "full" => Ok(Self::Full),
            "diff" => Ok(Self::Diff),
            "incr" => Ok(Self::Incr),
            other => Err(format!("{other:?} is not a backup type: full, diff or incr")),
        }
    }
}

impl fmt::Display for BackupType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a backup's files came from, with the counts that prove it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupSource {
    /// The cell that was named and copied.
    pub cell: CellName,
    /// Its data directory.
    pub data_directory: String,
    /// The instance's identity.
    pub system_identifier: SystemIdentifier,
    /// The timeline it was on.
    pub timeline: Timeline,
    /// How far it had replayed when the job began (a primary: its write position).
    pub replay_lsn: Lsn,
    /// Data files copied from the named cell's own data directory.
    #[serde(with = "json::u64_text", default)]
    pub files_from_source: u64,
    /// Files pgBackRest must take from the primary, `pg_control` among them.
    #[serde(with = "json::u64_text", default)]
    pub files_from_primary: u64,
    /// Whether the log and `backup.info` prove the source.
    #[serde(default)]
    pub verified: bool,
}

/// What is known of a finished backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupResult {
    /// Its label.
    pub label: BackupLabel,
    /// What it is; an incr with nothing to build on becomes a full one.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// The backup it builds on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub prior: Option<BackupLabel>,
    /// First WAL position needed to restore it.
    pub start_lsn: Lsn,
    /// Position at which it becomes consistent.
    pub stop_lsn: Lsn,
    /// First WAL segment needed.
    pub wal_start: String,
    /// Last WAL segment needed.
    pub wal_stop: String,
    /// Bytes of the database at the time.
    #[serde(with = "json::u64_text", default)]
    pub size_bytes: u64,
    /// Bytes this backup added to the repo.
    #[serde(with = "json::u64_text", default)]
    pub repo_bytes: u64,
    /// Where its files came from.
    pub source: BackupSource,
    /// Whether pages with wrong checksums were found while it was taken. Its job fails then, though it is proven.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub page_errors: bool,
    /// What an operator should know, such as why it is a full backup though another type was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
}

/// Lag in bytes up to which a standby is accepted when the request does not say: 16 WAL segments.
pub const DEFAULT_MAX_LAG: u64 = 256 << 20;

/// Parameters of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupParams {
    /// How much to copy.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// Whether the named cell may be the primary.
    #[serde(default)]
    pub allow_primary: bool,
    /// Replay lag in bytes above which the standby is refused; in a request 0 stands for [`DEFAULT_MAX_LAG`].
    #[serde(with = "json::u64_text", default)]
    pub max_lag_bytes: u64,
}

impl BackupParams {
    /// With the defaults that a request may leave open.
    #[must_use]
    pub fn with_defaults(mut self) -> Self {
        if self.max_lag_bytes == 0 {
            self.max_lag_bytes = DEFAULT_MAX_LAG;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for good in
            ["20260301-101500F", "20260301-101500F_20260302-101500I", "20260301-101500F_20260302-101500D"]
        {
            assert!(good.parse::<BackupLabel>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "latest",
            "20260301-101500",
            "20260301-101500I",
            "20260301-101500F_",
            "../x",
            "20260301x101500F",
            "20260301-101500F_20260302-101500F",
        ] {
            assert!(bad.parse::<BackupLabel>().is_err(), "{bad}");
        }
    }
}
