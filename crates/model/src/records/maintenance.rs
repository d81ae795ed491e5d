//! Maintenance of a repo: the parameters and results of expiry, verification and the check of archiving.

use serde::{Deserialize, Serialize};

use crate::records::backup::BackupLabel;
use crate::records::job::id::JobId;
use crate::records::recovery::RecoveryWindow;
use crate::types::json;

/// Parameters of an expiry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExpireParams {
    /// This backup and all that build on it; what the retention says when not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub backup: Option<BackupLabel>,
    /// Only say what would go.
    #[serde(default)]
    pub dry_run: bool,
    /// Backups by name that drills were restoring when it was asked for. A pooler sees how its own jobs go only, so
    /// multiadmin says so.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub drilled: Vec<DrilledBackup>,
}

/// Parameters of a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestartParams {
    /// The member was the recorded primary when it was asked for. One that has become it since is not restarted: nobody has
    /// agreed to writes that fail.
    #[serde(default)]
    pub is_primary: bool,
}

/// A drill that has not ended, of a backup that was named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrilledBackup {
    /// The drill.
    pub job: JobId,
    /// What it restores.
    pub backup: BackupLabel,
}

/// WAL segments that lie next to each other in the archive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WalRange {
    /// pgBackRest's name of the archive, such as `15-1`.
    pub archive: String,
    /// The first file.
    pub start: String,
    /// The last one.
    pub stop: String,
}

/// What an expiry took away, or would.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExpireResult {
    /// Nothing was deleted.
    pub dry_run: bool,
    /// The backups that went, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<BackupLabel>,
    /// The WAL that went.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wal: Vec<WalRange>,
    /// The backups that stay, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<BackupLabel>,
    /// How many there are beyond those of `backups`.
    #[serde(skip_serializing_if = "json::is_zero_u32")]
    pub more_backups: u32,
    /// How many there are beyond those of `wal`.
    #[serde(skip_serializing_if = "json::is_zero_u32")]
    pub more_wal: u32,
    /// How many there are beyond those of `kept`.
    #[serde(skip_serializing_if = "json::is_zero_u32")]
    pub more_kept: u32,
    /// What an operator should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How a backup or an archive was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Verified {
    /// A backup's label, or pgBackRest's name of an archive.
    pub name: String,
    /// Whether all of it is there and has the right checksums.
    pub valid: bool,
    /// Files that were read.
    #[serde(with = "json::u64_text")]
    pub files: u64,
    /// Files that were as they should be.
    #[serde(with = "json::u64_text")]
    pub valid_files: u64,
    /// Files that are not there.
    #[serde(with = "json::u64_text")]
    pub missing: u64,
    /// Files of another content.
    #[serde(with = "json::u64_text")]
    pub checksum_invalid: u64,
    /// Files of another size.
    #[serde(with = "json::u64_text")]
    pub size_invalid: u64,
    /// Files that could not be read for another reason.
    #[serde(with = "json::u64_text")]
    pub other: u64,
}

/// What reading a whole repo found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VerifyResult {
    /// Every backup, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<Verified>,
    /// Every archive of WAL.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub archives: Vec<Verified>,
    /// The first damaged or missing files, each with what is the matter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
    /// From where to where each backup can be taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<RecoveryWindow>,
    /// How many there are beyond those of `backups`.
    #[serde(skip_serializing_if = "json::is_zero_u32")]
    pub more_backups: u32,
    /// How many there are beyond those of `archives`.
    #[serde(skip_serializing_if = "json::is_zero_u32")]
    pub more_archives: u32,
    /// How many there are beyond those of `windows`.
    #[serde(skip_serializing_if = "json::is_zero_u32")]
    pub more_windows: u32,
    /// What an operator should know though it breaks nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What a check of archiving saw.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckResult {
    /// The WAL segment that was ended for it and arrived in the repo.
    pub segment: String,
    /// Milliseconds from the question until it had arrived.
    #[serde(with = "json::u64_text")]
    pub millis: u64,
}
