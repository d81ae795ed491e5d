//! Waiting for a condition.

use std::time::Duration;

use tokio::time::Instant;

/// Waits until the condition holds and returns how long that took.
pub(crate) async fn wait_until(what: &str, timeout: Duration, condition: impl Fn() -> bool) -> Duration {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < timeout, "not within {timeout:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begin.elapsed()
}
