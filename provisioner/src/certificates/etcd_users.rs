//! Who may do what in etcd: its users are the common names of certificates.

use cellar_model::CellName;
use cellar_tls::LeafRequest;
use cellar_topology::{EtcdKv, EtcdUser};

use crate::cluster::local_cluster::Cluster;
use crate::cluster::loopback::HOST;
use crate::error::provision_error::Result;

impl Cluster {
    /// Makes a cell's pooler a user of etcd that may use its own records.
    pub(crate) async fn admit_pooler(&self, cell: &CellName) -> Result<()> {
        let name = self.pooler_request(cell, self.revocations_of(cell)).common_name;
        let grants = Some(self.keys().grants_of_pooler(&self.state.database, cell));
        Ok(self.etcd().await?.ensure_user(&EtcdUser { name, grants }).await?)
    }

    /// Removes the users that a cell's pooler, and the multiadmin on its host, had in etcd before certificates were revoked.
    pub(crate) async fn dismiss_former_users(&self, cell: &CellName) -> Result<()> {
        let etcd = self.etcd().await?;
        for revocations in 0..self.revocations_of(cell) {
            etcd.remove_user(&self.pooler_request(cell, revocations).common_name).await?;
            etcd.remove_user(&self.multiadmin_request(cell, revocations).common_name).await?;
        }
        Ok(())
    }

    /// Removes a cell's pooler from etcd's users.
    pub(crate) async fn dismiss_pooler(&self, cell: &CellName) -> Result<()> {
        self.dismiss_former_users(cell).await?;
        let name = self.pooler_request(cell, self.revocations_of(cell)).common_name;
        Ok(self.etcd().await?.remove_user(&name).await?)
    }

    /// The name that the multiadmin of a local cluster has in etcd, and had on every host in earlier versions.
    pub(crate) fn shared_multiadmin(&self) -> String {
        LeafRequest::multiadmin(&self.state.cluster, HOST).common_name
    }

    /// Makes the multiadmin on a cell's host a user of etcd, if there is one.
    pub(crate) async fn admit_multiadmin(&self, cell: &CellName) -> Result<()> {
        if !self.admin_hosts().into_iter().any(|(name, _)| name == cell) {
            return Ok(());
        }
        let name = self.multiadmin_request(cell, self.revocations_of(cell)).common_name;
        let grants = Some(self.keys().grants_of_multiadmin());
        Ok(self.etcd().await?.ensure_user(&EtcdUser { name, grants }).await?)
    }

    /// Removes the pooler and the multiadmin of a cell with a host of its own from etcd's users: they can change nothing
    /// any more, whatever their host still has.
    pub(crate) async fn dismiss_host(&self, cell: &CellName) -> Result<()> {
        self.dismiss_from(&self.etcd().await?, cell).await
    }

    /// Removes all users of a cell that this etcd may know, of the pooler and of the multiadmin.
    pub(crate) async fn dismiss_from(&self, etcd: &EtcdKv, cell: &CellName) -> Result<()> {
        for revocations in 0..=self.revocations_of(cell) {
            etcd.remove_user(&self.pooler_request(cell, revocations).common_name).await?;
            etcd.remove_user(&self.multiadmin_request(cell, revocations).common_name).await?;
        }
        Ok(())
    }

    /// Makes etcd check permissions, with a user for each certificate that may connect. Repeating it changes nothing.
    pub(crate) async fn ensure_permissions(&self) -> Result<()> {
        let etcd = self.etcd().await?;
        etcd.ensure_user(&EtcdUser { name: self.provisioner_request()?.common_name, grants: None }).await?;
        if self.is_local() {
            let grants = Some(self.keys().grants_of_multiadmin());
            etcd.ensure_user(&EtcdUser { name: self.shared_multiadmin(), grants }).await?;
        }
        for cell in &self.state.cells {
            self.admit_multiadmin(&cell.name).await?;
            self.admit_pooler(&cell.name).await?;
            // Its host may not have its new certificates yet.
            if self.is_local() || self.state.revoking.is_none() {
                self.dismiss_former_users(&cell.name).await?;
            }
        }
        Ok(etcd.enable_permissions().await?)
    }
}
