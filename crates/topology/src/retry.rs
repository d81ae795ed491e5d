//! Repeating a call until the store answers.
//!
//! Not the `backon` crate: its limit counts the pauses and not the calls, so that a call that never answers would
//! outlive the deadline; and its jitter comes from a generator of its own, where a simulation must decide it.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::error::StoreError;

/// The pause after the first failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause. Short, so that callers learn soon that etcd answers again.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The pause after so many failures before this one: 50 ms, doubled each time, at most one second.
#[must_use]
pub fn backoff(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2u32.saturating_pow(failures)).min(MAX_PAUSE)
}

/// Repeats `op` for as long as it ends with [`StoreError::Retryable`] and `timeout` has not
/// passed. The pauses are those of [`backoff`] and have no jitter: a cluster has few clients.
///
/// A call that is under way at the timeout is dropped. As with every retryable error, a
/// transaction that ends so may have been committed, so `op` must be safe to repeat: guarded, and
/// reading before it writes.
///
/// # Errors
/// The first error that is not retryable, or the last one that is.
pub async fn retry<T, F, Fut>(timeout: Duration, mut op: F) -> Result<T, StoreError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let end = Instant::now() + timeout;
    let mut last = None;
    for failures in 0.. {
        let error = match timeout_at(end, op()).await {
            Ok(Err(error)) if error.is_retryable() => error,
            Ok(outcome) => return outcome,
            Err(_) => break,
        };
        let pause = backoff(failures);
        if Instant::now() + pause >= end {
            return Err(error);
        }
        last = Some(error);
        sleep(pause).await;
    }
    let no_answer = || StoreError::Retryable(format!("no answer within {} s", timeout.as_secs_f32()));
    Err(last.unwrap_or_else(no_answer))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn down() -> StoreError {
        StoreError::Retryable("down".to_owned())
    }

    /// Calls an operation that succeeds from `up_after` on; returns its outcome and the milliseconds at which it was called.
    async fn calls(timeout: Duration, up_after: Duration) -> (Result<u32, StoreError>, Vec<u128>) {
        let begin = Instant::now();
        let called = Mutex::new(Vec::new());
        let outcome = retry(timeout, || async {
            called.lock().unwrap().push(begin.elapsed().as_millis());
            if begin.elapsed() < up_after { Err(down()) } else { Ok(7) }
        })
        .await;
        (outcome, called.into_inner().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_succeeds_is_not_repeated() {
        let (outcome, called) = calls(Duration::from_secs(1), Duration::ZERO).await;
        assert_eq!((outcome.unwrap(), called), (7, vec![0]));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_a_second() {
        let (outcome, called) = calls(Duration::from_secs(60), Duration::from_secs(5)).await;
        assert_eq!(outcome.unwrap(), 7);
        assert_eq!(called, [0, 50, 150, 350, 750, 1550, 2550, 3550, 4550, 5550]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_begins_after_the_timeout_and_the_last_error_is_returned() {
        let begin = Instant::now();
        let (outcome, called) = calls(Duration::from_secs(2), Duration::MAX).await;
        assert!(matches!(outcome, Err(StoreError::Retryable(text)) if text == "down"));
        // The next call would have been at 2550.
        assert_eq!(called, [0, 50, 150, 350, 750, 1550]);
        assert_eq!(begin.elapsed(), Duration::from_millis(1550));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_answers_is_dropped_at_the_timeout() {
        let begin = Instant::now();
        let outcome: Result<(), _> = retry(Duration::from_secs(3), std::future::pending).await;
        assert!(outcome.unwrap_err().is_retryable());
        assert_eq!(begin.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_that_is_not_retryable_is_returned_at_once() {
        for error in [
            || StoreError::Terminal("no".to_owned()),
            || StoreError::Compacted,
            || StoreError::Corrupt { key: "k".to_owned(), reason: "r".to_owned() },
        ] {
            let mut calls = 0;
            let outcome: Result<(), _> = retry(Duration::from_secs(9), || {
                calls += 1;
                std::future::ready(Err(error()))
            })
            .await;
            assert!(!outcome.unwrap_err().is_retryable());
            assert_eq!(calls, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_made_once_even_without_time() {
        assert_eq!(calls(Duration::ZERO, Duration::ZERO).await.1, [0]);
    }
}
