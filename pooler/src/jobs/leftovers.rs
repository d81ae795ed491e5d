//! Removing what jobs left on disk when their process was killed, or when their restore took no effect.

use cellar_model::{CellLayout, Incarnation, JobId, Key};

use crate::agent::Agent;
use crate::instance::incarnation::{Kind, siblings};
use crate::jobs::restore::scratch::{remove_directory, stop_and_remove_scratch};

/// Removes everything that jobs of an earlier process left: drills, private directories, and copies.
///
/// Called before any job of this process runs.
pub(crate) async fn remove_all(agent: &Agent) {
    remove_drills(agent).await;
    remove_directory(&agent.layout.temporary()).await;
    remove_copies(agent).await;
}

/// Removes the copies of restores that ended without effect.
pub(crate) async fn remove_copies(agent: &Agent) {
    let ended: Vec<_> = match siblings(&agent.layout) {
        Ok(siblings) => siblings
            .into_iter()
            .filter(|(_, kind, job)| *kind == Kind::Restored && agent.mirror.view().has_ended(job))
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "the cell's directory cannot be read");
            return;
        }
    };
    if ended.is_empty() {
        return;
    }
    // Asked after the jobs were looked at, and of etcd itself: the mirror may know of a job's end before it knows of
    // what the job has made. Whoever takes a copy fences the database first, so there is a record.
    let read = agent.store.get::<Incarnation>(&Key::Incarnation(agent.database.clone())).await;
    let incarnation = match read {
        Ok(Some(found)) => found.record,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(%error, "it is not known which copy is the database, so none is removed");
            return;
        }
    };
    for (path, _, job) in ended {
        // The copy that is, or is about to become, the database stays.
        if incarnation.job != Some(job) && incarnation.fence != Some(job) {
            tracing::info!(path = %path.display(), "removing the copy of a restore that took no effect");
            stop_and_remove_scratch(&path, &path.join("scratch")).await;
            remove_directory(&path).await;
        }
    }
}

/// Removes the copies that drills restored, and stops their instances.
async fn remove_drills(agent: &Agent) {
    let Ok(entries) = std::fs::read_dir(agent.layout.drills()) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        // What somebody else has put there is left alone.
        let Some(job) = path.file_name().and_then(|name| name.to_str()?.parse::<JobId>().ok()) else {
            continue;
        };
        tracing::info!(path = %path.display(), "removing what is left of a drill");
        stop_and_remove_scratch(&CellLayout::drill_data(&path), &agent.layout.scratch(job)).await;
        remove_directory(&path).await;
    }
}
