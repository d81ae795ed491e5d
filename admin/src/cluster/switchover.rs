//! Moving the primary of a database with quorum commit, and asking its members how they are.

use std::time::Duration;

use cellar_api::v1;
use cellar_model::availability::{Facts, Timing, successor};
use cellar_model::{CellName, Code, DatabaseName, Key, Leader, Leadership, Pooler, Refusal};
use cellar_topology::TxnOutcome;
use futures_util::future::join_all;

use crate::admin::Admin;
use crate::cluster::databases::keepers;
use crate::deadline::Deadline;
use crate::refusal;

/// How long a member may take to say how it is.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(2);

impl Admin {
    /// Asks the leader to make room for another member. That it has is seen in the record of the leader.
    pub(crate) async fn switch_primary(
        &self,
        database: Option<&DatabaseName>,
        to: Option<&CellName>,
        from: Option<&CellName>,
        deadline: Deadline,
    ) -> Result<v1::DatabaseView, Refusal> {
        self.fresh(deadline).await?;
        let (name, leader, revisions, cards, keepers) = {
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
            let cards = view.poolers.values().filter(|card| card.database == name);
            let cards: Vec<Pooler> = cards.cloned().collect();
            let keys = [Key::Leader(name.clone()), Key::Incarnation(name.clone())];
            let revisions = keys.map(|key| (key.clone(), view.revision(&key)));
            let keepers = keepers(&view, &name);
            (name, leader, revisions, cards, keepers)
        };
        let Some(record) = leader.leadership.clone() else {
            return Err(refusal::contended("the record of the leader"));
        };
        let goes_on = record.handover.as_ref().is_some_and(|going| to.is_none_or(|to| to == going));
        let is_over = from.is_some_and(|from| *from != leader.cell);
        if to == Some(&leader.cell) || goes_on || is_over {
            return self.database(Some(&name), deadline).await;
        }
        let said =
            join_all(cards.iter().map(async |card| Some((&card.cell, self.member(card).await?)))).await;
        let said: Vec<(&CellName, Facts)> = said.into_iter().flatten().collect();
        let fresh = said.iter().filter(|(_, facts)| facts.age <= Timing::default().fresh);
        let facts = fresh.map(|(cell, facts)| (*cell, facts)).collect();
        let to = successor(&record, &facts, to, &keepers).map_err(|why| {
            Refusal::new(Code::Lagging, why.to_string())
                .hint("nothing was changed; `cellar durability` and `cellar status` show how the members are")
                .about("database", &name)
        })?;
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
}
