//! Keeping a lease alive while the process runs.

use std::sync::Arc;
use std::time::Duration;

use cellar_system::clock;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::kv::{Kv, LeaseId};

/// How soon a failed renewal is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The last renewal that etcd confirmed.
#[derive(Debug, Clone, Copy)]
struct Renewal {
    lease: LeaseId,
    /// When it was sent, by [`clock::uptime`]. The lease stands for its TTL from then on at least.
    sent: Duration,
}

/// Holds one lease, renews it after a third of its TTL, and gets a new one when it
/// has ended. Keys bound to the lease must be written again whenever it changes.
///
/// A restart of etcd that is shorter than the TTL does not end the lease: etcd
/// persists leases and starts their TTL again, and renewal goes on when it answers.
#[derive(Debug)]
pub struct LeaseKeeper {
    lease: watch::Receiver<Option<LeaseId>>,
    renewal: watch::Receiver<Option<Renewal>>,
    task: JoinHandle<()>,
}

impl LeaseKeeper {
    /// Starts to hold a lease of `ttl` seconds.
    #[must_use]
    pub fn start(kv: Arc<dyn Kv>, ttl: u32) -> Self {
        let (sender, lease) = watch::channel(None);
        let (renewed, renewal) = watch::channel(None);
        let task = tokio::spawn(async move {
            let renew = Duration::from_secs(u64::from(ttl)) / 3;
            loop {
                let held = *sender.borrow();
                let sent = clock::uptime();
                let pause = match held {
                    None => match kv.grant(ttl).await {
                        Ok(id) => {
                            renewed.send_replace(Some(Renewal { lease: id, sent }));
                            sender.send_replace(Some(id));
                            renew
                        }
                        Err(error) => {
                            tracing::debug!(%error, "no lease yet");
                            RETRY_INTERVAL
                        }
                    },
                    Some(id) => match kv.keep_alive(id).await {
                        Ok(true) => {
                            renewed.send_replace(Some(Renewal { lease: id, sent }));
                            renew
                        }
                        Ok(false) => {
                            tracing::warn!("the lease has ended; getting a new one");
                            sender.send_replace(None);
                            continue;
                        }
                        Err(error) => {
                            tracing::debug!(%error, "lease not renewed yet");
                            RETRY_INTERVAL
                        }
                    },
                };
                tokio::time::sleep(pause).await;
            }
        });
        Self { lease, renewal, task }
    }

    /// The lease, as far as is known; `None` while there is none.
    #[must_use]
    pub fn current(&self) -> Option<LeaseId> {
        *self.lease.borrow()
    }

    /// When the last confirmed renewal of `lease` was sent, by [`clock::uptime`]; `None` when another lease is held
    /// by now.
    #[must_use]
    pub fn renewed(&self, lease: LeaseId) -> Option<Duration> {
        let renewal = *self.renewal.borrow();
        renewal.filter(|renewal| renewal.lease == lease).map(|renewal| renewal.sent)
    }

    /// A receiver that sees every change of the lease.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<LeaseId>> {
        self.lease.clone()
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}
