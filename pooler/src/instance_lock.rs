//! Who may work on the instance: the supervisor, for one round at a time, or a job.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

/// Keeps rounds of the supervisor and jobs that stop or replace the instance apart.
#[derive(Debug, Default)]
pub(crate) struct InstanceLock {
    /// How many jobs have the instance or ask for it: no round begins then, and a long one ends early. A job that has lost
    /// its claim may still be ending when the next begins.
    holders: Cell<u32>,
    /// How often a job has had it or asked for it.
    holds: Cell<u64>,
    round: Mutex<()>,
}

impl InstanceLock {
    /// Whether a job has the instance to itself, or waits for it.
    pub(crate) fn is_held(&self) -> bool {
        self.holders.get() > 0
    }

    /// How often a job has had the instance to itself, or waited for it: also one that had it between two rounds, of which
    /// none of them knows else.
    pub(crate) fn holds(&self) -> u64 {
        self.holds.get()
    }

    /// Begins a round of the supervisor, which lasts until the guard is dropped; none while a job has the instance.
    pub(crate) async fn round(&self) -> Option<MutexGuard<'_, ()>> {
        let guard = self.round.lock().await;
        (!self.is_held()).then_some(guard)
    }

    /// Lets no other round begin, and waits for the end of the one that is under way. False when it does not end in time;
    /// [`InstanceLock::release`] follows in any case.
    pub(crate) async fn hold(&self, within: Duration) -> bool {
        self.holders.set(self.holders.get() + 1);
        self.holds.set(self.holds.get() + 1);
        timeout(within, self.round.lock()).await.is_ok()
    }

    /// Gives the instance back to the supervisor.
    pub(crate) fn release(&self) {
        self.holders.set(self.holders.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn job_waits_for_the_end_of_a_round_and_no_other_begins() {
        let lock = InstanceLock::default();
        let round = lock.round().await.unwrap();
        assert!(!lock.hold(Duration::from_millis(5)).await, "the round goes on");
        assert!(lock.is_held(), "so that a long round ends early");
        let (held, ()) = tokio::join!(lock.hold(Duration::from_secs(60)), async {
            tokio::task::yield_now().await;
            drop(round);
        });
        assert!(held);
        assert!(lock.round().await.is_none());
        lock.release();
        assert!(lock.round().await.is_none(), "the one that gave up waiting has not left");
        lock.release();
        assert!(lock.round().await.is_some());
    }
}
