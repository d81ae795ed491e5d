//! The marker of a restore into the data directory that was begun and not finished.

use std::path::{Path, PathBuf};

use cellar_postgres::{members_own_settings, settings_of_now};
use cellar_system::{AtomicFile, sync_directory};
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::data_layout::wal_directory;
use crate::instance::incarnation::{self, Mark};

/// What this member's next data directory takes over from the last one. It is in the marker, because the restore
/// overwrites it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Legacy {
    /// Lines of settings that concern this member alone.
    #[serde(default)]
    pub(crate) own_settings: Vec<u8>,
    /// All that `ALTER SYSTEM` had set; none when there was no such file.
    #[serde(default)]
    pub(crate) settings: Option<Vec<u8>>,
    /// Where its WAL is, when that is not in the data directory.
    #[serde(default)]
    pub(crate) wal_directory: Option<PathBuf>,
}

impl Legacy {
    /// What a data directory leaves; nothing when there is none.
    pub(crate) fn of(data: &Path) -> Self {
        Self {
            own_settings: members_own_settings(data),
            settings: settings_of_now(data),
            wal_directory: wal_directory(data),
        }
    }

    /// What a data directory leaves, or, where there is none any more, the data that was moved from there and is `kept`.
    fn of_either(data: &Path, kept: Option<&Path>) -> Self {
        let is_empty = std::fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_none());
        match kept {
            // Its WAL stays its own.
            Some(kept) if is_empty || !data.exists() => Self { wal_directory: None, ..Self::of(kept) },
            _ => Self::of(data),
        }
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
    AtomicFile::new(&agent.layout.seeding_marker()).replace(text)
}

/// None when there is no marker, or one that does not say.
///
/// # Errors
/// When it cannot be read.
fn read(agent: &Agent) -> std::io::Result<Option<Seeding>> {
    match std::fs::read(agent.layout.seeding_marker()) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Marks a restore into the data directory as begun, for the current incarnation. Returns what the data directory takes
/// over: `legacy`, or what it had before an earlier attempt that was not finished.
pub(crate) fn begin(agent: &Agent, legacy: Legacy) -> std::io::Result<Legacy> {
    agent.availability.kept.begin_copy()?;
    let legacy = read(agent)?.map_or(legacy, |unfinished| unfinished.legacy);
    let mark = Mark::of(&incarnation::record(agent));
    write(agent, &Seeding { mark, restored: false, legacy: legacy.clone() })?;
    Ok(legacy)
}

/// Removes the marker, durably. One that is not there is no error.
pub(crate) fn remove(agent: &Agent) -> std::io::Result<()> {
    let marker = agent.layout.seeding_marker();
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

/// What this cell's next data directory takes over: what an attempt before has noted, or else what the cell's data has. That
/// may be kept for a rollback already, by an attempt that got no further.
///
/// # Errors
/// When the marker cannot be read.
pub(crate) fn inheritance(agent: &Agent) -> std::io::Result<Legacy> {
    if let Some(unfinished) = read(agent)? {
        return Ok(unfinished.legacy);
    }
    let kept = incarnation::record(agent).job.map(|job| agent.layout.kept(job)).filter(|kept| kept.exists());
    Ok(Legacy::of_either(&agent.layout.data(), kept.as_deref()))
}

/// Whether pgBackRest has succeeded in the restore that was begun.
pub(crate) fn is_restored(agent: &Agent) -> std::io::Result<bool> {
    Ok(read(agent)?.is_some_and(|seeding| seeding.restored))
}

/// Whether there is a marker, so that the data directory may be a part of a backup.
pub(crate) fn exists(agent: &Agent) -> std::io::Result<bool> {
    agent.layout.seeding_marker().try_exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_data_that_was_set_aside_are_not_lost() {
        let cell = tempfile::tempdir().unwrap();
        let (data, kept) = (cell.path().join("pg_data"), cell.path().join("pg_data.before-x"));
        let settings = |data: &Path, text: &str| {
            std::fs::create_dir_all(data).unwrap();
            std::fs::write(data.join("postgresql.auto.conf"), text).unwrap();
        };
        let delay =
            |kept: Option<&Path>| String::from_utf8(Legacy::of_either(&data, kept).own_settings).unwrap();
        settings(&kept, "recovery_min_apply_delay = '1h'\n");
        std::os::unix::fs::symlink("/wal", kept.join("pg_wal")).unwrap();
        assert_eq!(delay(None), "", "there is no data");
        assert!(delay(Some(&kept)).contains("1h"));
        assert_eq!(Legacy::of_either(&data, Some(&kept)).wal_directory, None);
        std::fs::create_dir(&data).unwrap();
        assert!(delay(Some(&kept)).contains("1h"), "a mount point that was emptied");
        settings(&data, "recovery_min_apply_delay = '2h'\n");
        assert!(delay(Some(&kept)).contains("2h"));
    }
}
