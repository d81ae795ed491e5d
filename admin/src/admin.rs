//! The state that every request uses: the store, a mirror of it, channels to the poolers and the audit trail.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLockReadGuard};
use std::time::Duration;

use cellar_api::v1::multi_pooler_client::MultiPoolerClient;
use cellar_model::{Pooler, Refusal};
use cellar_system::Watchdog;
use cellar_topology::{Mirror, Scope, Store, View};
use tokio::sync::watch;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::audit::log::AuditLog;
use crate::audit::trail::Audit;
use crate::deadline::Deadline;
use crate::member_reports::MemberReports;
use crate::open_jobs::OpenJobs;
use crate::pooler_clients::{Dial, PoolerClients};
use crate::refusal;

/// For how long the view may have been out of date before requests wait for a current one. Starting
/// a broken watch again takes a fraction of a second, which need not delay requests.
const MAX_STALENESS: Duration = Duration::from_secs(3);

/// How long an answer may wait for the mirror to show what was just written.
const WRITE_SEEN_TIMEOUT: Duration = Duration::from_secs(2);

/// The service's state. Clones share it.
#[derive(Debug, Clone)]
pub struct Admin {
    pub(crate) store: Store,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) poolers: Arc<PoolerClients>,
    pub(crate) audit: Audit,
    pub(crate) open_jobs: OpenJobs,
    pub(crate) member_reports: MemberReports,
    /// Whether the mirror has ever been complete. Before that an empty view means nothing.
    was_current: Arc<AtomicBool>,
    ending: watch::Sender<bool>,
    /// What ends this process when one of its loops stands still.
    pub(crate) watchdog: Watchdog,
    /// Which cluster of its name it is of, if it was told.
    cluster_id: Option<Uuid>,
}

impl Admin {
    /// Starts to mirror the cluster behind `store`. `dial` makes channels to poolers, and every call
    /// that changes something leaves its record in `audit`.
    ///
    /// Must be called within a tokio runtime. Needs no store that answers: until it does, every
    /// request is refused with `UNAVAILABLE`.
    #[must_use]
    pub fn start(store: Store, dial: Arc<Dial>, audit: AuditLog) -> Self {
        let mirror = Mirror::start_with(&store, vec![store.keys().all()], Scope::OpenJobs);
        let mirror = Arc::new(mirror);
        Self {
            audit: Audit::start(&store, audit),
            store,
            mirror,
            open_jobs: OpenJobs::default(),
            member_reports: MemberReports::default(),
            poolers: Arc::new(PoolerClients::new(dial)),
            was_current: Arc::default(),
            ending: watch::Sender::new(false),
            watchdog: Watchdog::default(),
            cluster_id: None,
        }
    }

    /// The same, which refuses to work with the records of another cluster of its name.
    #[must_use]
    pub fn of_cluster(self, cluster_id: Option<Uuid>) -> Self {
        Self { cluster_id, ..self }
    }

    /// Why nothing may be done with the records in etcd.
    ///
    /// # Errors
    /// When they are another cluster's.
    pub(crate) fn check_cluster(&self, view: &View) -> Result<(), Refusal> {
        view.databases.values().try_for_each(|database| database.check_cluster(self.cluster_id))
    }

    /// The same, whose loops are watched: give it before they are started.
    #[must_use]
    pub fn watched_by(self, watchdog: Watchdog) -> Self {
        Self { watchdog, ..self }
    }

    /// Whether the view is complete and current.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let current = self.mirror.stale_for().is_none();
        if current {
            self.was_current.store(true, Ordering::Relaxed);
        }
        current
    }

    /// Waits for a complete view; false when that takes longer than `timeout`.
    pub async fn ready(&self, timeout: Duration) -> bool {
        self.mirror.ready(timeout).await.is_ok() && self.is_current()
    }

    /// Ends every stream that is being served, so that the server can shut down.
    pub fn end_streams(&self) {
        self.ending.send_replace(true);
    }

    /// The lists of revoked certificates in PEM. Their signatures are not verified yet.
    #[must_use]
    pub fn revocations(&self) -> Option<String> {
        self.view().revocations.clone().map(|list| list.pem)
    }

    /// Calls poolers over new connections from now on, with the present certificates.
    pub fn redial(&self) {
        self.poolers.forget_all();
    }

    /// A receiver that sees `true` when streams must end.
    pub(crate) fn ending(&self) -> watch::Receiver<bool> {
        self.ending.subscribe()
    }

    /// The view now. Do not hold the guard across an await.
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

    /// Waits until the view is current, or not out of date for long.
    pub(crate) async fn fresh(&self, deadline: Deadline) -> Result<(), Refusal> {
        if self.is_current() {
            return self.check_cluster(&self.view());
        }
        let stale = self.mirror.stale_for();
        if self.was_current.load(Ordering::Relaxed) && stale.is_none_or(|age| age < MAX_STALENESS) {
            return self.check_cluster(&self.view());
        }
        self.mirror.ready(deadline.remaining()).await.map_err(|_| {
            let age = self.mirror.stale_for().unwrap_or_default().as_secs();
            refusal::unavailable(&format!("no contact for {age} s"))
        })?;
        self.was_current.store(true, Ordering::Relaxed);
        self.check_cluster(&self.view())
    }
}
