//! Until when the work of a claimed job may go on without word from etcd.

#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

use std::cell::Cell;
use std::time::Duration;

use cellar_model::WORK_TIMEOUT;
use cellar_topology::LeaseId;

use crate::member::Member;

/// The lease that a job's claim was last bound to, and when that was last known to stand.
///
/// A new lease of the process does not count before the claim is bound to it: until then the job looks lost, and
/// multiadmin may close it.
#[derive(Debug)]
pub struct ClaimLease {
    lease: Cell<LeaseId>,
    /// By [`cellar_system::clock::uptime`].
    renewed: Cell<Duration>,
}

impl ClaimLease {
    /// Of a claim that is bound to `lease`. `None` when the process has lost that lease already.
    pub(crate) fn new(member: &Member, lease: LeaseId) -> Option<Self> {
        let renewed = member.lease.renewed(lease)?;
        Some(Self { lease: Cell::new(lease), renewed: Cell::new(renewed) })
    }

    /// The claim was bound to `lease`, whose last renewal was sent at `renewed`.
    pub(crate) fn bind(&self, lease: LeaseId, renewed: Duration) {
        self.lease.set(lease);
        self.renewed.set(renewed);
    }

    /// Whether the claim is bound to the lease that the process has now.
    pub(crate) fn is_current(&self, member: &Member) -> bool {
        member.lease.current() == Some(self.lease.get())
    }

    /// When the work must have ended, by [`cellar_system::clock::uptime`]: [`WORK_TIMEOUT`] after the last renewal of
    /// the claim's lease.
    pub(crate) fn work_until(&self, member: &Member) -> Duration {
        if let Some(renewed) = member.lease.renewed(self.lease.get()) {
            self.renewed.set(renewed);
        }
        self.renewed.get() + WORK_TIMEOUT
    }
}
