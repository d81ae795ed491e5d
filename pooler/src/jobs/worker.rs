//! The jobs addressed to this cell: claimed, run, and ended with what really happened.
//!
//! Jobs that take the database's lock run one after the other, and so do jobs that only read; the two lanes run
//! side by side.

use std::rc::Rc;
use std::time::Duration;

use cellar_model::{Code, JobError, JobId, JobKind, JobRecord, Lock, claimable};
use tokio::sync::watch;

use crate::agent::Agent;
use crate::jobs::claim::ClaimedJob;
use crate::jobs::context::{JobContext, JobResult};
use crate::jobs::control::Control;
use crate::jobs::failure::JobFailure;
use crate::jobs::restore::{discard, fence, plan, recover, swap};
use crate::jobs::{backup, check, drill, expire, leftovers, old_logs, rebuild, takeover, verify};

/// How often a lane looks for a job even when the topology does not change.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// How long to wait after etcd did not answer.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Jobs that run one after the other. Reading jobs have a lane of their own, so that a drill of hours does not keep
/// a backup waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// Jobs that take the database's lock.
    Locked,
    /// Jobs that change nothing: plans, drills, verifications and checks.
    Reading,
}

/// Runs one job. This is the one list of the kinds that a pooler runs.
async fn dispatch(context: &mut JobContext<'_>) -> JobResult {
    match context.job.record.kind {
        JobKind::Backup => backup::run(context).await,
        JobKind::Rebuild => rebuild::run(context).await,
        JobKind::Plan => plan::run(context).await,
        JobKind::Fence => fence::run(context).await,
        JobKind::Recover => recover::run(context).await,
        JobKind::Swap => swap::run(context).await,
        JobKind::Discard => discard::run(context).await,
        JobKind::Drill => drill::run(context).await,
        JobKind::Expire => expire::run(context).await,
        JobKind::Verify => verify::run(context).await,
        JobKind::Check => check::run(context).await,
        kind @ (JobKind::Restore | JobKind::Rollback | JobKind::Confirm) => {
            Err(JobFailure::Failed(JobError {
                code: Code::Internal,
                message: format!("a {kind} is driven by multiadmin, no pooler runs it"),
                hint: String::new(),
                tool_output: String::new(),
            }))
        }
    }
}

fn next_job(agent: &Agent, lane: Lane) -> Option<JobId> {
    let view = agent.mirror.view();
    let unlocked = Lock::default();
    let lock = view.locks.get(&agent.database).unwrap_or(&unlocked);
    let in_lane = |record: &&JobRecord| {
        let its_lane = if record.kind.takes_lock() { Lane::Locked } else { Lane::Reading };
        record.cell == agent.cell && its_lane == lane
    };
    view.jobs
        .values()
        .filter(in_lane)
        .find(|record| claimable(record, view.run(record), lock))
        .map(|record| record.id)
}

/// Runs jobs until `stop` becomes true; jobs that run then are ended first.
pub(crate) async fn work(agent: Rc<Agent>, stop: watch::Receiver<bool>) {
    takeover::end_orphaned_jobs(&agent).await;
    leftovers::remove_all(&agent).await;
    old_logs::remove(&agent);
    let locked = run_lane(Rc::clone(&agent), stop.clone(), Lane::Locked);
    let reading = run_lane(agent, stop, Lane::Reading);
    tokio::join!(locked, reading);
}

async fn run_lane(agent: Rc<Agent>, mut stop: watch::Receiver<bool>, lane: Lane) {
    let mut topology = agent.mirror.changes();
    while !*stop.borrow() {
        topology.borrow_and_update();
        if let Some(id) = next_job(&agent, lane) {
            match ClaimedJob::take(&agent, &id).await {
                Ok(Some(job)) => {
                    run(&agent, job, stop.clone()).await;
                    old_logs::remove(&agent);
                    continue;
                }
                // Claimed, closed or canceled meanwhile, or this process has no lease yet.
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "claim not written");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                    continue;
                }
            }
        }
        tokio::select! {
            _ = topology.changed() => {}
            _ = stop.changed() => {}
            () = tokio::time::sleep(POLL_INTERVAL) => {
                if lane == Lane::Locked {
                    leftovers::remove_copies(&agent).await;
                }
            }
        }
    }
}

async fn run(agent: &Agent, job: ClaimedJob, stop: watch::Receiver<bool>) {
    let control = Control::new(job.record.id, job.record.deadline, stop);
    let mut context = JobContext::new(agent, job, control);
    let outcome = dispatch(&mut context).await;
    context.job.finish(agent, outcome).await;
}
