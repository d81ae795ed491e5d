//! A test's own connection to a cluster's multiadmin.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_tls::ClientTls;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether the same question may be answered a moment later: multiadmin, or what is behind it, is away or was told to end, or
/// the connection broke in the middle of the answer.
pub(crate) fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded => true,
        // What Cellar says itself with these codes is a fault; without its reason they come from the transport.
        Code::Unknown | Code::Internal => cellar_api::reason_of(status).is_none(),
        _ => false,
    }
}

/// A gRPC client made from nothing but the files in a cluster's `client` directory.
///
/// # Panics
/// When they are not there.
pub(crate) fn connect(directory: &Path) -> MultiAdminClient<Channel> {
    cellar_tls::install_ring_provider();
    let Ok(tls) = ClientTls::from_dir(directory) else { panic!("no client certificate") };
    let Ok(address) = std::fs::read_to_string(directory.join("endpoint")) else { panic!("no endpoint") };
    match tls.endpoint(address.trim(), Some(ANSWER_TIMEOUT)) {
        Ok(endpoint) => MultiAdminClient::new(endpoint.connect_lazy()),
        Err(error) => panic!("bad endpoint: {error}"),
    }
}

/// A connection that is kept as long as the files it was made from are the same: a handshake costs more than an answer.
#[derive(Debug, Default)]
pub(crate) struct Connection(Mutex<Option<(Vec<u8>, MultiAdminClient<Channel>)>>);

impl Connection {
    /// The client that the files in `directory` stand for now. To be called where a runtime is.
    pub(crate) fn client(&self, directory: &Path) -> MultiAdminClient<Channel> {
        let files = ["client.crt", "ca.crt", "endpoint"];
        let files = files.map(|name| std::fs::read(directory.join(name)).unwrap_or_default()).concat();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((of, client)) if *of == files => client.clone(),
            _ => kept.insert((files, connect(directory))).1.clone(),
        }
    }
}
