//! What a program tells the service manager that started it (systemd, by `sd_notify`): that it serves, that it stops,
//! and that its loops go on. Without a service manager all of this does nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The variables by which a service manager addresses the process that it started. No child may inherit them: a program
/// that speaks the same protocol (PostgreSQL built with systemd does) would report its own state as that of its parent.
pub const SERVICE_MANAGER_VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Tells the service manager that this program serves now.
pub fn tell_ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serves")]);
}

/// Tells the service manager what a program that does not serve yet waits for.
pub fn tell_waiting(reason: &str) {
    tell(&[NotifyState::Status(reason)]);
}

/// Tells the service manager that this program ends.
pub fn tell_stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stops")]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told: {state:?}");
    }
}

/// The service manager's watchdog over the loops of a program. It is told that the program is alive by the loops
/// themselves, once all of them have come round since it was told last; so it ends a program of which one loop stands
/// still. Clones are the same watchdog; the default is none.
#[derive(Debug, Clone, Default)]
pub struct Watchdog(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    /// After this time without a word the service manager ends the program.
    timeout: Duration,
    state: Mutex<State>,
    /// Whether a word is on its way. It is not waited for: the socket of a service manager that is busy may be full.
    is_telling: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    loops: Vec<LoopState>,
    told: Option<Instant>,
}

/// What is known of a loop since the service manager was told last.
#[derive(Debug, Clone, Copy)]
struct LoopState {
    came_round: bool,
    excused: bool,
}

impl State {
    /// Whether the service manager is to be told now. Then every loop has to come round anew.
    fn is_due(&mut self, now: Instant, interval: Duration) -> bool {
        let all = self.loops.iter().all(|each| each.came_round || each.excused);
        let due = all && self.told.is_none_or(|told| now.duration_since(told) >= interval);
        if due {
            self.told = Some(now);
            self.loops.iter_mut().for_each(|each| each.came_round = false);
        }
        due
    }
}

impl Watchdog {
    /// The watchdog that the service manager keeps over this process; none without one.
    #[must_use]
    pub fn from_environment() -> Self {
        Self(
            sd_notify::watchdog_enabled().map(|timeout| {
                Arc::new(Shared { timeout, state: Mutex::default(), is_telling: Arc::default() })
            }),
        )
    }

    /// Watches one more loop, which has to come round from now on.
    #[must_use]
    pub fn watch(&self) -> LoopPulse {
        let watched = self.0.as_ref().map(|shared| {
            let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.loops.push(LoopState { came_round: false, excused: false });
            (Arc::clone(shared), state.loops.len() - 1)
        });
        LoopPulse(watched)
    }
}

/// One loop's part in a [`Watchdog`].
#[derive(Debug)]
pub struct LoopPulse(Option<(Arc<Shared>, usize)>);

impl LoopPulse {
    /// Says that the loop has come round, and that it does not expect to take long until it does again.
    pub fn beat(&self) {
        self.set(LoopState { came_round: true, excused: false });
    }

    /// Says that what the loop does now may take as long as it likes, until its next beat: a child process at work for
    /// hours, whose deadline is another's business.
    pub fn excuse(&self) {
        self.set(LoopState { came_round: true, excused: true });
    }

    /// The longest that the loop may rest between two beats: with what it does in between, that is well below the time
    /// after which the program is ended. `usual` is how long it rests without a watchdog.
    #[must_use]
    pub fn rest(&self, usual: Duration) -> Duration {
        self.0.as_ref().map_or(usual, |(shared, _)| usual.min(shared.timeout / 4))
    }

    fn set(&self, now_is: LoopState) {
        let Some((shared, index)) = &self.0 else { return };
        let due = {
            let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(own) = state.loops.get_mut(*index) {
                *own = now_is;
            }
            state.is_due(Instant::now(), shared.timeout / 2)
        };
        if due && !shared.is_telling.swap(true, Ordering::AcqRel) {
            let is_telling = Arc::clone(&shared.is_telling);
            let told = move || {
                tell(&[NotifyState::Watchdog]);
                is_telling.store(false, Ordering::Release);
            };
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(told)),
                Err(_) => told(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    /// In the child of a test: where its variables lead to the test's socket.
    const CHILD: &str = "CELLAR_TEST_CHILD";

    /// Runs this test again as a child with a service manager, and returns what that is told.
    fn told_by_child(test: &str, timeout: Duration) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("service_manager::tests::{test}")])
            .env(CHILD, "1")
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", timeout.as_micros().to_string())
            .env_remove("WATCHDOG_PID")
            .status()
            .unwrap();
        assert!(status.success());
        socket.set_nonblocking(true).unwrap();
        let mut told = Vec::new();
        let mut buffer = [0; 1024];
        while let Ok(length) = socket.recv(&mut buffer) {
            told.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        told
    }

    fn is_child() -> bool {
        std::env::var_os(CHILD).is_some()
    }

    #[test]
    fn the_service_manager_is_told_what_the_program_does() {
        if is_child() {
            tell_waiting("waits for etcd");
            tell_ready();
            tell_stopping();
            return;
        }
        let told =
            told_by_child("the_service_manager_is_told_what_the_program_does", Duration::from_secs(60));
        let expected = ["STATUS=waits for etcd\n", "READY=1\nSTATUS=serves\n", "STOPPING=1\nSTATUS=stops\n"];
        assert_eq!(told, expected);
    }

    #[test]
    fn the_watchdog_is_told_by_loops_that_come_round_only() {
        if is_child() {
            let watchdog = Watchdog::from_environment();
            let (first, second) = (watchdog.watch(), watchdog.watch());
            first.beat();
            first.beat();
            tell_waiting("one loop has not come round");
            second.beat();
            tell_waiting("it has");
            assert_eq!(first.rest(Duration::from_secs(5)), Duration::from_micros(250));
            return;
        }
        let told =
            told_by_child("the_watchdog_is_told_by_loops_that_come_round_only", Duration::from_millis(1));
        assert_eq!(told, ["STATUS=one loop has not come round\n", "WATCHDOG=1\n", "STATUS=it has\n"]);
    }

    #[test]
    fn without_a_service_manager_nothing_is_watched() {
        let pulse = Watchdog::default().watch();
        pulse.beat();
        pulse.excuse();
        assert_eq!(pulse.rest(Duration::from_secs(5)), Duration::from_secs(5));
    }

    #[test]
    fn a_word_is_due_when_all_loops_came_round_and_half_the_time_is_over() {
        let (half, start) = (Duration::from_secs(30), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let fresh = LoopState { came_round: false, excused: false };
        let mut state = State { loops: vec![fresh; 2], told: None };
        assert!(!state.is_due(at(0), half), "neither has come round");
        state.loops[0].came_round = true;
        assert!(!state.is_due(at(0), half), "one stands still");
        state.loops[1].came_round = true;
        assert!(state.is_due(at(0), half));
        assert!(!state.is_due(at(40), half), "both have to come round anew");
        state.loops.iter_mut().for_each(|each| each.came_round = true);
        assert!(!state.is_due(at(29), half), "half the time is not over");
        assert!(state.is_due(at(30), half));
        state.loops[0] = LoopState { came_round: true, excused: true };
        for seconds in [60, 90, 120] {
            assert!(!state.is_due(at(seconds), half), "the other has not come round");
            state.loops[1].came_round = true;
            assert!(state.is_due(at(seconds), half), "one is excused");
        }
        state.loops[0] = LoopState { came_round: true, excused: false };
        state.loops[1].came_round = true;
        assert!(state.is_due(at(150), half));
        state.loops[1].came_round = true;
        assert!(!state.is_due(at(180), half), "it is excused no longer");
    }
}
