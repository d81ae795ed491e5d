//! What multiadmin says of a cluster.

use std::time::Duration;

use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use tonic::transport::Channel;

use crate::cluster::local::Cluster;
use crate::machine::wait::block_on;

/// Where one cell's PostgreSQL is.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Directory of its socket.
    pub sockets: String,
    /// Its port.
    pub port: u32,
    /// Its data directory.
    pub data: String,
}

impl Cluster {
    /// A gRPC client made from nothing but the cluster's `client` directory.
    ///
    /// # Panics
    /// When its files are not there.
    pub async fn client(&self) -> MultiAdminClient<Channel> {
        cellar_tls::install_ring_provider();
        let directory = self.directory.join("client");
        let Ok(tls) = cellar_tls::ClientTls::from_dir(&directory) else { panic!("no client certificate") };
        let Ok(address) = std::fs::read_to_string(directory.join("endpoint")) else { panic!("no endpoint") };
        let Ok(endpoint) = tls.endpoint(address.trim(), Some(Duration::from_secs(30))) else {
            panic!("bad endpoint")
        };
        MultiAdminClient::new(endpoint.connect_lazy())
    }

    /// Asks multiadmin something, from a test that is not async.
    ///
    /// # Panics
    /// When no runtime can be made.
    pub fn ask<T>(&self, question: impl AsyncFnOnce(&mut MultiAdminClient<Channel>) -> T) -> T {
        block_on(async {
            let mut client = self.client().await;
            question(&mut client).await
        })
    }

    /// All poolers with their status.
    ///
    /// # Panics
    /// When multiadmin does not answer.
    #[must_use]
    pub fn poolers(&self) -> Vec<v1::PoolerView> {
        let answer = self.ask(async |client| client.list_poolers(v1::ListPoolersRequest::default()).await);
        match answer {
            Ok(response) => response.into_inner().poolers,
            Err(status) => panic!("ListPoolers: {status}"),
        }
    }

    /// The status of one cell, if its pooler lives.
    #[must_use]
    pub fn status(&self, cell: &str) -> Option<v1::PoolerStatus> {
        self.poolers().into_iter().filter_map(|view| view.status).find(|status| status.cell == cell)
    }

    /// The cell whose instance is the recorded primary.
    ///
    /// # Panics
    /// When none is recorded.
    #[must_use]
    pub fn primary(&self) -> String {
        let answer = self.ask(async |client| client.get_database(v1::GetDatabaseRequest::default()).await);
        match answer.map(|response| response.into_inner().leader) {
            Ok(Some(leader)) => leader.cell,
            other => panic!("no primary: {other:?}"),
        }
    }

    /// Where a cell's PostgreSQL is.
    ///
    /// # Panics
    /// When there is no such cell.
    #[must_use]
    pub fn instance(&self, cell: &str) -> Instance {
        let found = self.poolers().into_iter().filter_map(|view| view.pooler).find(|card| card.cell == cell);
        match found {
            Some(card) => Instance {
                sockets: card.socket_directory,
                port: card.postgres_port,
                data: card.data_directory,
            },
            None => panic!("no cell {cell}"),
        }
    }
}
