//! Keeping a running restore below a rate of bytes written.

use std::time::{Duration, Instant};

use cellar_pgbackrest::Running;
use cellar_system::Process;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// The longest stop at a time, far below pgBackRest's own timeouts. Between two stops pgBackRest writes for a moment, on
/// a fast disk more than the rate allows for a second: then the stops must be long.
const MAX_STOP: Duration = Duration::from_secs(10);

/// How often a stop is looked at that may have to end early.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Keeps a group of processes below a rate of bytes written.
pub(crate) struct Throttle {
    max_bytes_per_second: u64,
    begun: Instant,
    written: u64,
}

impl Throttle {
    /// A throttle that begins now; a rate of 0 is no bound.
    pub(crate) fn new(max_bytes_per_second: u64) -> Self {
        Self { max_bytes_per_second, begun: Instant::now(), written: 0 }
    }

    /// Stops the group if it is ahead of the rate.
    pub(crate) fn stop_if_ahead(&mut self, running: &Running) -> Option<Stop> {
        if self.max_bytes_per_second == 0 {
            return None;
        }
        let written = Process::find(running.group()).map_or(0, |leader| leader.bytes_written());
        // What an ended worker has written is no longer counted, so the highest count stands.
        self.written = self.written.max(written);
        let pause = time_ahead(self.written, self.max_bytes_per_second, self.begun.elapsed()).min(MAX_STOP);
        if pause.is_zero() {
            return None;
        }
        let group = Pid::from_raw(running.group());
        // A group that has just ended cannot be stopped, and needs no stop.
        killpg(group, Signal::SIGSTOP).ok().map(|()| Stop { group, until: Instant::now() + pause })
    }
}

/// A group of processes that is stopped. It goes on when this is dropped.
pub(crate) struct Stop {
    group: Pid,
    until: Instant,
}

impl Stop {
    /// Waits until the rate allows the group to go on, or `interrupted` says so.
    pub(crate) async fn rest(self, interrupted: impl Fn() -> bool) {
        while !interrupted() {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_INTERVAL)).await;
        }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        let _ = killpg(self.group, Signal::SIGCONT);
    }
}

/// How long to wait until `written` bytes since `elapsed` ago are no more than `rate` per second.
fn time_ahead(written: u64, rate: u64, elapsed: Duration) -> Duration {
    let due = Duration::from_millis(written.saturating_mul(1000) / rate.max(1));
    due.saturating_sub(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_the_whole_time() {
        let second = Duration::from_secs(1);
        assert_eq!(time_ahead(100, 100, second), Duration::ZERO);
        assert_eq!(time_ahead(300, 100, second), Duration::from_secs(2));
        assert_eq!(time_ahead(50, 100, second), Duration::ZERO);
    }
}
