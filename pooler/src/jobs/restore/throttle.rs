//! Keeping a running restore below a rate of bytes written.

use std::time::{Duration, Instant};

use cellar_pgbackrest::Running;
use cellar_system::Process;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// The longest stop at a time, far below pgBackRest's own timeouts.
const MAX_STOP: Duration = Duration::from_secs(1);

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

    /// Stops the group for as long as it is ahead of the rate, one second at most.
    pub(crate) async fn hold(&mut self, running: &Running) {
        if self.max_bytes_per_second == 0 {
            return;
        }
        let written = Process::find(running.group()).map_or(0, |leader| leader.bytes_written());
        // What an ended worker has written is no longer counted, so the highest count stands.
        self.written = self.written.max(written);
        let pause = time_ahead(self.written, self.max_bytes_per_second, self.begun.elapsed()).min(MAX_STOP);
        if pause.is_zero() {
            return;
        }
        let group = Pid::from_raw(running.group());
        // A group that has just ended cannot be stopped, and needs no stop.
        if killpg(group, Signal::SIGSTOP).is_ok() {
            tokio::time::sleep(pause).await;
            let _ = killpg(group, Signal::SIGCONT);
        }
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
