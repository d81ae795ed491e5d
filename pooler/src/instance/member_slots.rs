//! Has the primary keep WAL for the members that are away, by a slot for each; see [`cellar_postgres::keep_member_slots`]. And
//! has standbys synchronise logical slots; see [`crate::slot_sync`].
//!
//! Beside the rounds, and seldom: a slot that is some seconds behind keeps a little more WAL than it must. The same look tells
//! which logical slots there are, of which the status says what becomes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use cellar_model::{CellName, Leadership, LogicalSlot, Phase, Role};
use cellar_postgres::{
    Endpoint, FAILOVER_SLOTS_SINCE, InstanceFacts, Keep, PostgresError, SlotReport, SlotWork,
    has_slots_to_see_to, keep_member_slots,
};
use cellar_system::clock;
use tokio::task::JoinSet;

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::disk::{below_floor, floor_bytes};
use crate::slot_sync::{Attachment, Stream, failover_slots, is_failover_slot};

/// How often it is seen to.
const INTERVAL: Duration = Duration::from_secs(10);

/// And while there are failover slots: what a subscriber gets waits for it that a standby is left out which is away.
const WITH_FAILOVER_SLOTS: Duration = Duration::from_secs(2);

/// How long rows are kept for a member that does not stream with its slot, and its WAL with them. One that comes back later
/// fetches from the repository what is missing, and may have to make its copies of logical slots anew.
const ROWS_ARE_KEPT: Duration = Duration::from_secs(3600);

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
    /// Since when slots keep rows that nobody streams with.
    idle_with_rows: BTreeMap<String, Instant>,
    /// From whom a standby synchronises slots.
    attachment: Attachment,
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
    pub(crate) fn go_on(&mut self, agent: &Agent, endpoint: &Endpoint, facts: &InstanceFacts, data: &Path) {
        while let Some(ended) = self.work.try_join_next() {
            self.are_kept = self.role == Some(Role::Primary);
            let failed = match ended {
                Ok(Ok(report)) => {
                    let with_slots = Some(report.with_slots).filter(|_| self.are_kept);
                    self.take(agent, report.idle_with_rows, with_slots);
                    tell(agent, report.logical);
                    report.refused.map(|error| error.to_string()).or_else(|| no_room(&report.without_room))
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
        if self.role != Some(facts.role) {
            self.work = JoinSet::new();
            (self.role, self.begun, self.are_kept) = (Some(facts.role), None, false);
            self.take(agent, BTreeSet::new(), None);
            tell(agent, Vec::new());
        }
        let superseded = self.synchronise(agent, facts);
        let has_failover_slots = agent.report.borrow().logical_slots.iter().any(is_failover_slot);
        let interval = if has_failover_slots { WITH_FAILOVER_SLOTS } else { INTERVAL };
        let is_due = self.begun.is_none_or(|begun| begun.elapsed() >= interval);
        if !is_due || !self.work.is_empty() {
            return;
        }
        self.begun = Some(Instant::now());
        // A standby has some of ours if it was the primary once.
        if facts.role == Role::Primary || has_slots_to_see_to(data, major(facts)) {
            let wal = data.join("pg_wal");
            let is_scarce = floor_bytes(&wal).is_some_and(|floor| below_floor(&wal, floor).is_some());
            // Before 17 only somebody else has a standby stream with a slot.
            let idle = self.idle_with_rows.iter().filter(|_| has_failover(facts));
            let idle = idle.filter(|(_, since)| since.elapsed() >= ROWS_ARE_KEPT);
            let work = SlotWork {
                cells: other_members(agent),
                keep: if is_scarce { Keep::ForStreaming } else { Keep::ForAll },
                let_rows_go: idle.map(|(name, _)| name.clone()).collect(),
                superseded,
            };
            let endpoint = endpoint.clone();
            self.work.spawn_local(async move { keep_member_slots(&endpoint, &work, PROBE_TIMEOUT).await });
        } else {
            tell(agent, Vec::new());
        }
    }

    /// The instance does not run. It starts without the synchronisation of slots.
    pub(crate) fn end(&mut self, agent: &Agent) {
        self.attachment = Attachment::default();
        agent.slot_sync.from.replace(None);
    }

    /// Notes who streams with a slot, and which slots keep rows for nobody.
    fn take(&mut self, agent: &Agent, idle: BTreeSet<String>, with_slots: Option<BTreeSet<String>>) {
        let since = |name: String| {
            let since = self.idle_with_rows.get(&name).copied().unwrap_or_else(Instant::now);
            (name, since)
        };
        self.idle_with_rows = idle.into_iter().map(since).collect();
        if *agent.slot_sync.with_slots.borrow() != with_slots {
            agent.slot_sync.with_slots.replace(with_slots);
            agent.nudge.notify_one();
        }
    }

    /// Decides whether a standby synchronises slots. The failover slots of the primary from which it does.
    fn synchronise(&mut self, agent: &Agent, facts: &InstanceFacts) -> BTreeSet<String> {
        // Without that level PostgreSQL synchronises nothing, and some versions end or do not start.
        let can = facts.role == Role::Standby && has_failover(facts) && facts.replays.logical;
        let receiver = facts.wal_receiver.as_ref().filter(|it| can && it.status == "streaming");
        let stream = receiver.and_then(|receiver| {
            let (host, port) = receiver.sender.as_ref()?;
            Some(Stream { from: agent.cell_at(host, *port)?, receiver: receiver.pid })
        });
        // One that is about to stop is not left, and a new one is not begun with.
        let is_steady = |record: &Leadership| record.phase == Phase::Steady && record.handover.is_none();
        let slots = stream.as_ref().filter(|_| agent.governing().as_ref().is_none_or(is_steady));
        let slots = slots.and_then(|stream| {
            let view = agent.mirror.view();
            failover_slots(view.status.get(&(agent.database.clone(), stream.from.clone())))
        });
        // A copy of one that is gone is dropped by PostgreSQL alone, and only while it synchronises.
        let has_copies = agent.report.borrow().logical_slots.iter().any(|slot| slot.synced);
        let has_slots = slots.as_ref().map(|slots| !slots.is_empty() || has_copies);
        let from = self.attachment.look(stream, has_slots, clock::uptime()).cloned();
        let slots = slots.filter(|_| from.is_some()).unwrap_or_default();
        if *agent.slot_sync.from.borrow() != from {
            tracing::info!(?from, "synchronises logical slots");
            agent.slot_sync.from.replace(from);
            // PostgreSQL is told in a round.
            agent.nudge.notify_one();
        }
        slots
    }
}

/// The major version of PostgreSQL that runs; 0 when it says none.
fn major(facts: &InstanceFacts) -> u32 {
    let digits: String = facts.server_version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// Whether the instance has logical slots that can outlive a change of the primary.
fn has_failover(facts: &InstanceFacts) -> bool {
    major(facts) >= FAILOVER_SLOTS_SINCE
}

/// What is said of slots that cannot be made.
fn no_room(slots: &BTreeSet<String>) -> Option<String> {
    let names = Vec::from_iter(slots.iter().map(String::as_str)).join(", ");
    (!slots.is_empty()).then(|| {
        format!(
            "max_replication_slots leaves no room for {names}: raise it with `cellar settings set`, or drop slots that nobody needs; until then these members' WAL is not kept, and subscribers of failover slots may wait"
        )
    })
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
