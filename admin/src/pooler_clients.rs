//! Channels to poolers.
//!
//! A channel is kept for as long as the pooler's address stays the same. There
//! are never more than a few: each holds a TLS connection, and thousands of
//! poolers that were each asked once must not stay in memory.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cellar_api::v1::multi_pooler_client::MultiPoolerClient;
use cellar_model::{CellName, Code, DatabaseName, Pooler, Refusal};
use cellar_tls::ClientTls;
use cellar_topology::View;
use tonic::transport::Channel;

/// Makes a channel to a pooler, without waiting for it to connect. The error is for a person.
pub type Dial = dyn Fn(&Pooler) -> Result<Channel, String> + Send + Sync;

/// Time for a TCP connection to a pooler. A healthy one on another continent answers in a
/// tenth of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Channels that are kept.
const KEPT: usize = 64;

/// Largest answer accepted. A repo of 10,000 backups lists in about half of it.
const MAX_ANSWER: usize = 16 << 20;

/// Dials poolers with the certificate in `directory` (`ca.crt`, `multiadmin.crt`,
/// `multiadmin.key`), read anew for each channel so that a renewed one is used.
#[must_use]
pub fn dial_with_tls(directory: PathBuf) -> Arc<Dial> {
    Arc::new(move |pooler| {
        let tls = ClientTls::from_files(
            &directory.join("ca.crt"),
            &directory.join("multiadmin.crt"),
            &directory.join("multiadmin.key"),
        )
        .map_err(|error| error.to_string())?
        .domain_name(&pooler.host);
        let address = format!("{}:{}", pooler.host, pooler.grpc_port);
        let endpoint = tls.endpoint(&address, None).map_err(|error| error.to_string())?;
        Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).connect_lazy())
    })
}

type Id = (DatabaseName, CellName);

struct Open {
    host: String,
    port: u16,
    used: Instant,
    channel: Channel,
}

impl Open {
    fn leads_to(&self, pooler: &Pooler) -> bool {
        self.host == pooler.host && self.port == pooler.grpc_port
    }
}

/// The channels that are open.
pub(crate) struct PoolerClients {
    dial: Arc<Dial>,
    open: Mutex<HashMap<Id, Open>>,
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
        open.retain(|id, open| view.poolers.get(id).is_some_and(|pooler| open.leads_to(pooler)));
        let id = (pooler.database.clone(), pooler.cell.clone());
        if let Some(found) = open.get_mut(&id).filter(|open| open.leads_to(pooler)) {
            found.used = Instant::now();
            return Ok(found.channel.clone());
        }
        if open.len() >= KEPT
            && let Some(oldest) = open.iter().min_by_key(|(_, open)| open.used).map(|(id, _)| id.clone())
        {
            open.remove(&oldest);
        }
        let channel = (self.dial)(pooler)?;
        let entry = Open {
            host: pooler.host.clone(),
            port: pooler.grpc_port,
            used: Instant::now(),
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
        Ok(MultiPoolerClient::new(channel).max_decoding_message_size(MAX_ANSWER))
    }

    /// Drops every channel; calls under way end as they would have.
    pub(crate) fn forget_all(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Drops the channel of a pooler that did not answer: the next call begins afresh, with the
    /// certificates of that moment.
    pub(crate) fn forget(&self, pooler: &Pooler) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&(pooler.database.clone(), pooler.cell.clone()));
    }
}
