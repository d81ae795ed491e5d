//! Has applications wait, where PgBouncer is in front of them, before the leader stops for a planned move.

use std::rc::Rc;
use std::time::Duration;

use cellar_api::v1::HoldClientsRequest;
use cellar_model::{Pooler, Term};
use futures_util::future::join_all;

use crate::agent::Agent;
use crate::peers;

/// How long a cell may take: it waits some seconds for transactions that go on.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Asks every cell that has a PgBouncer, and this one. Returns when no transaction goes on in any, or they take too long; then
/// these transactions end with the leader.
pub(super) async fn hold_clients(agent: Rc<Agent>, term: Term) {
    let cards: Vec<Pooler> = {
        let view = agent.mirror.view();
        let has_pool = |card: &&Pooler| card.database == agent.database && card.pool_port != 0;
        view.poolers.values().filter(has_pool).cloned().collect()
    };
    join_all(cards.iter().map(|card| async {
        let asking = async {
            match card.cell == agent.cell {
                true => Ok(agent.pooling.hold(term).await),
                false => ask(&agent, card, term).await,
            }
        };
        let why = match tokio::time::timeout(TIMEOUT, asking).await {
            Ok(Ok(true)) => return,
            Ok(Ok(false)) => "transactions go on there".to_owned(),
            Ok(Err(why)) => why,
            Err(_) => "it took too long".to_owned(),
        };
        tracing::warn!(cell = %card.cell, why, "some clients of PgBouncer will see an error");
    }))
    .await;
}

async fn ask(agent: &Agent, card: &Pooler, term: Term) -> Result<bool, String> {
    let mut client = peers::connect(agent, card).await.map_err(|error| error.to_string())?;
    let answer = client.hold_clients(HoldClientsRequest { term: term.get() }).await;
    answer.map(|answer| answer.into_inner().quiet).map_err(|status| status.message().to_owned())
}
