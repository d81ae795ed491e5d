//! A failover that a person asks for, and what it would lose.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cellar_api::v1;
use cellar_model::availability::{CannotForce, Facts, Forced, Timing, View, forced};
use cellar_model::{
    CellName, Code, DatabaseName, Failover, FailoverKind, Key, Leader, Leadership, Phase, Pooler, Refusal,
};
use cellar_system::clock;
use cellar_topology::TxnOutcome;
use futures_util::future::join_all;

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::refusal;

/// How often a member is asked before it counts as missing.
const ASKED: u32 = 3;

/// The pause in between.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// A request that finds itself done within this is taken for one whose answer was lost.
const REPEATED_WITHIN: Duration = Duration::from_secs(120);

/// What is decided about, as it was read.
struct Scene {
    name: DatabaseName,
    leader: Leader,
    record: Leadership,
    guards: [(Key, i64); 3],
    cards: Vec<Pooler>,
    paused: bool,
}

/// A plan with what it was made from.
struct Planned {
    scene: Scene,
    forced: Forced,
    plan: v1::FailoverPlan,
}

/// Whether a failover to that member goes on already: a request whose answer was lost is repeated.
fn is_begun(record: &Leadership, to: &CellName) -> bool {
    let is_forced = record.begins && record.cell == *to;
    record.phase != Phase::Steady && (is_forced || record.handover.as_ref() == Some(to))
}

/// Whether that was done a moment ago: a request whose answer was lost is repeated.
fn is_done(record: &Leadership, last: Option<&Failover>, to: &CellName, now: jiff::Timestamp) -> bool {
    let is_this = |last: &Failover| {
        let age = now.duration_since(last.begin_time).unsigned_abs();
        last.kind == FailoverKind::Forced && last.to.as_ref() == Some(to) && age < REPEATED_WITHIN
    };
    record.phase == Phase::Steady && record.cell == *to && last.is_some_and(is_this)
}

impl Admin {
    /// What a failover to `to` would do now.
    pub(crate) async fn failover_plan(
        &self,
        database: Option<&DatabaseName>,
        to: &CellName,
        deadline: Deadline,
    ) -> Result<v1::FailoverPlan, Refusal> {
        Ok(self.planned(database, to, deadline).await?.plan)
    }

    /// Begins a failover to `to`, with the loss of what the `accepted` members alone have, if a person accepts that. That it is done is seen in the record of the leader.
    pub(crate) async fn fail_over(
        &self,
        database: Option<&DatabaseName>,
        to: &CellName,
        accepted: Option<&[String]>,
        deadline: Deadline,
    ) -> Result<v1::DatabaseView, Refusal> {
        self.fresh(deadline).await?;
        let present = self.scene(database, to)?;
        let last = self.view().failovers.get(&present.name).and_then(|all| all.failovers.last().cloned());
        if is_begun(&present.record, to) || is_done(&present.record, last.as_ref(), to, clock::now()) {
            return self.database(Some(&present.name), deadline).await;
        }
        let Planned { scene, forced, plan } = self.planned(database, to, deadline).await?;
        let Scene { name, leader, guards, .. } = scene;
        let is_accepted = accepted.is_some_and(|known| plan.missing.iter().all(|cell| known.contains(cell)));
        if forced.may_lose && !is_accepted {
            let message = format!(
                "too few members are left to know everything that was acknowledged: {} would be missing",
                plan.missing.join(", ")
            );
            return Err(Refusal::new(Code::DataLoss, message)
                .hint(format!(
                    "bring one of them back if that is possible; `cellar failover --to {to} --accept-loss` says what would be lost and asks"
                ))
                .about("database", &name));
        }
        let why = if forced.may_lose {
            format!("a person accepted the loss of what only {} have", plan.missing.join(", "))
        } else {
            "a person asked for it".to_owned()
        };
        let (term, from) = (forced.record.term, leader.cell.clone());
        let failover = Failover::begun(term, FailoverKind::Forced, from, why.clone(), clock::now());
        let history = self.view().failovers.get(&name).cloned().unwrap_or_default().with(failover);
        let [(leader_key, leader_revision), _, _] = guards.clone();
        let asked = Leader { leadership: Some(forced.record), ..leader };
        let mut transaction = self.store.transaction();
        for (key, revision) in &guards {
            transaction = transaction.expect(key, *revision);
        }
        let transaction = transaction.put(&leader_key, &asked).put(&Key::Failovers(name.clone()), &history);
        match deadline.call(transaction.commit()).await.map_err(refusal::of_store)? {
            TxnOutcome::Committed(_) => {
                tracing::warn!(database = %name, %to, why, "a failover by command");
                self.wait_until_seen(deadline, |view| view.revision(&leader_key) != leader_revision).await;
                self.database(Some(&name), deadline).await
            }
            TxnOutcome::Conflict => Err(refusal::contended("the record of the leader")),
        }
    }

    async fn planned(
        &self,
        database: Option<&DatabaseName>,
        to: &CellName,
        deadline: Deadline,
    ) -> Result<Planned, Refusal> {
        self.fresh(deadline).await?;
        let scene = self.scene(database, to)?;
        let said = self.asked(&scene.name, &scene.cards).await?;
        let facts: BTreeMap<CellName, Facts> = said
            .iter()
            .filter_map(|(cell, said)| {
                Some((cell.clone(), cellar_api::facts_of_member(said, Duration::ZERO).ok()?))
            })
            .collect();
        let view = View {
            record: &scene.record,
            facts: &facts,
            wanted: &scene.cards.iter().map(|card| card.cell.clone()).collect(),
            preference: &[],
            unchanged: Duration::MAX,
            in_phase: Duration::MAX,
            paused: scene.paused,
            timing: &Timing::default(),
        };
        let forced = forced(&view, to).map_err(|why| refused(&why, &scene.name, to))?;
        let plan = self.plan(&scene, &forced, to, said.get(to));
        Ok(Planned { scene, forced, plan })
    }

    /// What each member says of itself. While one does not answer all are asked again: who is only late is not to count as lost,
    /// and what the others said is to be of now.
    async fn asked(
        &self,
        name: &DatabaseName,
        cards: &[Pooler],
    ) -> Result<BTreeMap<CellName, v1::MemberFacts>, Refusal> {
        let mut heard: BTreeSet<CellName> = BTreeSet::new();
        for round in 1..=ASKED {
            let asked =
                cards.iter().map(async |card| Some((card.cell.clone(), self.member_said(card).await?)));
            let said: BTreeMap<_, _> = join_all(asked).await.into_iter().flatten().collect();
            heard.extend(said.keys().cloned());
            if said.len() == cards.len() || round == ASKED && said.len() == heard.len() {
                return Ok(said);
            }
            if round < ASKED {
                tokio::time::sleep(ASK_INTERVAL).await;
            }
        }
        Err(Refusal::new(Code::Lagging, "a member answers at times only, so nobody can tell what would be lost")
            .hint("nothing was changed; `cellar status` shows how the members are. Ask again when it answers, or end it")
            .about("database", name))
    }

    fn scene(&self, database: Option<&DatabaseName>, to: &CellName) -> Result<Scene, Refusal> {
        let view = self.view();
        let database = view.snapshot().database(database)?;
        let name = database.name.clone();
        let incarnation = view.incarnation(&name);
        let leader = view.leaders.get(&name).cloned();
        let governed = leader.filter(|_| incarnation.fence.is_none()).and_then(|leader| {
            Some((leader.governed_by(database.durability, incarnation.number)?.clone(), leader))
        });
        let Some((record, leader)) = governed else {
            let message =
                format!("database {name} has no quorum commit now, so nobody can tell what is lost");
            return Err(Refusal::new(Code::Unsupported, message)
                .hint("docs/runbooks/lost-cell.md says what to do without it")
                .about("database", &name));
        };
        view.snapshot().pooler(&name, to)?;
        let keys = [Key::Leader(name.clone()), Key::Database(name.clone()), Key::Incarnation(name.clone())];
        let guards = keys.map(|key| (key.clone(), view.revision(&key)));
        let cards = view.poolers.values().filter(|card| card.database == name).cloned().collect();
        Ok(Scene { paused: database.pause.is_some(), name, leader, record, guards, cards })
    }

    fn plan(
        &self,
        scene: &Scene,
        forced: &Forced,
        to: &CellName,
        has: Option<&v1::MemberFacts>,
    ) -> v1::FailoverPlan {
        let names = |cells: &[CellName]| cells.iter().map(ToString::to_string).collect();
        let led = {
            let answers = self.member_reports.of(&scene.name);
            let answers = answers.lock();
            answers.get(&scene.leader.cell).and_then(|said| said.led.clone())
        };
        let behind = led.as_ref().filter(|_| forced.may_lose).map(|(at, led)| v1::FailoverLoss {
            // As of the last sign of life: what it did after it, nobody who is left knows.
            transactions: led
                .next_xid
                .zip(has.and_then(|has| has.next_xid))
                .map(|(led, has)| led.saturating_sub(has)),
            bytes: led
                .position
                .as_ref()
                .and_then(|position| position.lsn.parse::<cellar_model::Lsn>().ok())
                .map(|lsn| lsn.bytes_ahead_of(forced.position.lsn)),
            heard_seconds_ago: at.elapsed().as_secs(),
        });
        v1::FailoverPlan {
            database: scene.name.to_string(),
            from: scene.leader.cell.to_string(),
            to: to.to_string(),
            takes_part: names(&forced.takes_part),
            missing: names(&forced.missing),
            may_lose: forced.may_lose,
            loss: behind,
            last_commit: has.and_then(|has| has.last_commit),
            position: forced.position.to_string(),
        }
    }
}

fn refused(why: &CannotForce, database: &DatabaseName, to: &CellName) -> Refusal {
    let message = format!("no failover to {to}: {why}");
    let (code, hint) = match why {
        CannotForce::LeaderLeads => {
            (Code::InUse, format!("`cellar switchover --to {to}` moves a primary that is well"))
        }
        CannotForce::IsLeader => (
            Code::IsPrimary,
            "if it waits for standbys that are lost for good, `cellar durability async` lets it go on alone"
                .to_owned(),
        ),
        CannotForce::Missing => (Code::CellDown, "`cellar explain` shows which members report".to_owned()),
        CannotForce::Stranger => {
            (Code::Lagging, "name another member; `cellar durability` shows the cohort".to_owned())
        }
        CannotForce::Behind { best } => (Code::Lagging, format!("`cellar failover --to {best}`")),
    };
    Refusal::new(code, message).hint(hint).about("database", database)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failover_that_was_done_a_moment_ago_is_not_refused() {
        let [zone1, zone3]: [CellName; 2] = ["zone1", "zone3"].map(|cell| cell.parse().unwrap());
        let record = Leadership::begin(zone3.clone(), BTreeMap::new());
        let begun = clock::now();
        let last = |kind, to: &CellName| {
            let failover = Failover::begun(record.term, kind, zone1.clone(), String::new(), begun);
            Failover { to: Some(to.clone()), ..failover }
        };
        let forced = last(FailoverKind::Forced, &zone3);
        let is_done = |last: &Failover, seconds| {
            is_done(&record, Some(last), &zone3, begun + jiff::SignedDuration::from_secs(seconds))
        };
        assert!(is_done(&forced, 20));
        assert!(!is_done(&forced, 200), "who asks now wants something else");
        assert!(!is_done(&last(FailoverKind::Lost, &zone3), 20), "nobody had asked for it");
        assert!(!is_done(&last(FailoverKind::Forced, &zone1), 20));
    }
}
