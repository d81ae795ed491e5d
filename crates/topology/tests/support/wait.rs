//! Waiting for a condition.

use std::time::Duration;

use tokio::time::Instant;

/// Looks until the condition holds and answers how long that took.
pub(crate) async fn wait_until(what: &str, patience: Duration, condition: impl Fn() -> bool) -> Duration {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < patience, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begin.elapsed()
}
