//! `cellar down`: ends every process of a cluster, in the order in which they need each other.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{CellLayout, CellName, ClusterLayout};
use cellar_postgres::{PostmasterState, StopTimeouts, Stopped};
use cellar_system::{OpenDirectory, is_same_place};
use tokio::task::JoinSet;

use crate::cluster::blocking::blocking;
use crate::cluster::database::Member;
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
async fn stop_postgres(cell: String, data: PathBuf, timeouts: StopTimeouts) -> Result<bool> {
    let stopped = cellar_postgres::stop(&data, &timeouts)
        .await
        .map_err(|source| ProvisionError::Postgres { cell, source })?;
    Ok(stopped != Stopped::NotRunning)
}

/// The data directories of a cell in which jobs run an instance of their own: what drills restored, and what restores
/// made or kept beside the data directory. A pooler that was killed leaves such an instance running.
fn private_data(layout: &CellLayout) -> Vec<PathBuf> {
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    let is_of_job = |name: &OsStr| {
        name.to_str()
            .is_some_and(|name| CellLayout::restored_by(name).or_else(|| CellLayout::kept_by(name)).is_some())
    };
    let drills = entries(&layout.drills()).map(|entry| CellLayout::drill_data(&entry.path()));
    let beside = entries(layout.root()).filter(|entry| is_of_job(&entry.file_name()));
    drills.chain(beside.map(|entry| entry.path())).collect()
}

impl Cluster {
    /// Stops the instances that jobs of a member ran for themselves; how many there were.
    async fn stop_private(&self, member: &Member) -> Result<usize> {
        let mut stopped = 0;
        for data in private_data(&self.layout_of(member)) {
            // What they have done is of no use once their job has ended.
            let cell = self.state.shown(member);
            stopped += usize::from(stop_postgres(cell, data, StopTimeouts::immediate()).await?);
        }
        Ok(stopped)
    }

    pub(crate) async fn stop_pooler(&self, member: &Member) -> Result<bool> {
        let what = format!("multipooler of cell {}", self.state.shown(member));
        end(&what, daemon_of(&self.pooler_pid_file(member)), POOLER_STOP_TIMEOUT).await
    }

    /// Ends multiadmin; tells whether it ran.
    pub(crate) async fn stop_admin(&self) -> Result<bool> {
        end("multiadmin", daemon_of(&self.admin_pid_file()), ADMIN_STOP_TIMEOUT).await
    }

    /// Ends the poolers and PostgreSQL of one cell.
    pub(crate) async fn stop_cell(&self, cell: &CellName, steps: &Steps) -> Result<()> {
        for member in self.members_on_disk().into_iter().filter(|member| member.cell == *cell) {
            let shown = self.state.shown(&member);
            if self.stop_pooler(&member).await? {
                steps.step(&format!("multipooler of cell {shown} has ended"));
            }
            if self.stop_pool(&member).await? {
                steps.step(&format!("PgBouncer of cell {shown} has ended"));
            }
            if self.stop_private(&member).await? > 0 {
                steps.step(&format!("what a job of cell {shown} had started has stopped"));
            }
            let data = self.layout_of(&member).data();
            if stop_postgres(shown.clone(), data, StopTimeouts::default()).await? {
                steps.step(&format!("PostgreSQL of cell {shown} has stopped"));
            }
        }
        Ok(())
    }

    /// Ends everything: poolers first, since one of them would start its PostgreSQL again; the primary
    /// before its standbys, so that they receive its last WAL; etcd last.
    pub(crate) async fn stop_all(&self, steps: &Steps) -> Result<()> {
        let members = self.members_on_disk();
        let mut poolers = JoinSet::new();
        for member in &members {
            let (this, member) = (self.clone(), member.clone());
            poolers.spawn(async move { this.stop_pooler(&member).await });
        }
        let ended = all(poolers).await?.into_iter().filter(|ended| *ended).count();
        steps.step(&format!("{ended} poolers have ended"));

        let (mut private, mut pools) = (0, 0);
        for member in &members {
            pools += usize::from(self.stop_pool(member).await?);
            private += self.stop_private(member).await?;
        }
        if pools > 0 {
            steps.step(&format!("PgBouncer has ended in {pools} cells"));
        }
        if private > 0 {
            steps.step(&format!("{private} instances that jobs had started have stopped"));
        }
        let is_primary = |member: &Member| {
            let running = cellar_postgres::running(&self.layout_of(member).data());
            matches!(running, Ok(Some(postmaster)) if postmaster.state == PostmasterState::Ready)
        };
        let (primaries, standbys): (Vec<_>, Vec<_>) = members.into_iter().partition(is_primary);
        let mut stopped = 0;
        for group in [primaries, standbys] {
            let mut instances = JoinSet::new();
            for member in group {
                let (shown, data) = (self.state.shown(&member), self.layout_of(&member).data());
                instances.spawn(stop_postgres(shown, data, StopTimeouts::default()));
            }
            stopped += all(instances).await?.into_iter().filter(|stopped| *stopped).count();
        }
        steps.step(&format!("PostgreSQL has stopped in {stopped} cells"));

        if self.stop_haproxy().await? {
            steps.step("HAProxy has ended");
        }
        if self.stop_admin().await? {
            steps.step("multiadmin has ended");
        }
        if self.stop_etcd().await? {
            steps.step("etcd has ended");
        }
        Ok(())
    }

    /// The directories that go with the cluster whatever is in them: those of its cells and its own.
    fn destroyed_directories(&self) -> Vec<PathBuf> {
        let members = self.members_on_disk();
        let mut gone: Vec<PathBuf> =
            members.iter().map(|member| self.layout_of(member).root().to_owned()).collect();
        gone.extend(self.own_directories());
        gone
    }

    /// Removes what the cluster made. What it remembers goes last, so that a run that was killed in
    /// between can be repeated.
    fn destroy(&self) -> Result<Vec<PathBuf>> {
        let layout = &self.layout;
        let mut kept = Vec::new();
        let mut gone = self.destroyed_directories();
        self.check_spares_repository(&gone)?;
        match self.state.repo.local_directory() {
            Some(repo) if is_same_place(repo, &layout.repo()) => gone.push(layout.repo()),
            _ => kept.push(PathBuf::from(self.state.repo.to_string())),
        }
        for directory in gone.into_iter().filter(|directory| *directory != layout.state()) {
            kept.extend(remove_tree(&directory)?);
        }
        for file in [layout.haproxy_config(), ClusterState::copy_path(layout)] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ProvisionError::io("remove", &file)(error));
                }
                _ => {}
            }
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
    cluster.check_is_local("cellar down")?;
    if destroy {
        // Before anything is stopped, too.
        cluster.check_spares_repository(&cluster.destroyed_directories())?;
    }
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
        let mut cluster = Cluster::sample(dir, &["zone1"]);
        cluster.state.repo = repo.to_str().unwrap().parse().unwrap();
        cluster
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
    fn destroy_leaves_no_keys_that_exchanges_left() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("demo");
        let made = cluster(&root, &root.join("repo"));
        made.make_shared_directories().unwrap();
        for name in ["ca", "client", "multiadmin", "signing"] {
            for left in ["previous", "next"] {
                let directory = root.join(format!("{name}.{left}"));
                make_directory(&directory, 0o700, None).unwrap();
                fs::write(directory.join("ca.key"), "secret").unwrap();
            }
        }
        assert_eq!((made.destroy().unwrap(), root.exists()), (Vec::new(), false));
    }

    #[test]
    fn repository_in_what_is_removed_is_not_removed_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (root, link) = (dir.path().join("demo"), dir.path().join("link"));
        for inside in ["zone1/repo", "log", "ca/next/repo"] {
            fs::create_dir_all(root.join(inside)).unwrap();
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(root.join(inside), &link).unwrap();
            for repo in [root.join(inside), link.clone()] {
                let made = cluster(&root, &repo);
                made.make_shared_directories().unwrap();
                fs::write(repo.join("backup.info"), "worth a lot").unwrap();
                let error = made.destroy().unwrap_err();
                assert!(error.hint().unwrap().contains(repo.to_str().unwrap()), "{error}");
                assert!(repo.join("backup.info").exists() && made.layout.pid().exists());
            }
        }
        // Beside them, it is kept.
        let repo = root.join("archive");
        let made = cluster(&root, &repo);
        made.make_shared_directories().unwrap();
        assert!(made.destroy().unwrap().contains(&repo) && repo.exists());
    }

    #[test]
    fn instances_of_jobs_are_looked_for_where_jobs_make_them() {
        let dir = tempfile::tempdir().unwrap();
        let layout = CellLayout::new(dir.path());
        let job = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let drill = CellLayout::drill_data(&layout.drills().join("01890a5d-ac96-774b-bcce-b302099a8058"));
        let mut places = vec![layout.restored(job), layout.kept(job), drill];
        for directory in places.iter().chain(&[layout.data(), layout.log(), dir.path().join("pg_data.mine")])
        {
            fs::create_dir_all(directory).unwrap();
        }
        let mut found = private_data(&layout);
        found.sort();
        places.sort();
        assert_eq!(found, places);
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
