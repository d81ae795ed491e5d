//! What an earlier test run left behind when it was killed.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal as unix_signal};

use crate::process::{is_alive, processes_of, signal};
use crate::shared_memory;

/// Where test clusters live: short, because of the 107 bytes of a unix socket's path, and
/// reachable for the user that PostgreSQL runs as.
pub(crate) fn base() -> PathBuf {
    let base = PathBuf::from("/tmp/cellar-e2e");
    let _ = std::fs::create_dir_all(&base);
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    let _ = std::fs::set_permissions(&base, open);
    base
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

/// Ends every process of a cluster's directory and removes it, with the shared memory that the victims of its test
/// process have left.
pub(crate) fn destroy(directory: &Path) {
    kill_all(directory);
    let _ = std::fs::remove_dir_all(directory);
    if let (Some(base), Some(owner)) = (directory.parent(), owner_of(directory)) {
        shared_memory::forget(base, owner);
    }
}

/// The test process that a cluster's directory, `<pid>-<n>`, or a file `<pid>.shm` belongs to.
fn owner_of(path: &Path) -> Option<i32> {
    path.file_name()?.to_str()?.split(['-', '.']).next()?.parse().ok()
}

/// Removes the clusters of test processes that are no more. Directories are called `<pid>-<n>`.
pub(crate) fn sweep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Ok(entries) = std::fs::read_dir(base()) else { return };
        for entry in entries.flatten() {
            if owner_of(&entry.path()).is_some_and(|pid| !is_alive(pid)) {
                destroy(&entry.path());
            }
        }
    });
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
        let mine = format!("{}-", std::process::id());
        for entry in std::fs::read_dir(base()).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&mine)) {
                destroy(&entry.path());
            }
        }
        std::process::exit(130);
    });
}
