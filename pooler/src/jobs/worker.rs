//! What a pooler does for each kind of job, for [`crate::jobs::lanes`] to call.

use std::io::Write;
use std::path::Path;
use std::rc::Rc;

use cellar_model::{Code, JobError, JobKind, JobOutcome};
use tokio::sync::watch;

use crate::agent::Agent;
use crate::jobs::claim::{ClaimedJob, Ending};
use crate::jobs::context::{JobContext, JobResult};
use crate::jobs::control::Control;
use crate::jobs::failure::{JobFailure, ending_of};
use crate::jobs::lanes::{JobRunner, run_lanes};
use crate::jobs::restore::{discard, fence, plan, recover, swap};
use crate::jobs::{backup, check, drill, expire, leftovers, old_logs, rebuild, restart, takeover, verify};

/// Runs the jobs addressed to this cell until `stop` becomes true; jobs that run then are ended first.
pub(crate) async fn work(agent: Rc<Agent>, stop: watch::Receiver<bool>) {
    let member = Rc::clone(&agent.member);
    run_lanes(member, Rc::new(PoolerJobs { agent }), stop).await;
}

/// Runs one job. This is the one list of the kinds that a pooler runs.
async fn dispatch(context: &mut JobContext<'_>) -> JobResult {
    match context.job.record.kind() {
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
        JobKind::Restart => restart::run(context).await,
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

/// Writes an outcome to the job's log whose record will have a part of it only.
fn log_whole_outcome(log: &Path, outcome: Option<&JobOutcome>) {
    let Some(outcome) = outcome.filter(|outcome| (*outcome).clone().bounded() != **outcome) else { return };
    let written = serde_json::to_string_pretty(outcome).map_err(std::io::Error::from).and_then(|text| {
        let mut file = std::fs::File::options().create(true).append(true).open(log)?;
        writeln!(file, "\nThe whole result, of which the job's record has a part:\n{text}")
    });
    if let Err(error) = written {
        tracing::warn!(%error, log = %log.display(), "the whole result of a job could not be logged");
    }
}

struct PoolerJobs {
    agent: Rc<Agent>,
}

impl JobRunner for PoolerJobs {
    async fn run(&self, job: &mut ClaimedJob, control: &Control) -> Ending {
        let mut result = dispatch(&mut JobContext::new(&self.agent, job, control)).await;
        let log = self.agent.job_log(&job.record.id);
        let outcome = result.as_mut().ok().unwrap_or_else(|| job.outcome_mut());
        log_whole_outcome(&log, outcome.as_ref());
        old_logs::remove(&self.agent);
        ending_of(result)
    }

    async fn take_over(&self, job: &mut ClaimedJob, control: &Control) -> Ending {
        ending_of(takeover::outcome(&self.agent, job, control).await)
    }

    async fn begin(&self) {
        leftovers::remove_all(&self.agent).await;
        old_logs::remove(&self.agent);
    }

    async fn idle(&self) {
        leftovers::remove_copies(&self.agent).await;
    }
}
