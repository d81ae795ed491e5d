//! Removing what jobs left on disk when their process was killed, or when their restore took no effect.

use cellar_model::JobId;

use crate::agent::Agent;
use crate::instance::incarnation::{self, Kind, siblings};
use crate::jobs::restore::scratch::{remove_directory, stop_and_remove_scratch};

/// Removes everything that jobs of an earlier process left: drills, private directories, and copies.
///
/// Called before any job of this process runs.
pub(crate) async fn remove_all(agent: &Agent) {
    remove_drills(agent).await;
    remove_directory(&agent.layout.root().join("tmp")).await;
    remove_copies(agent).await;
}

/// Removes the copies of restores that ended without effect.
pub(crate) async fn remove_copies(agent: &Agent) {
    let incarnation = incarnation::record(agent);
    for (path, kind, job) in siblings(&agent.layout) {
        // The copy that is, or is about to become, the database stays. So does the copy of a restore that still runs.
        let needed = incarnation.job == Some(job) || incarnation.fence == Some(job);
        if kind == Kind::Restored && !needed && agent.mirror.view().has_ended(&job) {
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
        tracing::info!(path = %path.display(), "removing what is left of a drill");
        let job = path.file_name().and_then(|name| name.to_str()?.parse::<JobId>().ok());
        let scratch = job.map_or_else(|| path.join("scratch"), |job| agent.layout.scratch(job));
        stop_and_remove_scratch(&path.join("data"), &scratch).await;
        remove_directory(&path).await;
    }
}
