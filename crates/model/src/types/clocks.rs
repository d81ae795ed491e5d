//! How much the clocks of a cluster's hosts may differ.

use std::time::Duration;

use jiff::Timestamp;

/// How much the clocks of two hosts may differ before anything is refused for it. Without a time server they drift apart by
/// minutes; an hour is how far public authorities put the beginning of a certificate back (Let's Encrypt).
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(3600);

/// Whether a time that another host's clock may have told is in the future by any clock of the cluster, seen from one of
/// them.
#[must_use]
pub fn is_future(time: Timestamp, now: Timestamp) -> bool {
    now.saturating_add(CLOCK_TOLERANCE).is_ok_and(|latest| time > latest)
}
