//! A rebuild: this cell's standby made anew from the repo.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{
    Code, Database, Expected, JobError, JobId, JobOutcome, JobSpec, Leader, Pooler, Progress, RebuildResult,
    Refusal, Role, check_standby_source,
};
use cellar_postgres::{DataDirectory, PostgresError, Probe, StopTimeouts, inspect, stop, stop_vanished};
use jiff::Timestamp;

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::instance::hold::Hold;
use crate::instance::incarnation::{self, Mark};
use crate::instance::seed;
use crate::jobs::backup::primary_position;
use crate::jobs::claim::{ClaimedJob, Ending};
use crate::jobs::control::{Control, Interruption, interrupted_ending};

/// How long the new standby may take from its start until it streams. It replays what was archived
/// since the backup first.
const CATCH_UP: Duration = Duration::from_secs(600);

/// How long old data that was put back may take to stream; it was a healthy standby when it was set aside.
const RETURN: Duration = Duration::from_secs(60);

/// How often to look whether it streams.
const LOOK: Duration = Duration::from_millis(40);

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
    let JobSpec::Rebuild(params) = job.record.spec.clone() else {
        return Err(Refusal::new(Code::InvalidArgument, "the job has no parameters of a rebuild").into());
    };
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
    stop_vanished(Path::new(&card.socket_directory), card.postgres_port, &data)
        .await
        .map_err(|error| failed("stopping PostgreSQL, whose data directory is gone", &error))?;
    *agent.facts.borrow_mut() = None;
    if let Some(restore) = params.put_back
        && put_back(agent, job, &data, restore).await?
    {
        drop(hold);
        say(agent, job, "catching up").await;
        let ending = streams(agent, control, &database, &card, RETURN).await;
        if matches!(ending, Ok(Ending::Succeeded(_) | Ending::Canceled(_))) {
            return ending;
        }
        // What was kept cannot follow; the repo can always be asked.
        tracing::warn!(job = %job.record.id, "what was kept does not stream; restoring from the repo");
        return restore_anew(agent, job, control, Hold::take(agent), &data, true).await;
    }
    let delta = match params.keep_for {
        Some(restore) => {
            keep(agent, &data, restore).map_err(|error| failed("keeping the old files", &error))?;
            false
        }
        None => make_way(agent, &data, &leader)
            .await
            .map_err(|error| failed("looking at the old files", &error))?,
    };
    restore_anew(agent, job, control, hold, &data, delta).await
}

/// Moves the old data to where a rollback finds it. What an earlier attempt has kept already is the older truth.
pub(crate) fn keep(agent: &Agent, data: &Path, restore: JobId) -> std::io::Result<()> {
    let kept = agent.layout.kept(restore);
    if data.exists() && !kept.exists() {
        tracing::info!(from = %data.display(), to = %kept.display(), "keeping the old data");
        incarnation::rename(data, &kept)?;
    }
    Ok(())
}

/// Puts the old data of a restore back in its place. False when there is none that could be a standby.
async fn put_back(agent: &Agent, job: &ClaimedJob, data: &Path, restore: JobId) -> Result<bool, JobError> {
    let kept = agent.layout.kept(restore);
    let found =
        inspect(&agent.tools, &kept).await.map_err(|error| failed("looking at the kept files", &error))?;
    let (DataDirectory::Valid { recovers: true, .. }, Some(parent)) = (found, job.record.parent) else {
        return Ok(false);
    };
    let disk = |error: std::io::Error| failed("putting the old data back", &error);
    Mark::of(&incarnation::record(agent)).write(&kept).map_err(disk)?;
    // Removed at the end of the rollback.
    keep(agent, data, parent).map_err(disk)?;
    incarnation::rename(&kept, data).map_err(disk)?;
    Ok(true)
}

/// Restores from the repo and waits until the new standby streams.
async fn restore_anew(
    agent: &Agent,
    job: &mut ClaimedJob,
    control: &Control,
    hold: Hold<'_>,
    data: &Path,
    delta: bool,
) -> Result<Ending, JobError> {
    let (card, database) = agent.place()?;
    stop(data, &StopTimeouts::default()).await.map_err(|error| failed("stopping PostgreSQL", &error))?;
    agent.say(|report| {
        report.state = cellar_model::InstanceState::Seeding;
        report.message = format!("rebuilt by job {}", job.record.id);
    });
    say(agent, job, "restoring").await;
    let log_name = job.record.id.to_string();
    let interrupted = || control.interrupted(agent).is_some();
    let restored = seed::restore(agent, &database, &card, delta, &log_name, &interrupted)
        .await
        .map_err(|error| seed_failed(&error, &database.repo_path, &card.data_directory))?;
    let Some(seeded) = restored else {
        let why = control.interrupted(agent).unwrap_or(Interruption::Stopping);
        return Ok(interrupted_ending(
            why,
            "the old files are not complete any more, so the multipooler begins the restore again by itself",
        ));
    };
    // The supervisor finishes and starts it exactly as after a first restore.
    drop(hold);
    say(agent, job, "catching up").await;
    let ending = streams(agent, control, &database, &card, CATCH_UP).await?;
    Ok(match ending {
        Ending::Succeeded(_) => {
            let rebuild = RebuildResult {
                backup: Some(seeded.backup),
                delta,
                size_bytes: seeded.size_bytes,
                restore_millis: u64::try_from(seeded.took.as_millis()).unwrap_or(u64::MAX),
            };
            Ending::Succeeded(Some(JobOutcome::Rebuild(rebuild)))
        }
        other => other,
    })
}

fn seed_failed(error: &seed::SeedError, repo: &str, data_directory: &str) -> JobError {
    if let seed::SeedError::Repo(error) = error {
        return error.clone();
    }
    let mut job_error = failed("restoring", error);
    job_error.code = Code::PgbackrestFailed;
    if let seed::SeedError::Pgbackrest(cellar_pgbackrest::Error::Failed { failure, output, .. }) = error {
        job_error = crate::repository::backup_proof::restore_failure(
            "restoring",
            failure,
            output,
            Path::new(repo),
            &[data_directory],
        );
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
    patience: Duration,
) -> Result<Ending, JobError> {
    let deadline = tokio::time::Instant::now() + patience;
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
                        return Ok(Ending::Succeeded(None));
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
                patience.as_secs(),
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
