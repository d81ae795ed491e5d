//! Moving data directories within the cell: old data is kept for a rollback, reinstated, or moved aside.
//!
//! Every move is a rename, so that a kill at any moment leaves each directory at its old or its new place.

use std::path::{Path, PathBuf};

use cellar_model::{JobId, Leader};
use cellar_postgres::{DataDirectory, PostgresError, StopTimeouts, inspect, stop};
use cellar_system::rename;

use crate::agent::Agent;
use crate::instance::incarnation::{self, Mark};
use crate::instance::seeding_marker;

/// Moves the data directory to where a rollback of `restore` finds it.
///
/// Nothing is moved when an earlier attempt has kept data for this restore already: that data is the older.
pub(crate) fn keep_old_data(agent: &Agent, data: &Path, restore: JobId) -> std::io::Result<()> {
    let kept = agent.layout.kept(restore);
    if data.exists() && !kept.exists() {
        tracing::info!(from = %data.display(), to = %kept.display(), "keeping the old data");
        rename(data, &kept)?;
    }
    Ok(())
}

/// Moves the data that was kept for `restore` back to its place, and keeps what is there for `rollback`. False when
/// no data was kept that can run as a standby.
///
/// # Errors
/// When the kept data cannot be inspected or moved.
pub(crate) async fn reinstate_kept_data(
    agent: &Agent,
    data: &Path,
    restore: JobId,
    rollback: JobId,
) -> Result<bool, PostgresError> {
    let kept = agent.layout.kept(restore);
    let DataDirectory::Valid { recovers: true, .. } = inspect(&agent.tools, &kept).await? else {
        return Ok(false);
    };
    let failed = |source| PostgresError::Io { action: "reinstate", path: kept.clone(), source };
    Mark::of(&incarnation::record(agent)).write(&kept).map_err(failed)?;
    agent.availability.kept.begin_copy().map_err(failed)?;
    // Deleted at the end of the rollback.
    keep_old_data(agent, data, rollback).map_err(failed)?;
    rename(&kept, data).map_err(failed)?;
    Ok(true)
}

/// What the data directory of a standby holds, for a restore into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occupant {
    /// Nothing.
    Nobody,
    /// Files of this database, which a delta restore can complete.
    ThisDatabase,
    /// Files of something else, which are moved aside.
    SomethingElse,
}

/// What the data directory holds.
///
/// # Errors
/// When it cannot be inspected.
pub(crate) async fn occupant(agent: &Agent, data: &Path, leader: &Leader) -> Result<Occupant, PostgresError> {
    let ours = match inspect(&agent.tools, data).await? {
        DataDirectory::Missing | DataDirectory::Empty => return Ok(Occupant::Nobody),
        DataDirectory::Valid { control, .. } => leader.system_identifier == Some(control.system_identifier),
        DataDirectory::Partial { .. } => seeding_marker::exists(agent).map_err(|source| {
            PostgresError::Io { action: "look for", path: agent.layout.seeding_marker(), source }
        })?,
        DataDirectory::OtherVersion { .. } | DataDirectory::Foreign { .. } => false,
    };
    Ok(if ours { Occupant::ThisDatabase } else { Occupant::SomethingElse })
}

/// Moves aside what is not this database's.
///
/// # Errors
/// When it cannot be moved.
pub(crate) fn move_aside(data: &Path) -> Result<(), PostgresError> {
    let aside = aside_path(data);
    tracing::warn!(from = %data.display(), to = %aside.display(), "moving files aside that are not this database's");
    rename(data, &aside).map_err(|source| PostgresError::Io {
        action: "move aside",
        path: data.to_owned(),
        source,
    })
}

/// Puts the copy of the current incarnation in the place of the old data, which is kept. It may be killed at any
/// point and repeated.
pub(crate) async fn install_successor(agent: &Agent, successor: &Path, data: &Path) -> std::io::Result<()> {
    agent.availability.kept.begin_copy()?;
    stop(successor, &StopTimeouts::immediate()).await.map_err(std::io::Error::other)?;
    if let Some(job) = incarnation::record(agent).job {
        keep_old_data(agent, data, job)?;
    }
    if data.exists() {
        // The old data is kept already, so this directory was made by something else.
        let aside = aside_path(data);
        tracing::warn!(to = %aside.display(), "moving a directory aside that is in the place of the restored data");
        rename(data, &aside)?;
    }
    rename(successor, data)?;
    tracing::info!(from = %successor.display(), "the restored data is in its place");
    seeding_marker::remove(agent)
}

fn aside_path(data: &Path) -> PathBuf {
    data.with_extension(format!("aside-{}", cellar_system::clock::now().as_second()))
}
