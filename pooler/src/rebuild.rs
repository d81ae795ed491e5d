//! A rebuild: this cell's standby made anew from the repo.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{
    Code, Database, Expected, JobError, Leader, Pooler, Progress, Refusal, Role, RunResult,
    check_standby_source,
};
use cellar_postgres::{DataDirectory, PostgresError, Probe, StopTimeouts, inspect, stop};
use jiff::Timestamp;

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::backup::primary_position;
use crate::claim::{ClaimedJob, Ending};
use crate::seed;
use crate::worker::{Control, Interruption, interrupted_ending};

/// How long the new standby may take from its start until it streams. It replays what was archived
/// since the backup first.
const CATCH_UP: Duration = Duration::from_secs(600);

/// How often to look whether it streams.
const LOOK: Duration = Duration::from_millis(200);

/// Gives the instance back to the supervisor, however the job ends.
struct Hold<'a>(&'a Agent);

impl<'a> Hold<'a> {
    fn take(agent: &'a Agent) -> Self {
        agent.held.set(true);
        Self(agent)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.held.set(false);
        self.0.nudge.notify_one();
    }
}

/// Runs a rebuild job to its end.
pub(crate) async fn run(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Ending {
    match attempt(agent, job, control).await {
        Ok(ending) => ending,
        Err(error) => Ending::Failed(error),
    }
}

fn failed(doing: &str, error: &dyn std::fmt::Display) -> JobError {
    JobError {
        code: Code::PostgresFailed,
        message: format!("{doing}: {error}"),
        hint: "the old files are not complete any more; mend the cause and ask for the rebuild again"
            .to_owned(),
        tool_output: String::new(),
    }
}

async fn attempt(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Result<Ending, JobError> {
    let (card, database) = agent.place()?;
    let no_primary =
        || Refusal::new(Code::NoPrimary, "no primary is recorded").hint("look at `cellar status`");
    let leader = agent.leader().ok_or_else(no_primary)?;
    if leader.cell == agent.cell {
        return Err(Refusal::new(Code::IsPrimary, format!("{} is the recorded primary", agent.cell)).into());
    }
    if let Some(why) = control.interrupted(agent) {
        return Ok(interrupted_ending(why, "nothing was changed"));
    }
    let hold = Hold::take(agent);
    say(agent, job, "stopping PostgreSQL").await;
    let data = PathBuf::from(&card.data_directory);
    let found =
        inspect(&agent.tools, &data).await.map_err(|error| failed("looking at the old files", &error))?;
    let mut timeouts = StopTimeouts::default();
    if matches!(found, DataDirectory::Valid { recovers: false, .. }) {
        // It ran as a primary, and is not the recorded one: a fast shutdown would archive its last segment,
        // which goes on past the point where its successor's timeline began.
        timeouts.fast = Duration::ZERO;
    }
    stop(&data, &timeouts).await.map_err(|error| failed("stopping PostgreSQL", &error))?;
    *agent.facts.borrow_mut() = None;
    let delta =
        make_way(agent, &data, &leader).await.map_err(|error| failed("looking at the old files", &error))?;
    agent.say(|report| {
        report.state = cellar_model::InstanceState::Seeding;
        report.message = format!("rebuilt by job {}", job.record.id);
    });
    say(agent, job, "restoring").await;
    let log_name = job.record.id.to_string();
    let interrupted = || control.interrupted(agent).is_some();
    let restored = seed::restore(agent, &database, &card, delta, &log_name, &interrupted)
        .await
        .map_err(|error| seed_failed(&error, &card.data_directory))?;
    if !restored {
        let why = control.interrupted(agent).unwrap_or(Interruption::Stopping);
        return Ok(interrupted_ending(
            why,
            "the old files are not complete any more, so the multipooler begins the restore again by itself",
        ));
    }
    // The supervisor finishes and starts it exactly as after a first restore.
    drop(hold);
    say(agent, job, "catching up").await;
    streams(agent, control, &database, &card).await
}

fn seed_failed(error: &seed::SeedError, data_directory: &str) -> JobError {
    let mut job_error = failed("restoring", error);
    job_error.code = Code::PgbackrestFailed;
    if let seed::SeedError::Pgbackrest(cellar_pgbackrest::Error::Failed { failure, output, .. }) = error {
        job_error = crate::evidence::tool_failure("restoring", failure, output, &[data_directory]);
    }
    job_error
}

/// Decides what to do with what is there: complete a database that is ours (`true`), or restore into
/// an empty directory, with anything else moved aside and kept.
async fn make_way(agent: &Agent, data: &Path, leader: &Leader) -> Result<bool, PostgresError> {
    let ours = match inspect(&agent.tools, data).await? {
        DataDirectory::Missing | DataDirectory::Empty => return Ok(false),
        DataDirectory::Valid { control, .. } => leader.system_identifier == Some(control.system_identifier),
        DataDirectory::Partial { .. } => agent.seeding_marker().exists(),
        DataDirectory::Foreign { .. } => false,
    };
    if ours {
        return Ok(true);
    }
    let aside = data.with_extension(format!("aside-{}", Timestamp::now().as_second()));
    tracing::warn!(from = %data.display(), to = %aside.display(), "moving files aside that are not this database's");
    std::fs::rename(data, &aside).map_err(|source| PostgresError::Io {
        action: "move aside",
        path: data.to_owned(),
        source,
    })?;
    Ok(false)
}

/// Waits until the new standby streams from the recorded primary.
async fn streams(
    agent: &Agent,
    control: &Control,
    database: &Database,
    card: &Pooler,
) -> Result<Ending, JobError> {
    let deadline = tokio::time::Instant::now() + CATCH_UP;
    let mut probe = Probe::new(agent.endpoint(card), PROBE_TIMEOUT);
    loop {
        let why_not = match probe.facts().await {
            Ok(facts) => {
                let Some(leader) = agent.leader() else {
                    return Err(Refusal::new(Code::NoPrimary, "no primary is recorded").into());
                };
                let primary = agent.card_of(&leader.cell);
                let address =
                    primary.as_ref().map_or(("", 0), |card| (card.host.as_str(), card.postgres_port));
                let observed = facts.to_observed();
                let expected = Expected {
                    cell: &agent.cell,
                    data_directory: &card.data_directory,
                    system_identifier: leader.system_identifier.unwrap_or(observed.system_identifier),
                    timeline: leader.term,
                    primary: &leader.cell,
                    primary_address: address,
                    max_lag_bytes: u64::MAX,
                    other_primaries: &[],
                };
                // Streaming is not enough: a standby that has gone past the point where the primary was
                // promoted waits for ever for WAL that never comes, and PostgreSQL calls that streaming too.
                let mut observed = observed;
                let verdict = match &primary {
                    Some(card) => match primary_position(agent, card, &leader).await {
                        Ok(position) => {
                            observed.primary_lsn = Some(position);
                            check_standby_source(&expected, &observed)
                        }
                        Err(refusal) => Err(refusal),
                    },
                    None => Err(no_card(&leader)),
                };
                match verdict {
                    Ok(()) if observed.role == Role::Standby => {
                        return Ok(Ending::Succeeded(RunResult::default()));
                    }
                    Ok(()) => String::new(),
                    Err(refusal) => refusal.message,
                }
            }
            Err(error) => error.to_string(),
        };
        if let Some(why) = control.interrupted(agent) {
            return Ok(interrupted_ending(
                why,
                "the restore is complete and the standby goes on catching up",
            ));
        }
        if tokio::time::Instant::now() > deadline {
            let waited = format!(
                "waiting {} s for the new standby of {} to stream",
                CATCH_UP.as_secs(),
                database.name
            );
            return Err(failed(&waited, &why_not));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn no_card(leader: &Leader) -> Refusal {
    Refusal::new(Code::NoPrimary, format!("the recorded primary {} is not in the topology", leader.cell))
}

async fn say(agent: &Agent, job: &mut ClaimedJob, phase: &str) {
    let progress = Progress { phase: phase.to_owned(), ..Progress::default() };
    if let Err(error) = job.progress(agent, progress).await {
        tracing::debug!(%error, "progress not written");
    }
}
