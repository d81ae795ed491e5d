//! What came of a job: the record that its pooler writes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::records::job::id::JobId;
use crate::records::job::outcome::JobOutcome;
use crate::types::code::{Code, Refusal};
use crate::types::json;
use crate::types::name::{CellName, DatabaseName};
use crate::types::protocol::Protocol;

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum JobState {
    /// No pooler has begun it.
    #[serde(rename = "JOB_STATE_PENDING")]
    Pending,
    /// A living pooler works on it.
    #[serde(rename = "JOB_STATE_RUNNING")]
    Running,
    /// It did what was asked.
    #[serde(rename = "JOB_STATE_SUCCEEDED")]
    Succeeded,
    /// It did not.
    #[serde(rename = "JOB_STATE_FAILED")]
    Failed,
    /// Ended early because somebody asked.
    #[serde(rename = "JOB_STATE_CANCELED")]
    Canceled,
    /// Never stored: the run says RUNNING and no pooler claims it.
    #[serde(rename = "JOB_STATE_LOST")]
    Lost,
}

impl JobState {
    /// Whether it can never change again.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled)
    }

    /// One word for tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Lost => "lost",
        }
    }
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// What it does now, in a few words.
    pub phase: String,
    /// Bytes copied.
    #[serde(with = "json::u64_text")]
    pub bytes_done: u64,
    /// Bytes to copy; 0 when not known.
    #[serde(with = "json::u64_text")]
    pub bytes_total: u64,
    /// The largest file that is being copied, relative to the data directory; empty when it is not known. The bytes
    /// move only when a file is done, and a large file takes hours.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// Its size in bytes.
    #[serde(with = "json::u64_text", skip_serializing_if = "json::is_zero")]
    pub file_bytes: u64,
}

/// Why a job ended badly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobError {
    /// The stable reason.
    pub code: Code,
    /// What was being done and what went wrong.
    pub message: String,
    /// What to do next.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub hint: String,
    /// The last lines of the tool's own output.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub tool_output: String,
}

impl From<Refusal> for JobError {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code, message: refusal.message, hint: refusal.hint, tool_output: String::new() }
    }
}

/// One step of a run's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    /// The state entered.
    pub state: JobState,
    /// When.
    #[serde(with = "json::time")]
    pub time: Timestamp,
    /// Which pooler process.
    pub epoch: String,
    /// Why, when it is not plain.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub note: String,
}

/// What came of a job. Written by that cell's pooler only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The job.
    pub id: JobId,
    /// Its database.
    pub database: DatabaseName,
    /// The cell.
    pub cell: CellName,
    /// RUNNING or a terminal state.
    pub state: JobState,
    /// The pooler process that wrote this.
    pub epoch: String,
    /// When it was claimed.
    #[serde(with = "json::time")]
    pub start_time: Timestamp,
    /// When it ended.
    #[serde(with = "json::opt_time", skip_serializing_if = "Option::is_none", default)]
    pub end_time: Option<Timestamp>,
    /// How far it is.
    #[serde(default)]
    pub progress: Progress,
    /// What it produced.
    #[serde(with = "crate::records::job::outcome::json", default)]
    pub result: Option<JobOutcome>,
    /// Why it ended badly.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<JobError>,
    /// How it got here.
    #[serde(default)]
    pub history: Vec<Transition>,
    /// What may be expected of the process that wrote this.
    #[serde(default, skip_serializing_if = "Protocol::is_unnumbered")]
    pub protocol: Protocol,
}
