//! The lock without which no process changes a cluster.

use std::path::Path;
use std::time::Duration;

use cellar_model::ClusterLayout;
use cellar_system::{FileLock, LockError};

use crate::cluster::blocking::blocking;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::{check_ours, make_directory};

/// The right to change a cluster, held until dropped or the process ends.
#[derive(Debug)]
pub(crate) struct ClusterLock {
    _lock: FileLock,
}

fn holder_name(holder: Option<u32>) -> String {
    holder.map_or_else(|| "its process is not known".to_owned(), |pid| format!("process {pid}"))
}

impl ClusterLock {
    /// Takes the lock; waits for the process that holds it, at most `timeout`.
    ///
    /// # Errors
    /// [`ProvisionError::Locked`], naming the holder.
    pub(crate) async fn acquire(layout: &ClusterLayout, timeout: Duration, steps: &Steps) -> Result<Self> {
        check_ours(layout.root())?;
        make_directory(&layout.state(), 0o755, None)?;
        let on_wait = |holder| steps.step(&format!("waiting for another cellar ({})", holder_name(holder)));
        match FileLock::acquire(&layout.state().join("lock"), timeout, on_wait).await {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err(LockError::Held { holder, .. }) => {
                Err(ProvisionError::Locked { dir: layout.root().to_owned(), holder: holder_name(holder) })
            }
            Err(LockError::Io { path, source }) => Err(ProvisionError::Io { action: "lock", path, source }),
        }
    }
}

impl Cluster {
    /// The cluster's state as it is on disk now, with the right to change it.
    pub(crate) async fn open_locked(
        dir: &Path,
        timeout: Duration,
        steps: &Steps,
    ) -> Result<(Self, ClusterLock)> {
        // Nothing is written into a directory that is no cluster's.
        Self::open(dir)?;
        let lock = ClusterLock::acquire(&ClusterLayout::new(dir), timeout, steps).await?;
        let dir = dir.to_owned();
        Ok((blocking(move || Self::open(dir)).await?, lock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn second_process_is_refused_naming_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, steps) = (ClusterLayout::new(dir.path()), Steps::new(|_, _| {}));
        let lock = ClusterLock::acquire(&layout, Duration::ZERO, &steps).await.unwrap();
        let error = ClusterLock::acquire(&layout, Duration::ZERO, &steps).await.unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(lock);
        // A program that another test is about to start has the open file until its exec.
        ClusterLock::acquire(&layout, Duration::from_secs(10), &steps).await.unwrap();
    }
}
