//! What each kind of job does on a real host.

use std::rc::Rc;
use std::time::Duration;

use cellar_model::{Code, JobError, JobId, JobKind, JobRecord};
use tokio::sync::watch;

use crate::agent::Agent;
use crate::jobs::claim::{ClaimedJob, Ending};
use crate::jobs::control::Control;
use crate::jobs::lanes::{JobRunner, run_lanes};
use crate::jobs::restore::{discard, fence, plan, recover, swap};
use crate::jobs::{backup, check, drill, expire, rebuild, takeover, verify};

/// How long the log of a job is kept that the topology has forgotten.
const KEEP_LOGS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Runs jobs until told to stop; running ones are then ended first.
pub(crate) async fn work(agent: Rc<Agent>, stop: watch::Receiver<bool>) {
    let member = Rc::clone(&agent.member);
    run_lanes(member, Rc::new(PoolerJobs { agent }), stop).await;
}

/// What each kind of job does on a real host.
struct PoolerJobs {
    agent: Rc<Agent>,
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

impl JobRunner for PoolerJobs {
    async fn run(&self, job: &mut ClaimedJob, control: &Control) -> Ending {
        let agent = self.agent.as_ref();
        let ending = match job.record.kind() {
            JobKind::Backup => backup::run(agent, job, control).await,
            JobKind::Rebuild => rebuild::run(agent, job, control).await,
            JobKind::Plan => plan::run(agent, job, control).await,
            JobKind::Fence => fence::run(agent, job, control).await,
            JobKind::Recover => recover::run(agent, job, control).await,
            JobKind::Swap => swap::run(agent, job, control).await,
            JobKind::Discard => discard::run(agent, job).await,
            JobKind::Drill => drill::run(agent, job, control).await,
            JobKind::Expire => expire::run(agent, job, control).await,
            JobKind::Verify => verify::run(agent, job, control).await,
            JobKind::Check => check::run(agent, job, control).await,
            JobKind::Restore | JobKind::Rollback | JobKind::Confirm => Ending::Failed(JobError {
                code: Code::Internal,
                message: format!("a {} is driven by multiadmin, no pooler runs it", job.record.kind()),
                hint: String::new(),
                tool_output: String::new(),
            }),
        };
        forget_old_logs(agent);
        ending
    }

    async fn take_over(&self, record: &JobRecord) -> Ending {
        takeover::ending(&self.agent, record).await
    }

    async fn begin(&self) {
        takeover::sweep(&self.agent).await;
        forget_old_logs(&self.agent);
    }

    async fn idle(&self) {
        takeover::sweep_copies(&self.agent).await;
    }
}
