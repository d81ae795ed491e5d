//! How long a request may take: ten seconds, or less when the caller says so.

use std::time::Duration;

use cellar_model::Refusal;
use cellar_system::clock;
use cellar_topology::StoreError;
use tokio::time::Instant;
use tonic::Request;

use crate::refusal;

/// Patience with etcd. Longer than one of its elections, shorter than a person's.
const PATIENCE: Duration = Duration::from_secs(10);

/// First and longest pause between two attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The moment by which a request is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// The request's own `grpc-timeout`, at most ten seconds.
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        Self::at_most(request, PATIENCE)
    }

    /// The request's own `grpc-timeout`, at most `patience`.
    pub(crate) fn at_most<T>(request: &Request<T>, patience: Duration) -> Self {
        let asked = request.metadata().get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?));
        // tonic itself drops the handler when the caller's time is up. A tenth is kept back so
        // that the caller learns what was the matter.
        Self(Instant::now() + asked.map_or(patience, |asked| patience.min(asked * 9 / 10)))
    }

    /// So long from now, for what nobody waits for.
    pub(crate) fn within(patience: Duration) -> Self {
        Self(Instant::now() + patience)
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
    pub(crate) async fn retry<T, F>(self, mut call: impl FnMut() -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut attempt = 0;
        loop {
            match self.call(call()).await {
                Err(error) if error.is_retryable() && !self.has_passed() => self.pause(attempt).await,
                result => return result.map_err(refusal::of_store),
            }
            attempt += 1;
        }
    }

    /// Rests before the next attempt, longer each time and never the same for two processes.
    pub(crate) async fn pause(self, attempt: u32) {
        let pause = FIRST_PAUSE.saturating_mul(1 << attempt.min(5)).min(LONGEST_PAUSE);
        tokio::time::sleep(clock::jitter(pause).min(self.remaining())).await;
    }

    /// Rests briefly after losing a race.
    pub(crate) async fn yield_to_others(self, attempt: u32) {
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
    fn the_callers_time_counts_when_it_is_shorter() {
        let mut request = Request::new(());
        assert!(Deadline::of(&request).remaining() > Duration::from_secs(9));
        request.set_timeout(Duration::from_secs(2));
        assert!(Deadline::of(&request).remaining() <= Duration::from_millis(1800));
        request.set_timeout(Duration::from_secs(3600));
        assert!(Deadline::of(&request).remaining() <= PATIENCE);
    }

    proptest! {
        #[test]
        fn any_timeout_text_is_survived(text in ".{0,12}") {
            let _ = parse(&text);
        }
    }
}
