//! Clients of etcd and multiadmin, with certificates that are renewed when they are due.

use std::sync::Arc;
use std::time::Duration;

use cellar_api::v1::ListCellsRequest;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_tls::ClientTls;
use cellar_topology::{EtcdKv, Store};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::{ProvisionError, Result};

/// How long a call with one answer may take; `GetPooler` and the like ask others in turn.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long one of several multiadmins may take to show that it can be used.
pub(crate) const CHOICE_TIMEOUT: Duration = Duration::from_secs(5);

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

    /// A client of multiadmin with the operator's certificate: of several, one that answers and can reach etcd; when none
    /// does, the first.
    ///
    /// # Errors
    /// When the client directory cannot be used.
    pub async fn admin(&self) -> Result<AdminClient> {
        self.renew_operators();
        self.client_of(&self.answering_address().await?, Some(CALL_TIMEOUT))
    }

    /// The same for a call whose answer is a stream, which has no deadline of its own.
    pub(crate) async fn admin_stream(&self) -> Result<AdminClient> {
        self.client_of(&self.answering_address().await?, None)
    }

    /// Connects when first used.
    pub(crate) fn client_of(&self, address: &str, timeout: Option<Duration>) -> Result<AdminClient> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let tls = ClientTls::from_dir(&self.layout.client())?.domain_name(host);
        Ok(MultiAdminClient::new(tls.endpoint(address, timeout)?.connect_lazy()))
    }

    async fn answering_address(&self) -> Result<String> {
        let mut addresses = self.admin_addresses()?;
        let Some(first) = addresses.pop() else {
            let (what, source) = ("multiadmin: no host has one", std::io::ErrorKind::NotFound.into());
            return Err(ProvisionError::Start { what: what.to_owned(), source });
        };
        if addresses.is_empty() {
            return Ok(first);
        }
        let mut answers = JoinSet::new();
        for address in addresses.into_iter().chain([first.clone()]) {
            let mut client = self.client_of(&address, Some(CHOICE_TIMEOUT))?;
            answers.spawn(
                async move { client.list_cells(ListCellsRequest {}).await.is_ok().then_some(address) },
            );
        }
        while let Some(answer) = answers.join_next().await {
            if let Ok(Some(address)) = answer {
                return Ok(address);
            }
        }
        Ok(first)
    }
}
