//! Leading: one multiadmin at a time keeps house.
//!
//! The place is a key bound to a lease. Losing it is harmless at any moment:
//! every write of the leader is guarded by the revision at which it took the
//! place, and by everything that its decision saw.

use std::sync::Arc;
use std::time::Duration;

use cellar_model::Key;
use cellar_system::clock;
use cellar_topology::{LeaseId, LeaseKeeper, StoreError, TxnOutcome};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::admin::Admin;
use crate::leader::execute::execute;
use crate::leader::housekeeping::{Action, decide};
use crate::leader::observations::Observations;

/// After so many seconds without its leader another multiadmin takes over.
const LEASE_TTL: u32 = 10;

/// Looks at the world at least so often: deadlines pass without anybody writing.
const TICK: Duration = Duration::from_secs(5);

/// Changes come in bursts; one look serves all of them. Short, for each step of a restore waits for it.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// How long giving the place back may take.
const RESIGN: Duration = Duration::from_secs(1);

/// This process's candidacy, and its leadership while it has it.
#[derive(Debug)]
pub struct Leading {
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
    admin: Admin,
    keeper: Arc<LeaseKeeper>,
}

impl Leading {
    /// Stands for election from now on. `identity` must differ between processes; it is what
    /// `admins/leader` shows.
    #[must_use]
    pub fn start(admin: &Admin, identity: String) -> Self {
        let keeper = Arc::new(LeaseKeeper::start(Arc::clone(admin.store.kv()), LEASE_TTL));
        let (stop, stopped) = watch::channel(false);
        let candidate = Candidate {
            admin: admin.clone(),
            identity,
            keeper: Arc::clone(&keeper),
            held: None,
            observed: Observations::default(),
        };
        let task = tokio::spawn(candidate.run(stopped));
        Self { task, stop, admin: admin.clone(), keeper }
    }

    /// Gives the place back at once, so that nobody waits for the lease to end.
    pub async fn resign(mut self) {
        self.stop.send_replace(true);
        let _ = tokio::time::timeout(RESIGN, &mut self.task).await;
        if let Some(lease) = self.keeper.current() {
            let _ = tokio::time::timeout(RESIGN, self.admin.store.kv().revoke(lease)).await;
        }
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Candidate {
    admin: Admin,
    identity: String,
    keeper: Arc<LeaseKeeper>,
    /// The lease that the place is bound to, when this process took it.
    held: Option<LeaseId>,
    observed: Observations,
}

/// What there is to do.
enum Step {
    /// Take the place, or bind it to the present lease.
    Take { lease: LeaseId, revision: i64 },
    /// Keep house.
    Lead { revision: i64, actions: Vec<Action> },
    /// Somebody else leads, or nobody can.
    Follow,
}

impl Candidate {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut changes = self.admin.mirror.changes();
        let mut lease = self.keeper.subscribe();
        loop {
            changes.borrow_and_update();
            lease.borrow_and_update();
            tokio::select! {
                biased;
                () = self.pass() => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            let woken = async {
                tokio::select! {
                biased;
                    _ = changes.changed() => {}
                    _ = lease.changed() => {}
                }
                tokio::time::sleep(DEBOUNCE).await;
            };
            tokio::select! {
                biased;
                () = woken => {}
                () = tokio::time::sleep(TICK) => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn pass(&mut self) {
        match self.look() {
            Step::Follow => {}
            Step::Take { lease, revision } => match self.take(lease, revision).await {
                Ok(TxnOutcome::Committed(_)) => {
                    self.held = Some(lease);
                    tracing::info!(identity = self.identity, "this multiadmin leads");
                }
                Ok(TxnOutcome::Conflict) => {}
                Err(error) => tracing::debug!(%error, "cannot stand for election now"),
            },
            Step::Lead { revision, actions } => {
                for action in &actions {
                    match execute(&self.admin.store, revision, action).await {
                        Ok(_) => {}
                        Err(StoreError::Retryable(reason)) => {
                            tracing::debug!(reason, "housekeeping waits for etcd");
                            return;
                        }
                        Err(error) => tracing::error!(%error, ?action, "housekeeping failed"),
                    }
                }
            }
        }
    }

    fn look(&mut self) -> Step {
        if !self.admin.is_current() {
            self.observed.clear();
            return Step::Follow;
        }
        let view = self.admin.view();
        let revision = view.revision(&Key::AdminLeader);
        let Some(lease) = self.keeper.current() else { return Step::Follow };
        match &view.admin_leader {
            // Also when there is something unreadable in its place: the revision guards.
            None => Step::Take { lease, revision },
            Some(leader) if *leader != self.identity => {
                self.observed.clear();
                Step::Follow
            }
            Some(_) if self.held != Some(lease) => Step::Take { lease, revision },
            Some(_) => {
                self.observed.observe(&view, Instant::now());
                Step::Lead { revision, actions: decide(&view, &self.observed, clock::now()) }
            }
        }
    }

    async fn take(&self, lease: LeaseId, revision: i64) -> Result<TxnOutcome, StoreError> {
        let transaction = self.admin.store.transaction();
        transaction
            .expect(&Key::AdminLeader, revision)
            .put_leased(&Key::AdminLeader, &self.identity, lease)
            .commit()
            .await
    }
}
