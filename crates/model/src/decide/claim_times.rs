//! How long a claim holds without word from its pooler: when the pooler must have ended its work, and when the job may
//! be closed.
//!
//! A claim is a key bound to its pooler's lease. etcd removes it [`CLAIM_LEASE_SECONDS`] after the last renewal, or later. The
//! pooler, or the process group's own watchdog when the pooler stands still, ends the work [`WORK_TIMEOUT`] after that
//! renewal was sent. multiadmin closes the job [`LOST_TIMEOUT`] after it saw that the claim is gone. So no job is
//! closed while its work goes on, and a dead cell holds up the others for the sum of lease and timeout.

use std::time::Duration;

/// TTL of a pooler's lease, to which its status and its claims are bound: short enough that a dead cell is shown soon,
/// long enough for most restarts of etcd. In seconds, as etcd takes it.
pub const CLAIM_LEASE_SECONDS: u32 = 10;

/// For how long the work of a job goes on after the last renewal of its claim's lease that etcd confirmed. Longer than
/// the lease, because a restart of etcd takes longer than the lease at times, and ends no lease.
pub const WORK_TIMEOUT: Duration = Duration::from_secs(18);

/// For how long a job must have been seen without a claim before it is closed.
pub const LOST_TIMEOUT: Duration = Duration::from_secs(12);

/// How much later than the end of the work a job may be closed at the earliest: the resolution of the watchdog's clock
/// (1 s), and time for the kernel to end processes that are in a system call.
const MARGIN: Duration = Duration::from_secs(4);

const _: () = assert!(
    CLAIM_LEASE_SECONDS as u64 + LOST_TIMEOUT.as_secs() >= WORK_TIMEOUT.as_secs() + MARGIN.as_secs(),
    "a job could be closed while its work goes on"
);
