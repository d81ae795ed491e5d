//! Waiting until the restored data has replaced the old data and is the primary.
//!
//! The supervisor of the instance replaces it, because it must also do so after a kill at any moment. This step only
//! waits for the end and reports it.

use std::path::Path;
use std::time::Duration;

use cellar_model::{Code, InstanceState, JobError, Lineage, Refusal, Role, Segment, SegmentSize, Timeline};

use crate::agent::Agent;
use crate::instance::incarnation::{Mark, record};
use crate::instance::received_wal;
use crate::jobs::context::{JobContext, JobResult};
use crate::repository::reader::{Repo, segment_size};
use crate::wal_files::{history_name, own_lineage, waiting};

/// How long the record of the new incarnation may take to reach this pooler.
const RECORD_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the swap may take: two renames, a start and one archived file.
const SWAP_TIMEOUT: Duration = Duration::from_secs(300);

/// How often the instance is looked at. Nothing is asked for that: some files are read.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long to wait before the repo is asked again for what it does not have, against what PostgreSQL has noted.
const REPO_INTERVAL: Duration = Duration::from_secs(1);

/// Runs a swapping step to its end.
pub(crate) async fn run(context: &mut JobContext<'_>) -> JobResult {
    let agent = context.agent;
    context.if_interrupted("the multipooler goes on with it by itself");
    let restore = context.job.record.parent;
    let committed = |view: &cellar_topology::View| view.incarnation(&agent.database).job == restore;
    // The loop below reports what is missing when this never comes.
    let _ = agent.mirror.wait_for(RECORD_TIMEOUT, committed).await;
    agent.nudge.notify_one();
    context.progress("replacing the old data").await;
    let deadline = tokio::time::Instant::now() + SWAP_TIMEOUT;
    while let Some(Missing { why, look_again }) = what_is_missing(agent).await {
        if tokio::time::Instant::now() > deadline {
            let waited = SWAP_TIMEOUT.as_secs();
            let message = format!("the restored instance is not the primary after {waited} s: {why}");
            return Err(Refusal::new(Code::PostgresFailed, message)
                .hint("look at the cell's log/postgres.log and log/multipooler.log")
                .into());
        }
        context.pause(look_again).await?;
    }
    // Only now does the restore stand: until then it could be given up, and asked for again.
    if let Err(error) = received_wal::remove(agent) {
        tracing::warn!(%error, "WAL that was saved from before the restore cannot be removed");
    }
    Ok(None)
}

/// Why the swap is not complete.
struct Missing {
    why: String,
    /// How long to wait before the next look.
    look_again: Duration,
}

/// What the swap lacks to be complete; none when it is.
async fn what_is_missing(agent: &Agent) -> Option<Missing> {
    let timeline = match restored_primary(agent).await {
        Ok(timeline) => timeline,
        Err(why) => return Some(Missing { why, look_again: POLL_INTERVAL }),
    };
    let checked = check_start_is_archived(agent, timeline).await;
    checked.err().map(|error| Missing { why: error.message, look_again: REPO_INTERVAL })
}

/// The timeline of the restored primary, once it runs in the place of the old data and PostgreSQL has archived the
/// beginning of the timeline.
///
/// # Errors
/// Why that is not so.
async fn restored_primary(agent: &Agent) -> Result<Timeline, String> {
    let (card, _) = agent.assignment().map_err(|refusal| refusal.message)?;
    let data = Path::new(&card.data_directory);
    if !Mark::read(data).is_ok_and(|mark| mark == Mark::of(&record(agent))) {
        return Err("it has not replaced the old data".to_owned());
    }
    let Some(size) = segment_size(agent, data).await else {
        return Err("its data directory cannot be read".to_owned());
    };
    let timeline = leading_timeline(agent)?;
    // While PostgreSQL says that it has still to archive it, the repo need not be asked.
    if is_start_waiting(data, timeline, size) {
        return Err("the beginning of its timeline is not archived".to_owned());
    }
    Ok(timeline)
}

/// The timeline on which the instance is the recorded primary.
///
/// # Errors
/// Why it is none.
fn leading_timeline(agent: &Agent) -> Result<Timeline, String> {
    let report = agent.report.borrow();
    if report.state != InstanceState::Running {
        return Err(format!("it is {}: {}", report.state.as_str(), report.message));
    }
    let facts = agent.facts.borrow();
    let Some(facts) = facts.as_ref().filter(|facts| facts.role == Role::Primary) else {
        return Err("it is not a primary".to_owned());
    };
    let recorded =
        agent.leader().is_some_and(|leader| leader.cell == agent.cell && leader.term == facts.timeline);
    if recorded { Ok(facts.timeline) } else { Err("it is not recorded as the primary".to_owned()) }
}

/// Whether PostgreSQL has noted that it is going to archive the history of the new timeline, or the segment in which the
/// timeline begins.
fn is_start_waiting(data: &Path, timeline: Timeline, size: SegmentSize) -> bool {
    let Ok(waiting) = waiting(data) else { return false };
    let first_segment = own_lineage(data, timeline).map(|lineage| {
        let number = size.number_of(lineage.begins_at());
        size.file_name(Segment { timeline, number })
    });
    waiting.contains(&history_name(timeline)) || first_segment.is_some_and(|name| waiting.contains(&name))
}

/// Refuses while the archive does not have what a standby needs to follow the new timeline: its history file, and, where
/// the archive has its parent's file of the segment in which it begins, its own. Without that one a standby would replay
/// the old timeline's.
///
/// The repo is asked: PostgreSQL's notes may have been lost in a crash.
async fn check_start_is_archived(agent: &Agent, timeline: Timeline) -> Result<(), JobError> {
    let (card, database) = agent.assignment()?;
    let repo = Repo::open(agent, &database, &card).await?;
    repo.check_fork(&Lineage::new(timeline, &repo.history(timeline).await?)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_the_first_segment_of_the_databases_own_size() {
        let data = tempfile::tempdir().unwrap();
        let status = data.path().join("pg_wal/archive_status");
        std::fs::create_dir_all(&status).unwrap();
        std::fs::write(data.path().join("pg_wal/00000002.history"), "1\t0/9000000\tx\n").unwrap();
        // The 64 MiB segment that holds 0/9000000; with the default size it would be the ninth.
        std::fs::write(status.join("000000020000000000000002.ready"), "").unwrap();
        let waits = |bytes: u64| {
            let size = SegmentSize::new(bytes).unwrap();
            is_start_waiting(data.path(), Timeline::new(2), size)
        };
        assert!(waits(64 << 20));
        assert!(!waits(16 << 20));
        std::fs::write(status.join("00000002.history.ready"), "").unwrap();
        assert!(waits(16 << 20));
    }
}
