//! `cellar down`: ends every process of a cluster, in the order in which they need each other.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{CellName, ClusterLayout};
use cellar_postgres::{PostmasterState, StopTimeouts, Stopped};
use cellar_system::{OpenDirectory, is_same_place};
use tokio::task::JoinSet;

use crate::cluster::blocking::blocking;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::ClusterState;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::processes::process::{daemon_of, end};

/// How long a pooler may take to end: it ends a running job cleanly, and pgBackRest needs some seconds for that.
const POOLER_STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// How long multiadmin may take.
const ADMIN_STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// How long another `cellar` on the same cluster is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// What `down` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownOutcome {
    /// There was no cluster.
    Nothing,
    /// Everything has ended; the data is kept.
    Stopped,
    /// Everything has ended and the directory is gone, except for what is listed.
    Destroyed {
        /// What does not belong to the cluster alone.
        kept: Vec<PathBuf>,
    },
}

/// What the tasks gave, once all have ended; the first failure if there was one.
async fn all<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let (mut done, mut failure) = (Vec::new(), None);
    while let Some(task) = tasks.join_next().await {
        let failed = |error: tokio::task::JoinError| ProvisionError::Start {
            what: "a task".to_owned(),
            source: error.into(),
        };
        match task.map_err(failed).and_then(|result| result) {
            Ok(value) => done.push(value),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(done), Err)
}

/// Stops the PostgreSQL in a data directory; tells whether it ran.
async fn stop_postgres(cell: CellName, data: PathBuf) -> Result<bool> {
    let stopped = cellar_postgres::stop(&data, &StopTimeouts::default())
        .await
        .map_err(|source| ProvisionError::Postgres { cell: cell.to_string(), source })?;
    Ok(stopped != Stopped::NotRunning)
}

impl Cluster {
    async fn stop_pooler(&self, cell: &CellName) -> Result<bool> {
        let pid_file = self.pooler_pid_file(cell);
        end(&format!("multipooler of cell {cell}"), daemon_of(&pid_file), POOLER_STOP_TIMEOUT).await
    }

    /// Ends the pooler and PostgreSQL of one cell.
    pub(crate) async fn stop_cell(&self, cell: &CellName, steps: &Steps) -> Result<()> {
        if self.stop_pooler(cell).await? {
            steps.step(&format!("multipooler of cell {cell} has ended"));
        }
        if stop_postgres(cell.clone(), self.layout.cell(cell).data()).await? {
            steps.step(&format!("PostgreSQL of cell {cell} has stopped"));
        }
        Ok(())
    }

    /// Ends everything: poolers first, since one of them would start its PostgreSQL again; the primary
    /// before its standbys, so that they receive its last WAL; etcd last.
    async fn stop_all(&self, steps: &Steps) -> Result<()> {
        let cells = self.cells_on_disk();
        let mut poolers = JoinSet::new();
        for cell in &cells {
            let (this, cell) = (self.clone(), cell.clone());
            poolers.spawn(async move { this.stop_pooler(&cell).await });
        }
        let ended = all(poolers).await?.into_iter().filter(|ended| *ended).count();
        steps.step(&format!("{ended} poolers have ended"));

        let is_primary = |cell: &CellName| {
            let running = cellar_postgres::running(&self.layout.cell(cell).data());
            matches!(running, Ok(Some(postmaster)) if postmaster.state == PostmasterState::Ready)
        };
        let (primaries, standbys): (Vec<_>, Vec<_>) = cells.into_iter().partition(is_primary);
        let mut stopped = 0;
        for group in [primaries, standbys] {
            let mut instances = JoinSet::new();
            for cell in group {
                let data = self.layout.cell(&cell).data();
                instances.spawn(stop_postgres(cell, data));
            }
            stopped += all(instances).await?.into_iter().filter(|stopped| *stopped).count();
        }
        steps.step(&format!("PostgreSQL has stopped in {stopped} cells"));

        let pid_file = self.admin_pid_file();
        if end("multiadmin", daemon_of(&pid_file), ADMIN_STOP_TIMEOUT).await? {
            steps.step("multiadmin has ended");
        }
        if self.stop_etcd().await? {
            steps.step("etcd has ended");
        }
        Ok(())
    }

    /// The cells that have a directory here: those that are remembered, and those that were removed and kept.
    pub(crate) fn cells_on_disk(&self) -> Vec<CellName> {
        let entries = fs::read_dir(self.layout.root()).into_iter().flatten().flatten();
        let mut cells: Vec<CellName> = entries
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|cell| {
                self.state.cell(cell).is_some() || self.layout.cell(cell).tls().join("server.key").exists()
            })
            .collect();
        cells.sort();
        cells
    }

    /// Removes what the cluster made. What it remembers goes last, so that a run that was killed in
    /// between can be repeated.
    fn destroy(&self) -> Result<Vec<PathBuf>> {
        let layout = &self.layout;
        let mut kept = Vec::new();
        let mut gone: Vec<PathBuf> =
            self.cells_on_disk().iter().map(|cell| layout.cell(cell).root().to_owned()).collect();
        match self.state.repo.local_directory() {
            Some(repo) if is_same_place(repo, &layout.repo()) => gone.push(layout.repo()),
            _ => kept.push(PathBuf::from(self.state.repo.location())),
        }
        gone.extend([
            layout.ca(),
            layout.client(),
            layout.etcd(),
            layout.log(),
            layout.multiadmin(),
            layout.pid(),
            self.signing(),
        ]);
        for directory in gone {
            kept.extend(remove_tree(&directory)?);
        }
        let copy = ClusterState::copy_path(layout);
        match fs::remove_file(&copy) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(ProvisionError::io("remove", &copy)(error));
            }
            _ => {}
        }
        remove_all_but(&layout.state(), "cluster.json")?;
        kept.extend(remove_tree(&layout.state())?);
        // The directory itself, if the path to it ends in a symbolic link.
        let root = fs::canonicalize(layout.root()).unwrap_or_else(|_| layout.root().to_owned());
        match fs::remove_dir(&root) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // It holds files that are not the cluster's, or is a mount point.
            Err(_) => kept.push(root),
        }
        Ok(kept)
    }
}

/// Removes a directory with everything in it; one that is not there is fine. If it is a link to another disk, as it is
/// to be for a cell that has one, the directory there goes with it. A mount point is emptied and returned.
///
/// # Errors
/// When something in it cannot be removed, or the link could have been made by another user.
pub(crate) fn remove_tree(directory: &Path) -> Result<Option<PathBuf>> {
    let failed = |error| ProvisionError::io("remove", directory)(error);
    match fs::symlink_metadata(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.is_symlink() => return remove_directory(directory),
        Ok(_) => {}
    }
    let kept = match OpenDirectory::open(directory) {
        Ok(_) => remove_directory(&fs::canonicalize(directory).map_err(failed)?)?,
        // It leads nowhere.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    fs::remove_file(directory).map_err(failed)?;
    Ok(kept)
}

fn remove_directory(directory: &Path) -> Result<Option<PathBuf>> {
    let is_empty = || fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    match fs::remove_dir_all(directory) {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy && is_empty() => {
            Ok(Some(directory.to_owned()))
        }
        Err(error) => Err(ProvisionError::io("remove", directory)(error)),
    }
}

/// Removes what is in a directory, but for one entry: that by which a run that was interrupted is continued.
///
/// # Errors
/// As [`remove_tree`].
pub(crate) fn remove_all_but(directory: &Path, kept: &str) -> Result<()> {
    // As for the whole directory: a link is followed only if no other user could have made it.
    let open = match OpenDirectory::open(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        open => open.map_err(ProvisionError::io("open", directory))?,
    };
    for entry in fs::read_dir(open.path()).map_err(ProvisionError::io("read", directory))? {
        let entry = entry.map_err(ProvisionError::io("read", directory))?;
        if entry.file_name() == kept {
            continue;
        }
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = match is_directory {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
        removed.map_err(ProvisionError::io("remove", &entry.path()))?;
    }
    Ok(())
}

/// Ends every process of the cluster in `dir`, and with `destroy` removes everything it made.
///
/// # Errors
/// When a process does not end or a file cannot be removed.
pub async fn down(dir: &Path, destroy: bool, steps: &Steps) -> Result<DownOutcome> {
    if ClusterState::load(&ClusterLayout::new(dir))?.is_none() {
        return Ok(DownOutcome::Nothing);
    }
    let (cluster, lock) = Cluster::open_locked(dir, LOCK_TIMEOUT, steps).await?;
    cluster.stop_all(steps).await?;
    if !destroy {
        return Ok(DownOutcome::Stopped);
    }
    let kept = blocking(move || cluster.destroy()).await?;
    drop(lock);
    Ok(DownOutcome::Destroyed { kept })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::make_directory;

    fn cluster(dir: &Path, repo: &Path) -> Cluster {
        let user = cellar_system::OsUser::resolve(None).unwrap().name;
        let cells = vec!["zone1".parse().unwrap()];
        let (name, database, stanza) = ("demo", "app", "app");
        let state = ClusterState::new(
            name.parse().unwrap(),
            0,
            database.parse().unwrap(),
            stanza.parse().unwrap(),
            repo.to_str().unwrap().parse().unwrap(),
            user,
            cells,
        );
        Cluster::assemble(ClusterLayout::new(dir), state.unwrap()).unwrap()
    }

    #[test]
    fn destroy_leaves_nothing_of_the_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let made = cluster(&real, &real.join("repo"));
        made.make_shared_directories().unwrap();
        make_directory(&made.signing(), 0o700, None).unwrap();
        fs::write(made.signing().join("ca.key"), "secret").unwrap();
        // The same cluster, reached by another path than the one that it was made with.
        let cluster = cluster(&link, made.state.repo.local_directory().unwrap());
        let kept = cluster.destroy().unwrap();
        assert_eq!((real.exists(), kept), (false, Vec::new()));
    }

    #[test]
    fn cell_on_another_disk_is_removed_there() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, link, nowhere) =
            (dir.path().join("disk"), dir.path().join("cell"), dir.path().join("none"));
        fs::create_dir_all(disk.join("pg_data/base")).unwrap();
        fs::create_dir_all(disk.join("tls")).unwrap();
        fs::write(disk.join("tls/server.key"), "secret").unwrap();
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        std::os::unix::fs::symlink(dir.path().join("gone"), &nowhere).unwrap();
        remove_all_but(&link, "tls").unwrap();
        assert_eq!((disk.join("pg_data").exists(), disk.join("tls/server.key").exists()), (false, true));
        for path in [&link, &nowhere] {
            assert_eq!(remove_tree(path).unwrap(), None);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
