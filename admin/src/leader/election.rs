//! Leading: one multiadmin at a time does the housekeeping.
//!
//! Leadership is a key bound to a lease, which its holder also writes again every few seconds. Losing it is harmless at any moment:
//! every write of the leader is guarded by the revision at which it took the
//! key, and by the revisions of everything that its decision read.

use std::sync::Arc;
use std::time::Duration;

use cellar_model::{Key, Protocol};
use cellar_system::{LoopPulse, clock};
use cellar_topology::{LeaseId, LeaseKeeper, StoreError, TxnOutcome};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::admin::Admin;
use crate::leader::execute::execute;
use crate::leader::housekeeping::{Action, decide};
use crate::leader::observations::Observations;

/// Seconds after which another multiadmin takes over from a leader that has died.
const LEASE_TTL: u32 = 10;

/// How often the leader writes its key again. The lease alone does not show that it lives: etcd lets anybody with a
/// certificate keep any lease alive.
const BEAT_INTERVAL: Duration = Duration::from_secs(5);

/// A leader that has not written its key for so long is replaced, whatever its lease says. By the clock of the one that
/// watches it, from when it saw the last write.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(25);

/// How often to decide at least: deadlines pass without any write.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(5);

/// The shortest time between a decision that changed nothing and the next one: changes come in bursts. After a decision
/// that changed something the next one is due as soon as that is seen: the steps of a restore follow each other so.
const DECISION_INTERVAL: Duration = Duration::from_millis(20);

/// How long resigning may take, for each of its two parts.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(1);

/// This process's candidacy, and its leadership while it has it.
#[derive(Debug)]
pub struct Leading {
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
    admin: Admin,
    keeper: Arc<LeaseKeeper>,
}

impl Leading {
    /// Stands for election from now on. `identity` must differ between processes; it is the value of
    /// `admins/leader`.
    #[must_use]
    pub fn start(admin: &Admin, identity: String) -> Self {
        let keeper = Arc::new(LeaseKeeper::start(Arc::clone(admin.store.kv()), LEASE_TTL));
        let (stop, stopped) = watch::channel(false);
        let candidate = Candidate {
            admin: admin.clone(),
            identity,
            keeper: Arc::clone(&keeper),
            held: None,
            beaten: None,
            watched: None,
            too_old: false,
            is_foreign: false,
            observed: Observations::default(),
            pulse: admin.watchdog.watch(),
        };
        let task = tokio::spawn(candidate.run(stopped));
        Self { task, stop, admin: admin.clone(), keeper }
    }

    /// Gives leadership up at once, so that the next leader need not wait for the lease to end.
    pub async fn resign(mut self) {
        self.stop.send_replace(true);
        let _ = tokio::time::timeout(RESIGN_TIMEOUT, &mut self.task).await;
        if let Some(lease) = self.keeper.current() {
            let _ = tokio::time::timeout(RESIGN_TIMEOUT, self.admin.store.kv().revoke(lease)).await;
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
    /// The lease that the leader's key is bound to, when this process wrote it.
    held: Option<LeaseId>,
    /// When this process last wrote the leader's key.
    beaten: Option<Instant>,
    /// The revision of another leader's key, and since when it has been that.
    watched: Option<(i64, Instant)>,
    /// Whether it was said that this build is too old to lead.
    too_old: bool,
    /// Whether it was said that etcd has the records of another cluster.
    is_foreign: bool,
    observed: Observations,
    pulse: LoopPulse,
}

/// What to do next.
enum Step {
    /// Write the leader's key, bound to the present lease: to become the leader, or to show that it lives.
    Take { lease: LeaseId, revision: i64 },
    /// Do the housekeeping.
    Lead { revision: i64, actions: Vec<Action> },
    /// Another process leads, or etcd does not answer.
    Follow,
}

impl Candidate {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut changes = self.admin.mirror.changes();
        let mut lease = self.keeper.subscribe();
        loop {
            changes.borrow_and_update();
            lease.borrow_and_update();
            self.pulse.beat();
            let has_changed = tokio::select! {
                biased;
                has_changed = self.act() => has_changed,
                _ = stopped.wait_for(|stop| *stop) => return,
            };
            let due = Instant::now() + if has_changed { Duration::ZERO } else { DECISION_INTERVAL };
            let woken = async {
                tokio::select! {
                biased;
                    _ = changes.changed() => {}
                    _ = lease.changed() => {}
                }
                tokio::time::sleep_until(due).await;
            };
            let next_timeout = self.observed.next_timeout();
            let interval = next_timeout.map_or(HOUSEKEEPING_INTERVAL, |next| next.min(HOUSEKEEPING_INTERVAL));
            tokio::select! {
                biased;
                () = woken => {}
                () = tokio::time::sleep(self.pulse.rest(interval)) => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Takes the next step. Whether it has changed what is to be decided.
    async fn act(&mut self) -> bool {
        let mut has_changed = false;
        match self.next_step() {
            Step::Follow => {}
            Step::Take { lease, revision } => match self.take(lease, revision).await {
                Ok(TxnOutcome::Committed(_)) => {
                    self.beaten = Some(Instant::now());
                    if self.held.replace(lease) != Some(lease) {
                        tracing::info!(identity = self.identity, "this multiadmin is the leader now");
                    }
                }
                Ok(TxnOutcome::Conflict) => {}
                Err(error) => tracing::debug!(%error, "cannot stand for election now"),
            },
            Step::Lead { revision, actions } => {
                for action in &actions {
                    // There may be many, and each writes to etcd.
                    self.pulse.beat();
                    match execute(&self.admin.store, revision, action).await {
                        Ok(done) => has_changed |= done,
                        Err(StoreError::Retryable(reason)) => {
                            tracing::debug!(reason, "housekeeping waits for etcd");
                            return false;
                        }
                        Err(error) => tracing::error!(%error, ?action, "housekeeping failed"),
                    }
                }
            }
        }
        has_changed
    }

    fn next_step(&mut self) -> Step {
        if !self.admin.is_current() {
            self.observed.clear();
            // What was written meanwhile is not known.
            self.watched = None;
            return Step::Follow;
        }
        let view = self.admin.view();
        if let Some(database) = view.databases.values().find(|each| each.minimum_protocol > Protocol::OURS) {
            let (database, minimum, ours) = (&database.name, database.minimum_protocol, Protocol::OURS);
            if !std::mem::replace(&mut self.too_old, true) {
                tracing::error!(%database, %minimum, %ours, "this multiadmin is too old to lead: update it");
            }
            return Step::Follow;
        }
        if let Err(refusal) = self.admin.check_cluster(&view) {
            if !std::mem::replace(&mut self.is_foreign, true) {
                tracing::error!(code = refusal.code.as_str(), "{}", refusal.message);
            }
            return Step::Follow;
        }
        self.is_foreign = false;
        let revision = view.revision(&Key::AdminLeader);
        let Some(lease) = self.keeper.current() else { return Step::Follow };
        match &view.admin_leader {
            // Also when the key has an unreadable value: its revision is the guard.
            None => Step::Take { lease, revision },
            Some(leader) if *leader != self.identity => {
                self.observed.clear();
                self.held = None;
                let since = match self.watched {
                    Some((seen, since)) if seen == revision => since,
                    _ => self.watched.insert((revision, Instant::now())).1,
                };
                if since.elapsed() < SILENCE_TIMEOUT {
                    return Step::Follow;
                }
                tracing::warn!(leader, "the leader's lease stands, but it has written nothing for too long");
                Step::Take { lease, revision }
            }
            Some(_) if self.held != Some(lease) => Step::Take { lease, revision },
            Some(_) if self.beaten.is_none_or(|at| at.elapsed() >= BEAT_INTERVAL) => {
                Step::Take { lease, revision }
            }
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
