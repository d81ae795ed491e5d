//! A check of archiving, where it happens: the primary ends a WAL segment and waits until it is in the repo.

use std::time::Instant;

use cellar_model::{CheckResult, Code, JobOutcome, Refusal, Role};
use cellar_pgbackrest::{Invocation, archived_segment};
use cellar_postgres::Probe;

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::config_files::write_bootstrap;
use crate::jobs::claim::{ClaimedJob, Ending};
use crate::jobs::command::run_logged;
use crate::jobs::control::{Control, interrupted_ending};
use crate::jobs::restore::private_instance::{Broken, say};
use crate::repository::backup_proof::{log_path, read};

/// Runs a check to its end.
pub(crate) async fn run(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Ending {
    match attempt(agent, job, control).await {
        Ok(check) => Ending::Succeeded(Some(JobOutcome::Check(check))),
        Err(Broken::Interrupted(why)) => interrupted_ending(why, "whether WAL arrives is not known"),
        Err(Broken::Failed(error)) => Ending::Failed(error),
    }
}

async fn attempt(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Result<CheckResult, Broken> {
    let (card, database) = agent.place()?;
    // Of a standby pgBackRest would check nothing, and say that all is well.
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
    let log_file = log_path(agent, &job.record.id);
    say(agent, job, "waiting for a WAL segment to arrive", 0, 0).await;
    let begun = Instant::now();
    let invocation = Invocation::on("check", &config, &database.stanza).option("log-level-console", "info");
    let disks = [database.repo_path.as_str(), card.data_directory.as_str()];
    run_logged(agent, control, &invocation, &log_file, "checking the archive", &disks).await?;
    let text = read(&log_file);
    let segment = archived_segment(&text).ok_or_else(|| {
        Refusal::new(Code::PgbackrestFailed, "pgbackrest check ended well, and names no segment that arrived")
            .hint("look at the job's log (`cellar jobs logs`)")
    })?;
    let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(CheckResult { segment: segment.to_owned(), millis })
}
