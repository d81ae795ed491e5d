//! A request for a job, parsed; how it is planned, and whether an existing job is its answer.

use std::collections::BTreeMap;

use cellar_model::{
    BackupLabel, Code, DatabaseName, DrilledBackup, ExpireParams, Job, JobId, JobKind, JobRecord, JobRequest,
    JobSpec, JobState, Refusal, open_restore, plan_backup, plan_check, plan_confirm, plan_drill, plan_expire,
    plan_rebuild, plan_restart, plan_restore, plan_restore_plan, plan_rollback, plan_unconditional,
};
use cellar_topology::View;
use jiff::Timestamp;

use crate::refusal;

/// A request for a job, parsed. What it leaves open in the spec is decided when it is planned.
#[derive(Debug, Clone)]
pub(crate) struct Submission {
    pub(crate) request: JobRequest,
    pub(crate) spec: JobSpec,
    /// Whether to wait behind other jobs rather than be refused.
    pub(crate) queue: bool,
}

/// Pending and running drills of named backups. Not lost ones: their pgBackRest ended with its pooler.
fn drilled(view: &View, database: &DatabaseName) -> Vec<DrilledBackup> {
    let drills = view
        .jobs
        .values()
        .filter(|record| record.kind() == JobKind::Drill && record.database == *database)
        .filter(|record| matches!(view.state(record), JobState::Pending | JobState::Running));
    drills
        .filter_map(|record| {
            let JobSpec::Drill(params) = &record.spec else { return None };
            Some(DrilledBackup { job: record.id, backup: params.backup.clone()? })
        })
        .collect()
}

/// Backups of which the last drill that says something about them found that they cannot be used.
fn failed_drills(view: &View, database: &DatabaseName) -> Vec<BackupLabel> {
    let mut last: BTreeMap<BackupLabel, (Timestamp, bool)> = BTreeMap::new();
    for (_, job) in view.ended_jobs().filter(|(_, job)| job.kind == JobKind::Drill) {
        let (Some(backup), Some(end), Some(passed), true) =
            (&job.backup, job.end_time, job.drill_passed, job.database == *database)
        else {
            continue;
        };
        let known = last.entry(backup.clone()).or_insert((end, !passed));
        *known = (*known).max((end, !passed));
    }
    last.into_iter().filter(|(_, (_, failed))| *failed).map(|(label, _)| label).collect()
}

impl Submission {
    /// The record of the job, or why it is refused as things are.
    pub(super) fn plan(&self, view: &View, id: JobId, now: Timestamp) -> Result<JobRecord, Refusal> {
        let record = self.plan_kind(view, id, now)?;
        Ok(JobRecord { failed_drills: failed_drills(view, &record.database), ..record })
    }

    fn plan_kind(&self, view: &View, id: JobId, now: Timestamp) -> Result<JobRecord, Refusal> {
        let (snapshot, request) = (&view.snapshot(), &self.request);
        match &self.spec {
            JobSpec::Backup(params) => plan_backup(snapshot, request, params, id, now),
            JobSpec::Rebuild(_) => plan_rebuild(snapshot, request, id, now),
            JobSpec::Restore(params) => plan_restore(snapshot, request, params, id, now),
            JobSpec::Plan(params) => plan_restore_plan(snapshot, request, params, id, now),
            JobSpec::Rollback(restore) => {
                plan_rollback(snapshot, request, *restore, view.job(restore).as_ref(), id, now)
            }
            JobSpec::Confirm(restore) => {
                let is_related = |record: &&JobRecord| {
                    record.spec.subject() == Some(*restore) && record.kind().is_driven()
                };
                let related: Vec<Job> =
                    view.jobs.values().filter(is_related).filter_map(|record| view.job(&record.id)).collect();
                let job = view.job(restore);
                plan_confirm(snapshot, request, *restore, job.as_ref(), &related, id, now)
            }
            JobSpec::Drill(params) => plan_drill(snapshot, request, params, id, now),
            JobSpec::Expire(params) => {
                let database = self.database(view)?;
                let params = ExpireParams { drilled: drilled(view, &database), ..params.clone() };
                plan_expire(snapshot, request, &params, id, now)
            }
            JobSpec::Check => plan_check(snapshot, request, id, now),
            JobSpec::Restart(_) => plan_restart(snapshot, request, id, now),
            spec if spec.kind().is_step() => {
                let kind = spec.kind();
                Err(Refusal::new(
                    Code::InvalidArgument,
                    format!("a {kind} is a step of other jobs and cannot be requested"),
                ))
            }
            spec => plan_unconditional(snapshot, request, spec.clone(), id, now),
        }
    }

    /// The database that the request is about.
    pub(crate) fn database(&self, view: &View) -> Result<DatabaseName, Refusal> {
        match &self.spec {
            JobSpec::Rollback(restore) | JobSpec::Confirm(restore) => {
                let recorded = view.place_of(restore).map(|(database, _)| database);
                let kept = || open_restore(&view.snapshot(), *restore).map(|(database, _)| database.clone());
                recorded.cloned().or_else(kept).ok_or_else(|| refusal::unknown_job(*restore))
            }
            _ => Ok(view.snapshot().database(self.request.database.as_ref())?.name.clone()),
        }
    }

    /// Whether an existing job is the one that this request asked for.
    ///
    /// Not a comparison of plans: a repeated request must find its job even when the cell has
    /// gone down since and planning would refuse.
    fn matches(&self, record: &JobRecord) -> bool {
        let same_cell = self.request.cell.as_ref().is_none_or(|cell| *cell == record.cell);
        let same_primary = record.dead_primary.is_some() == self.request.primary_is_dead;
        same_cell && same_primary && record.spec.answers(&self.spec)
    }

    /// The answer when `job` has the id of this request: the job, or a refusal when it was another request's.
    pub(super) fn repeated(&self, job: Job) -> Result<Job, Refusal> {
        if self.matches(&job.record) {
            return Ok(job);
        }
        Err(Refusal::new(
            Code::RequestIdReused,
            format!(
                "the request id was used before for another request: {} of cell {} is job {}",
                job.record.kind(),
                job.record.cell,
                job.record.id
            ),
        )
        .hint("use a new request id for a new request")
        .about("field", "request_id")
        .about("job", job.record.id)
        .about("database", &job.record.database))
    }
}
