//! What multiadmin says of a cluster.

use cellar_api::v1;
use std::time::Duration;

use cellar_api::v1::multi_admin_client::MultiAdminClient;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::cluster::connection::{connect, is_passing};
use crate::cluster::local::Cluster;
use crate::machine::wait::{block_on, wait_for};

/// How long multiadmin may be away, or without a word from etcd, before a test is told so.
const AWAY_TIMEOUT: Duration = Duration::from_secs(30);

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

    /// Asks multiadmin something that changes nothing, again while it cannot answer.
    #[track_caller]
    fn answer<T>(
        &self,
        what: &str,
        question: &impl AsyncFn(&mut MultiAdminClient<Channel>) -> Result<Response<T>, Status>,
    ) -> T {
        wait_for(&format!("an answer to {what}"), AWAY_TIMEOUT, || match self.ask(question) {
            Ok(response) => Some(response.into_inner()),
            Err(status) if is_passing(&status) => None,
            Err(status) => panic!("{what}: {status}"),
        })
    }

    /// All poolers with their status.
    ///
    /// # Panics
    /// When multiadmin does not answer.
    #[must_use]
    #[track_caller]
    pub fn poolers(&self) -> Vec<v1::PoolerView> {
        let question = async |client: &mut MultiAdminClient<Channel>| {
            client.list_poolers(v1::ListPoolersRequest::default()).await
        };
        self.answer("ListPoolers", &question).poolers
    }

    /// The status of one cell, if its pooler lives.
    #[must_use]
    #[track_caller]
    pub fn status(&self, cell: &str) -> Option<v1::PoolerStatus> {
        self.poolers().into_iter().filter_map(|view| view.status).find(|status| status.cell == cell)
    }

    /// The cell whose instance is the recorded primary.
    ///
    /// # Panics
    /// When none is recorded.
    #[must_use]
    #[track_caller]
    pub fn primary(&self) -> String {
        match self.recorded_primary() {
            Some(cell) => cell,
            None => panic!("no primary is recorded"),
        }
    }

    /// The cell whose instance is the recorded primary, if one is recorded.
    #[track_caller]
    pub(crate) fn recorded_primary(&self) -> Option<String> {
        let question = async |client: &mut MultiAdminClient<Channel>| {
            client.get_database(v1::GetDatabaseRequest::default()).await
        };
        self.answer("GetDatabase", &question).leader.map(|leader| leader.cell)
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
