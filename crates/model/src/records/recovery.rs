//! Steps of a restore, the fence and the recovery, and how far backups can be recovered.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::records::backup::BackupLabel;
use crate::records::job::id::JobId;
use crate::records::target::Target;
use crate::types::json;
use crate::types::lsn::{Lsn, Timeline};

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
