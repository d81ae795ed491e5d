//! Waiting for conditions, never for time.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

/// Shortest time between two looks at a condition.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// How many times as long as the look itself the wait after it is: what asks a program or a server costs processor time
/// that the cluster under test needs.
const REST_FACTOR: u32 = 3;

/// Longest time between two looks, however long they take.
const MAX_INTERVAL: Duration = Duration::from_millis(200);

/// Looks until `look` gives something, at most for `timeout`; nothing when it did not.
pub fn poll<T>(timeout: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let begun = Instant::now();
        if let Some(value) = look() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep((begun.elapsed() * REST_FACTOR).clamp(MIN_INTERVAL, MAX_INTERVAL));
    }
}

/// Waits until `condition` is `Some`, at most `timeout`.
///
/// # Panics
/// When it does not become so; `what` says what was awaited.
#[track_caller]
pub fn wait_for<T>(what: &str, timeout: Duration, condition: impl FnMut() -> Option<T>) -> T {
    match poll(timeout, condition) {
        Some(value) => value,
        None => panic!("not within {timeout:?}: {what}"),
    }
}

/// Waits until `look` is `Ok`, at most `timeout`.
///
/// # Panics
/// When it does not become so, with what was seen last.
#[track_caller]
pub fn wait_until<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let mut seen = String::new();
    match poll(timeout, || look().map_err(|now| seen = now).ok()) {
        Some(value) => value,
        None => panic!("not within {timeout:?}: {what}: {seen}"),
    }
}

/// Waits until `condition` holds, at most a minute.
///
/// # Panics
/// When it does not come to hold.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, Duration::from_secs(60), || condition().then_some(()));
}

/// Runs a future to its end, for a test that is not async. What it spawns, such as a connection, goes on afterwards.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => panic!("no runtime: {error}"),
        }
    });
    RUNTIME.block_on(work)
}
