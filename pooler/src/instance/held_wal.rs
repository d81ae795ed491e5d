//! How far this cell's member has the WAL.
//!
//! When the primary is lost, what a standby has received or replayed may be in no archive. A position is needed, not the
//! names of files: PostgreSQL gives old segments the names of future ones.

use std::path::Path;

use cellar_model::{Pooler, Role};
use cellar_postgres::{DataDirectory, InstanceFacts, Probe, inspect};

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::instance::received_wal::{HeldWal, noted};
use crate::instance::seeding_marker;
use crate::wal_timeline::timeline_of_wal;

/// How far this cell has the WAL: its data, or what was saved of it when a restore began to overwrite that. None when it
/// has neither.
pub(crate) async fn held_wal(agent: &Agent, card: &Pooler) -> Option<HeldWal> {
    let is_overwritten = seeding_marker::exists(agent).unwrap_or(true);
    let own = if is_overwritten { None } else { held_by_data(agent, card).await };
    own.into_iter().chain(noted(agent)).max_by_key(|held| (held.timeline, held.end()))
}

async fn held_by_data(agent: &Agent, card: &Pooler) -> Option<HeldWal> {
    let data = Path::new(&card.data_directory);
    let Ok(DataDirectory::Valid { control, .. }) = inspect(&agent.tools, data).await else { return None };
    let facts = Probe::new(agent.endpoint(card), PROBE_TIMEOUT).facts().await.ok();
    let facts = facts.filter(|facts| facts.role == Role::Standby);
    let known = facts.as_ref().map_or(control.timeline, |facts| facts.timeline.max(control.timeline));
    let replayed = facts.as_ref().and_then(|facts| facts.replay_lsn);
    Some(HeldWal {
        timeline: timeline_of_wal(&data.join("pg_wal"), known, control.redo),
        replayed: replayed.unwrap_or_else(|| control.min_recovery.max(control.checkpoint)),
        received: facts.as_ref().and_then(InstanceFacts::held_lsn),
    })
}
