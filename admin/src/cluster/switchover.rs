//! Moving the primary of a database with quorum commit, and asking its members how they are.

use std::time::Duration;

use cellar_api::v1;
use cellar_model::availability::{Facts, promises_needed};
use cellar_model::{CellName, Code, DatabaseName, Key, Leader, Leadership, Lsn, Phase, Pooler, Refusal};
use cellar_topology::TxnOutcome;
use futures_util::future::join_all;

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::refusal;

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
            let others: Vec<Pooler> = cards.cloned().collect();
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
        let asked = others
            .iter()
            .map(async |card| (self.follows(card, &leader.cell, &record).await, card.cell.clone()));
        let follow: Vec<(Lsn, CellName)> =
            join_all(asked).await.into_iter().filter_map(|(at, cell)| Some((at?, cell))).collect();
        // The primary, once it has stopped, promises nothing.
        let needed = record.rules.iter().map(promises_needed).max().unwrap_or(0);
        if follow.len() < needed {
            let names: Vec<String> = follow.iter().map(|(_, cell)| cell.to_string()).collect();
            let who = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
            return Err(not_now(format!(
                "{needed} standbys must follow the primary, so that one of them can be elected, and {who} does"
            )));
        }
        let best = follow.into_iter().filter(|(_, cell)| to.is_none_or(|to| cell == to)).max();
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
        cellar_api::facts_of_member(&self.member_said(card).await?, Duration::ZERO).ok()
    }

    /// The same as it said it.
    pub(super) async fn member_said(&self, card: &Pooler) -> Option<v1::MemberFacts> {
        let asking = async {
            let mut client = self.pooler_client(card).ok()?;
            Some(client.get_member_facts(v1::GetMemberFactsRequest {}).await.ok()?.into_inner())
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
}
