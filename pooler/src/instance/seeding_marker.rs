//! The marker of a restore into the data directory that was begun and not finished.

use cellar_system::AtomicFile;
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::instance::incarnation::{self, Mark};

/// The marker's content.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Seeding {
    /// The incarnation for which the restore was begun.
    mark: Mark,
    /// Whether pgBackRest has succeeded. Before that a data directory that looks whole may be the old one, which
    /// pgBackRest had not begun to overwrite.
    restored: bool,
}

fn write(agent: &Agent, seeding: Seeding) -> std::io::Result<()> {
    let text = serde_json::to_vec(&seeding).map_err(std::io::Error::other)?;
    AtomicFile::new(&agent.seeding_marker()).replace(text)
}

fn read(agent: &Agent) -> Option<Seeding> {
    serde_json::from_slice(&std::fs::read(agent.seeding_marker()).ok()?).ok()
}

/// Marks a restore into the data directory as begun, for the current incarnation.
pub(crate) fn begin(agent: &Agent) -> std::io::Result<()> {
    write(agent, Seeding { mark: Mark::of(&incarnation::record(agent)), restored: false })
}

/// Marks that pgBackRest has succeeded.
pub(crate) fn mark_restored(agent: &Agent) -> std::io::Result<()> {
    write(agent, Seeding { mark: begun_for(agent), restored: true })
}

/// The incarnation for which the restore was begun; the current one when the marker does not say.
pub(crate) fn begun_for(agent: &Agent) -> Mark {
    read(agent).map_or_else(|| Mark::of(&incarnation::record(agent)), |seeding| seeding.mark)
}

/// Whether pgBackRest has succeeded in the restore that was begun.
pub(crate) fn is_restored(agent: &Agent) -> bool {
    read(agent).is_some_and(|seeding| seeding.restored)
}
