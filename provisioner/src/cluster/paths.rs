//! Where the files of a local cluster are that only the provisioner knows. The layout that all programs share is
//! `cellar_model::ClusterLayout`.

use std::path::PathBuf;

use cellar_model::{CellName, ClusterLayout};
use cellar_system::is_inside;
use cellar_tls::{REVOCATIONS, leftovers};

use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::{ProvisionError, Result};

/// Directory of the copies of what an authority issued to people and programs, beside it.
pub(crate) const ISSUED: &str = "issued";

impl Cluster {
    /// Directory of the provisioner's own client certificate for etcd.
    pub(crate) fn etcd_client_tls(&self) -> PathBuf {
        self.layout.state().join("tls")
    }

    pub(crate) fn pooler_pid_file(&self, member: &Member) -> PathBuf {
        self.layout_of(member).pid().join("multipooler.pid")
    }

    pub(crate) fn pooler_log(&self, member: &Member) -> PathBuf {
        self.layout_of(member).log().join("multipooler.log")
    }

    pub(crate) fn admin_pid_file(&self) -> PathBuf {
        self.layout.pid().join("multiadmin.pid")
    }

    pub(crate) fn admin_log(&self) -> PathBuf {
        self.layout.log().join("multiadmin.log")
    }

    /// The file in which multiadmin writes down who changed what.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.layout.log().join("audit.log")
    }

    pub(crate) fn etcd_data(&self) -> PathBuf {
        self.layout.etcd().join("data")
    }

    pub(crate) fn etcd_tls(&self) -> PathBuf {
        self.layout.etcd().join("tls")
    }

    pub(crate) fn etcd_pid_file(&self) -> PathBuf {
        self.layout.pid().join("etcd.pid")
    }

    pub(crate) fn etcd_log(&self) -> PathBuf {
        self.layout.log().join("etcd.log")
    }

    pub(crate) fn haproxy_pid_file(&self) -> PathBuf {
        self.layout.pid().join("haproxy.pid")
    }

    pub(crate) fn haproxy_log(&self) -> PathBuf {
        self.layout.log().join("haproxy.log")
    }

    /// Directory of the new authority while it replaces the old one.
    pub(crate) fn next_authority(&self) -> PathBuf {
        self.layout.ca().join("next")
    }

    /// Where the revocation lists are.
    pub(crate) fn revocations_file(&self) -> PathBuf {
        self.layout.ca().join(REVOCATIONS)
    }

    /// Where the pair lies with which multiadmin renews certificates.
    pub(crate) fn signing(&self) -> PathBuf {
        self.layout.root().join("signing")
    }

    /// The directories of keys that do not lie in another one that goes with the cluster: what an exchange leaves beside
    /// them must be removed with them.
    fn key_directories(&self) -> [PathBuf; 4] {
        [self.layout.ca(), self.layout.client(), self.layout.multiadmin(), self.signing()]
    }

    /// What exchanges of keys may have left beside these directories, keys too.
    pub(crate) fn left_keys(&self) -> Vec<PathBuf> {
        self.key_directories().iter().flat_map(|directory| leftovers(directory)).collect()
    }

    /// The directories below its own that the cluster needs for itself, without those of cells: what is in them goes with
    /// the cluster. What it remembers is the last one.
    pub(crate) fn own_directories(&self) -> Vec<PathBuf> {
        let layout = &self.layout;
        let mut own = self.key_directories().to_vec();
        own.extend(self.left_keys());
        own.extend([layout.etcd(), layout.log(), layout.pid(), layout.state()]);
        own
    }

    /// The first of these directories that lies in the repository, or the repository in it: they are removed without a
    /// look at what is in them, and the repository may not be.
    pub(crate) fn overlapping_repository(
        &self,
        directories: impl IntoIterator<Item = PathBuf>,
    ) -> Option<PathBuf> {
        let repo = self.repository_here()?;
        directories.into_iter().find(|one| is_inside(repo, one) || is_inside(one, repo))
    }

    /// Refuses to remove directories of which one has the repository in it.
    pub(crate) fn check_spares_repository<'a>(
        &self,
        directories: impl IntoIterator<Item = &'a PathBuf>,
    ) -> Result<()> {
        let repo = self.repository_here().filter(|repo| repo.exists());
        let Some(repo) = repo else { return Ok(()) };
        match directories.into_iter().find(|directory| is_inside(repo, directory)) {
            None => Ok(()),
            Some(directory) => Err(ProvisionError::RepositoryInside {
                repository: repo.to_owned(),
                directory: directory.clone(),
            }),
        }
    }

    /// Where the operator's directory has what the host of a cell is given: the same files at the same places as there.
    pub(crate) fn for_host(&self, cell: &CellName) -> ClusterLayout {
        ClusterLayout::new(self.layout.root().join("hosts").join(cell.as_str()))
    }

    /// The directory of what the host of a cell is given.
    #[must_use]
    pub fn host_files(&self, cell: &CellName) -> PathBuf {
        self.for_host(cell).root().to_owned()
    }

    /// Copies of what was issued to people and programs.
    pub(crate) fn issued(&self) -> PathBuf {
        self.layout.ca().join(ISSUED)
    }
}
