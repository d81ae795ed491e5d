//! Drills: what is asked, and what one proved.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::records::backup::BackupLabel;
use crate::types::json;
use crate::types::lsn::Lsn;

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

/// One check of a drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrillCheck {
    /// What was checked.
    pub name: String,
    /// Whether it held.
    #[serde(default)]
    pub passed: bool,
    /// Whether it could not be run, which says nothing about the backup. It has not passed then.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub could_not_run: bool,
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
