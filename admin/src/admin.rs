//! What every request stands on: the store, a mirror of it, and channels to the poolers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLockReadGuard};
use std::time::Duration;

use cellar_api::v1::multi_pooler_client::MultiPoolerClient;
use cellar_model::{Pooler, Refusal};
use cellar_topology::{Mirror, Store, View};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::audit::log::AuditLog;
use crate::audit::trail::Audit;
use crate::deadline::Deadline;
use crate::pooler_clients::{Dial, PoolerClients};
use crate::refusal;

/// For how long the picture may have been out of date before requests wait for a newer one. A
/// watch that is begun again takes a fraction of a second, and nobody should notice.
const TOLERATED: Duration = Duration::from_secs(3);

/// How long an answer may wait for the mirror to show what was just written.
const WRITE_SEEN_TIMEOUT: Duration = Duration::from_secs(2);

/// The service's state. Clones share it.
#[derive(Debug, Clone)]
pub struct Admin {
    pub(crate) store: Store,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) poolers: Arc<PoolerClients>,
    pub(crate) audit: Audit,
    /// Whether the mirror has ever been complete. Before that an empty picture means nothing.
    seen: Arc<AtomicBool>,
    ending: watch::Sender<bool>,
}

impl Admin {
    /// Begins to mirror the cluster behind `store`. `dial` makes channels to poolers, and every call
    /// that changes something leaves its record in `audit`.
    ///
    /// Must be called within a tokio runtime. Needs no store that answers: until it does, every
    /// request is refused with `UNAVAILABLE`.
    #[must_use]
    pub fn start(store: Store, dial: Arc<Dial>, audit: AuditLog) -> Self {
        let mirror = Arc::new(Mirror::start(&store, vec![store.keys().all()]));
        Self {
            audit: Audit::start(&store, audit),
            store,
            mirror,
            poolers: Arc::new(PoolerClients::new(dial)),
            seen: Arc::default(),
            ending: watch::Sender::new(false),
        }
    }

    /// Whether the picture is complete and followed right now.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let current = self.mirror.stale_for().is_none();
        if current {
            self.seen.store(true, Ordering::Relaxed);
        }
        current
    }

    /// Waits for a complete picture; false when that takes longer than `patience`.
    pub async fn ready(&self, patience: Duration) -> bool {
        self.mirror.ready(patience).await.is_ok() && self.is_current()
    }

    /// Ends every stream that is being served, so that the server can shut down.
    pub fn end_streams(&self) {
        self.ending.send_replace(true);
    }

    /// The lists of revoked certificates, in PEM and as signed by whomever: to be checked.
    #[must_use]
    pub fn revocations(&self) -> Option<String> {
        self.view().revocations.clone().map(|list| list.pem)
    }

    /// Calls poolers over new connections from now on, with the certificates of this moment.
    pub fn redial(&self) {
        self.poolers.forget_all();
    }

    /// A receiver that sees `true` when streams must end.
    pub(crate) fn ending(&self) -> watch::Receiver<bool> {
        self.ending.subscribe()
    }

    /// The picture now. Not to be held across an await.
    pub(crate) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.mirror.view()
    }

    /// A client of a pooler. Calls need a deadline of their own.
    pub(crate) fn pooler_client(&self, pooler: &Pooler) -> Result<MultiPoolerClient<Channel>, Refusal> {
        self.poolers.client(&self.view(), pooler)
    }

    /// Waits after a write until the view shows it, so that the answer and the caller's next request see it.
    /// Gives up after two seconds or at the deadline: the write stands, seen or not.
    pub(crate) async fn wait_until_seen(&self, deadline: Deadline, condition: impl FnMut(&View) -> bool) {
        let timeout = WRITE_SEEN_TIMEOUT.min(deadline.remaining());
        let _ = self.mirror.wait_for(timeout, condition).await;
    }

    /// Waits until the picture may be relied on.
    pub(crate) async fn fresh(&self, deadline: Deadline) -> Result<(), Refusal> {
        if self.is_current() {
            return Ok(());
        }
        let stale = self.mirror.stale_for();
        if self.seen.load(Ordering::Relaxed) && stale.is_none_or(|age| age < TOLERATED) {
            return Ok(());
        }
        self.mirror.ready(deadline.remaining()).await.map_err(|_| {
            let age = self.mirror.stale_for().unwrap_or_default().as_secs();
            refusal::unavailable(&format!("no contact for {age} s"))
        })?;
        self.seen.store(true, Ordering::Relaxed);
        Ok(())
    }
}
