//! Ending clusters with all that belongs to them, also those that an earlier test process left when it was killed.

use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal as unix_signal};

use crate::machine::place::{all, owner_of};
use crate::machine::process::{is_alive, processes_of, signal};
use crate::machine::shared_memory;
use crate::machine::wait::eventually;

/// SIGKILL, and waits until it is gone.
pub fn kill_hard(pid: i32) {
    shared_memory::remember(pid);
    signal(pid, Signal::SIGKILL);
    eventually("a killed process to be gone", || !is_alive(pid));
}

/// Removes a directory with all that is in it, also while processes that have lost their parent still write there.
pub fn remove_directory(directory: impl AsRef<Path>) {
    let directory = directory.as_ref();
    eventually(&format!("{} to be removed", directory.display()), || {
        let _ = std::fs::remove_dir_all(directory);
        !directory.exists()
    });
}

/// Kills every process of a cluster's directory.
pub(crate) fn kill_all(directory: &Path) {
    for _ in 0..200 {
        let left = processes_of(directory);
        if left.is_empty() {
            break;
        }
        left.iter().for_each(|pid| shared_memory::remember(*pid));
        for pid in left {
            signal(pid, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends every process of a cluster's directory and removes it, with the shared memory that the killed servers of its
/// test process have left.
pub(crate) fn destroy(directory: &Path) {
    kill_all(directory);
    let _ = std::fs::remove_dir_all(directory);
    if let (Some(base), Some(owner)) = (directory.parent(), owner_of(directory)) {
        shared_memory::forget(base, owner);
    }
}

/// Destroys the clusters of the test processes that `owner` picks.
fn destroy_those_of(owner: impl Fn(i32) -> bool) {
    for base in all() {
        for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
            if owner_of(&entry.path()).is_some_and(&owner) {
                destroy(&entry.path());
            }
        }
    }
}

/// Removes the clusters of test processes that are no more.
pub(crate) fn sweep() {
    destroy_those_of(|pid| !is_alive(pid));
}

/// The same, once in this process: a cluster comes to be often, and seldom after a test process was killed.
pub(crate) fn sweep_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(sweep);
}

/// Ends on SIGINT and SIGTERM, and takes this process's clusters along.
///
/// # Panics
/// When signals cannot be waited for.
pub fn clean_up_when_told_to_end() {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        panic!("no runtime")
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (unix_signal(SignalKind::interrupt()), unix_signal(SignalKind::terminate()))
            else {
                panic!("no signals")
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        let me = std::process::id().cast_signed();
        destroy_those_of(|pid| pid == me);
        std::process::exit(130);
    });
}
