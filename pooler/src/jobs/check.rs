//! A check of archiving: the primary ends a WAL segment and waits until the segment is in the repo.

use std::time::Instant;

use cellar_model::{CheckResult, Code, JobOutcome, Refusal, Role};
use cellar_pgbackrest::{Invocation, archived_segment};
use cellar_postgres::Probe;

use crate::agent::PROBE_TIMEOUT;
use crate::config_files::write_bootstrap;
use crate::jobs::context::{JobContext, JobResult};
use crate::jobs::failure::JobFailure;

/// Runs a check to its end.
pub(crate) async fn run(context: &mut JobContext<'_>) -> JobResult {
    let check = check(context).await?;
    Ok(Some(JobOutcome::Check(check)))
}

async fn check(context: &mut JobContext<'_>) -> Result<CheckResult, JobFailure> {
    let agent = context.agent;
    context.if_interrupted("whether WAL arrives is not known");
    let (card, database) = agent.assignment()?;
    // On a standby pgBackRest would check nothing and report success.
    let facts = Probe::new(agent.endpoint(&card), PROBE_TIMEOUT).facts().await.map_err(|error| {
        Refusal::new(Code::CellDown, format!("the instance of cell {} does not answer: {error}", agent.cell))
            .hint("look at `cellar status`")
    })?;
    if facts.role != Role::Primary {
        return Err(Refusal::new(Code::NotPrimary, format!("cell {} has no primary any more", agent.cell))
            .hint("the roles are changing: look at `cellar status` and ask again")
            .into());
    }
    let config = write_bootstrap(agent, &database, &card)
        .map_err(|error| Refusal::new(Code::Internal, format!("no config for the check: {error}")))?;
    context.progress("waiting for a WAL segment to arrive").await;
    let begun = Instant::now();
    let invocation = Invocation::on("check", &config, &database.stanza).option("log-level-console", "info");
    let doing = "checking the archive";
    context.run_maintenance(&invocation, doing, &database.repository, &card.data_directory).await?;
    let log = context.log_text();
    let segment = archived_segment(&log).ok_or_else(|| {
        Refusal::new(Code::PgbackrestFailed, "pgbackrest check ended well, and names no segment that arrived")
            .hint("look at the job's log (`cellar jobs logs`)")
    })?;
    let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(CheckResult { segment: segment.to_owned(), millis })
}
