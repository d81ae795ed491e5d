//! Where the files of a local cluster are that only the provisioner knows. The layout that all programs share is
//! `cellar_model::ClusterLayout`.

use std::path::PathBuf;

use cellar_model::CellName;
use cellar_tls::REVOCATIONS;

use crate::cluster::local_cluster::Cluster;

impl Cluster {
    /// Directory of the provisioner's own client certificate for etcd.
    pub(crate) fn etcd_client_tls(&self) -> PathBuf {
        self.layout.state().join("tls")
    }

    pub(crate) fn pooler_pid_file(&self, cell: &CellName) -> PathBuf {
        self.layout.cell(cell).pid().join("multipooler.pid")
    }

    pub(crate) fn pooler_log(&self, cell: &CellName) -> PathBuf {
        self.layout.cell(cell).log().join("multipooler.log")
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

    /// Copies of what was issued to people and programs.
    pub(crate) fn issued(&self) -> PathBuf {
        self.layout.ca().join("issued")
    }
}
