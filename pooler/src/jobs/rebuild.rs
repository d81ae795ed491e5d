//! A rebuild: this cell's standby is made again, from the repo or from old data that a restore kept.

mod streaming;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use cellar_model::{
    Code, Database, InstanceState, JobError, JobId, JobOutcome, JobSpec, Leader, Pooler, RebuildParams,
    RebuildResult, Refusal,
};
use cellar_postgres::{DataDirectory, StopTimeouts, inspect, stop, stop_vanished};

use crate::agent::Agent;
use crate::data_layout::layout_obstacles;
use crate::instance::archiving::archive_before_fork;
use crate::instance::data_role::{is_being_promoted, is_primary, newest_timeline};
use crate::instance::hold::Hold;
use crate::instance::incarnation::{self, Mark, way_back};
use crate::instance::received_wal;
use crate::instance::seed::{self, Seed, SeedError, Seeded};
use crate::instance::seeding_marker::{Legacy, inheritance};
use crate::instance::set_aside::{Occupant, keep_old_data, move_aside, occupant, reinstate_kept_data};
use crate::instance::shared_tablespaces::check_no_shared_tablespaces;
use crate::jobs::context::{JobContext, JobResult};
use crate::jobs::failure::JobFailure;
use crate::jobs::rebuild::streaming::wait_until_gone;
pub(super) use crate::jobs::rebuild::streaming::{Shown, wait_until_streaming};
use crate::repository::reader::{Choice, Repo};
use crate::repository::tool_failure::{Disks, restore_failure};

/// How long the new standby may come no further before it streams. It first replays what was archived since the backup,
/// which takes as long as it takes.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(600);

/// How long reinstated data may come no further before it streams; it was a healthy standby when it was set aside.
const REINSTATED_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the others may take to do without this copy: two changes of the record, and a commit between them.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(60);

/// How often to look whether they do.
const LEAVE_INTERVAL: Duration = Duration::from_millis(200);

/// Runs a rebuild job to its end.
pub(crate) async fn run(context: &mut JobContext<'_>) -> JobResult {
    let outcome = rebuild(context).await?;
    // The cell streams from a primary, so what it had of the one before is of no use any more.
    if let Err(error) = received_wal::remove(context.agent) {
        tracing::warn!(%error, "the WAL that was saved from a restore cannot be removed");
    }
    Ok(outcome)
}

async fn rebuild(context: &mut JobContext<'_>) -> JobResult {
    let agent = context.agent;
    let (card, _) = agent.assignment()?;
    let no_primary =
        || Refusal::new(Code::NoPrimary, "no primary is recorded").hint("look at `cellar status`");
    let leader = agent.leading().ok_or_else(no_primary)?;
    if leader.cell == agent.cell {
        return Err(Refusal::new(Code::IsPrimary, format!("{} is the recorded primary", agent.cell)).into());
    }
    context.check_interrupted()?;
    let JobSpec::Rebuild(mut params) = context.job.record.spec.clone() else {
        return Err(Refusal::new(Code::InvalidArgument, "the job has no parameters of a rebuild").into());
    };
    archive_what_is_nowhere_else(context).await?;
    let choice = match params.reinstate {
        None => check_backup_exists(context, &leader).await?,
        Some(_) => None,
    };
    let data = PathBuf::from(&card.data_directory);
    if params.keep_for.is_none() && params.reinstate.is_none() && data.exists() {
        params.keep_for = way_back(&incarnation::record(agent), &agent.cell, Mark::read(&data).ok());
    }
    let before = check_before(context, &params, &data, &leader).await?;
    let legacy = match before {
        Occupant::SomethingElse => Legacy::default(),
        _ => inheritance(agent).map_err(|error| failed("looking at the old files", &error))?,
    };
    let leaving = Leaving::begin(agent);
    wait_until_replaceable(context).await?;
    let hold = hold_standby(agent, &data).await?;
    if !agent.availability.may_replace.get() {
        return Err(still_counted_on(agent).into());
    }
    stop_old_instance(context, &data).await?;
    // A shutdown may take longer than a claim lives. The data may be another job's by now.
    context.check_interrupted()?;
    if let Some(restore) = params.reinstate
        && reinstate(context, &data, restore).await?
    {
        drop(hold);
        context.progress("catching up").await;
        match wait_until_streaming(context, Shown::Either, REINSTATED_TIMEOUT).await {
            Ok(()) => return Ok(None),
            Err(JobFailure::Failed(_)) => {}
            Err(interrupted) => return Err(interrupted),
        }
        tracing::warn!(job = %context.job.record.id, "the kept data does not stream; restoring from the repo");
        let source = Source { delta: true, legacy, choice };
        return restore_from_repo(context, (hold_standby(agent, &data).await?, leaving), &data, source).await;
    }
    let delta = match params {
        RebuildParams { keep_for: Some(restore), .. } => {
            keep_old_data(agent, &data, restore).map_err(|error| failed("keeping the old files", &error))?;
            false
        }
        _ => {
            if before == Occupant::SomethingElse {
                move_aside(&data).map_err(|error| failed("moving the old files aside", &error))?;
            }
            before == Occupant::ThisDatabase
        }
    };
    restore_from_repo(context, (hold, leaving), &data, Source { delta, legacy, choice }).await
}

/// While it exists this member says that it wants to leave the cohort, whose acknowledgements count.
struct Leaving<'a>(&'a Agent);

impl<'a> Leaving<'a> {
    fn begin(agent: &'a Agent) -> Self {
        agent.availability.wants_replacing.set(true);
        Self(agent)
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.availability.wants_replacing.set(false);
    }
}

/// Waits until nobody counts on this copy of the data. At once where there is no quorum commit.
async fn wait_until_replaceable(context: &mut JobContext<'_>) -> Result<(), JobFailure> {
    let agent = context.agent;
    let deadline = Instant::now() + LEAVE_TIMEOUT;
    if !agent.availability.may_replace.get() {
        context.progress("leaving the cohort").await;
    }
    while !agent.availability.may_replace.get() {
        if Instant::now() >= deadline {
            return Err(still_counted_on(agent).into());
        }
        context.check_interrupted()?;
        tokio::time::sleep(LEAVE_INTERVAL).await;
    }
    Ok(())
}

fn still_counted_on(agent: &Agent) -> Refusal {
    let message = format!(
        "the data of {} counts for commits that were acknowledged, and the others cannot do without it now: nothing was changed",
        agent.cell
    );
    Refusal::new(Code::InUse, message)
        .hint("`cellar durability` shows who is counted on; bring the other cells back first, and ask again")
        .about("cell", &agent.cell)
}

/// What a restore begins with.
struct Source {
    /// Keep files that are the same already.
    delta: bool,
    /// What the new data takes over from the old.
    legacy: Legacy,
    /// The backup that was chosen before.
    choice: Option<Choice>,
}

/// Takes the instance for this job, unless it has become the primary in the meantime: looking at the repository and
/// waiting for the supervisor take minutes, and a person may have promoted it.
async fn hold_standby<'a>(agent: &'a Agent, data: &Path) -> Result<Hold<'a>, JobError> {
    let hold = Hold::take(agent).await?;
    let leader = agent.leading();
    let is_recorded = leader.as_ref().is_some_and(|leader| leader.cell == agent.cell);
    let looking = |error| failed("looking at the old files", &error);
    let is_promoted = match inspect(&agent.tools, data).await.map_err(looking)? {
        // One that has just been promoted is not recorded yet; one that was deposed is on an older timeline.
        DataDirectory::Valid { control, recovers, .. } => {
            let is_newest =
                leader.as_ref().is_none_or(|leader| newest_timeline(data, &control) > leader.term);
            // Data from before a restore is replaced whatever it was.
            let is_current = incarnation::standing(agent, data).map_or(true, |standing| standing.current);
            let is_primary = is_being_promoted(data)
                || is_newest && is_primary(data, &control, recovers).map_err(looking)?;
            is_current && is_primary
        }
        _ => false,
    };
    if is_recorded || is_promoted {
        let message = format!("{} has become the primary while the rebuild was prepared", agent.cell);
        return Err(Refusal::new(Code::IsPrimary, message)
            .hint("nothing was changed")
            .about("cell", &agent.cell)
            .into());
    }
    Ok(hold)
}

/// Refuses what would fail with the instance stopped. Returns what the data directory holds.
async fn check_before(
    context: &JobContext<'_>,
    params: &RebuildParams,
    data: &Path,
    leader: &Leader,
) -> Result<Occupant, JobFailure> {
    let agent = context.agent;
    check_no_shared_tablespaces(agent)?;
    let found =
        occupant(agent, data, leader).await.map_err(|error| failed("looking at the old files", &error))?;
    let is_moved =
        params.keep_for.is_some() || params.reinstate.is_some() || found == Occupant::SomethingElse;
    match layout_obstacles(data).into_iter().find(|obstacle| is_moved || obstacle.in_place_too) {
        None => Ok(found),
        Some(obstacle) => Err(obstacle.refusal().about("cell", &agent.cell).into()),
    }
}

/// Whether the rebuild takes a backup that is not sound when there is no better one: as a step of a restore, whose new
/// primary was itself restored from it.
fn takes_any_backup(context: &JobContext<'_>) -> bool {
    context.job.record.parent.is_some()
}

/// What a former primary alone has must be in the archive before its data is replaced.
async fn archive_what_is_nowhere_else(context: &JobContext<'_>) -> Result<(), JobFailure> {
    let (card, database) = context.agent.assignment()?;
    let interrupted = || context.check_interrupted().is_err();
    let archived = archive_before_fork(context.agent, &database, &card, &interrupted).await;
    seeded(context, archived, &database, &card)
}

/// The backup to restore from; none while the beginning of the primary's timeline may still be on its way to the archive.
/// Refuses when there is none, before the instance is stopped.
async fn check_backup_exists(
    context: &JobContext<'_>,
    leader: &Leader,
) -> Result<Option<Choice>, JobFailure> {
    let (card, database) = context.agent.assignment()?;
    let repo = Repo::open(context.agent, &database, &card).await?;
    match repo.seed_for(leader.term, takes_any_backup(context)).await {
        Ok(choice) => Ok(Some(choice)),
        Err(error) if error.code == Code::WalMissing => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn failed(doing: &str, error: &dyn std::fmt::Display) -> JobError {
    JobError {
        code: Code::PostgresFailed,
        message: format!("{doing}: {error}"),
        hint: "the old files are not complete any more; repair the cause and ask for the rebuild again"
            .to_owned(),
        tool_output: String::new(),
    }
}

async fn stop_old_instance(context: &mut JobContext<'_>, data: &Path) -> Result<(), JobFailure> {
    let agent = context.agent;
    let (card, _) = agent.assignment()?;
    let stopped = async {
        let found =
            inspect(&agent.tools, data).await.map_err(|error| failed("looking at the old files", &error))?;
        // Data that is not a standby's ran as a primary. A fast shutdown would archive its last segment, which goes on
        // past the point where its successor's timeline began.
        let timeouts = match found {
            DataDirectory::Valid { recovers: false, .. } => StopTimeouts::immediate(),
            _ => StopTimeouts::default(),
        };
        stop(data, &timeouts).await.map_err(|error| failed("stopping PostgreSQL", &error))
    };
    let ((), stopped) = tokio::join!(context.progress("stopping PostgreSQL"), stopped);
    stopped?;
    stop_vanished(Path::new(&card.socket_directory), card.postgres_port, data)
        .await
        .map_err(|error| failed("stopping PostgreSQL, whose data directory is gone", &error))?;
    *agent.facts.borrow_mut() = None;
    Ok(())
}

/// Reinstates the data that was kept for `restore`. False when there is none that could be a standby.
async fn reinstate(context: &JobContext<'_>, data: &Path, restore: JobId) -> Result<bool, JobFailure> {
    // Without a parent there is no rollback for which to keep the data that is there.
    let Some(rollback) = context.job.record.parent else { return Ok(false) };
    let reinstated = reinstate_kept_data(context.agent, data, restore, rollback).await;
    Ok(reinstated.map_err(|error| failed("putting the old data back", &error))?)
}

/// Restores from the repo and waits until the new standby streams.
async fn restore_from_repo(
    context: &mut JobContext<'_>,
    (hold, leaving): (Hold<'_>, Leaving<'_>),
    data: &Path,
    source: Source,
) -> JobResult {
    let delta = source.delta;
    let (seeded, shown) = restore(context, data, source).await?;
    // The supervisor configures and starts the instance exactly as after a first restore.
    drop(hold);
    // The new copy may come in: the primary may have been lost meanwhile, and its successor may need it.
    drop(leaving);
    context.if_interrupted("the restore is complete and the standby goes on catching up");
    context.progress("catching up").await;
    wait_until_streaming(context, shown, CATCH_UP_TIMEOUT).await?;
    let rebuild = RebuildResult {
        backup: Some(seeded.backup),
        delta,
        size_bytes: seeded.size_bytes,
        restore_millis: u64::try_from(seeded.took.as_millis()).unwrap_or(u64::MAX),
        warnings: seeded.flaw.into_iter().collect(),
    };
    Ok(Some(JobOutcome::Rebuild(rebuild)))
}

/// Restores, and finds out meanwhile whether the primary has noticed that the old instance has ended.
async fn restore(
    context: &mut JobContext<'_>,
    data: &Path,
    source: Source,
) -> Result<(Seeded, Shown), JobFailure> {
    let agent = context.agent;
    let (card, database) = agent.assignment()?;
    stop(data, &StopTimeouts::default()).await.map_err(|error| failed("stopping PostgreSQL", &error))?;
    context.if_interrupted(
        "the old files are not complete any more, so the multipooler begins the restore again by itself",
    );
    let id = context.job.record.id.to_string();
    agent.update_report(|report| {
        report.state = InstanceState::Seeding;
        report.message = format!("rebuilt by job {id}");
    });
    let interrupted = context.is_interrupted();
    let Source { delta, legacy, choice } = source;
    let any_backup = takes_any_backup(context);
    let request = Seed { delta, any_backup, log_name: &id, legacy, choice };
    let mut shown = Shown::Either;
    let restored = async {
        let mut restored = pin!(seed::restore(agent, &database, &card, &request, &interrupted));
        tokio::select! {
            biased;
            done = &mut restored => return done,
            () = wait_until_gone(agent) => shown = Shown::New,
        }
        restored.await
    };
    let ((), restored) = tokio::join!(context.progress("restoring"), restored);
    Ok((seeded(context, restored, &database, &card)?, shown))
}

fn seeded<T>(
    context: &JobContext<'_>,
    result: Result<T, SeedError>,
    database: &Database,
    card: &Pooler,
) -> Result<T, JobFailure> {
    match result {
        Ok(done) => Ok(done),
        Err(SeedError::Interrupted) => {
            context.check_interrupted()?;
            // Whatever interrupts a job stays, so this is not reached.
            Err(failed("restoring", &SeedError::Interrupted).into())
        }
        Err(error) => {
            let (repository, data_directory) = (&database.repository, card.data_directory.as_str());
            Err(seed_failed(&error, Disks { repository, cell: &card.cell, data_directory }).into())
        }
    }
}

fn seed_failed(error: &SeedError, disks: Disks<'_>) -> JobError {
    match error {
        SeedError::Repo(error) => error.clone(),
        SeedError::Pgbackrest(cellar_pgbackrest::Error::Failed { failure, output, .. }) => {
            restore_failure("restoring", failure, output, disks)
        }
        _ => JobError { code: Code::PgbackrestFailed, ..failed("restoring", error) },
    }
}
