//! Jobs: what was asked (`JobRecord`), what came of it (`Run`), and the two joined (`Job`).
//!
//! The two records have one writer each: multiadmin writes the job, the pooler
//! writes the run. Neither ever needs the other's permission, so a stolen
//! pooler certificate cannot create work and a confused multiadmin cannot
//! invent an outcome.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::decide::maintenance::{CheckResult, ExpireParams, ExpireResult, VerifyResult};
use crate::records::backup::{BackupResult, BackupType};
use crate::records::restore::{
    DrillParams, DrillResult, FenceResult, RebuildResult, RecoverParams, RecoveryResult, RestoreParams,
    RestorePlan, RestoreResult,
};
use crate::types::code::Code;
use crate::types::json;
use crate::types::name::{CellName, DatabaseName};

/// Identifies a job for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(Uuid);

/// The text is not a job id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a job id: job ids are UUIDs, as `cellar jobs list` prints them")]
pub struct JobIdError(String);

impl JobId {
    /// From a UUID; a version 7 one sorts by time.
    #[must_use]
    pub fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The id of the one job that a client's `request_id` stands for.
    ///
    /// It is derived (UUID version 5), not looked up, so two multiadmins that
    /// get the same request at once try to create the same key and one
    /// transaction wins.
    #[must_use]
    pub fn for_request(database: &DatabaseName, request_id: &RequestId) -> Self {
        // Our own namespace for derived ids: version 5 of "cellar/job" in the URL namespace.
        let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, b"cellar/job");
        Self(Uuid::new_v5(&namespace, format!("{database}/{request_id}").as_bytes()))
    }
}

impl FromStr for JobId {
    type Err = JobIdError;
    fn from_str(text: &str) -> Result<Self, JobIdError> {
        // Only the hyphenated form: an id is a key in etcd and must have one spelling.
        let bad = || JobIdError(text.chars().take(60).collect());
        let uuid = Uuid::try_parse(text).map_err(|_| bad())?;
        if uuid.to_string() == text { Ok(Self(uuid)) } else { Err(bad()) }
    }
}

impl TryFrom<String> for JobId {
    type Error = JobIdError;
    fn try_from(text: String) -> Result<Self, JobIdError> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> String {
        id.to_string()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// A client's own name for a mutating request, so that it may be repeated safely.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(String);

impl FromStr for RequestId {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > 128 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("a request id is 1 to 128 printable ASCII characters without spaces");
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for RequestId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RequestId> for String {
    fn from(id: RequestId) -> String {
        id.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobKind {
    /// Back up the named cell.
    #[serde(rename = "JOB_KIND_BACKUP")]
    Backup,
    /// Make the named standby anew from the repo.
    #[serde(rename = "JOB_KIND_REBUILD")]
    Rebuild,
    /// Bring the whole database back to a point in time. Driven by multiadmin; its steps are jobs.
    #[serde(rename = "JOB_KIND_RESTORE")]
    Restore,
    /// Bring the database back to what it was before a restore. Driven, too.
    #[serde(rename = "JOB_KIND_ROLLBACK")]
    Rollback,
    /// Delete what a restore kept of the old data. Driven, too.
    #[serde(rename = "JOB_KIND_CONFIRM")]
    Confirm,
    /// Find out what a restore would do.
    #[serde(rename = "JOB_KIND_PLAN")]
    Plan,
    /// Step of a restore: no more writes here.
    #[serde(rename = "JOB_KIND_FENCE")]
    Fence,
    /// Step of a restore: restore and recover, beside the data that is there.
    #[serde(rename = "JOB_KIND_RECOVER")]
    Recover,
    /// Step of a restore: put what was recovered in place of the old data and start it.
    #[serde(rename = "JOB_KIND_SWAP")]
    Swap,
    /// Step of a confirmation or a rollback: delete what was kept.
    #[serde(rename = "JOB_KIND_DISCARD")]
    Discard,
    /// Prove that a backup can be restored.
    #[serde(rename = "JOB_KIND_DRILL")]
    Drill,
    /// Take away what the retention does not keep.
    #[serde(rename = "JOB_KIND_EXPIRE")]
    Expire,
    /// Read the whole repo.
    #[serde(rename = "JOB_KIND_VERIFY")]
    Verify,
    /// See that WAL arrives in the repo.
    #[serde(rename = "JOB_KIND_CHECK")]
    Check,
}

impl JobKind {
    /// One word for tables and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Rebuild => "rebuild",
            Self::Restore => "restore",
            Self::Rollback => "rollback",
            Self::Confirm => "confirm",
            Self::Plan => "plan",
            Self::Fence => "fence",
            Self::Recover => "recover",
            Self::Swap => "swap",
            Self::Discard => "discard",
            Self::Drill => "drill",
            Self::Expire => "expire",
            Self::Verify => "verify",
            Self::Check => "check",
        }
    }

    /// Whether multiadmin drives it and poolers run only its steps.
    #[must_use]
    pub fn is_driven(self) -> bool {
        matches!(self, Self::Restore | Self::Rollback | Self::Confirm)
    }

    /// Whether it writes to the stanza or to the data of a member, and so excludes all others that do.
    #[must_use]
    pub fn takes_lock(self) -> bool {
        !matches!(self, Self::Plan | Self::Drill | Self::Verify | Self::Check)
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

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
    /// Replay lag in bytes above which the standby is refused.
    #[serde(with = "json::u64_text", default)]
    pub max_lag_bytes: u64,
}

/// Parameters of a rebuild.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuildParams {
    /// Keep the old data under the name of this restore rather than restore over it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub keep_for: Option<JobId>,
    /// Put back what was kept for this restore, if it is there and can follow the primary.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub put_back: Option<JobId>,
}

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
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub result: Option<RunResult>,
}

/// What was asked. Written by multiadmin only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// To which database.
    pub database: DatabaseName,
    /// Whose pooler runs it.
    pub cell: CellName,
    /// Parameters of a backup.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub backup: Option<BackupParams>,
    /// Parameters of a rebuild.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rebuild: Option<RebuildParams>,
    /// Parameters of a restore or its plan.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub restore: Option<RestoreParams>,
    /// Parameters of a restore's recovery.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recover: Option<RecoverParams>,
    /// Parameters of a drill.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub drill: Option<DrillParams>,
    /// Parameters of an expiry.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expire: Option<ExpireParams>,
    /// The restore that a rollback, a confirmation or a discarding step is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subject: Option<JobId>,
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
    /// Whether the other record asks for the same thing, whoever asks and whenever.
    #[must_use]
    pub fn same_request(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.database == other.database
            && self.cell == other.cell
            && self.backup == other.backup
            && self.rebuild == other.rebuild
            && self.restore == other.restore
            && self.drill == other.drill
            && self.expire == other.expire
            && self.subject == other.subject
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

/// What a job produced.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunResult {
    /// Of a backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupResult>,
    /// Of a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<RestorePlan>,
    /// Of a fence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fence: Option<FenceResult>,
    /// Of a recovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryResult>,
    /// Of a restore or a rollback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreResult>,
    /// Of a rebuild.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<RebuildResult>,
    /// Of a drill, also of one that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillResult>,
    /// Of an expiry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire: Option<ExpireResult>,
    /// Of reading the whole repo, also of one that found damage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifyResult>,
    /// Of a check of archiving.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckResult>,
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
    #[serde(default)]
    pub result: RunResult,
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
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub result: Option<RunResult>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_is_one_job() {
        let db: DatabaseName = "app".parse().unwrap();
        let other: DatabaseName = "web".parse().unwrap();
        let request: RequestId = "nightly-1".parse().unwrap();
        assert_eq!(JobId::for_request(&db, &request), JobId::for_request(&db, &request));
        assert_ne!(JobId::for_request(&db, &request), JobId::for_request(&other, &request));
    }

    #[test]
    fn an_id_has_one_spelling() {
        let id = JobId::new(Uuid::from_u128(0xdead_beef));
        let text = id.to_string();
        assert_eq!(text.parse::<JobId>().unwrap(), id);
        assert!(text.to_uppercase().parse::<JobId>().is_err());
        assert!(text.replace('-', "").parse::<JobId>().is_err());
        assert!("".parse::<JobId>().is_err());
    }
}
