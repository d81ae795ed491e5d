//! Who may do what in etcd: its users are the common names of certificates.

use cellar_model::CellName;
use cellar_tls::LeafRequest;
use cellar_topology::{EtcdKv, EtcdUser};

use crate::cluster::database::{ClusterDatabase, Member};
use crate::cluster::local_cluster::Cluster;
use crate::cluster::loopback::HOST;
use crate::error::provision_error::Result;

impl Cluster {
    /// Makes each pooler of a cell a user of etcd that may use the records of its own database and its own.
    pub(crate) async fn admit_poolers(&self, cell: &CellName) -> Result<()> {
        let is_only = !self.state.has_several_databases();
        let etcd = self.etcd().await?;
        for member in self.state.members_in(cell) {
            let name = self.pooler_request(&member, self.revocations_of(cell)).common_name;
            let grants = Some(self.keys().grants_of_pooler(&member.database, cell, is_only));
            etcd.ensure_user(&EtcdUser { name, grants }).await?;
        }
        Ok(())
    }

    /// The names that etcd may know the poolers of a cell by after so many revocations, whether there are members or not.
    fn pooler_users(&self, cell: &CellName, revocations: u32) -> Vec<String> {
        let of_database = |database: &ClusterDatabase| {
            let member = Member { cell: cell.clone(), database: database.name.clone() };
            self.pooler_request(&member, revocations).common_name
        };
        self.state.databases().map(of_database).collect()
    }

    /// Removes the users that a cell's poolers, and the multiadmin on its host, had in etcd before certificates were revoked.
    pub(crate) async fn dismiss_former_users(&self, etcd: &EtcdKv, cell: &CellName) -> Result<()> {
        for revocations in 0..self.revocations_of(cell) {
            self.dismiss_users(etcd, cell, revocations).await?;
        }
        Ok(())
    }

    async fn dismiss_users(&self, etcd: &EtcdKv, cell: &CellName, revocations: u32) -> Result<()> {
        for name in self.pooler_users(cell, revocations) {
            etcd.remove_user(&name).await?;
        }
        Ok(etcd.remove_user(&self.multiadmin_request(cell, revocations).common_name).await?)
    }

    /// Removes a cell's poolers from etcd's users.
    pub(crate) async fn dismiss_poolers(&self, cell: &CellName) -> Result<()> {
        let etcd = self.etcd().await?;
        self.dismiss_former_users(&etcd, cell).await?;
        for name in self.pooler_users(cell, self.revocations_of(cell)) {
            etcd.remove_user(&name).await?;
        }
        Ok(())
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

    /// Removes the poolers and the multiadmin of a cell with a host of its own from etcd's users: they can change nothing
    /// any more, whatever their host still has.
    pub(crate) async fn dismiss_host(&self, cell: &CellName) -> Result<()> {
        self.dismiss_from(&self.etcd().await?, cell).await
    }

    /// Removes all users of a cell that this etcd may know, of the poolers and of the multiadmin.
    pub(crate) async fn dismiss_from(&self, etcd: &EtcdKv, cell: &CellName) -> Result<()> {
        for revocations in 0..=self.revocations_of(cell) {
            self.dismiss_users(etcd, cell, revocations).await?;
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
            self.admit_poolers(&cell.name).await?;
            // Its host may not have its new certificates yet.
            if self.is_local() || self.state.revoking.is_none() {
                self.dismiss_former_users(&etcd, &cell.name).await?;
            }
        }
        Ok(etcd.enable_permissions().await?)
    }
}
