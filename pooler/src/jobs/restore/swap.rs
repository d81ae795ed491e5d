//! Waiting until the restored data has replaced the old data and is the primary.
//!
//! The supervisor of the instance replaces it, because it must also do so after a kill at any moment. This step only
//! waits for the end and reports it.

use std::path::Path;
use std::time::Duration;

use cellar_model::{Code, History, InstanceState, Lineage, Refusal, Role, Segment, SegmentSize, Timeline};

use crate::agent::Agent;
use crate::instance::incarnation::{Mark, record};
use crate::jobs::context::{JobContext, JobResult};
use crate::repository::reader::segment_size;

/// How long the record of the new incarnation may take to reach this pooler.
const RECORD_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the swap may take: two renames, a start and one archived file.
const SWAP_TIMEOUT: Duration = Duration::from_secs(300);

/// How often the instance is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

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
    while let Some(why) = what_is_missing(agent).await {
        if tokio::time::Instant::now() > deadline {
            let waited = SWAP_TIMEOUT.as_secs();
            let message = format!("the restored instance is not the primary after {waited} s: {why}");
            return Err(Refusal::new(Code::PostgresFailed, message)
                .hint("look at the cell's log/postgres.log and log/multipooler.log")
                .into());
        }
        context.pause(POLL_INTERVAL).await?;
    }
    Ok(None)
}

/// Why the swap is not complete; none when it is.
async fn what_is_missing(agent: &Agent) -> Option<String> {
    let (card, _) = match agent.assignment() {
        Ok(assignment) => assignment,
        Err(refusal) => return Some(refusal.message),
    };
    let data = Path::new(&card.data_directory);
    if !Mark::read(data).is_ok_and(|mark| mark == Mark::of(&record(agent))) {
        return Some("it has not replaced the old data".to_owned());
    }
    let Some(size) = segment_size(agent, data).await else {
        return Some("its data directory cannot be read".to_owned());
    };
    let report = agent.report.borrow();
    if report.state != InstanceState::Running {
        return Some(format!("it is {}: {}", report.state.as_str(), report.message));
    }
    let facts = agent.facts.borrow();
    let Some(facts) = facts.as_ref().filter(|facts| facts.role == Role::Primary) else {
        return Some("it is not a primary".to_owned());
    };
    let recorded =
        agent.leader().is_some_and(|leader| leader.cell == agent.cell && leader.term == facts.timeline);
    if !recorded {
        return Some("it is not recorded as the primary".to_owned());
    }
    let archived = timeline_start_is_archived(data, facts.timeline, size);
    (!archived).then(|| "the beginning of its timeline is not archived".to_owned())
}

/// Whether the archive has what a standby needs to follow the new timeline: its history file, and the segment in
/// which it begins. Without that segment a standby would replay the old timeline's.
fn timeline_start_is_archived(data: &Path, timeline: Timeline, size: SegmentSize) -> bool {
    let wal = data.join("pg_wal");
    let history = format!("{:08X}.history", timeline.get());
    let waits = |name: &str| wal.join("archive_status").join(format!("{name}.ready")).exists();
    let first_segment = std::fs::read_to_string(wal.join(&history)).ok().and_then(|text| {
        let lineage = Lineage::new(timeline, &text.parse::<History>().ok()?);
        let number = size.number_of(lineage.begins_at());
        Some(size.file_name(Segment { timeline, number }))
    });
    !waits(&history) && !first_segment.is_some_and(|name| waits(&name))
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
        let begins = |bytes: u64| {
            let size = SegmentSize::new(bytes).unwrap();
            timeline_start_is_archived(data.path(), Timeline::new(2), size)
        };
        assert!(!begins(64 << 20));
        assert!(begins(16 << 20));
    }
}
