//! The jobs addressed to this cell: claimed, run one at a time, ended truthfully.

use std::rc::Rc;
use std::time::Duration;

use cellar_model::{Code, JobError, JobId, JobKind, JobRecord, Lock, claimable};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::agent::Agent;
use crate::jobs::claim::{ClaimedJob, Ending};
use crate::jobs::restore::{discard, fence, plan, recover, swap};
use crate::jobs::{backup, check, drill, expire, rebuild, takeover, verify};

/// A look at the topology without any reason, in case a nudge was missed.
const TICK: Duration = Duration::from_secs(5);

/// Pause after etcd did not answer.
const RETRY: Duration = Duration::from_millis(500);

/// How long the log of a job is kept that the topology has forgotten.
const KEEP_LOGS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why a running job must end early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// Somebody asked.
    Canceled,
    /// Its deadline has passed.
    Deadline,
    /// This process was told to end.
    Stopping,
    /// multiadmin has closed the job.
    Closed,
}

/// What a running job looks at now and then.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    id: JobId,
    deadline: Timestamp,
    stop: watch::Receiver<bool>,
}

impl Control {
    /// Whether the job must end early, and why.
    pub(crate) fn interrupted(&self, agent: &Agent) -> Option<Interruption> {
        let view = agent.mirror.view();
        let record = view.jobs.get(&self.id);
        if record.is_some_and(|record| record.closure.is_some()) {
            return Some(Interruption::Closed);
        }
        if record.is_some_and(|record| record.cancel.is_some()) {
            return Some(Interruption::Canceled);
        }
        if Timestamp::now() > self.deadline {
            return Some(Interruption::Deadline);
        }
        (*self.stop.borrow()).then_some(Interruption::Stopping)
    }
}

/// The ending of a job that was interrupted; `what` says what became of its work.
pub(crate) fn interrupted_ending(why: Interruption, what: &str) -> Ending {
    let error = |code, reason: &str, hint: &str| JobError {
        code,
        message: format!("{reason}; {what}"),
        hint: hint.to_owned(),
        tool_output: String::new(),
    };
    match why {
        Interruption::Canceled => Ending::Canceled(error(Code::Canceled, "canceled as asked", "")),
        Interruption::Closed => Ending::Canceled(error(Code::Canceled, "closed by multiadmin", "")),
        Interruption::Deadline => Ending::Failed(error(
            Code::DeadlineExceeded,
            "the job's deadline passed",
            "give it more time with --timeout",
        )),
        Interruption::Stopping => Ending::Failed(error(
            Code::PoolerRestarted,
            "the multipooler was told to stop",
            "ask again when it is back",
        )),
    }
}

/// Jobs that run one after the other. Those that only read have a lane of their own, so that a rehearsal of hours does
/// not keep a backup waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// What works under the database's lock.
    Locked,
    /// What changes nothing: plans, drills, verifications and checks.
    Reading,
}

fn next_job(agent: &Agent, lane: Lane) -> Option<JobId> {
    let view = agent.mirror.view();
    let nobody = Lock::default();
    let lock = view.locks.get(&agent.database).unwrap_or(&nobody);
    let mine = |record: &&JobRecord| {
        let its = if record.kind().takes_lock() { Lane::Locked } else { Lane::Reading };
        record.cell == agent.cell && its == lane
    };
    view.jobs
        .values()
        .filter(mine)
        .find(|record| claimable(record, view.run(record), lock))
        .map(|record| record.id)
}

/// Runs jobs until told to stop; running ones are then ended first.
pub(crate) async fn work(agent: Rc<Agent>, stop: watch::Receiver<bool>) {
    takeover::recover(&agent).await;
    takeover::sweep(&agent).await;
    forget_old_logs(&agent);
    let lanes = [Lane::Locked, Lane::Reading].map(|lane| in_lane(Rc::clone(&agent), stop.clone(), lane));
    let [locked, reading] = lanes;
    tokio::join!(locked, reading);
}

async fn in_lane(agent: Rc<Agent>, mut stop: watch::Receiver<bool>, lane: Lane) {
    let mut topology = agent.mirror.changes();
    while !*stop.borrow() {
        topology.borrow_and_update();
        if let Some(id) = next_job(&agent, lane) {
            match ClaimedJob::take(&agent, &id).await {
                Ok(Some(job)) => {
                    run(&agent, job, stop.clone()).await;
                    forget_old_logs(&agent);
                    continue;
                }
                // Taken, closed or canceled meanwhile, or no lease yet.
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "claim not written");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
        }
        tokio::select! {
            _ = topology.changed() => {}
            _ = stop.changed() => {}
            () = tokio::time::sleep(TICK) => {
                if lane == Lane::Locked {
                    takeover::sweep_copies(&agent).await;
                }
            }
        }
    }
}

/// Removes the logs of jobs that the topology has forgotten, a week after they were last written.
fn forget_old_logs(agent: &Agent) {
    let Ok(entries) = std::fs::read_dir(agent.layout.jobs()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.split('.').next()?.parse::<JobId>().ok());
        let forgotten = id.is_some_and(|id| !agent.mirror.view().jobs.contains_key(&id));
        let age =
            entry.metadata().and_then(|found| found.modified()).ok().and_then(|time| time.elapsed().ok());
        if forgotten && age.is_some_and(|age| age > KEEP_LOGS) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

async fn run(agent: &Rc<Agent>, mut job: ClaimedJob, stop: watch::Receiver<bool>) {
    let control = Control { id: job.record.id, deadline: job.record.deadline, stop };
    let ending = match job.record.kind() {
        JobKind::Backup => backup::run(agent, &mut job, &control).await,
        JobKind::Rebuild => rebuild::run(agent, &mut job, &control).await,
        JobKind::Plan => plan::run(agent, &mut job, &control).await,
        JobKind::Fence => fence::run(agent, &mut job, &control).await,
        JobKind::Recover => recover::run(agent, &mut job, &control).await,
        JobKind::Swap => swap::run(agent, &mut job, &control).await,
        JobKind::Discard => discard::run(agent, &mut job).await,
        JobKind::Drill => drill::run(agent, &mut job, &control).await,
        JobKind::Expire => expire::run(agent, &mut job, &control).await,
        JobKind::Verify => verify::run(agent, &mut job, &control).await,
        JobKind::Check => check::run(agent, &mut job, &control).await,
        JobKind::Restore | JobKind::Rollback | JobKind::Confirm => Ending::Failed(JobError {
            code: Code::Internal,
            message: format!("a {} is driven by multiadmin, no pooler runs it", job.record.kind()),
            hint: String::new(),
            tool_output: String::new(),
        }),
    };
    job.finish(agent, ending).await;
}
