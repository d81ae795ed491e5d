//! How far the database's WAL reaches.

use cellar_api::v1;
use cellar_model::{Lsn, Pooler, Role};
use cellar_postgres::Probe;

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::instance::held_wal::held_wal;
use crate::peers;

/// How far the WAL reaches that a restore can replay: to where the recorded primary is, if it answers; else to what
/// this cell has received of it.
pub(crate) struct Written {
    /// The position, if anybody knows one.
    pub(crate) lsn: Option<Lsn>,
    /// Whether the primary itself has said so.
    pub(crate) by_primary: bool,
}

/// Asks the recorded primary, and this cell's own instance.
pub(crate) async fn written(agent: &Agent, card: &Pooler) -> Written {
    let here = Probe::new(agent.endpoint(card), PROBE_TIMEOUT).facts().await.ok();
    let from_primary = async {
        let leader = agent.leader()?;
        if leader.cell == agent.cell {
            let facts = here.as_ref().filter(|facts| facts.role == Role::Primary)?;
            return facts.write_lsn;
        }
        let live = peers::live_status(agent, &agent.card_of(&leader.cell)?).await.ok()?;
        live.write_lsn.filter(|_| live.role == v1::Role::Primary as i32)?.parse().ok()
    };
    match from_primary.await {
        Some(lsn) => Written { lsn: Some(lsn), by_primary: true },
        None => {
            let received = held_wal(agent, card).await;
            // On another timeline a position says nothing of the recorded primary's.
            let recorded = agent.leader().map(|leader| leader.term);
            let received = received.filter(|held| Some(held.timeline) == recorded).map(|held| held.end());
            Written { lsn: received, by_primary: false }
        }
    }
}
