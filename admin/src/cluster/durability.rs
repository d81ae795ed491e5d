//! Turning quorum commit on and off, and moving the primary of a database that has it.

use std::time::Duration;

use cellar_api::v1;
use cellar_model::availability::Facts;
use cellar_model::{
    CellName, Code, Database, DatabaseName, Durability, Key, Leader, Leadership, Lsn, Phase, Pooler,
    Protocol, Refusal, check_in_use,
};
use cellar_topology::{StoreError, TxnOutcome, View};

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::refusal::{self, Setback};

/// The fewest members: with two, the loss of either stops writes.
const MIN_MEMBERS: usize = 3;

/// Conflicts before the caller is asked to come back.
const MAX_ATTEMPTS: u32 = 20;

/// Refuses what would not work, before anything is changed.
fn check(view: &View, database: &Database, durability: Durability) -> Result<(), Refusal> {
    if durability == Durability::Async {
        return Ok(());
    }
    let name = &database.name;
    let members = view.poolers.keys().filter(|(of, _)| of == name).count();
    if members < MIN_MEMBERS {
        let message = format!(
            "database {name} has {members} members, and quorum commit needs {MIN_MEMBERS}: with fewer, the loss of one stops writes"
        );
        return Err(Refusal::new(Code::Unsupported, message)
            .hint("add a cell with `cellar cells add`")
            .about("database", name));
    }
    if database.minimum_protocol < Protocol::QUORUM_COMMIT {
        let message =
            format!("not every multipooler of database {name} is known to be new enough for quorum commit");
        return Err(Refusal::new(Code::Unsupported, message)
            .hint("`cellar status` shows which do not report; update those that are older, and ask again")
            .about("database", name));
    }
    if view.leaders.get(name).is_none_or(|leader| leader.system_identifier.is_none()) {
        return Err(Refusal::new(Code::NoPrimary, format!("no primary of database {name} is recorded"))
            .hint("`cellar status` shows what its cells are doing")
            .about("database", name));
    }
    check_in_use(view.incarnations.get(name), view.leaders.get(name), name)
}

/// How far the one that is to lead may be behind, in bytes: what is written in the moment of the question, and no more.
const MAX_LAG: u64 = 16 << 20;

/// How long a member may take to say how it is.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(2);

impl Admin {
    /// Asks the leader to make room for another member. That it has is seen in the record of the leader.
    pub(crate) async fn switch_primary(
        &self,
        database: Option<&DatabaseName>,
        to: Option<&CellName>,
        deadline: Deadline,
    ) -> Result<v1::DatabaseView, Refusal> {
        self.fresh(deadline).await?;
        let (name, leader, revisions, others) = {
            let view = self.view();
            let database = view.snapshot().database(database)?;
            let name = database.name.clone();
            let incarnation = view.incarnation(&name);
            let leader = view.leaders.get(&name).cloned();
            let governed = leader
                .as_ref()
                .filter(|leader| leader.governed_by(database.durability, incarnation.number).is_some())
                .filter(|_| incarnation.fence.is_none());
            let Some(leader) = governed.cloned() else {
                let message =
                    format!("database {name} has no quorum commit now, so its primary is not moved");
                return Err(Refusal::new(Code::Unsupported, message)
                    .hint("`cellar durability quorum` turns it on; `cellar durability` shows whether it has begun")
                    .about("database", &name));
            };
            if let Some(to) = to {
                view.snapshot().pooler(&name, to)?;
            }
            let cards =
                view.poolers.values().filter(|card| card.database == name && card.cell != leader.cell);
            let others: Vec<Pooler> =
                cards.filter(|card| to.is_none_or(|to| card.cell == *to)).cloned().collect();
            let keys = [Key::Leader(name.clone()), Key::Incarnation(name.clone())];
            let revisions = keys.map(|key| (key.clone(), view.revision(&key)));
            (name, leader, revisions, others)
        };
        if to == Some(&leader.cell) {
            return self.database(Some(&name), deadline).await;
        }
        let Some(record) = leader.leadership.clone() else {
            return Err(refusal::contended("the record of the leader"));
        };
        let not_now = |message: String| {
            Refusal::new(Code::Lagging, message)
                .hint("nothing was changed; `cellar durability` and `cellar status` show how the members are")
                .about("database", &name)
        };
        if record.phase != Phase::Steady || record.handover.is_some() || record.rules.len() != 1 {
            return Err(not_now(
                "the leader or the cohort of the database is changing at this moment".to_owned(),
            ));
        }
        let mut best: Option<(Lsn, CellName)> = None;
        for card in &others {
            if let Some(at) = self.follows(card, &leader.cell, &record).await {
                best = best.max(Some((at, card.cell.clone())));
            }
        }
        let card = self.view().poolers.get(&(name.clone(), leader.cell.clone())).cloned();
        let primary = match card {
            Some(card) => self.member(&card).await,
            None => None,
        };
        let Some(primary) = primary else {
            return Err(not_now(format!(
                "the multipooler of the primary in {} does not answer",
                leader.cell
            )));
        };
        let wanted = to.map_or_else(|| "any standby".to_owned(), ToString::to_string);
        let Some((at, to)) = best else {
            return Err(not_now(format!(
                "{wanted} does not follow the primary as a member whose acknowledgement counts"
            )));
        };
        if primary.position.lsn.bytes_ahead_of(at) > MAX_LAG {
            return Err(not_now(format!(
                "{to} is behind the primary: it has {at} of {}",
                primary.position.lsn
            )));
        }
        let leadership = Leadership { handover: Some(to.clone()), ..record };
        let [(leader_key, leader_revision), (incarnation_key, incarnation_revision)] = &revisions;
        let asked = Leader { leadership: Some(leadership), ..leader };
        let transaction = self
            .store
            .transaction()
            .expect(leader_key, *leader_revision)
            .expect(incarnation_key, *incarnation_revision)
            .put(leader_key, &asked);
        match deadline.call(transaction.commit()).await.map_err(refusal::of_store)? {
            TxnOutcome::Committed(_) => {
                tracing::warn!(database = %name, %to, "the primary is to be moved");
                self.wait_until_seen(deadline, |view| view.revision(leader_key) != *leader_revision).await;
                self.database(Some(&name), deadline).await
            }
            TxnOutcome::Conflict => Err(refusal::contended("the record of the leader")),
        }
    }

    /// What a member says of itself; none when it does not answer.
    pub(super) async fn member(&self, card: &Pooler) -> Option<Facts> {
        let asking = async {
            let mut client = self.pooler_client(card).ok()?;
            let answer = client.get_member_facts(v1::GetMemberFactsRequest {}).await.ok()?;
            cellar_api::facts_of_member(answer.get_ref(), Duration::ZERO).ok()
        };
        tokio::time::timeout(MEMBER_TIMEOUT, asking).await.ok().flatten()
    }

    /// How far a member is that follows the leader and whose acknowledgement counts.
    async fn follows(&self, card: &Pooler, leader: &CellName, record: &Leadership) -> Option<Lsn> {
        let facts = self.member(card).await?;
        let streams =
            facts.follows.as_ref().is_some_and(|(from, term)| from == leader && *term == record.term);
        (streams && record.has(&card.cell, facts.copy)).then_some(facts.position.lsn)
    }

    /// Turns quorum commit on or off. It has begun once the database's record of its leader says so.
    pub(crate) async fn set_durability(
        &self,
        database: Option<&DatabaseName>,
        durability: Durability,
        deadline: Deadline,
    ) -> Result<v1::DatabaseView, Refusal> {
        let mut last = Setback::Overtaken;
        for attempt in 0..MAX_ATTEMPTS {
            self.fresh(deadline).await?;
            let (present, leader, keys, revisions) = {
                let view = self.view();
                let present = view.snapshot().database(database)?.clone();
                check(&view, &present, durability)?;
                let keys = [Key::Database(present.name.clone()), Key::Leader(present.name.clone())];
                let revisions = keys.clone().map(|key| view.revision(&key));
                (present.clone(), view.leaders.get(&present.name).cloned(), keys, revisions)
            };
            let name = present.name.clone();
            if present.durability == durability {
                return self.database(Some(&name), deadline).await;
            }
            let [database_key, leader_key] = &keys;
            let record = Database { durability, ..present };
            let mut transaction = self
                .store
                .transaction()
                .expect(database_key, revisions[0])
                .expect(leader_key, revisions[1])
                .put(database_key, &record);
            // What was acknowledged so far stays so; what comes is acknowledged by the primary alone.
            let ended = leader.and_then(|leader| {
                let leadership = Leadership { ended: true, ..leader.leadership.clone()? };
                Some(Leader { leadership: Some(leadership), ..leader })
            });
            if let Some(ended) = &ended {
                transaction = transaction.put(leader_key, ended);
            }
            match deadline.call(transaction.commit()).await {
                Ok(TxnOutcome::Committed(_)) => {
                    tracing::warn!(database = %name, durability = durability.as_str(), "another durability");
                    self.wait_until_seen(deadline, |view| view.revision(database_key) != revisions[0]).await;
                    return self.database(Some(&name), deadline).await;
                }
                Ok(TxnOutcome::Conflict) => {
                    deadline.pause_after_conflict(attempt + 5).await;
                    last = Setback::of_conflict(self.view().revision(database_key) != revisions[0]);
                }
                Err(StoreError::Retryable(why)) if !deadline.has_passed() => {
                    deadline.pause(attempt).await;
                    last = Setback::Unanswered(why);
                }
                Err(error) => return Err(refusal::of_store(error)),
            }
            if deadline.has_passed() {
                break;
            }
        }
        Err(refusal::given_up("the database's record", &last))
    }
}
