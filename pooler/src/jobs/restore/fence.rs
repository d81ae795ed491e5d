//! Fencing this member: no write is accepted here any more, and what the primary had written is in the archive.
//!
//! The fence itself is the incarnation's record, which every pooler obeys for as long as it stands, also one that
//! starts later. This step makes sure of it here and reports what it found.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{
    Code, Database, FenceResult, InstanceState, JobError, JobOutcome, JobRecord, JobSpec, Pooler, Refusal,
    RestoreParams, Segment, Timeline,
};
use cellar_postgres::{ControlData, DataDirectory, StopTimeouts, inspect, running, stop, stop_vanished};

use crate::agent::Agent;
use crate::config_files::archive_command;
use crate::data_layout::obstacles;
use crate::instance::data_role::is_primary;
use crate::instance::hold::Hold;
use crate::instance::round::report_state;
use crate::jobs::context::{JobContext, JobResult};
use crate::jobs::failure::JobFailure;
use crate::jobs::restore::private_instance::PrivateInstance;
use crate::repository::reader::Repo;
use crate::repository::unarchived::archive_rest;

/// How long the record of the fence may take to reach this pooler.
const RECORD_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs a fencing step to its end.
pub(crate) async fn run(context: &mut JobContext<'_>) -> JobResult {
    context.if_interrupted("the fence is lifted again");
    let fence = fence(context).await?;
    Ok(Some(JobOutcome::Fence(fence)))
}

/// Waits until this pooler sees the fence of the restore that `record` is a step of.
pub(crate) async fn wait_for_fence(agent: &Agent, record: &JobRecord) -> Result<(), Refusal> {
    let fenced = |view: &cellar_topology::View| view.incarnation(&agent.database).fence == record.parent;
    if record.parent.is_some() && agent.mirror.wait_for(RECORD_TIMEOUT, fenced).await.is_ok() {
        return Ok(());
    }
    Err(Refusal::new(Code::Internal, format!("database {} is not fenced for this job", agent.database))
        .about("cell", &agent.cell))
}

fn failed(doing: &str, error: &dyn std::fmt::Display) -> JobError {
    JobError {
        code: Code::PostgresFailed,
        message: format!("{doing}: {error}"),
        hint: "look at the cell's log/postgres.log".to_owned(),
        tool_output: String::new(),
    }
}

/// The control data of a whole data directory, and whether it is a primary's; none when it is not whole.
async fn inspect_data(agent: &Agent, data: &Path) -> Result<Option<(ControlData, bool)>, JobError> {
    let looking = |error| failed("looking at the data directory", &error);
    match inspect(&agent.tools, data).await.map_err(looking)? {
        DataDirectory::Valid { control, recovers, .. } => {
            let is_primary = is_primary(data, &control, recovers).map_err(looking)?;
            Ok(Some((control, is_primary)))
        }
        _ => Ok(None),
    }
}

async fn fence(context: &mut JobContext<'_>) -> Result<FenceResult, JobFailure> {
    let agent = context.agent;
    let (card, database) = agent.assignment()?;
    wait_for_fence(agent, &context.job.record).await?;
    let data = PathBuf::from(&card.data_directory);
    check_layout(agent, &context.job.record, &data)?;
    let not_primary =
        |whole, timeline| FenceResult { was_primary: false, whole, timeline, last_segment: String::new() };
    let Some((found, is_primary)) = inspect_data(agent, &data).await? else {
        // Without whole data nothing can write here, unless a server still runs: one whose directory was deleted is ended, but
        // one whose directory is there has data that is not understood, and may have acknowledged what no one else has.
        let running = running(&data).map_err(|error| failed("looking for PostgreSQL", &error))?;
        if let Some(postmaster) = running {
            let pid = postmaster.pid;
            let error = format!(
                "its server (pid {pid}) runs, and its data directory does not look whole: `pg_ctl stop` it, look at its files, then ask again"
            );
            return Err(failed(&format!("stopping PostgreSQL in {}", data.display()), &error).into());
        }
        let _hold = context.unless_interrupted(Hold::take(agent)).await??;
        let sockets = Path::new(&card.socket_directory);
        stop_vanished(sockets, card.postgres_port, &data)
            .await
            .map_err(|error| failed("stopping PostgreSQL, whose data directory is gone", &error))?;
        let timeline = agent.leader().map_or(Timeline::new(1), |leader| leader.term);
        return Ok(not_primary(false, timeline));
    };
    if !is_primary {
        return Ok(not_primary(true, found.timeline));
    }
    let recorded = agent.leader().is_some_and(|leader| leader.cell == agent.cell);
    context.progress("stopping PostgreSQL").await;
    // What a primary has that is not the recorded one must not be archived, so that one is stopped at once.
    let timeouts = if recorded { StopTimeouts::default() } else { StopTimeouts::immediate() };
    // The supervisor sees the fence, too, and may be stopping it already: then the hold waits for that.
    let stopping = async {
        let hold = Hold::take(agent).await?;
        stop(&data, &timeouts).await.map_err(|error| failed("stopping PostgreSQL", &error))?;
        Ok::<_, JobError>(hold)
    };
    // The repo is read meanwhile: what it has of this database does not change before the fence asks for the last WAL.
    let reading =
        async { if recorded { Repo::open(agent, &database, &card).await.map(Some) } else { Ok(None) } };
    let both = async { tokio::join!(stopping, reading) };
    let (stopped, repo) = context.unless_interrupted(both).await?;
    let _hold = stopped?;
    *agent.facts.borrow_mut() = None;
    report_state(agent, InstanceState::Waiting, "stopped for a restore of the database");
    let without = |error: JobError| {
        let message =
            format!("{}: without it acknowledged rows would be missing from the restore", error.message);
        JobError { message, ..error }
    };
    let Some(mut repo) = repo.map_err(without)? else { return Ok(not_primary(true, found.timeline)) };
    context.check_interrupted()?;
    context.progress("archiving the last WAL").await;
    let stopped = finish_crashed(context, &database, &card, &data).await?;
    let size = stopped.segment_size;
    // A shutdown switches to a new segment before it writes its checkpoint there, so the segment before that one is
    // the last whole one.
    let last =
        Segment { timeline: stopped.timeline, number: size.number_of(stopped.checkpoint).saturating_sub(1) };
    archive_rest(agent, &database, &card, &data, &mut repo, last).await.map_err(without)?;
    Ok(FenceResult {
        was_primary: true,
        whole: true,
        timeline: stopped.timeline,
        last_segment: size.file_name(last),
    })
}

/// Refuses before anything is stopped when the files of this cell do not lie as the restore or rollback needs it: the
/// plan may be hours old, and a rollback has none.
fn check_layout(agent: &Agent, record: &JobRecord, data: &Path) -> Result<(), Refusal> {
    let parent = record.parent.and_then(|id| agent.mirror.view().jobs.get(&id).map(|job| job.spec.clone()));
    let in_place = matches!(parent, Some(JobSpec::Restore(RestoreParams { in_place: true, .. })));
    let found = obstacles(data).into_iter().find(|one| !in_place || one.in_place_too);
    found.map_or(Ok(()), |obstacle| Err(obstacle.refusal().about("cell", &agent.cell)))
}

/// Starts a primary that was not shut down cleanly as a private instance, so that it replays its own WAL, and shuts it
/// down cleanly: then all that it wrote is in whole segments, which can be archived.
async fn finish_crashed(
    context: &JobContext<'_>,
    database: &Database,
    card: &Pooler,
    data: &Path,
) -> Result<ControlData, JobFailure> {
    let agent = context.agent;
    let not_whole = || failed("looking at the data directory", &"it is not whole any more");
    let (found, _) = inspect_data(agent, data).await?.ok_or_else(not_whole)?;
    if found.is_last_segment_whole() {
        return Ok(found);
    }
    let private = PrivateInstance::new(agent, database, card, context.job.record.id, data.to_owned(), 0);
    private.prepare()?;
    let ended = async {
        private.finish(context, &archive_command(agent, database, card)).await?;
        private.stop().await.map_err(JobFailure::from)
    };
    let ended = ended.await;
    private.leave().await;
    ended?;
    let (found, _) = inspect_data(agent, data).await?.ok_or_else(not_whole)?;
    if found.is_last_segment_whole() {
        Ok(found)
    } else {
        let error = format!("it does not come to a clean end: {found:?}");
        Err(failed("stopping PostgreSQL", &error).into())
    }
}
