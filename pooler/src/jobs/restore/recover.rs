//! The central step of a restore: the new data is made beside the old, recovered to its target, checked, and promoted.
//!
//! It ends as a stopped, whole data directory that carries the mark of the next incarnation. None of its WAL is in the
//! archive yet, and the old data was not touched (unless the restore is in place). So until the incarnation's record
//! names the copy, it may be deleted.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_model::{
    Archive, Code, InstanceState, JobError, JobId, JobOutcome, JobSpec, RecoverParams, RecoveryResult,
    Refusal, SystemIdentifier, Target, Timeline,
};
use cellar_postgres::{
    ControlData, ControlState, DataDirectory, StopTimeouts, inspect, stop, take_over_settings,
};
use cellar_system::AtomicFile;

use crate::agent::Agent;
use crate::data_layout::wal_directory;
use crate::disk::{free_bytes, write_refusal};
use crate::instance::held_wal::HeldWal;
use crate::instance::held_wal::held_wal;
use crate::instance::hold::Hold;
use crate::instance::incarnation::{Mark, record};
use crate::instance::received_wal;
use crate::instance::restore_target::Origin;
use crate::instance::round::report_state;
use crate::instance::seeding_marker::{self, Legacy};
use crate::instance::set_aside::keep_old_data;
use crate::jobs::context::{JobContext, JobResult};
use crate::jobs::failure::JobFailure;
use crate::jobs::restore::fence::wait_for_fence;
use crate::jobs::restore::private_instance::PrivateInstance;
use crate::jobs::restore::replay::{Reached, ReplayGoal};
use crate::jobs::restore::scratch::remove_directory;
use crate::jobs::restore::wal_end::{End, least_of_kept, not_given, wal_end};
use crate::repository::reader::Repo;
use crate::wal_files::timeline_of_wal;

/// Runs a recovery step to its end.
pub(crate) async fn run(context: &mut JobContext<'_>) -> JobResult {
    context.if_interrupted("the half restored copy is removed");
    let recovery = recover(context).await?;
    Ok(Some(JobOutcome::Recovery(recovery)))
}

fn wrong_instance(message: String) -> JobError {
    Refusal::new(Code::WrongInstance, message)
        .hint("the stanza holds another database's backups: look at the repo and the stanza's name")
        .into()
}

/// The control data of the copy, which must be whole.
async fn inspect_copy(agent: &Agent, data: &Path) -> Result<ControlData, JobError> {
    match inspect(&agent.tools, data).await {
        Ok(DataDirectory::Valid { control, .. }) => Ok(control),
        Ok(other) => Err(wrong_instance(format!("the copy in {} is not whole: {other:?}", data.display()))),
        Err(error) => {
            Err(wrong_instance(format!("the copy in {} cannot be looked at: {error}", data.display())))
        }
    }
}

async fn recover(context: &mut JobContext<'_>) -> Result<RecoveryResult, JobFailure> {
    let record = &context.job.record;
    let job = record.id;
    let (JobSpec::Recover(params), Some(parent)) = (record.spec.clone(), record.parent) else {
        return Err(Refusal::new(Code::InvalidArgument, "the job has no parameters of a recovery").into());
    };
    let agent = context.agent;
    let (card, database) = agent.assignment()?;
    wait_for_fence(agent, record).await?;
    let leader = agent.leader().ok_or_else(|| Refusal::new(Code::NoPrimary, "no primary is recorded"))?;
    let data = match (params.kept, params.in_place) {
        (Some(kept), _) => {
            keep_what_is_in_place(context, Path::new(&card.data_directory), kept).await?;
            agent.layout.kept(kept)
        }
        (None, true) => PathBuf::from(&card.data_directory),
        (None, false) => agent.layout.restored(parent),
    };
    let mut copy = PrivateInstance::new(agent, &database, &card, job, data, 0);
    if params.in_place {
        // An attempt before this one may have removed the link.
        copy.wal_directory = legacy(agent)?.wal_directory.or_else(|| wal_directory(&copy.data));
    }
    let mut held = None;
    if params.last_segment.is_none() && params.set.is_some() {
        // The primary was not stopped here, so its last WAL may not be archived; this cell may have received it.
        held = held_wal(agent, &card).await;
        if !params.in_place {
            copy.wal_from.push(Path::new(&card.data_directory).join("pg_wal"));
        }
        copy.wal_from.push(agent.layout.received_wal());
    }
    let _hold =
        if params.in_place { Some(context.unless_interrupted(Hold::take(agent)).await??) } else { None };
    let outcome = make_copy(context, &copy, &params, parent, leader.system_identifier, held).await;
    copy.leave().await;
    if outcome.is_err() && params.kept.is_none() && !params.in_place {
        remove_directory(&copy.data).await;
    }
    outcome
}

/// Sets the data from before a restore aside that is in its place still: it is kept when the restored data takes its place, or
/// when the cell is rebuilt, and nothing is rebuilt before the restored primary has run.
async fn keep_what_is_in_place(
    context: &mut JobContext<'_>,
    data: &Path,
    restore: JobId,
) -> Result<(), JobFailure> {
    let agent = context.agent;
    let is_from_before = Mark::read(data).is_ok_and(|mark| mark.number < record(agent).number);
    if agent.layout.kept(restore).exists() || !data.exists() || !is_from_before {
        return Ok(());
    }
    let _hold = context.unless_interrupted(Hold::take(agent)).await??;
    let failed = |error: &dyn std::fmt::Display| {
        Refusal::new(Code::PostgresFailed, format!("setting the old data aside: {error}"))
            .hint("look at the cell's disk and log/multipooler.log, then ask again")
    };
    stop(data, &StopTimeouts::default()).await.map_err(|error| failed(&error))?;
    *agent.facts.borrow_mut() = None;
    // A shutdown may take longer than a claim lives.
    context.check_interrupted()?;
    keep_old_data(agent, data, restore).map_err(|error| failed(&error))?;
    Ok(())
}

/// The timelines between that of the copy and the recorded one. PostgreSQL passes over a timeline whose history it
/// sees. The history of the recorded one may be nowhere: its primary may have been lost before it could archive it.
fn timelines_taken(copy: Timeline, recorded: Option<Timeline>) -> Vec<Timeline> {
    let last = recorded.map_or(0, Timeline::get);
    (copy.get() + 1..=last).map(Timeline::new).collect()
}

/// Gives a timeline whose history is lost one without a line, which the copy archives when it is the primary. PostgreSQL
/// looks whether there is such a file when it searches for a new timeline (`findNewestTimeLine` in its `timeline.c`); and
/// a standby that follows it asks for the file of every timeline up to its primary's
/// (`WalRcvFetchTimeLineHistoryFiles` in its `walreceiver.c`), so it must stay.
fn note_timeline(data: &Path, timeline: Timeline) -> std::io::Result<()> {
    let wal = data.join("pg_wal");
    let name = format!("{:08X}.history", timeline.get());
    let text = "# a primary was recorded on this timeline and lost before it archived the history\n";
    AtomicFile::new(&wal.join(&name)).replace(text)?;
    AtomicFile::new(&wal.join("archive_status").join(format!("{name}.ready"))).replace("")
}

async fn make_copy(
    context: &mut JobContext<'_>,
    copy: &PrivateInstance<'_>,
    params: &RecoverParams,
    parent: JobId,
    identity: Option<SystemIdentifier>,
    held: Option<HeldWal>,
) -> Result<RecoveryResult, JobFailure> {
    let agent = context.agent;
    let begun = Instant::now();
    let (card, database) = agent.assignment()?;
    let repo = Repo::open(agent, &database, &card).await?;
    let size = repo.segment_size();
    let End { end, mut least, received, archive } = wal_end(&repo, copy, params, held.as_ref()).await?;
    let mut size_bytes = 0;
    let mut timeline = params.timeline;
    if let Some(set) = &params.set {
        let found = repo.backups().into_iter().find(|backup| backup.label == *set);
        size_bytes = found.map_or(0, |backup| backup.size_bytes);
        let mut origin = Origin::NEW;
        if params.in_place {
            let unfinished =
                stop_and_mark_incomplete(agent, &copy.data, parent, async || match held.zip(archive) {
                    Some((held, archive)) => save_received(agent, &copy.data, held, archive).await,
                    None => Ok(()),
                });
            let unfinished = unfinished.await?;
            origin = Origin { is_ours: true, unfinished };
        } else {
            remove_directory(&copy.data).await;
            let free = free_bytes(&copy.data);
            if free < size_bytes {
                let message = format!("the restored data needs {size_bytes} bytes, and {free} are free");
                return Err(Refusal::new(Code::DiskFull, message)
                    .hint("make room, or restore with --in-place")
                    .into());
            }
        }
        copy.prepare()?;
        copy.restore(context, set, size_bytes, origin, 0).await?;
    } else {
        // Kept data is recovered on its own timeline, not on one that began after it.
        let control = inspect_copy(agent, &copy.data).await?;
        timeline = timeline_of_wal(&copy.data.join("pg_wal"), control.timeline, control.redo);
        least = Some(least_of_kept(&control));
        copy.prepare()?;
    }
    let restored = begun.elapsed();
    let before = inspect_copy(agent, &copy.data).await?;
    if identity.is_some_and(|identity| identity != before.system_identifier) {
        return Err(wrong_instance(format!(
            "the copy has system identifier {}, which is another database's",
            before.system_identifier
        ))
        .into());
    }
    let goal = ReplayGoal { target: params.target.clone(), timeline, end, least, size, archive_mode: true };
    let mut reached = copy.replay(context, &goal).await?;
    if !reached.paused && matches!(params.target, Target::Time(_)) {
        // Nothing was committed later, so the end of the WAL is the database at that time. But PostgreSQL refuses to end
        // a recovery whose target it has not met, so the recovery goes on from here without a target.
        context.unless_interrupted(copy.stop()).await??;
        let rest = ReplayGoal { target: Target::Latest {}, ..goal };
        let stopped = reached.stopped;
        reached = copy.replay(context, &rest).await?;
        reached.stopped = stopped;
    }
    check_reached(&params.target, &reached)?;
    if let Some(segment) = received.filter(|one| !reached.paused && !copy.was_given(one.number, size)) {
        return Err(not_given(segment, size, &agent.layout.data()).into());
    }
    let recovered = begun.elapsed();
    context.progress("promoting").await;
    // That of a restored primary that has not recorded itself, too: nobody has archived its history.
    let recorded = agent.leader().map(|leader| leader.term).max(record(agent).timeline);
    let taken = timelines_taken(timeline, recorded);
    for taken in &taken {
        match repo.history(*taken).await {
            Err(error) if error.code == Code::WalMissing => note_timeline(&copy.data, *taken)
                .map_err(|error| write_refusal("cannot write to the copy", &error))?,
            known => drop(known?),
        }
    }
    copy.promote(&reached).await?;
    context.unless_interrupted(copy.stop()).await??;
    let after = inspect_copy(agent, &copy.data).await?;
    if let Some(last) = taken.last().filter(|last| after.timeline <= **last) {
        return Err(wrong_instance(format!(
            "the copy came out on timeline {}, and timeline {last} is recorded already",
            after.timeline
        ))
        .into());
    }
    if after.state != ControlState::ShutDown || after.timeline <= timeline {
        return Err(wrong_instance(format!(
            "the copy did not come to a clean end on a new timeline: {after:?}"
        ))
        .into());
    }
    let mark = Mark { number: params.incarnation, job: Some(parent) };
    let disk = |error: std::io::Error| write_refusal("cannot mark the copy", &error);
    mark.write(&copy.data).map_err(disk)?;
    if params.set.is_some() {
        // The backup has another member's settings, and those of its time: names of standbys that are gone among them, for
        // which every commit would wait.
        copy.leave().await;
        let own = legacy(agent)?;
        take_over_settings(&copy.data, &own.own_settings, own.settings.as_deref())
            .map_err(|error| copy.failed("writing the copy's settings", &error))?;
    }
    if params.in_place {
        seeding_marker::remove(agent).map_err(disk)?;
    }
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Ok(RecoveryResult {
        timeline: after.timeline,
        from_timeline: timeline,
        lsn: reached.lsn,
        last_commit: reached.last_commit,
        stopped: reached.stopped,
        size_bytes,
        restore_millis: if params.set.is_some() { millis(restored) } else { 0 },
        recovery_millis: millis(recovered.saturating_sub(restored)),
    })
}

/// What the restored data takes over from the cell's own.
fn legacy(agent: &Agent) -> Result<Legacy, Refusal> {
    seeding_marker::inheritance(agent).map_err(|error| {
        let message = format!("cannot read {}: {error}", agent.layout.seeding_marker().display());
        Refusal::new(Code::Internal, message).hint("look at the disk, then ask again")
    })
}

/// Before a restore over the old data: stops the instance, and marks the data directory as a restore that was begun
/// and not finished. Returns whether it was marked so already.
///
/// `save` is done before that, when the data is whole and nothing writes there.
async fn stop_and_mark_incomplete(
    agent: &Agent,
    data: &Path,
    restore: JobId,
    save: impl AsyncFnOnce() -> Result<(), JobError>,
) -> Result<bool, JobError> {
    let disk = |error: &dyn std::fmt::Display| {
        Refusal::new(Code::PostgresFailed, format!("stopping PostgreSQL: {error}"))
    };
    stop(data, &StopTimeouts::default()).await.map_err(|error| disk(&error))?;
    *agent.facts.borrow_mut() = None;
    report_state(agent, InstanceState::Seeding, &format!("restored over in place by job {restore}"));
    let unfinished = seeding_marker::exists(agent).map_err(|error| disk(&error))?;
    if !unfinished {
        save().await?;
    }
    seeding_marker::begin(agent, legacy(agent)?).map_err(|error| disk(&error))?;
    Ok(unfinished)
}

/// Saves what only this cell has of the WAL before it is restored over.
async fn save_received(agent: &Agent, data: &Path, held: HeldWal, archive: Archive) -> Result<(), JobError> {
    let (directory, wal) = (agent.layout.received_wal(), data.join("pg_wal"));
    let size = archive.size;
    // To copy may take long, and this thread also renews the lease.
    let saving = tokio::task::spawn_blocking(move || {
        received_wal::save(&directory, &wal, &held, size, |segment| archive.has(segment))
    });
    let saved = saving.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    saved.map_err(|error| {
        write_refusal(
            "nothing was overwritten, because the WAL that only this cell has cannot be saved",
            &error,
        )
        .into()
    })
}

/// Checks that recovery stopped where it was asked to.
fn check_reached(target: &Target, reached: &Reached) -> Result<(), JobError> {
    let beyond = |what: String| -> Result<(), JobError> {
        Err(Refusal::new(Code::Internal, format!("the recovery stopped at the wrong place: {what}")).into())
    };
    match target {
        Target::Time(time) => match reached.last_commit {
            Some(commit) if commit > *time => beyond(format!("its last commit is of {commit}, after {time}")),
            _ => Ok(()),
        },
        Target::Lsn(lsn) if reached.lsn <= *lsn => beyond(format!("{} is before {lsn}", reached.lsn)),
        _ => Ok(()),
    }
}
