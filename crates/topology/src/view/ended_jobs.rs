//! Jobs that have ended: what decisions and lists need of them, without their parameters, results and histories.
//!
//! A database keeps hundreds of ended jobs, and a result may be large. A [`crate::View`] that is not asked for everything
//! keeps a summary of each; whoever shows such a job to a person reads it from the store.

use cellar_model::{
    BackupLabel, CellName, Closure, Code, DatabaseName, JobError, JobId, JobKind, JobOutcome, JobRecord,
    JobSpec, JobState, Run, join,
};
use jiff::Timestamp;

/// Which jobs a [`crate::View`] has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// All of them with everything that is recorded.
    #[default]
    Everything,
    /// Those that have not ended. Of the others it has summaries; jobs that multiadmin drives are whole, and so are the
    /// steps of a job that has not ended.
    OpenJobs,
    /// Those of one cell and those that multiadmin drives, if they have not ended; summaries of the others of these.
    OpenJobsOf(CellName),
}

/// A job that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedJob {
    /// Its database.
    pub database: DatabaseName,
    /// Its cell.
    pub cell: CellName,
    /// What it did.
    pub kind: JobKind,
    /// How it ended.
    pub state: JobState,
    /// When it was recorded.
    pub create_time: Timestamp,
    /// When it was claimed.
    pub start_time: Option<Timestamp>,
    /// When it ended.
    pub end_time: Option<Timestamp>,
    /// The job that it was a step of.
    pub parent: Option<JobId>,
    /// The backup that it made, or that a drill restored or was to restore.
    pub backup: Option<BackupLabel>,
    /// Whether the backup that it made was proven.
    pub verified: bool,
    /// How long a drill that restored its backup took until the copy could be read, in milliseconds.
    pub readable_millis: Option<u64>,
    /// What a drill found: whether its backup can be restored and passes its checks. None when it says nothing about the
    /// backup, because the drill was canceled, or a check could not be run.
    pub drill_passed: Option<bool>,
    /// Bytes that it restored in full, and how many milliseconds that took.
    pub restored: Option<(u64, u64)>,
    /// Whether multiadmin closed it.
    pub closed: bool,
    /// Whether its state is how it ended; see [`Closure::is_outcome_known`](cellar_model::Closure::is_outcome_known).
    pub is_outcome_known: bool,
    /// The revision of the job's record.
    pub job_revision: i64,
    /// The revision of its run, 0 when there is none.
    pub run_revision: i64,
}

impl EndedJob {
    /// The summary of a job as its records are.
    #[must_use]
    pub fn of(record: &JobRecord, run: Option<&Run>, job_revision: i64, run_revision: i64) -> Self {
        let job = join(record, run, false, None);
        let mut ended = Self {
            database: record.database.clone(),
            cell: record.cell.clone(),
            kind: record.kind(),
            state: job.state,
            create_time: record.create_time,
            start_time: job.start_time,
            end_time: job.end_time,
            parent: record.parent,
            backup: None,
            verified: false,
            readable_millis: None,
            drill_passed: None,
            restored: None,
            closed: record.closure.is_some(),
            is_outcome_known: record.closure.as_ref().is_none_or(Closure::is_outcome_known),
            job_revision,
            run_revision,
        };
        if ended.kind == JobKind::Drill {
            ended.drill_passed = match (job.state, job.error.as_ref().map(|error| error.code)) {
                (JobState::Succeeded, _) => Some(true),
                (JobState::Failed, Some(Code::CheckFailed | Code::RepoDamaged | Code::WalMissing)) => {
                    Some(false)
                }
                _ => None,
            };
        }
        match (&job.result, &record.spec) {
            (Some(JobOutcome::Backup(made)), _) => {
                ended.backup = Some(made.label.clone());
                ended.verified = made.source.verified;
            }
            (Some(JobOutcome::Drill(drill)), _) => {
                ended.backup = Some(drill.backup.clone());
                ended.readable_millis = Some(drill.readable_millis);
            }
            (Some(JobOutcome::Recovery(recovery)), _) => {
                ended.restored = Some((recovery.size_bytes, recovery.restore_millis));
            }
            // A delta copies less than the backup's size.
            (Some(JobOutcome::Rebuild(rebuild)), _) if !rebuild.delta => {
                ended.restored = Some((rebuild.size_bytes, rebuild.restore_millis));
            }
            (_, JobSpec::Drill(params)) => ended.backup.clone_from(&params.backup),
            _ => {}
        }
        ended
    }
}

/// A run without what its summary does not need.
pub(super) fn slimmed(mut run: Run) -> Run {
    if let Some(error) = &mut run.error {
        *error = JobError {
            code: error.code,
            message: String::new(),
            hint: String::new(),
            tool_output: String::new(),
        };
    }
    run.history = Vec::new();
    run.progress.file = String::new();
    run.result = run.result.and_then(|result| match result {
        JobOutcome::Backup(_) | JobOutcome::Recovery(_) | JobOutcome::Rebuild(_) => Some(result),
        JobOutcome::Drill(mut drill) => {
            drill.checks = Vec::new();
            Some(JobOutcome::Drill(drill))
        }
        _ => None,
    });
    run
}
