//! How far this cell's member has the WAL.
//!
//! When the primary is lost, what a standby has received or replayed may be in no archive. A position is needed, not the
//! names of files: PostgreSQL gives old segments the names of future ones.

use std::path::Path;

use cellar_model::{Lsn, Pooler, Role, Timeline};
use cellar_postgres::{DataDirectory, InstanceFacts, Probe, inspect};
use cellar_system::AtomicFile;
use serde::{Deserialize, Serialize};

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::instance::seeding_marker;
use crate::wal_files::timeline_of_wal;

/// The file that says how far the saved WAL goes. It is written last, so WAL without it is not complete.
const NOTE: &str = "held.json";

/// How far a member has the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldWal {
    /// On which timeline.
    pub(crate) timeline: Timeline,
    /// The end of a record that its data files have; the last one, if its server answers.
    pub(crate) replayed: Lsn,
    /// How much it has received, if its server answers. That may end in the middle of a record.
    pub(crate) received: Option<Lsn>,
}

impl HeldWal {
    /// Where the WAL ends that it has.
    pub(crate) fn end(&self) -> Lsn {
        self.received.map_or(self.replayed, |received| received.max(self.replayed))
    }

    /// What is noted beside WAL that was saved in a directory; none when none is.
    pub(crate) fn noted_in(directory: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(directory.join(NOTE)).ok()?).ok()
    }

    /// Notes it beside WAL that was saved in a directory, durably.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub(crate) fn note_in(&self, directory: &Path) -> std::io::Result<()> {
        let text = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        AtomicFile::new(&directory.join(NOTE)).replace(text)
    }
}

/// How far this cell has the WAL: its data, or what was saved of it when a restore began to overwrite that. None when it
/// has neither.
pub(crate) async fn held_wal(agent: &Agent, card: &Pooler) -> Option<HeldWal> {
    let is_overwritten = seeding_marker::exists(agent).unwrap_or(true);
    let own = if is_overwritten { None } else { held_by_data(agent, card).await };
    let saved = HeldWal::noted_in(&agent.layout.received_wal());
    own.into_iter().chain(saved).max_by_key(|held| (held.timeline, held.end()))
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
