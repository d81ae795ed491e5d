//! Repeating a call until the store answers.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::StoreError;

/// The pause after the first failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause. Short, because whoever waits for etcd to come back wants to know soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Repeats `op` for as long as it ends with [`StoreError::Retryable`] and `deadline` has not
/// passed. The pauses grow from 50 ms to 1 s and have no jitter: a cluster has few clients.
///
/// A call that is under way at the deadline is dropped. As with every retryable error, a
/// transaction that ends so may have happened, so `op` must be safe to repeat: guarded, and
/// reading before it writes.
///
/// # Errors
/// The first error that is not retryable, or the last one that is.
pub async fn retry<T, F, Fut>(deadline: Duration, mut op: F) -> Result<T, StoreError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let end = Instant::now() + deadline;
    let mut pause = FIRST_PAUSE;
    let mut last = None;
    loop {
        let error = match timeout_at(end, op()).await {
            Ok(Err(error)) if error.is_retryable() => error,
            Ok(outcome) => return outcome,
            Err(_) => {
                let silence =
                    || StoreError::Retryable(format!("no answer within {} s", deadline.as_secs_f32()));
                return Err(last.unwrap_or_else(silence));
            }
        };
        if Instant::now() + pause >= end {
            return Err(error);
        }
        last = Some(error);
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn down() -> StoreError {
        StoreError::Retryable("down".to_owned())
    }

    /// Calls an operation that succeeds from `up_after` on; returns how it ended and when it was called.
    async fn calls(deadline: Duration, up_after: Duration) -> (Result<u32, StoreError>, Vec<u128>) {
        let begin = Instant::now();
        let called = Mutex::new(Vec::new());
        let outcome = retry(deadline, || async {
            called.lock().unwrap().push(begin.elapsed().as_millis());
            if begin.elapsed() < up_after { Err(down()) } else { Ok(7) }
        })
        .await;
        (outcome, called.into_inner().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn success_is_not_repeated() {
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
    async fn the_deadline_holds_and_the_last_error_is_told() {
        let begin = Instant::now();
        let (outcome, called) = calls(Duration::from_secs(2), Duration::MAX).await;
        assert!(matches!(outcome, Err(StoreError::Retryable(text)) if text == "down"));
        // The next call would have been at 2550.
        assert_eq!(called, [0, 50, 150, 350, 750, 1550]);
        assert_eq!(begin.elapsed(), Duration::from_millis(1550));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_answers_is_dropped_at_the_deadline() {
        let begin = Instant::now();
        let outcome: Result<(), _> = retry(Duration::from_secs(3), std::future::pending).await;
        assert!(outcome.unwrap_err().is_retryable());
        assert_eq!(begin.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn other_errors_end_it_at_once() {
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
    async fn even_without_time_it_is_tried_once() {
        assert_eq!(calls(Duration::ZERO, Duration::ZERO).await.1, [0]);
    }
}
