//! How long a request may take: ten seconds, or less when the caller says so.

use std::time::Duration;

use cellar_model::Refusal;
use cellar_system::clock;
use cellar_topology::{StoreError, backoff, retry};
use tokio::time::Instant;
use tonic::Request;

use crate::refusal;

/// How long a request may take: longer than an election in etcd, short enough for a person who waits.
const MAX_REQUEST_TIME: Duration = Duration::from_secs(10);

/// The moment by which a request is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// The request's own `grpc-timeout`, at most ten seconds.
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        Self::at_most(request, MAX_REQUEST_TIME)
    }

    /// The request's own `grpc-timeout`, at most `limit`.
    pub(crate) fn at_most<T>(request: &Request<T>, limit: Duration) -> Self {
        let requested = request.metadata().get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?));
        // tonic itself drops the handler when the caller's time is up. A tenth is kept back so
        // that the caller gets the reason.
        Self(Instant::now() + requested.map_or(limit, |requested| limit.min(requested * 9 / 10)))
    }

    /// `time` from now, for work that no caller waits for.
    pub(crate) fn within(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    pub(crate) fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub(crate) fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// One call of the store within what is left.
    pub(crate) async fn call<T>(
        self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::time::timeout_at(self.0, call)
            .await
            .unwrap_or_else(|_| Err(StoreError::Retryable("no answer in time".to_owned())))
    }

    /// Repeats a read until it succeeds, fails for good, or the time is up.
    pub(crate) async fn retry<T, F>(self, call: impl FnMut() -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        retry(self.remaining(), call).await.map_err(refusal::of_store)
    }

    /// Pauses before the next attempt: longer each time, with jitter so that processes that failed together
    /// do not try again together.
    pub(crate) async fn pause(self, attempt: u32) {
        tokio::time::sleep(clock::jitter(backoff(attempt)).min(self.remaining())).await;
    }

    /// Pauses briefly after a conflict with another request.
    pub(crate) async fn pause_after_conflict(self, attempt: u32) {
        let pause = Duration::from_millis(u64::from(4 * attempt.clamp(1, 10)));
        tokio::time::sleep(clock::jitter(pause).min(self.remaining())).await;
    }
}

/// gRPC's text for a timeout: up to eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_callers_timeout_applies_when_it_is_shorter() {
        let mut request = Request::new(());
        assert!(Deadline::of(&request).remaining() > Duration::from_secs(9));
        request.set_timeout(Duration::from_secs(2));
        assert!(Deadline::of(&request).remaining() <= Duration::from_millis(1800));
        request.set_timeout(Duration::from_secs(3600));
        assert!(Deadline::of(&request).remaining() <= MAX_REQUEST_TIME);
    }

    proptest! {
        #[test]
        fn no_timeout_text_makes_it_panic(text in ".{0,12}") {
            let _ = parse(&text);
        }
    }
}
