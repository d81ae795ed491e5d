//! Rebuilds of a standby: what is asked, and what one did.

use serde::{Deserialize, Serialize};

use crate::records::backup::BackupLabel;
use crate::records::job::id::JobId;
use crate::types::json;

/// Parameters of a rebuild.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuildParams {
    /// Keep the old data under the name of this restore rather than restore over it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub keep_for: Option<JobId>,
    /// Put back what was kept for this restore, if it is there and can follow the primary.
    #[serde(rename = "putBack", skip_serializing_if = "Option::is_none", default)]
    pub reinstate: Option<JobId>,
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
    /// What an operator should know, such as what is wrong with the backup.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
}
