//! Waiting for conditions, never for time.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until `condition` is `Some`, at most `patience`.
///
/// # Panics
/// When it does not become so; `what` says what was awaited.
#[track_caller]
pub fn patiently<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(LOOK);
    }
}

/// Waits until `condition` holds, at most a minute.
///
/// # Panics
/// When it does not come to hold.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    patiently(what, Duration::from_secs(60), || condition().then_some(()));
}
