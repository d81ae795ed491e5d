//! Waiting until the new data has taken the old one's place.
//!
//! The supervisor does it, for it would do it as well after a kill at any moment; this step tells when it is done.

use std::path::Path;
use std::time::Duration;

use cellar_model::{Code, History, InstanceState, Lineage, Refusal, Role, Segment, SegmentSize};

use crate::agent::Agent;
use crate::instance::incarnation::{Mark, record};
use crate::jobs::claim::{ClaimedJob, Ending};
use crate::jobs::control::{Control, interrupted_ending};
use crate::jobs::restore::private_instance::say;

/// How long it may take: two renames, a start and one archived file.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often to look.
const LOOK: Duration = Duration::from_millis(50);

/// Runs a swapping step to its end.
pub(crate) async fn run(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Ending {
    let parent = job.record.parent;
    let committed = |view: &cellar_topology::View| view.incarnation(&agent.database).job == parent;
    let _ = agent.mirror.wait_for(Duration::from_secs(20), committed).await;
    agent.nudge.notify_one();
    say(agent, job, "taking the old data's place", 0, 0).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match why_not(agent) {
            None => return Ending::Succeeded(None),
            Some(why) if tokio::time::Instant::now() > deadline => {
                let refusal = Refusal::new(
                    Code::PostgresFailed,
                    format!("the restored instance is not the primary after {} s: {why}", PATIENCE.as_secs()),
                );
                return Ending::Failed(
                    refusal.hint("look at the cell's log/postgres.log and log/multipooler.log").into(),
                );
            }
            Some(_) => {}
        }
        if let Some(why) = control.interrupted(agent) {
            return interrupted_ending(why, "the multipooler goes on with it by itself");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What is still missing.
fn why_not(agent: &Agent) -> Option<String> {
    let (card, _) = match agent.place() {
        Ok(place) => place,
        Err(refusal) => return Some(refusal.message),
    };
    let data = Path::new(&card.data_directory);
    if Mark::read(data) != Mark::of(&record(agent)) {
        return Some("it has not taken its place".to_owned());
    }
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
    // A standby finds its way to the new timeline by these two: its history, and the segment in which it begins, instead
    // of which it would take the old timeline's.
    let history = format!("{:08X}.history", facts.timeline.get());
    let waits = |name: &str| data.join("pg_wal/archive_status").join(format!("{name}.ready")).exists();
    let begins = std::fs::read_to_string(data.join("pg_wal").join(&history)).ok().and_then(|text| {
        let size = SegmentSize::default();
        let lineage = Lineage::new(facts.timeline, &text.parse::<History>().ok()?);
        Some(
            size.file_name(Segment { timeline: facts.timeline, number: size.number_of(lineage.begins_at()) }),
        )
    });
    let not_archived = waits(&history) || begins.is_some_and(|name| waits(&name));
    not_archived.then(|| "the beginning of its timeline is not archived".to_owned())
}
