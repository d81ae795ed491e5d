//! Jobs: what was asked (`JobRecord`), what came of it (`Run`), and the two joined (`Job`).
//!
//! The two records have one writer each: multiadmin writes the job, the pooler
//! writes the run. Neither ever needs the other's permission, so a stolen
//! pooler certificate cannot create work and a confused multiadmin cannot
//! invent an outcome.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::records::job_id::{JobId, RequestId};
use crate::records::outcome::{self, JobOutcome};
use crate::records::spec::{JobKind, JobSpec};
use crate::types::code::Code;
use crate::types::json;
use crate::types::name::{CellName, DatabaseName};

/// A wish to end a job early.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CancelRequest {
    /// Who asked.
    pub requested_by: String,
    /// When.
    #[serde(with = "json::time")]
    pub time: Timestamp,
}

/// multiadmin's last word on a job whose pooler cannot have one any more, or that multiadmin drives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Closure {
    /// `FAILED` or `CANCELED`; `SUCCEEDED` only for a job that multiadmin drives.
    pub state: JobState,
    /// When.
    #[serde(with = "json::time")]
    pub time: Timestamp,
    /// Why, unless it succeeded.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<JobError>,
    /// What it produced.
    #[serde(with = "outcome::json", skip_serializing_if = "Option::is_none", default)]
    pub result: Option<JobOutcome>,
}

/// What was asked. Written by multiadmin only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// What it does, with its parameters.
    #[serde(flatten)]
    pub spec: JobSpec,
    /// To which database.
    pub database: DatabaseName,
    /// Whose pooler runs it.
    pub cell: CellName,
    /// The caller's identity, from its certificate.
    pub requested_by: String,
    /// The caller's name for the request.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<RequestId>,
    /// When it was recorded.
    #[serde(with = "json::time")]
    pub create_time: Timestamp,
    /// When it is given up.
    #[serde(with = "json::time")]
    pub deadline: Timestamp,
    /// The job that it is a step of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<JobId>,
    /// Somebody wants it to end early.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cancel: Option<CancelRequest>,
    /// It was closed by multiadmin.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub closure: Option<Closure>,
}

impl JobRecord {
    /// A job that nobody has asked to end and that is not a step; `create_time` is cut to what etcd keeps.
    #[must_use]
    pub fn new(
        id: JobId,
        spec: JobSpec,
        database: DatabaseName,
        cell: CellName,
        requested_by: impl Into<String>,
        create_time: Timestamp,
        deadline: Timestamp,
    ) -> Self {
        Self {
            id,
            spec,
            database,
            cell,
            requested_by: requested_by.into(),
            request_id: None,
            create_time: json::timestamp_ms(create_time),
            deadline,
            parent: None,
            cancel: None,
            closure: None,
        }
    }

    /// What it does, without the parameters.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        self.spec.kind()
    }
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum JobState {
    /// Nobody has begun.
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
    /// Never stored: the run says RUNNING and nobody claims it.
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

impl From<crate::types::code::Refusal> for JobError {
    fn from(refusal: crate::types::code::Refusal) -> Self {
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
    #[serde(with = "outcome::json", default)]
    pub result: Option<JobOutcome>,
    /// Why it ended badly.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<JobError>,
    /// How it got here.
    #[serde(default)]
    pub history: Vec<Transition>,
}

/// A step of a job that multiadmin drives, as the API shows it in that job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobStep {
    /// The step's own job.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Where.
    pub cell: CellName,
    /// How far it is.
    pub state: JobState,
    /// When it began.
    #[serde(with = "json::opt_time", skip_serializing_if = "Option::is_none", default)]
    pub start_time: Option<Timestamp>,
    /// When it ended.
    #[serde(with = "json::opt_time", skip_serializing_if = "Option::is_none", default)]
    pub end_time: Option<Timestamp>,
    /// What it does just now.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub progress: Option<Progress>,
    /// Why it ended badly.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<JobError>,
}

/// A job as the API shows it: the record and its run, joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// What was asked.
    #[serde(flatten)]
    pub record: JobRecord,
    /// Where it is.
    pub state: JobState,
    /// When it began.
    #[serde(with = "json::opt_time", skip_serializing_if = "Option::is_none", default)]
    pub start_time: Option<Timestamp>,
    /// When it ended.
    #[serde(with = "json::opt_time", skip_serializing_if = "Option::is_none", default)]
    pub end_time: Option<Timestamp>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub progress: Option<Progress>,
    /// What it produced.
    #[serde(with = "outcome::json", skip_serializing_if = "Option::is_none", default)]
    pub result: Option<JobOutcome>,
    /// Why it ended badly.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<JobError>,
    /// The jobs in front of it when it waits for the database's lock.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub waits_for: Vec<JobId>,
    /// How it got here.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub history: Vec<Transition>,
    /// Its steps, in the order in which they were begun.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub steps: Vec<JobStep>,
}
