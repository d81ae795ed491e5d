//! Restores: what is asked, what one would do, and how one left the database.

use serde::{Deserialize, Serialize};

use crate::records::backup::BackupLabel;
use crate::records::recovery::{RecoveryResult, RecoveryWindow};
use crate::records::target::Target;
use crate::types::json;
use crate::types::lsn::Timeline;
use crate::types::name::CellName;

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
    /// The backup that recovery begins from; the newest sound one before the target when not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub backup: Option<BackupLabel>,
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
    /// How many there are beyond those of `windows`.
    #[serde(skip_serializing_if = "json::is_zero_u32", default)]
    pub more_windows: u32,
    /// What happens to each cell.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub cells: Vec<CellPlan>,
    /// What an operator should know before saying yes.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
    /// The cell of the recorded primary, if that does not report: then the restore is refused unless the operator vouches
    /// that it takes no writes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub silent_primary: Option<CellName>,
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
    /// Of a restore: whether the old data is kept, so that a rollback is possible. Of a rollback: whether some cell still
    /// has old data that a confirmation deletes.
    #[serde(default)]
    pub kept: bool,
    /// The first backup on the new timeline.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_backup: Option<BackupLabel>,
    /// The cell of the primary from before that was not fenced, because the operator vouched that it took no writes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_fenced: Option<CellName>,
}
