//! Whether what a member has is the leader's, too.

use cellar_model::availability::{Canary as CanaryState, Timing};
use cellar_model::{Leadership, Lineage, Phase, Timeline};
use cellar_postgres::MemberLook;
use cellar_system::clock;

use crate::instance::failover::heartbeat;
use crate::instance::failover::member::{CANNOT_START_AFTER, Member};
use crate::instance::failover::server::Server;

/// How a standby's data lies to the leader's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Branch {
    /// All that it has is the leader's, too.
    Same,
    /// It has WAL that the leader lacks.
    Left,
}

impl<S: Server> Member<S> {
    /// The history of the timeline that this primary is on.
    pub(super) fn history_of(&mut self, timeline: Timeline) -> String {
        match &self.history {
            Some((of, text)) if *of == timeline => text.clone(),
            _ => {
                let text = self.server.history(timeline).unwrap_or_default();
                // Read again while it is not there: without it nobody follows.
                self.history = Some((timeline, text.clone())).filter(|(_, text)| !text.is_empty());
                text
            }
        }
    }

    /// Whether the leader says that its commits get through: then it can do without this copy.
    fn leader_commits(&self) -> bool {
        let leader = self.heard.borrow().as_ref().and_then(heartbeat::Heard::facts);
        leader
            .filter(|facts| facts.age < Timing::default().fresh)
            .and_then(|facts| facts.leads)
            .is_some_and(|leads| leads.established && matches!(leads.canary, CanaryState::Committed { .. }))
    }

    /// Whether the data must be replaced before it can follow: that of a primary that was replaced, or a standby's with
    /// WAL that the leader lacks.
    pub(super) fn needs_replacing(&self, look: Option<&MemberLook>, record: Option<&Leadership>) -> bool {
        let Some(record) = record.filter(|record| record.cell != self.server.process().cell) else {
            return false;
        };
        if self.server.availability().wants_replacing.get() {
            return true;
        }
        let kept = self.server.availability().kept.get();
        let Some(look) = look.filter(|look| !look.is_primary) else {
            // A primary's data, also of one that was stopped because of it, or none at all. Or a former primary's that PostgreSQL
            // does not start as a standby.
            let is_down = self
                .down_since
                .is_some_and(|since| clock::uptime().saturating_sub(since) >= CANNOT_START_AFTER);
            let has_led = kept.begun.is_some_and(|(_, copy)| copy == kept.copy);
            let is_unknown = has_led || kept.followed != Some((record.held, kept.copy));
            return !self.server.is_standby() || is_down && is_unknown && self.leader_commits();
        };
        // What follows is on the leader's branch.
        let follows = kept.followed == Some((record.held, kept.copy));
        !follows && record.phase != Phase::Recruiting && self.branch(look, record) == Some(Branch::Left)
    }

    /// The line of WAL on which the leader leads; none while it has not said.
    pub(super) fn lineage_of_leader(&self, record: &Leadership) -> Option<Lineage> {
        let heard = self.heard.borrow();
        heard.as_ref().filter(|heard| heard.of == record.cell)?.lineage(record.held).cloned()
    }

    /// How this standby's data lies to the leader's; none while it is not at rest, or the leader has not said.
    ///
    /// A standby that has WAL behind the point where the leader's timeline begins must not connect: PostgreSQL would have it report
    /// as flushed what it has replayed, and acknowledge commits of the leader that it does not have.
    pub(super) fn branch(&self, look: &MemberLook, record: &Leadership) -> Option<Branch> {
        let redo = look.redo.filter(|_| self.quiet_looks >= 2)?;
        let lineage = self.lineage_of_leader(record)?;
        let own = self.server.timeline_of_wal(look.timeline, redo);
        Some(if lineage.contains(own, look.lsn) { Branch::Same } else { Branch::Left })
    }
}
