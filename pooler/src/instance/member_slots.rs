//! Has the primary keep WAL for the members that are away, by a slot for each; see [`cellar_postgres::keep_member_slots`].
//!
//! Beside the rounds, and seldom: a slot that is some seconds behind keeps a little more WAL than it must. The same look tells
//! which logical slots there are, of which the status says what becomes of them.

use std::path::Path;
use std::time::{Duration, Instant};

use cellar_model::{CellName, LogicalSlot, Role};
use cellar_postgres::{Endpoint, PostgresError, SlotReport, has_slots, keep_member_slots};
use tokio::task::JoinSet;

use crate::agent::{Agent, PROBE_TIMEOUT};

/// How often it is seen to.
const INTERVAL: Duration = Duration::from_secs(10);

/// The slots of the other members.
#[derive(Default)]
pub(crate) struct MemberSlots {
    /// What is being done. It ends with this.
    work: JoinSet<Result<SlotReport, PostgresError>>,
    begun: Option<Instant>,
    /// What was said of it last.
    failed: Option<String>,
}

impl MemberSlots {
    /// Goes on with it, on a standby or the recorded primary. An error is no reason to call the instance unwell: what a member
    /// lacks it fetches from the repository.
    pub(crate) fn go_on(&mut self, agent: &Agent, endpoint: &Endpoint, role: Role, data: &Path) {
        while let Some(ended) = self.work.try_join_next() {
            let failed = match ended {
                Ok(Ok(report)) => {
                    tell(agent, report.logical);
                    report.refused.map(|error| error.to_string())
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(why) = failed.as_ref().filter(|_| failed != self.failed) {
                tracing::warn!(why, "replication slots");
            }
            self.failed = failed;
        }
        let is_due = self.begun.is_none_or(|begun| begun.elapsed() >= INTERVAL);
        if !is_due || !self.work.is_empty() {
            return;
        }
        self.begun = Some(Instant::now());
        // A standby has some of ours if it was the primary once.
        if role == Role::Primary || has_slots(data) {
            let (endpoint, cells) = (endpoint.clone(), other_members(agent));
            self.work.spawn_local(async move { keep_member_slots(&endpoint, &cells, PROBE_TIMEOUT).await });
        } else {
            tell(agent, Vec::new());
        }
    }
}

/// Has the status say which logical slots there are.
fn tell(agent: &Agent, slots: Vec<LogicalSlot>) {
    if agent.report.borrow().logical_slots != slots {
        agent.update_report(|report| report.logical_slots = slots);
    }
}

/// The cells of the other members, whether they report or not.
fn other_members(agent: &Agent) -> Vec<CellName> {
    let view = agent.mirror.view();
    let cards = view.poolers.values().filter(|card| card.database == agent.database);
    cards.map(|card| card.cell.clone()).filter(|cell| *cell != agent.cell).collect()
}
