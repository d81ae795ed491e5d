//! Removing the logs of jobs that are no longer in the topology.

use std::time::Duration;

use cellar_model::JobId;

use crate::agent::Agent;

/// How long a log is kept after it was last written, once its job is no longer in the topology.
const LOG_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// Removes the logs whose retention has ended.
pub(crate) fn remove(agent: &Agent) {
    let Ok(entries) = std::fs::read_dir(agent.layout.jobs()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.split('.').next()?.parse::<JobId>().ok());
        let forgotten = id.is_some_and(|id| !agent.mirror.view().knows(&id));
        let age =
            entry.metadata().and_then(|found| found.modified()).ok().and_then(|time| time.elapsed().ok());
        if forgotten && age.is_some_and(|age| age > LOG_RETENTION) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
