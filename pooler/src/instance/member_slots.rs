//! Has the primary keep WAL for the members that are away, by a slot for each; see [`cellar_postgres::keep_member_slots`].
//!
//! Beside the rounds, and seldom: a slot that is some seconds behind keeps a little more WAL than it must. The same look tells
//! which logical slots there are, of which the status says what becomes of them.

use std::path::Path;
use std::time::{Duration, Instant};

use cellar_model::{CellName, LogicalSlot, Role};
use cellar_postgres::{Endpoint, Keep, PostgresError, SlotReport, has_slots, keep_member_slots};
use tokio::task::JoinSet;

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::disk::{below_floor, floor_bytes};

/// How often it is seen to.
const INTERVAL: Duration = Duration::from_secs(10);

/// The slots of the other members.
#[derive(Default)]
pub(crate) struct MemberSlots {
    /// What is being done. It ends with this.
    work: JoinSet<Result<SlotReport, PostgresError>>,
    begun: Option<Instant>,
    /// As what the instance was looked at last.
    role: Option<Role>,
    /// Slots were seen to since it became the primary.
    are_kept: bool,
    /// What was said of it last.
    failed: Option<String>,
}

impl MemberSlots {
    /// Whether slots were seen to since the instance became the primary, however that ended.
    pub(crate) fn are_kept(&self) -> bool {
        self.are_kept
    }

    /// Goes on with it, on a standby or the recorded primary. An error is no reason to call the instance unwell: what a member
    /// lacks it fetches from the repository.
    pub(crate) fn go_on(&mut self, agent: &Agent, endpoint: &Endpoint, role: Role, data: &Path) {
        while let Some(ended) = self.work.try_join_next() {
            self.are_kept = self.role == Some(Role::Primary);
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
        // A look that began before is not that of a primary.
        if self.role != Some(role) {
            self.work = JoinSet::new();
            (self.role, self.begun, self.are_kept) = (Some(role), None, false);
        }
        let is_due = self.begun.is_none_or(|begun| begun.elapsed() >= INTERVAL);
        if !is_due || !self.work.is_empty() {
            return;
        }
        self.begun = Some(Instant::now());
        // A standby has some of ours if it was the primary once.
        if role == Role::Primary || has_slots(data) {
            let (endpoint, cells) = (endpoint.clone(), other_members(agent));
            let wal = data.join("pg_wal");
            let is_scarce = floor_bytes(&wal).is_some_and(|floor| below_floor(&wal, floor).is_some());
            let keep = if is_scarce { Keep::ForStreaming } else { Keep::ForAll };
            self.work
                .spawn_local(async move { keep_member_slots(&endpoint, &cells, keep, PROBE_TIMEOUT).await });
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
