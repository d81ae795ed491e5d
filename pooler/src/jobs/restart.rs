//! A restart: this cell's PostgreSQL is stopped cleanly, and the supervisor starts it again as it starts any: with the settings
//! and the programs that there are now.

use std::path::PathBuf;
use std::time::Duration;

use cellar_model::availability::Canary;
use cellar_model::{Code, InstanceState, JobError, JobSpec, Refusal, RestartParams, Role};
use cellar_postgres::{StopTimeouts, check_configuration, execute, stop};
use tokio::time::Instant;

use crate::agent::Agent;
use crate::instance::hold::Hold;
use crate::instance::incarnation;
use crate::jobs::context::{JobContext, JobResult};
use crate::jobs::failure::JobFailure;
use crate::jobs::rebuild::{Shown, wait_until_streaming};

/// How long the checkpoint before the stop may take, which is the shorter for it. It writes all of the shared memory.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(900);

/// How long a primary may take to be in use again.
const PRIMARY_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a standby may come no further before it streams.
const STANDBY_PATIENCE: Duration = Duration::from_secs(60);

/// How long PostgreSQL may take to read its configuration.
const CONFIGURATION_TIMEOUT: Duration = Duration::from_secs(10);

/// How often to look.
const INTERVAL: Duration = Duration::from_millis(100);

/// What to do when it does not come back.
const HINT: &str = "it is tried again and again. `cellar settings list` shows what it was given and `cellar settings unset` takes that back; `cellar logs` has what PostgreSQL says";

/// Runs a restart to its end.
pub(crate) async fn run(context: &mut JobContext<'_>) -> JobResult {
    let agent = context.agent;
    let params = match &context.job.record.spec {
        JobSpec::Restart(params) => *params,
        _ => RestartParams::default(),
    };
    let (card, _) = agent.assignment()?;
    check_role(agent, params)?;
    let data = PathBuf::from(&card.data_directory);
    // One whose configuration cannot be read would not come back.
    check_configuration(&agent.tools, &data, CONFIGURATION_TIMEOUT).await.map_err(|error| {
        failed(
            format!("PostgreSQL would not start again: {error}"),
            "nothing was changed; mend its configuration first",
        )
    })?;
    // A restartpoint on a standby, where it may be none.
    context.progress("checkpoint").await;
    let endpoint = agent.endpoint(&card);
    let checkpoint = context.unless_interrupted(execute(&endpoint, "CHECKPOINT", CHECKPOINT_TIMEOUT)).await?;
    if let Err(error) = checkpoint {
        // The stop takes longer, and no more than that.
        tracing::warn!(%error, "no checkpoint before the restart");
    }
    context.check_interrupted()?;
    let hold = Hold::take(agent).await?;
    check_role(agent, params)?;
    if incarnation::record(agent).fence.is_some() {
        let message = format!("a restore has begun and stops {}", agent.cell);
        return Err(Refusal::new(Code::Busy, message).hint("nothing was changed").into());
    }
    context.if_interrupted("PostgreSQL was stopped, and is started again by its multipooler");
    let timeouts = StopTimeouts::default();
    let (stopped, ()) = tokio::join!(stop(&data, &timeouts), context.progress("stopping PostgreSQL"));
    stopped.map_err(|error| failed(format!("PostgreSQL does not stop: {error}"), HINT))?;
    *agent.facts.borrow_mut() = None;
    drop(hold);
    context.progress("starting PostgreSQL").await;
    wait(context).await?;
    Ok(None)
}

/// Refuses a member that has become the primary since the restart was asked for.
fn check_role(agent: &Agent, params: RestartParams) -> Result<(), JobError> {
    let leads = agent.leading().is_some_and(|leader| leader.cell == agent.cell);
    if params.is_primary || !leads {
        return Ok(());
    }
    let message = format!("{} has become the primary since its restart was asked for", agent.cell);
    Err(Refusal::new(Code::IsPrimary, message)
        .hint("nothing was changed; `cellar restart --rolling` goes on with the others, `cellar restart CELL --allow-primary` restarts it where it is")
        .about("cell", &agent.cell)
        .into())
}

fn failed(message: String, hint: &str) -> JobError {
    Refusal::new(Code::PostgresFailed, message).hint(hint).into()
}

/// The error of a standby that does not come back: with what the supervisor says of it, if it does not even start.
fn not_back(agent: &Agent, error: JobError) -> JobError {
    let report = agent.report.borrow();
    let message = match report.state {
        InstanceState::Down if !report.message.is_empty() => {
            format!("PostgreSQL does not start again: {}", report.message)
        }
        _ => error.message,
    };
    JobError { message, hint: HINT.to_owned(), ..error }
}

/// Waits until the instance is in use again: as the primary that it was, or as a standby, which it may have become.
async fn wait(context: &JobContext<'_>) -> Result<(), JobFailure> {
    let agent = context.agent;
    let deadline = Instant::now() + PRIMARY_TIMEOUT;
    loop {
        let leads = agent.leader().is_none_or(|leader| leader.cell == agent.cell);
        if !leads {
            return wait_until_streaming(context, Shown::Either, STANDBY_PATIENCE).await.map_err(|failure| {
                match failure {
                    JobFailure::Failed(error) => JobFailure::Failed(not_back(agent, error)),
                    interrupted @ JobFailure::Interrupted { .. } => interrupted,
                }
            });
        }
        if is_primary_again(agent) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let why = agent.report.borrow().message.clone();
            let message = format!(
                "the primary of {} is not in use again after {} s: {why}",
                agent.database,
                PRIMARY_TIMEOUT.as_secs()
            );
            return Err(failed(message, HINT).into());
        }
        context.pause(INTERVAL).await?;
    }
}

/// Whether the primary runs, and with quorum commit acknowledges.
fn is_primary_again(agent: &Agent) -> bool {
    let runs = agent.facts.borrow().as_ref().is_some_and(|facts| facts.role == Role::Primary);
    let acknowledges = || {
        let report = agent.availability.report.borrow();
        let leads = report.as_ref().and_then(|report| report.facts.leads);
        leads.is_some_and(|leads| leads.established && matches!(leads.canary, Canary::Committed { .. }))
    };
    runs && (agent.governing().is_none() || acknowledges())
}
