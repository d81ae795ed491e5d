//! Channels to poolers.
//!
//! A channel is kept while the pooler's address stays the same. Their number is
//! bounded: each holds a TLS connection, and a cluster may have thousands of poolers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cellar_api::v1::multi_pooler_client::MultiPoolerClient;
use cellar_model::{CellName, Code, DatabaseName, HostName, Pooler, Refusal};
use cellar_tls::ClientTls;
use cellar_topology::View;
use tokio::time::Instant;
use tonic::transport::Channel;

/// Makes a channel to a pooler, without waiting for it to connect. The error is a text for an operator.
pub type Dial = dyn Fn(&Pooler) -> Result<Channel, String> + Send + Sync;

/// How long a TCP connection to a pooler may take. A healthy one on another continent takes a
/// tenth of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Channels that are kept; the least recently used is closed.
const MAX_CHANNELS: usize = 64;

/// Largest response accepted. The listing of a repo with 10,000 backups takes about half of it.
const MAX_RESPONSE_BYTES: usize = 16 << 20;

/// Dials poolers with the certificate in `directory` (`ca.crt`, `multiadmin.crt`,
/// `multiadmin.key`), read again for each channel, so that a renewed one is used.
#[must_use]
pub fn dial_with_tls(directory: PathBuf) -> Arc<Dial> {
    Arc::new(move |pooler| {
        let tls = ClientTls::from_files(
            &directory.join("ca.crt"),
            &directory.join("multiadmin.crt"),
            &directory.join("multiadmin.key"),
        )
        .map_err(|error| error.to_string())?
        .domain_name(pooler.host.as_str());
        let address = format!("{}:{}", pooler.host, pooler.grpc_port);
        let endpoint = tls.endpoint(&address, None).map_err(|error| error.to_string())?;
        Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).connect_lazy())
    })
}

type PoolerId = (DatabaseName, CellName);

struct OpenChannel {
    host: HostName,
    port: u16,
    last_used: Instant,
    channel: Channel,
}

impl OpenChannel {
    fn connects_to(&self, pooler: &Pooler) -> bool {
        self.host == pooler.host && self.port == pooler.grpc_port
    }
}

/// The open channels.
pub(crate) struct PoolerClients {
    dial: Arc<Dial>,
    open: Mutex<BTreeMap<PoolerId, OpenChannel>>,
}

impl std::fmt::Debug for PoolerClients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PoolerClients")
    }
}

impl PoolerClients {
    pub(crate) fn new(dial: Arc<Dial>) -> Self {
        Self { dial, open: Mutex::default() }
    }

    fn channel(&self, view: &View, pooler: &Pooler) -> Result<Channel, String> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|id, open| view.poolers.get(id).is_some_and(|pooler| open.connects_to(pooler)));
        let id = (pooler.database.clone(), pooler.cell.clone());
        if let Some(found) = open.get_mut(&id).filter(|open| open.connects_to(pooler)) {
            found.last_used = Instant::now();
            return Ok(found.channel.clone());
        }
        if open.len() >= MAX_CHANNELS
            && let Some(oldest) = open.iter().min_by_key(|(_, open)| open.last_used).map(|(id, _)| id.clone())
        {
            open.remove(&oldest);
        }
        let channel = (self.dial)(pooler)?;
        let entry = OpenChannel {
            host: pooler.host.clone(),
            port: pooler.grpc_port,
            last_used: Instant::now(),
            channel: channel.clone(),
        };
        open.insert(id, entry);
        Ok(channel)
    }

    /// A client of a pooler, over the channel that is kept for its address. Calls need a deadline of their own.
    pub(crate) fn client(&self, view: &View, pooler: &Pooler) -> Result<MultiPoolerClient<Channel>, Refusal> {
        let channel = self.channel(view, pooler).map_err(|why| {
            let cell = &pooler.cell;
            Refusal::new(Code::CellDown, format!("the multipooler of cell {cell} cannot be called: {why}"))
                .about("cell", cell)
                .about("database", &pooler.database)
        })?;
        Ok(MultiPoolerClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES))
    }

    /// Drops every channel; calls under way end as they would have.
    pub(crate) fn forget_all(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Drops the channel of a pooler that did not answer: the next call connects again, with the
    /// certificates of that time.
    pub(crate) fn forget(&self, pooler: &Pooler) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&(pooler.database.clone(), pooler.cell.clone()));
    }
}
