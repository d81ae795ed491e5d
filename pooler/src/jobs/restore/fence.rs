//! Fencing this member: no write is taken here any more, and what a primary had written is in the archive.
//!
//! The fence itself is the incarnation's record, which every pooler obeys for as long as it stands, also one that
//! comes back later. This step makes sure of it and says what it found.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{
    Code, Database, FenceResult, JobError, JobOutcome, JobRecord, Pooler, Refusal, Segment, Timeline,
};
use cellar_postgres::{ControlData, ControlState, DataDirectory, StopTimeouts, inspect, stop, stop_vanished};

use crate::agent::Agent;
use crate::config_files::{archive_command, write_bootstrap};
use crate::instance::hold::Hold;
use crate::jobs::claim::{ClaimedJob, Ending};
use crate::jobs::control::{Control, interrupted_ending};
use crate::jobs::restore::private_instance::{Broken, Sandbox, say};
use crate::repository::backup_proof::tool_error;

/// How long the record of the fence may take to reach this pooler.
const RECORD: Duration = Duration::from_secs(20);

/// How long a crashed primary may take to replay its own WAL.
const CRASH_RECOVERY: Duration = Duration::from_secs(600);

/// How long one segment may take to be archived.
const PUSH: Duration = Duration::from_secs(120);

/// Runs a fencing step to its end.
pub(crate) async fn run(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Ending {
    match attempt(agent, job, control).await {
        Ok(fence) => Ending::Succeeded(Some(JobOutcome::Fence(fence))),
        Err(Broken::Interrupted(why)) => interrupted_ending(why, "the fence is lifted again"),
        Err(Broken::Failed(error)) => Ending::Failed(error),
    }
}

/// Waits until this pooler sees the fence of the step's parent.
pub(crate) async fn see(agent: &Agent, record: &JobRecord) -> Result<(), Refusal> {
    let fenced = |view: &cellar_topology::View| view.incarnation(&agent.database).fence == record.parent;
    if record.parent.is_some() && agent.mirror.wait_for(RECORD, fenced).await.is_ok() {
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

async fn look(agent: &Agent, data: &Path) -> Result<Option<(ControlData, bool)>, JobError> {
    match inspect(&agent.tools, data)
        .await
        .map_err(|error| failed("looking at the data directory", &error))?
    {
        DataDirectory::Valid { control, recovers, .. } => Ok(Some((control, recovers))),
        _ => Ok(None),
    }
}

async fn attempt(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Result<FenceResult, Broken> {
    let (card, database) = agent.place()?;
    see(agent, &job.record).await?;
    let data = PathBuf::from(&card.data_directory);
    let Some((found, recovers)) = look(agent, &data).await? else {
        // Nothing whole is here, so nothing can write here, unless a server still runs whose directory was taken from it.
        let _hold = Hold::take(agent);
        let sockets = Path::new(&card.socket_directory);
        stop_vanished(sockets, card.postgres_port, &data)
            .await
            .map_err(|error| failed("stopping PostgreSQL, whose data directory is gone", &error))?;
        let timeline = agent.leader().map_or(Timeline::new(1), |leader| leader.term);
        return Ok(FenceResult { was_primary: false, whole: false, timeline, last_segment: String::new() });
    };
    if recovers {
        return Ok(FenceResult {
            was_primary: false,
            whole: true,
            timeline: found.timeline,
            last_segment: String::new(),
        });
    }
    let leader = agent.leader().is_some_and(|leader| leader.cell == agent.cell);
    let _hold = Hold::take(agent);
    say(agent, job, "stopping PostgreSQL", 0, 0).await;
    let mut timeouts = StopTimeouts::default();
    if !leader {
        // Not the recorded one: what it has is not the database's.
        timeouts.fast = Duration::ZERO;
    }
    stop(&data, &timeouts).await.map_err(|error| failed("stopping PostgreSQL", &error))?;
    *agent.facts.borrow_mut() = None;
    if !leader {
        return Ok(FenceResult {
            was_primary: false,
            whole: true,
            timeline: found.timeline,
            last_segment: String::new(),
        });
    }
    if let Some(why) = control.interrupted(agent) {
        return Err(Broken::Interrupted(why));
    }
    say(agent, job, "archiving the last WAL", 0, 0).await;
    let stopped = finish_crashed(agent, job, &database, &card, &data).await?;
    archive_rest(agent, &database, &card, &data).await?;
    let size = stopped.segment_size;
    // A shutdown switches to a new segment before it writes its checkpoint there, so all before that one is whole.
    let last =
        Segment { timeline: stopped.timeline, number: size.number_of(stopped.checkpoint).saturating_sub(1) };
    Ok(FenceResult {
        was_primary: true,
        whole: true,
        timeline: stopped.timeline,
        last_segment: size.file_name(last),
    })
}

/// Brings a primary that was not shut down cleanly to where it had come, unseen by anybody, and shuts it down.
async fn finish_crashed(
    agent: &Agent,
    job: &ClaimedJob,
    database: &Database,
    card: &Pooler,
    data: &Path,
) -> Result<ControlData, Broken> {
    let gone = || failed("looking at the data directory", &"it is not whole any more");
    let (found, _) = look(agent, data).await?.ok_or_else(gone)?;
    if found.state == ControlState::ShutDown {
        return Ok(found);
    }
    let private = Sandbox::new(agent, database, card, job.record.id, data.to_owned(), 0);
    private.prepare()?;
    let ended = async {
        private.start(&archive_command(agent, database, card), CRASH_RECOVERY).await?;
        private.stop().await
    };
    let ended = ended.await;
    private.leave().await;
    ended?;
    let (found, _) = look(agent, data).await?.ok_or_else(gone)?;
    if found.state == ControlState::ShutDown {
        Ok(found)
    } else {
        Err(failed("stopping PostgreSQL", &"it does not come to a clean end").into())
    }
}

/// Archives what the stopped primary's own archiver had no time for.
async fn archive_rest(
    agent: &Agent,
    database: &Database,
    card: &Pooler,
    data: &Path,
) -> Result<(), JobError> {
    let wal = data.join("pg_wal");
    let entries = std::fs::read_dir(wal.join("archive_status"))
        .map_err(|error| failed("looking for WAL to archive", &error))?;
    let mut ready: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".ready")?.to_owned()))
        .collect();
    ready.sort();
    let config = write_bootstrap(agent, database, card).map_err(|error| failed("archiving", &error))?;
    for name in ready {
        let pushed = agent.pgbackrest.archive_push(&config, &database.stanza, &wal.join(&name), PUSH).await;
        pushed.map_err(|error| {
            let mut error = tool_error(&format!("archiving {name}"), &error);
            error.message =
                format!("{}: without it acknowledged rows would be missing from the restore", error.message);
            error
        })?;
        let status = wal.join("archive_status");
        let _ = std::fs::rename(status.join(format!("{name}.ready")), status.join(format!("{name}.done")));
    }
    Ok(())
}
