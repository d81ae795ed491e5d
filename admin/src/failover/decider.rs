//! The steps of one database: what is known goes to the decision, and what comes back is written, if nothing has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cellar_model::availability::{Facts, MAX_LAG, Reason, Rules, Step, Timing, View, next};
use cellar_model::{
    CellName, DatabaseName, Durability, Failover, FailoverHistory, FailoverKind, Key, Leader, Leadership,
    Phase, Pooler, SystemIdentifier, Term, Timeline, check_in_use,
};
use cellar_system::clock;
use cellar_topology::{StoreError, TxnOutcome};
use tokio::time::Instant;

use crate::admin::Admin;
use crate::failover::AskMember;
use crate::failover::reports::{Reports, SOON_TIME, is_moving};

/// The time between two decisions.
const INTERVAL: Duration = Duration::from_millis(100);

/// The same while somebody is being made the leader: nobody can write meanwhile.
const SOON_INTERVAL: Duration = Duration::from_millis(20);

/// Bound on one transaction, above the store's own.
const CALL: Duration = Duration::from_secs(8);

/// How long all members are waited for before quorum commit begins with those that are there.
const ALL_AT_FIRST: Duration = Duration::from_secs(15);

/// The fewest members with which quorum commit begins.
const MIN_MEMBERS: usize = 2;

/// Decides for one database.
pub(crate) struct Decider {
    admin: Admin,
    database: DatabaseName,
    reports: Reports,
    /// The revision of the leader's record, and since when this process knows it.
    known: Option<(i64, Instant)>,
    /// The same of the term and its phase.
    in_phase: Option<(Term, Phase, Instant)>,
    /// What was said last, so that it is said once.
    said: String,
}

/// What a decision is about, as it was read.
struct Scene {
    leader: Leader,
    guards: Vec<(Key, i64)>,
    wanted: BTreeSet<CellName>,
    incarnation: u32,
    governing: Option<Leadership>,
    paused: bool,
}

impl Scene {
    /// The term of the record that was read.
    fn term(&self) -> Term {
        self.governing.as_ref().map_or(Term::default(), |record| record.term)
    }
}

fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}

impl Decider {
    pub(crate) fn new(admin: Admin, database: DatabaseName, ask: Arc<AskMember>) -> Self {
        let reports = Reports::new(admin.member_reports.of(&database), ask);
        Self { admin, database, reports, known: None, in_phase: None, said: String::new() }
    }

    /// Decides over and over; never returns.
    pub(crate) async fn run(mut self) {
        loop {
            let members: Vec<Pooler> = {
                let view = self.admin.view();
                view.poolers.values().filter(|card| card.database == self.database).cloned().collect()
            };
            self.reports.ask(&self.admin, &members);
            if let Err(error) = self.step().await {
                tracing::warn!(database = %self.database, %error, "a step of the failover was not written");
            }
            let is_new = self.known.is_some_and(|(_, since)| since.elapsed() < SOON_TIME);
            let is_soon = is_new && is_moving(&self.admin, &self.database);
            tokio::time::sleep(if is_soon { SOON_INTERVAL } else { INTERVAL }).await;
        }
    }

    /// What there is to decide about; none while the view is out of date, or a restore decides alone.
    fn scene(&mut self) -> Option<Scene> {
        if !self.admin.is_current() {
            return None;
        }
        let view = self.admin.view();
        let database = view.databases.get(&self.database)?;
        let incarnation = view.incarnation(&self.database);
        let leader = view.leaders.get(&self.database)?.clone();
        let keys = [Key::Leader, Key::Database, Key::Incarnation].map(|key| key(self.database.clone()));
        let guards: Vec<(Key, i64)> =
            keys.into_iter().map(|key| (key.clone(), view.revision(&key))).collect();
        let revision = guards.first().map_or(0, |(_, revision)| *revision);
        if self.known.is_none_or(|(known, _)| known != revision) {
            self.known = Some((revision, Instant::now()));
        }
        let is_restored =
            check_in_use(view.incarnations.get(&self.database), Some(&leader), &self.database).is_err();
        if is_restored || incarnation.fence.is_some() || database.durability != Durability::Quorum {
            return None;
        }
        let cards = view.poolers.values().filter(|card| card.database == self.database);
        let governing = leader.governed_by(database.durability, incarnation.number).cloned();
        Some(Scene {
            guards,
            wanted: cards.map(|card| card.cell.clone()).collect(),
            incarnation: incarnation.number,
            governing,
            paused: database.pause.is_some(),
            leader,
        })
    }

    async fn step(&mut self) -> Result<(), StoreError> {
        let Some(scene) = self.scene() else { return Ok(()) };
        let facts = self.reports.facts();
        let Some(record) = &scene.governing else { return self.take_up(&scene, &facts).await };
        if self.in_phase.is_none_or(|(term, phase, _)| (term, phase) != (record.term, record.phase)) {
            self.in_phase = Some((record.term, record.phase, Instant::now()));
        }
        let view = View {
            record,
            facts: &facts,
            wanted: &scene.wanted,
            preference: &[],
            unchanged: self.known.map_or(Duration::ZERO, |(_, since)| since.elapsed()),
            in_phase: self.in_phase.map_or(Duration::ZERO, |(_, _, since)| since.elapsed()),
            paused: scene.paused,
            timing: &Timing::default(),
        };
        let decision = next(Rules::SAFE, &view);
        let why = decision.why.to_string();
        match decision.step {
            Step::Wait => {
                // Of a leader that is well nothing is to be said.
                let is_well = matches!(decision.why, Reason::Well(_));
                if why != self.said && !(is_well && self.said.is_empty()) {
                    tracing::info!(database = %self.database, why, "waits");
                    self.said = if is_well { String::new() } else { why };
                }
                Ok(())
            }
            Step::Write(after) => {
                let leader = match decision.why {
                    Reason::Establish => self.established(&scene.leader, &after, &facts),
                    _ => scene.leader.clone(),
                };
                let history = self.history(&scene, &decision.why, &after);
                let leader = Leader { leadership: Some(after), ..leader };
                self.write(&scene, &leader, &why, history).await
            }
        }
    }

    /// The record of a primary whose term is established.
    fn established(&self, before: &Leader, after: &Leadership, facts: &BTreeMap<CellName, Facts>) -> Leader {
        let Some((timeline, identity)) = self.reports.identity(&after.cell) else { return before.clone() };
        let identity: Option<SystemIdentifier> = identity.parse().ok();
        Leader {
            cell: after.cell.clone(),
            term: Timeline::new(timeline),
            system_identifier: before.system_identifier.or(identity),
            lsn: facts.get(&after.cell).map(|facts| facts.position.lsn),
            leadership: None,
        }
    }

    /// Begins quorum commit: under the recorded primary, with the standbys that stream from it and are not far behind, as commits
    /// wait for them from then on.
    async fn take_up(&mut self, scene: &Scene, facts: &BTreeMap<CellName, Facts>) -> Result<(), StoreError> {
        let fresh = |facts: &&Facts| facts.age <= Timing::default().fresh;
        let leader = &scene.leader.cell;
        let Some(primary) = facts.get(leader).filter(fresh).filter(|facts| facts.leads.is_some()) else {
            return Ok(());
        };
        let streams = |facts: &&Facts| {
            let is_near = primary.position.lsn.bytes_ahead_of(facts.position.lsn) <= MAX_LAG;
            facts.follows.as_ref().is_some_and(|(from, _)| from == leader) && facts.leads.is_none() && is_near
        };
        let standbys = facts
            .iter()
            .filter(|(cell, _)| scene.wanted.contains(*cell))
            .filter(|(_, facts)| fresh(facts) && streams(facts));
        let cohort: BTreeMap<_, _> = standbys
            .map(|(cell, facts)| (cell.clone(), facts.copy))
            .chain([(leader.clone(), primary.copy)])
            .collect();
        // All of them at first, if they come soon: a rule of two members is one that the loss of either stops.
        let waited = self.known.is_some_and(|(_, since)| since.elapsed() >= ALL_AT_FIRST);
        if cohort.len() < MIN_MEMBERS || (cohort.len() < scene.wanted.len() && !waited) {
            return Ok(());
        }
        let promised = facts.values().map(|facts| facts.promised).max().unwrap_or(Term::default());
        let before = scene.leader.leadership.as_ref();
        let after = Leadership::take_up(
            before,
            promised,
            leader.clone(),
            cohort,
            primary.position,
            scene.incarnation,
        );
        let record = Leader { leadership: Some(after), ..scene.leader.clone() };
        self.write(scene, &record, "quorum commit begins", None).await
    }

    /// What people read of it, with the step that is about to be written; none when it is no part of a failover.
    fn history(&self, scene: &Scene, why: &Reason, after: &Leadership) -> Option<FailoverHistory> {
        let before = self.admin.view().failovers.get(&self.database).cloned().unwrap_or_default();
        let from = &scene.leader.cell;
        let led = self.reports.led(from);
        let took = || millis(self.known.map_or(Duration::ZERO, |(_, since)| since.elapsed()));
        let begun = |kind| Failover {
            unheard: led.map(|(ago, _)| millis(ago)),
            ..Failover::begun(after.term, kind, from.clone(), why.to_string(), clock::now())
        };
        match why {
            Reason::Recruit(_) => Some(before.with(begun(FailoverKind::Lost))),
            Reason::HandOver(_) => Some(before.with(begun(FailoverKind::Planned))),
            Reason::Appoint { cell, floor } => Some(before.changed(after.term, |it| {
                let behind = led.map(|(_, lsn)| lsn.bytes_ahead_of(floor.lsn));
                it.left_behind = behind.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
                (it.to, it.floor, it.promises) = (Some(cell.clone()), Some(*floor), Some(took()));
            })),
            // The primary came back, under a term of its own.
            Reason::Reappoint { cell, term } => Some(before.changed(scene.term(), |it| {
                (it.term, it.to, it.promises) = (*term, Some(cell.clone()), Some(took()));
            })),
            Reason::Establish => Some(before.changed(after.term, |it| it.promotion = Some(took()))),
            _ => None,
        }
    }

    async fn write(
        &mut self,
        scene: &Scene,
        leader: &Leader,
        why: &str,
        history: Option<FailoverHistory>,
    ) -> Result<(), StoreError> {
        let mut transaction = self.admin.store.transaction();
        if let Some(history) = &history {
            transaction = transaction.put(&Key::Failovers(self.database.clone()), history);
        }
        for (key, revision) in &scene.guards {
            transaction = transaction.expect(key, *revision);
        }
        let key = Key::Leader(self.database.clone());
        let writing = transaction.put(&key, leader).commit();
        let outcome = tokio::time::timeout(CALL, writing)
            .await
            .unwrap_or_else(|_| Err(StoreError::Retryable("no answer in time".to_owned())))?;
        let Some(after) = &leader.leadership else { return Ok(()) };
        match outcome {
            TxnOutcome::Committed(_) => {
                let (term, cell) = (after.term, &after.cell);
                let took = self.known.map_or(Duration::ZERO, |(_, since)| since.elapsed());
                tracing::warn!(database = %self.database, %term, %cell, phase = ?after.phase, since_last = ?took, why, "the leader's record");
                self.said.clear();
                // The next decision is made by what was written.
                let terms = |view: &cellar_topology::View| {
                    view.leaders.get(&self.database).is_some_and(|seen| seen == leader)
                };
                let _ = self.admin.mirror.wait_for(Duration::from_secs(2), terms).await;
            }
            // Another multiadmin did it, or something has changed: it is decided again.
            TxnOutcome::Conflict => {}
        }
        Ok(())
    }
}
