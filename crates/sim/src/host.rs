//! A host: one process with a runtime and a clock of its own, that can be killed and frozen between any two steps.
//!
//! As in turmoil, each host has a single-threaded runtime whose clock is paused, and all hosts are moved on in
//! lockstep: nothing depends on the machine's time or its threads.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use cellar_system::clock::{self, Source};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

use crate::random::Chance;

/// 2026-03-01, a day without a change of clocks.
const EPOCH: Duration = Duration::from_secs(1_772_323_200);

/// The wall clock of one host: the world's time, and how far off it is.
#[derive(Debug, Clone)]
pub struct WallClock {
    /// Time since the simulation began.
    pub world: Rc<Cell<Duration>>,
    /// How many milliseconds this host's clock is ahead; negative when behind.
    pub offset: Rc<Cell<i64>>,
    chance: Chance,
}

impl Source for WallClock {
    fn unix_time(&self) -> Duration {
        let at = EPOCH + self.world.get();
        let offset = self.offset.get();
        let by = Duration::from_millis(offset.unsigned_abs());
        if offset < 0 { at.saturating_sub(by) } else { at + by }
    }

    fn uptime(&self) -> Duration {
        self.world.get()
    }

    fn random(&self) -> u128 {
        self.chance.bits()
    }
}

/// One process on one host.
#[derive(Debug)]
pub struct Host {
    running: Option<(Runtime, LocalSet)>,
    clock: WallClock,
    /// Stands still until then.
    frozen_until: Option<Duration>,
    behind: Duration,
}

impl Host {
    /// A host on which nothing runs yet.
    #[must_use]
    pub fn new(world: Rc<Cell<Duration>>, chance: Chance) -> Self {
        let clock = WallClock { world, offset: Rc::default(), chance };
        Self { running: None, clock, frozen_until: None, behind: Duration::ZERO }
    }

    /// Starts a process, unless one runs. The future is made within the runtime, so that it may spawn tasks.
    ///
    /// # Panics
    /// When no runtime can be made.
    pub fn start<F: Future<Output = ()> + 'static>(&mut self, process: impl FnOnce() -> F + 'static) {
        if self.running.is_some() {
            return;
        }
        let mut builder = Builder::new_current_thread();
        builder.enable_time().start_paused(true);
        // tokio draws which waiting task to wake first.
        #[cfg(tokio_unstable)]
        builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&self.clock.chance.bits().to_le_bytes()));
        let runtime = builder.build();
        let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
        let local = LocalSet::new();
        local.spawn_local(async move { process().await });
        self.running = Some((runtime, local));
        self.behind = Duration::ZERO;
        self.frozen_until = None;
    }

    /// Ends the process at once, as SIGKILL does: nothing of it runs again.
    pub fn kill(&mut self) {
        self.frozen_until = None;
        let Some((runtime, local)) = self.running.take() else { return };
        clock::set_source(Some(Box::new(self.clock.clone())));
        drop(local);
        drop(runtime);
        clock::set_source(None);
    }

    /// Stops the process until the given moment, as SIGSTOP and SIGCONT do: its timers go on meanwhile.
    pub fn freeze(&mut self, until: Duration) {
        self.frozen_until = Some(until);
    }

    /// Whether a process runs here, be it frozen.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether it stands still.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.running.is_some() && self.frozen_until.is_some()
    }

    /// Sets the wall clock off by so many milliseconds.
    pub fn set_clock_offset(&mut self, millis: i64) {
        self.clock.offset.set(millis);
    }

    /// Lets the process work for so long.
    pub fn tick(&mut self, length: Duration) {
        let Some((runtime, local)) = &self.running else { return };
        if let Some(until) = self.frozen_until {
            if self.clock.world.get() < until {
                self.behind += length;
                return;
            }
            self.frozen_until = None;
        }
        clock::set_source(Some(Box::new(self.clock.clone())));
        let missed = std::mem::take(&mut self.behind);
        runtime.block_on(local.run_until(async {
            if !missed.is_zero() {
                tokio::time::advance(missed).await;
            }
            tokio::time::sleep(length).await;
        }));
        clock::set_source(None);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}
