//! Clients of etcd and multiadmin, with certificates that are renewed when they are due.

use std::sync::Arc;
use std::time::Duration;

use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_tls::ClientTls;
use cellar_topology::{EtcdKv, Store};
use tonic::transport::Channel;

use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::Result;

/// How long a call with one answer may take; `GetPooler` and the like ask others in turn.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A client of multiadmin.
pub type AdminClient = MultiAdminClient<Channel>;

impl Cluster {
    /// etcd, as the provisioner.
    pub(crate) async fn etcd(&self) -> Result<EtcdKv> {
        self.renew_operators();
        let tls = ClientTls::from_dir(&self.etcd_client_tls())?;
        Ok(EtcdKv::connect(&self.etcd_urls()?, Some(tls.tonic_config())).await?)
    }

    /// The typed store, as the provisioner.
    pub(crate) async fn store(&self) -> Result<Store> {
        Ok(Store::new(Arc::new(self.etcd().await?), self.keys()))
    }

    /// A client of multiadmin with the operator's certificate. Connects when first used.
    ///
    /// # Errors
    /// When the client directory cannot be used.
    pub fn admin(&self) -> Result<AdminClient> {
        self.renew_operators();
        self.admin_with(Some(CALL_TIMEOUT))
    }

    fn admin_with(&self, timeout: Option<Duration>) -> Result<AdminClient> {
        let tls = ClientTls::from_dir(&self.layout.client())?;
        let endpoints = self.admin_addresses()?.into_iter().map(|address| tls.endpoint(&address, timeout));
        let mut endpoints = endpoints.collect::<std::result::Result<Vec<_>, _>>()?;
        let channel = match (endpoints.pop(), endpoints.is_empty()) {
            (Some(only), true) => only.connect_lazy(),
            // Whichever of them can be connected to.
            (last, _) => Channel::balance_list(endpoints.into_iter().chain(last)),
        };
        Ok(MultiAdminClient::new(channel))
    }

    /// The same for a call whose answer is a stream, which has no deadline of its own.
    pub(crate) fn admin_stream(&self) -> Result<AdminClient> {
        self.admin_with(None)
    }
}
