//! What PostgreSQL does not archive by itself: WAL that its own notes call archived, or say nothing of.
//!
//! A standby notes each segment that it receives as archived (`XLogWalRcvClose` in PostgreSQL's `walreceiver.c`), whatever
//! becomes of its primary's. When that primary is lost before it has archived a segment, the archive lacks it for ever, and
//! nothing can be restored across it. And the note that a segment is to be archived is written without a sync
//! (`XLogArchiveNotify` in `xlogarchive.c`), so a crash may lose it.

use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cellar_model::{Code, Database, JobError, Lineage, Lsn, Pooler, Role, Segment, Timeline, in_doubt};
use cellar_postgres::{DataDirectory, inspect, reload};

use crate::agent::Agent;
use crate::instance::data_role::newest_timeline;
use crate::instance::incarnation::record;
use crate::instance::seed::SeedError;
use crate::repository::reader::{Repo, segment_size};
use crate::repository::unarchived::{Pusher, wal_error};
use crate::wal_files::{
    has_note, history_name, is_begun, note_to_archive, own_lineage, segments, segments_with_notes,
};

/// How often the notes of a primary are looked at. Nothing but names is read, unless they leave a doubt.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How long to wait after the repo could not be read.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// How long the history of the primary's timeline may take to come into the archive.
const HISTORY_TIMEOUT: Duration = Duration::from_secs(90);

/// How often it is looked for.
const HISTORY_INTERVAL: Duration = Duration::from_millis(500);

/// What is known of the archive.
#[derive(Default)]
struct Known {
    /// Segments that it has.
    segments: BTreeSet<Segment>,
    /// The timeline whose history it has.
    history: Option<Timeline>,
}

/// While this cell has the primary: lets PostgreSQL archive what its notes call archived and the archive lacks. Never returns.
///
/// Only the notes are changed. So it is PostgreSQL that archives, as often as it takes, and that keeps the files until then.
pub(crate) async fn correct_notes(agent: Rc<Agent>) {
    let mut known = Known::default();
    loop {
        let mut pause = LOOK_INTERVAL;
        if let Some((timeline, written)) = leads(&agent)
            && let Err(error) = correct(&agent, timeline, written, &mut known).await
        {
            tracing::warn!(error = error.message, "not known whether the archive has all WAL; trying again");
            pause = RETRY_INTERVAL;
        }
        tokio::time::sleep(pause).await;
    }
}

/// The timeline of this cell's instance and how far it has written, if it is the recorded primary and not fenced: a fence
/// archives all by itself.
fn leads(agent: &Agent) -> Option<(Timeline, Lsn)> {
    if record(agent).fence.is_some() {
        return None;
    }
    let leader = agent.leader().filter(|leader| leader.cell == agent.cell)?;
    let facts = agent.facts.borrow();
    let facts = facts.as_ref().filter(|facts| facts.role == Role::Primary)?;
    (facts.timeline == leader.term).then_some((facts.timeline, facts.write_lsn?))
}

async fn correct(agent: &Agent, timeline: Timeline, written: Lsn, known: &mut Known) -> Result<(), JobError> {
    let (card, database) = agent.assignment()?;
    let data = Path::new(&card.data_directory);
    let Some(size) = segment_size(agent, data).await else { return Ok(()) };
    let (Some(last), Some(lineage)) = (size.number_of(written).checked_sub(1), own_lineage(data, timeline))
    else {
        return Ok(());
    };
    let there = segments_with_notes(data, size).map_err(|error| wal_error(&error))?;
    known.segments.retain(|segment| there.iter().any(|(one, _)| one == segment));
    let mut doubtful = in_doubt(&there, &lineage, &(0..=last), size);
    doubtful.retain(|segment| !known.segments.contains(segment));
    let history = history_name(timeline);
    let is_history_noted =
        timeline == Timeline::new(1) || known.history == Some(timeline) || has_note(data, &history);
    if doubtful.is_empty() && is_history_noted {
        return Ok(());
    }
    let repo = Repo::open(agent, &database, &card).await?;
    let lacking = repo.lacks(&doubtful, &lineage, &(0..=last)).await?;
    let mut names = Vec::new();
    for segment in &lacking {
        if is_begun(data, *segment, size).map_err(|error| wal_error(&error))? {
            names.push(size.file_name(*segment));
        }
    }
    if !is_history_noted {
        if repo.has_history(timeline).await? {
            known.history = Some(timeline);
        } else {
            names.push(history);
        }
    }
    // Another instance may be there now. Nothing else has its turn until the notes are written.
    if leads(agent).is_none_or(|(now, _)| now != timeline) {
        return Ok(());
    }
    for name in &names {
        tracing::warn!(name, "the archive lacks this file of WAL; PostgreSQL is told to archive it");
        note_to_archive(data, name).map_err(|error| wal_error(&error))?;
    }
    known.segments.extend(doubtful.into_iter().filter(|segment| !lacking.contains(segment)));
    if !names.is_empty() {
        // So that the archiver looks now and not within a minute.
        reload(data).map_err(|error| wal_error(&error))?;
    }
    Ok(())
}

/// Before the data of a former primary is replaced: archives what it alone may have, of what lies before the position at
/// which its successor's timeline began. What lies behind is another's WAL by the same name, and never gets into the
/// archive.
///
/// # Errors
/// When something was left that could not be archived, or it is not known what to archive. Nothing was changed.
pub(crate) async fn archive_before_fork(
    agent: &Agent,
    database: &Database,
    card: &Pooler,
    interrupted: &dyn Fn() -> bool,
) -> Result<(), SeedError> {
    let data = Path::new(&card.data_directory);
    let check_interrupted = || if interrupted() { Err(SeedError::Interrupted) } else { Ok(()) };
    let Some(leader) = agent.leader().filter(|leader| leader.cell != agent.cell) else { return Ok(()) };
    let DataDirectory::Valid { control, recovers: false, .. } = inspect(&agent.tools, data).await? else {
        return Ok(());
    };
    let timeline = newest_timeline(data, &control);
    let is_former = leader.system_identifier == Some(control.system_identifier) && timeline < leader.term;
    if !is_former {
        return Ok(());
    }
    let unreadable = |error: &dyn std::fmt::Display| SeedError::Repo(only_copy(wal_error(error), card));
    let Some(own) = own_lineage(data, timeline) else {
        return Err(unreadable(&format!("{} is not there or cannot be read", history_name(timeline))));
    };
    let size = control.segment_size;
    let there = segments(data, size).map_err(|error| unreadable(&error))?;
    let deadline = Instant::now() + HISTORY_TIMEOUT;
    let mut repo = Repo::open(agent, database, card).await.map_err(SeedError::Repo)?;
    let successor = loop {
        match repo.history(leader.term).await {
            Ok(history) => break Lineage::new(leader.term, &history),
            Err(error) if error.code == Code::WalMissing && Instant::now() < deadline => check_interrupted()?,
            Err(error) => return Err(SeedError::Repo(error)),
        }
        tokio::time::sleep(HISTORY_INTERVAL).await;
        repo.refresh(card).await.map_err(SeedError::Repo)?;
    };
    // It has ended a segment when it has begun the next.
    let is_there = |segment: &Segment| there.contains(segment);
    let mut ended = Vec::new();
    for segment in &there {
        let next = own.files(segment.number + 1, size).next().filter(is_there);
        if own.files(segment.number, size).next() == Some(*segment)
            && is_begun(data, *segment, size).map_err(|error| unreadable(&error))?
            && let Some(next) = next
            && is_begun(data, next, size).map_err(|error| unreadable(&error))?
        {
            ended.push(*segment);
        }
    }
    let pusher = Pusher::new(agent, database, card, data).map_err(SeedError::Repo)?;
    for segment in repo.lacks(&ended, &successor, &(0..=u64::MAX)).await.map_err(SeedError::Repo)? {
        check_interrupted()?;
        let name = size.file_name(segment);
        tracing::warn!(name, "only this former primary has a segment that the archive lacks; archiving it");
        pusher.push(&name).await.map_err(|error| SeedError::Repo(only_copy(error, card)))?;
    }
    Ok(())
}

/// How to go on without what could not be archived.
fn only_copy(error: JobError, card: &Pooler) -> JobError {
    let data = &card.data_directory;
    JobError {
        message: format!(
            "{}: this former primary has WAL that the archive lacks, and nothing was replaced",
            error.message
        ),
        hint: format!(
            "{}; then ask again. To give that WAL up, stop PostgreSQL in {data}, move the directory away and ask again",
            error.hint
        ),
        ..error
    }
}
