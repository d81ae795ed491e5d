//! What multiadmin says of a cluster.

use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use tonic::transport::Channel;

use crate::cluster::connection::connect;
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
        connect(&self.directory.join("client"))
    }

    /// Asks multiadmin something, from a test that is not async.
    ///
    /// # Panics
    /// When the files of the `client` directory are not there.
    pub fn ask<T>(&self, question: impl AsyncFnOnce(&mut MultiAdminClient<Channel>) -> T) -> T {
        block_on(async {
            let mut client = self.connection.client(&self.directory.join("client"));
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
