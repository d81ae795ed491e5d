//! How long to wait after a failover that did not hold.

use std::time::Duration;

/// A term that was steady for this long has held.
pub const HOLDS_AFTER: Duration = Duration::from_secs(30);

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);

/// How long a record must have stood before the next attempt, after that many attempts in a row that did not hold: not at
/// all the first time, then 10 s, doubling to 5 min.
#[must_use]
pub fn backoff(attempts: u32) -> Duration {
    match attempts.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST.saturating_mul(1 << doublings.min(16)).min(LONGEST),
    }
}
