//! `cellar cluster wait`: from the operator's machine, until every cell streams and the repository holds a full backup.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::local_cluster::Cluster;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::local::launch::Launched;
use crate::local::up::UpOutcome;

/// Waits until the cluster is well; writes the first records of a new one. Repeating it is safe at any time.
///
/// # Errors
/// When it is not well by the deadline: everything goes on, and so does the next wait.
pub async fn wait_for_hosts(dir: &Path, timeout: Duration, steps: &Steps) -> Result<UpOutcome> {
    let deadline = Instant::now() + timeout;
    let (mut cluster, _lock) = Cluster::open_locked(dir, timeout, steps).await?;
    if cluster.is_local() {
        return Err(ProvisionError::Argument {
            argument: "--dir",
            value: dir.display().to_string(),
            reason: "the cluster there is on this machine: `cellar up` waits for it".to_owned(),
        });
    }
    let primary = cluster.converge(&mut Launched::default(), steps, deadline).await?;
    Ok(UpOutcome { cluster, primary })
}
