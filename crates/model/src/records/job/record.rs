//! What was asked ([`JobRecord`]), and that joined with what came of it ([`Job`]).
//!
//! The two records have one writer each: multiadmin writes the job, the pooler writes the
//! [`Run`]. Neither needs the other's permission, so a stolen pooler certificate cannot create
//! work and a broken multiadmin cannot invent an outcome.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::records::backup::BackupLabel;
use crate::records::job::id::{JobId, RequestId};
use crate::records::job::outcome::JobOutcome;
use crate::records::job::run::{JobError, JobState, Progress, Transition};
use crate::records::job::spec::{JobKind, JobSpec};
use crate::types::code::Code;
use crate::types::json;
use crate::types::name::{CellName, DatabaseName};

/// A request to end a job early.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CancelRequest {
    /// Who asked.
    pub requested_by: String,
    /// When.
    #[serde(with = "json::time")]
    pub time: Timestamp,
}

/// How multiadmin ended a job that it drives, or whose pooler cannot end it any more.
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
    #[serde(with = "crate::records::job::outcome::json", skip_serializing_if = "Option::is_none", default)]
    pub result: Option<JobOutcome>,
}

impl Closure {
    /// Whether it says how the job ended. After etcd was put back to a state in which the job was open, nobody knows.
    #[must_use]
    pub fn is_outcome_known(&self) -> bool {
        self.error.as_ref().is_none_or(|error| error.code != Code::Unavailable)
    }
}

/// The primary that a restore or a rollback may leave unfenced, because the operator vouches that it takes no writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadPrimary {
    /// The cell of the silent primary when the job was asked for.
    pub cell: CellName,
    /// Another silent cell that may have had the primary then: the recorded one, when the present incarnation was not in
    /// use yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub also: Option<CellName>,
    /// A multipooler of the recorded primary has reported since: what was vouched for does not hold any more.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub reported: bool,
}

impl DeadPrimary {
    /// The cells for which it is vouched.
    pub fn cells(&self) -> impl Iterator<Item = &CellName> {
        std::iter::once(&self.cell).chain(&self.also)
    }
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
    /// Backups whose last drill had failed when it was requested: others are preferred to them. multiadmin says so,
    /// because a pooler sees the drills of its own cell only.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub failed_drills: Vec<BackupLabel>,
    /// Of a restore or a rollback that was asked for with `primary_is_dead`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dead_primary: Option<DeadPrimary>,
    /// Somebody wants it to end early.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cancel: Option<CancelRequest>,
    /// It was closed by multiadmin.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub closure: Option<Closure>,
}

impl JobRecord {
    /// A new job: not a step, not canceled, not closed. `create_time` is cut to milliseconds.
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
            failed_drills: Vec::new(),
            dead_primary: None,
            cancel: None,
            closure: None,
        }
    }

    /// How long it may take from when it was asked for.
    ///
    /// Both stamps are of the clock of the host on which it was asked for. Whoever ends a job that takes too long goes by
    /// the time between them and by a monotonic clock of its own: wall clocks of hosts differ, and are set.
    #[must_use]
    pub fn time_limit(&self) -> Duration {
        self.deadline.duration_since(self.create_time).try_into().unwrap_or_default()
    }

    /// What it does, without the parameters.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        self.spec.kind()
    }
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
    #[serde(with = "crate::records::job::outcome::json", skip_serializing_if = "Option::is_none", default)]
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
