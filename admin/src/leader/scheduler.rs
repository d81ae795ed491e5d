//! Submitting the jobs of schedules when they are due.
//!
//! Only the leading multiadmin does it, which saves attempts. That no run happens twice does not depend on that: the id
//! of its job is derived from the schedule and the due time.

use std::collections::BTreeMap;
use std::time::Duration;

use cellar_model::{
    AuditId, AuditOutcome, AuditRecord, CellName, Code, DatabaseName, ExpireParams, JobError, JobId,
    JobRequest, JobSpec, JobState, Key, MAX_START_DELAY, Refusal, Schedule, ScheduleAction, ScheduleName,
    ScheduledRun, ScheduledWork, recordable,
};
use cellar_system::clock;
use cellar_topology::{StoreError, TxnOutcome};
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::jobs::submission::Submission;

/// How often to look for schedules that are due.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How soon a refused run is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs schedules while this process leads.
#[derive(Debug)]
pub struct Scheduler {
    admin: Admin,
    identity: String,
    /// When a run was refused last, by its schedule and due time.
    refused: BTreeMap<(DatabaseName, ScheduleName), (Timestamp, Instant)>,
}

impl Scheduler {
    /// For the process whose value of `admins/leader` is `identity`.
    #[must_use]
    pub fn new(admin: Admin, identity: String) -> Self {
        Self { admin, identity, refused: BTreeMap::new() }
    }

    /// Starts runs when they are due; never returns.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            self.start_due_runs(clock::now()).await;
        }
    }

    async fn start_due_runs(&mut self, now: Timestamp) {
        for (schedule, revision) in self.schedules() {
            match schedule.turn(now) {
                ScheduleAction::Rest => {}
                ScheduleAction::Begin(due) => {
                    let key = (schedule.database.clone(), schedule.name.clone());
                    let waits = |(of, at): &(Timestamp, Instant)| *of == due && at.elapsed() < RETRY_INTERVAL;
                    if self.refused.get(&key).is_some_and(waits) {
                        continue;
                    }
                    let run = match self.begin(&schedule, due, now).await {
                        Ok(job) => {
                            self.refused.remove(&key);
                            ScheduledRun { due, job: Some(job), error: None }
                        }
                        Err(refusal) => {
                            self.refused.insert(key, (due, Instant::now()));
                            ScheduledRun { due, job: None, error: Some(refusal.into()) }
                        }
                    };
                    self.record_run(&schedule, revision, run).await;
                }
                ScheduleAction::Missed(due) => {
                    let error = missed(&schedule, due);
                    tracing::error!(schedule = %schedule.name, %due, error.message, "a scheduled run was missed");
                    self.record_run(&schedule, revision, ScheduledRun { due, job: None, error: Some(error) })
                        .await;
                }
            }
        }
    }

    /// The schedules, if this process leads and knows them.
    fn schedules(&self) -> Vec<(Schedule, i64)> {
        if !self.admin.is_current() {
            return Vec::new();
        }
        let view = self.admin.view();
        if view.admin_leader.as_ref() != Some(&self.identity) {
            return Vec::new();
        }
        let revision = |schedule: &Schedule| {
            view.revision(&Key::Schedule(schedule.database.clone(), schedule.name.clone()))
        };
        // Of a database that a person works on, nothing begins by itself.
        let is_paused = |schedule: &&Schedule| {
            view.databases.get(&schedule.database).is_some_and(|database| database.pause.is_some())
        };
        let due = view.schedules.values().filter(|schedule| !is_paused(schedule));
        due.map(|schedule| (schedule.clone(), revision(schedule))).collect()
    }

    /// Submits the job of a due time, on the first cell that accepts it.
    async fn begin(&self, schedule: &Schedule, due: Timestamp, now: Timestamp) -> Result<JobId, Refusal> {
        let Some(request_id) = schedule.request_id(due) else {
            return Err(Refusal::new(Code::Internal, "the schedule's name makes no request id"));
        };
        let id = JobId::for_request(&schedule.database, &request_id);
        if let Some(decided) = self.decided_by_earlier_runs(schedule, id) {
            return decided;
        }
        let mut refusals: Vec<Refusal> = Vec::new();
        for cell in cells(&schedule.work) {
            let submission = Submission {
                request: JobRequest {
                    database: Some(schedule.database.clone()),
                    cell,
                    timeout: None,
                    request_id: Some(request_id.clone()),
                    primary_is_dead: false,
                    requested_by: schedule.requester(),
                },
                spec: spec(&schedule.work),
                // After the jobs that run or wait, for example an expiry after the same night's backup.
                queue: true,
            };
            match self.submit(schedule, &submission, now).await {
                Ok(job) => return Ok(job),
                Err(refusal) => refusals.push(refusal),
            }
        }
        let message = refusals.iter().map(|refusal| refusal.message.as_str()).collect::<Vec<_>>().join("; ");
        let first = refusals.into_iter().next();
        let first =
            first.unwrap_or_else(|| Refusal::new(Code::InvalidArgument, "the schedule names no cell"));
        Err(if message.is_empty() { first } else { Refusal { message, ..first } })
    }

    /// The outcome when nothing is to be submitted: the job exists already, or the run before has not ended.
    fn decided_by_earlier_runs(&self, schedule: &Schedule, id: JobId) -> Option<Result<JobId, Refusal>> {
        let view = self.admin.view();
        if view.knows(&id) {
            return Some(Ok(id));
        }
        let last = schedule.newest_job?;
        // One that is lost does not keep the next from running: what it did has ended with its pooler, or is ended by the
        // watchdog; and one that holds the lock keeps its place there.
        let runs =
            view.job(&last).is_some_and(|job| matches!(job.state, JobState::Pending | JobState::Running));
        runs.then(|| {
            Err(Refusal::new(Code::Busy, format!("the run before, job {last}, has not ended"))
                .hint(format!("look at it: `cellar jobs show {last}`"))
                .about("job", last))
        })
    }

    /// Submits the job as the API does, with an audit record. Leaves no record when planning refuses it now.
    async fn submit(
        &self,
        schedule: &Schedule,
        submission: &Submission,
        now: Timestamp,
    ) -> Result<JobId, Refusal> {
        self.admin.would_accept(submission)?;
        let deadline = Deadline::within(REQUEST_TIMEOUT);
        let record = audited(schedule, submission, now);
        self.admin.audit.begin(&record, deadline).await?;
        let result = self.admin.submit(submission, deadline).await;
        let end = result.as_ref().map(|job| Some(job.record.id));
        self.admin.audit.end(&record, end.map_err(|refusal| (refusal.code, refusal.message.as_str()))).await;
        Ok(result?.record.id)
    }

    /// Records the outcome of a due time in the schedule, if it has changed. Does nothing when the schedule was changed
    /// meanwhile.
    async fn record_run(&self, schedule: &Schedule, revision: i64, run: ScheduledRun) {
        let code = |run: &ScheduledRun| run.error.as_ref().map(|error| error.code);
        // Compared by code: the numbers in a message change with each attempt.
        let known = schedule
            .last
            .as_ref()
            .is_some_and(|last| (last.due, last.job, code(last)) == (run.due, run.job, code(&run)));
        let open = run.job.is_none() && schedule.turn(clock::now()) == ScheduleAction::Begin(run.due);
        if known && open {
            return;
        }
        if let (Some(error), true) = (&run.error, open) {
            let (name, reason) = (&schedule.name, &error.message);
            tracing::warn!(schedule = %name, due = %run.due, reason, "a scheduled run cannot begin yet");
        }
        let settled = if open { schedule.settled } else { run.due };
        let newest_job = run.job.or(schedule.newest_job);
        let noted = Schedule { settled, last: Some(run), newest_job, ..schedule.clone() };
        let key = Key::Schedule(schedule.database.clone(), schedule.name.clone());
        let commit = self.admin.store.transaction().expect(&key, revision).put(&key, &noted).commit();
        match Deadline::within(REQUEST_TIMEOUT).call(commit).await {
            Ok(TxnOutcome::Committed(_) | TxnOutcome::Conflict) => {}
            Err(StoreError::Retryable(reason)) => tracing::debug!(reason, "a schedule waits for etcd"),
            Err(error) => tracing::error!(%error, schedule = %schedule.name, "a schedule cannot be written"),
        }
        // The next check must not see the old schedule.
        let _ = self.admin.mirror.wait_for(CHECK_INTERVAL, |view| view.revision(&key) != revision).await;
    }
}

/// The error of a run that did not begin in time.
fn missed(schedule: &Schedule, due: Timestamp) -> JobError {
    let minutes = MAX_START_DELAY.as_mins();
    let last = schedule.last.as_ref().filter(|last| last.due == due).and_then(|last| last.error.clone());
    match last {
        Some(error) => {
            JobError { message: format!("not begun within {minutes} minutes: {}", error.message), ..error }
        }
        None => JobError {
            code: Code::Unavailable,
            message: format!("no multiadmin was running within {minutes} minutes of its time"),
            hint: format!("run it now: `cellar schedules run {}`", schedule.name),
            tool_output: String::new(),
        },
    }
}

/// The cells to try, in order; `None` leaves the choice to planning.
fn cells(work: &ScheduledWork) -> Vec<Option<CellName>> {
    match work {
        ScheduledWork::Backup(backup) => backup.cells.iter().cloned().map(Some).collect(),
        ScheduledWork::Drill(drill) => vec![drill.cell.clone()],
        ScheduledWork::Expire {} | ScheduledWork::Verify {} | ScheduledWork::Check {} => vec![None],
    }
}

fn spec(scheduled: &ScheduledWork) -> JobSpec {
    match scheduled {
        ScheduledWork::Backup(backup) => JobSpec::Backup(backup.params.clone()),
        ScheduledWork::Expire {} => JobSpec::Expire(ExpireParams::default()),
        ScheduledWork::Verify {} => JobSpec::Verify,
        ScheduledWork::Check {} => JobSpec::Check,
        ScheduledWork::Drill(drill) => JobSpec::Drill(drill.params.clone()),
    }
}

fn audited(schedule: &Schedule, submission: &Submission, now: Timestamp) -> AuditRecord {
    let text = |value: &dyn ToString| Value::String(value.to_string());
    let mut arguments = Map::from_iter([
        ("database".to_owned(), text(&schedule.database)),
        ("schedule".to_owned(), text(&schedule.name)),
    ]);
    arguments.extend(submission.request.cell.as_ref().map(|cell| ("cell".to_owned(), text(cell))));
    arguments.extend(submission.request.request_id.as_ref().map(|id| ("requestId".to_owned(), text(id))));
    AuditRecord {
        id: AuditId::new(clock::new_id()),
        time: now,
        end_time: None,
        identity: schedule.requester(),
        peer: String::new(),
        rpc: rpc(&schedule.work).to_owned(),
        arguments: recordable(arguments),
        outcome: AuditOutcome::Begun,
        code: None,
        message: String::new(),
        job: None,
    }
}

/// The RPC that submits such a job.
fn rpc(work: &ScheduledWork) -> &'static str {
    match work {
        ScheduledWork::Backup(_) => "Backup",
        ScheduledWork::Expire {} => "ExpireBackups",
        ScheduledWork::Verify {} => "VerifyBackups",
        ScheduledWork::Check {} => "CheckArchive",
        ScheduledWork::Drill(_) => "DrillRestore",
    }
}
