//! Why there is no failover now, and what would come of each loss: by the functions that decide when it happens.

use std::collections::BTreeMap;
use std::time::Duration;

use cellar_api::v1;
use cellar_model::availability::{Rules, Timing, View, explain, next};
use cellar_model::{Code, DatabaseName, Pooler, Refusal};
use futures_util::future::join_all;

use crate::admin::Admin;
use crate::cluster::databases::notes_of_slots;
use crate::deadline::Deadline;
use crate::message::message;

impl Admin {
    /// The last changes of a database's primary.
    pub(crate) async fn list_failovers(
        &self,
        database: Option<&DatabaseName>,
        deadline: Deadline,
    ) -> Result<v1::FailoverHistory, Refusal> {
        self.fresh(deadline).await?;
        let view = self.view();
        let name = &view.snapshot().database(database)?.name;
        message(&view.failovers.get(name).cloned().unwrap_or_default())
    }

    /// Asks every member how it is, and decides by that.
    pub(crate) async fn failover_outlook(
        &self,
        database: Option<&DatabaseName>,
        deadline: Deadline,
    ) -> Result<v1::FailoverOutlook, Refusal> {
        self.fresh(deadline).await?;
        let (name, paused, record, cards) = {
            let view = self.view();
            let database = view.snapshot().database(database)?;
            let name = database.name.clone();
            let number = view.incarnation(&name).number;
            let leader = view.leaders.get(&name);
            let record = leader.and_then(|leader| leader.governed_by(database.durability, number)).cloned();
            let cards = view.poolers.values().filter(|card| card.database == name).cloned();
            let cards: Vec<Pooler> = cards.collect();
            (name, database.pause.is_some(), record, cards)
        };
        let Some(record) = record else {
            let message = format!(
                "database {name} has no quorum commit now: whatever is lost, nobody is promoted without a person"
            );
            return Err(Refusal::new(Code::Unsupported, message)
                .hint(
                    "`cellar durability quorum` turns it on; `cellar durability` shows whether it has begun",
                )
                .about("database", &name));
        };
        let asked = cards.iter().map(async |card| (card.cell.clone(), self.member(card).await));
        let answers = join_all(asked).await;
        let silent = answers.iter().filter(|(_, facts)| facts.is_none());
        let silent = silent.map(|(cell, _)| cell.to_string()).collect();
        let facts: BTreeMap<_, _> =
            answers.into_iter().filter_map(|(cell, facts)| Some((cell, facts?))).collect();
        let view = View {
            record: &record,
            facts: &facts,
            wanted: &cards.iter().map(|card| card.cell.clone()).collect(),
            preference: &[],
            // How long the record has stood is known to those who decide; after a failover that did not hold they wait. A planned
            // move is not to be taken for one that took too long.
            unchanged: if record.handover.is_some() { Duration::ZERO } else { Duration::MAX },
            in_phase: Duration::MAX,
            paused,
            timing: &Timing::default(),
        };
        let history = self.view().failovers.get(&name).cloned().unwrap_or_default();
        let losses = explain(Rules::SAFE, &view);
        Ok(v1::FailoverOutlook {
            database: name.to_string(),
            now: next(Rules::SAFE, &view).why.to_string(),
            losses: losses
                .into_iter()
                .map(|(loss, outcome)| v1::LossOutcome {
                    loss: loss.to_string(),
                    outcome: outcome.to_string(),
                })
                .collect(),
            silent,
            typical_milliseconds: history.typical(),
            slot_notes: notes_of_slots(&self.view(), &name),
        })
    }
}
