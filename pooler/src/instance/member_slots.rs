//! Has the primary keep WAL for the members that are away, by a slot for each; see [`cellar_postgres::keep_member_slots`].
//!
//! Beside the rounds, and seldom: a slot that is some seconds behind keeps a little more WAL than it must.

use std::path::Path;
use std::time::{Duration, Instant};

use cellar_model::{CellName, Role};
use cellar_postgres::{Endpoint, has_member_slots, keep_member_slots};
use tokio::task::JoinSet;

use crate::agent::{Agent, PROBE_TIMEOUT};

/// How often it is seen to.
const INTERVAL: Duration = Duration::from_secs(10);

/// The slots of the other members.
#[derive(Default)]
pub(crate) struct MemberSlots {
    /// What is being done. It ends with this.
    work: JoinSet<Result<(), String>>,
    begun: Option<Instant>,
    /// What was said of it last.
    failed: Option<String>,
}

impl MemberSlots {
    /// Goes on with it, on a standby or the recorded primary. An error is no reason to call the instance unwell: what a member
    /// lacks it fetches from the repository.
    pub(crate) fn go_on(&mut self, agent: &Agent, endpoint: &Endpoint, role: Role, data: &Path) {
        while let Some(ended) = self.work.try_join_next() {
            let failed = ended.unwrap_or_else(|error| Err(error.to_string())).err();
            if let Some(why) = failed.as_ref().filter(|_| failed != self.failed) {
                tracing::warn!(why, "replication slots of members");
            }
            self.failed = failed;
        }
        let is_due = self.begun.is_none_or(|begun| begun.elapsed() >= INTERVAL);
        if !is_due || !self.work.is_empty() {
            return;
        }
        self.begun = Some(Instant::now());
        // It was the primary once.
        if role == Role::Primary || has_member_slots(data) {
            let (endpoint, cells) = (endpoint.clone(), other_members(agent));
            self.work.spawn_local(async move {
                let kept = keep_member_slots(&endpoint, &cells, PROBE_TIMEOUT).await;
                kept.map_err(|error| error.to_string())
            });
        }
    }
}

/// The cells of the other members, whether they report or not.
fn other_members(agent: &Agent) -> Vec<CellName> {
    let view = agent.mirror.view();
    let cards = view.poolers.values().filter(|card| card.database == agent.database);
    cards.map(|card| card.cell.clone()).filter(|cell| *cell != agent.cell).collect()
}
