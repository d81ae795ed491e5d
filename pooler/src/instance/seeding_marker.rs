//! The marker of a restore into the data directory that was begun and not finished.

use std::path::{Path, PathBuf};

use cellar_postgres::members_own_settings;
use cellar_system::{AtomicFile, sync_directory};
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::data_layout::wal_directory;
use crate::instance::incarnation::{self, Mark};

/// What this member's next data directory takes over from the last one. It is in the marker, because the restore
/// overwrites it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Legacy {
    /// Lines of `postgresql.auto.conf` that concern this member alone.
    #[serde(default)]
    pub(crate) own_settings: Vec<u8>,
    /// Where its WAL is, when that is not in the data directory.
    #[serde(default)]
    pub(crate) wal_directory: Option<PathBuf>,
}

impl Legacy {
    /// What a data directory leaves; nothing when there is none.
    pub(crate) fn of(data: &Path) -> Self {
        Self { own_settings: members_own_settings(data), wal_directory: wal_directory(data) }
    }
}

/// The marker's content.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Seeding {
    /// The incarnation for which the restore was begun.
    mark: Mark,
    /// Whether pgBackRest has succeeded. Before that a data directory that looks whole may be the old one, which
    /// pgBackRest had not begun to overwrite.
    restored: bool,
    /// What the data directory had before the first attempt.
    #[serde(default)]
    legacy: Legacy,
}

fn write(agent: &Agent, seeding: &Seeding) -> std::io::Result<()> {
    let text = serde_json::to_vec(seeding).map_err(std::io::Error::other)?;
    AtomicFile::new(&agent.seeding_marker()).replace(text)
}

/// None when there is no marker, or one that does not say.
///
/// # Errors
/// When it cannot be read.
fn read(agent: &Agent) -> std::io::Result<Option<Seeding>> {
    match std::fs::read(agent.seeding_marker()) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Marks a restore into the data directory as begun, for the current incarnation. Returns what the data directory takes
/// over: `legacy`, or what it had before an earlier attempt that was not finished.
pub(crate) fn begin(agent: &Agent, legacy: Legacy) -> std::io::Result<Legacy> {
    let legacy = read(agent)?.map_or(legacy, |unfinished| unfinished.legacy);
    let mark = Mark::of(&incarnation::record(agent));
    write(agent, &Seeding { mark, restored: false, legacy: legacy.clone() })?;
    Ok(legacy)
}

/// Removes the marker, durably. One that is not there is no error.
pub(crate) fn remove(agent: &Agent) -> std::io::Result<()> {
    let marker = agent.seeding_marker();
    match std::fs::remove_file(&marker) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    marker.parent().map_or(Ok(()), sync_directory)
}

/// Marks that pgBackRest has succeeded.
pub(crate) fn mark_restored(agent: &Agent) -> std::io::Result<()> {
    write(agent, &Seeding { mark: begun_for(agent)?, restored: true, legacy: legacy(agent)? })
}

/// The incarnation for which the restore was begun; the current one when the marker does not say.
pub(crate) fn begun_for(agent: &Agent) -> std::io::Result<Mark> {
    Ok(read(agent)?.map_or_else(|| Mark::of(&incarnation::record(agent)), |seeding| seeding.mark))
}

/// What the data directory takes over from the one before.
pub(crate) fn legacy(agent: &Agent) -> std::io::Result<Legacy> {
    Ok(read(agent)?.map(|seeding| seeding.legacy).unwrap_or_default())
}

/// Whether pgBackRest has succeeded in the restore that was begun.
pub(crate) fn is_restored(agent: &Agent) -> std::io::Result<bool> {
    Ok(read(agent)?.is_some_and(|seeding| seeding.restored))
}

/// Whether there is a marker, so that the data directory may be a part of a backup.
pub(crate) fn exists(agent: &Agent) -> std::io::Result<bool> {
    agent.seeding_marker().try_exists()
}
