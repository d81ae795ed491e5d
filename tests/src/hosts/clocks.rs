//! Clocks of hosts that are not right.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::hosts::set::Hosts;
use crate::machine::wait::eventually;

/// Debian's package has the library here, below the directory of the machine's architecture.
const LIBRARIES: &str = "/usr/lib";
const LIBRARY: &str = "faketime/libfaketime.so.1";

/// Where a semaphore and shared memory are files.
const SHARED_MEMORY: &str = "/dev/shm";

fn library() -> PathBuf {
    let directories = std::fs::read_dir(LIBRARIES).into_iter().flatten().flatten();
    match directories.map(|entry| entry.path().join(LIBRARY)).find(|library| library.exists()) {
        Some(library) => library,
        None => panic!("there is no {LIBRARY} below {LIBRARIES}: install the Debian package libfaketime"),
    }
}

/// A semaphore and shared memory of the library's, which are there as long as this is. A process gets them from its parent,
/// and does not start when it may not use them, so these are for all users.
#[derive(Debug)]
struct Shared(Child);

impl Shared {
    /// The first program that waits for a time makes them, and does nothing else.
    #[track_caller]
    fn make() -> Self {
        let mut waits = Command::new("sleep");
        waits.arg("infinity").env("LD_PRELOAD", library()).env("FAKETIME", "+0").stdin(Stdio::null());
        let made = match waits.spawn() {
            Ok(child) => Self(child),
            Err(error) => panic!("sleep cannot be run: {error}"),
        };
        eventually("libfaketime's memory for all users", || {
            let open = |file| std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o666)).is_ok();
            made.files().iter().all(open)
        });
        made
    }

    fn names(&self) -> [String; 2] {
        ["sem", "shm"].map(|kind| format!("faketime_{kind}_{}", self.0.id()))
    }

    fn files(&self) -> [PathBuf; 2] {
        let [semaphore, memory] = self.names();
        [format!("sem.{semaphore}"), memory].map(|name| Path::new(SHARED_MEMORY).join(name))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        for file in self.files() {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// By how many seconds the clocks of some hosts are ahead.
#[derive(Debug, Default)]
pub(super) struct Clocks(Mutex<(BTreeMap<String, i64>, Option<Shared>)>);

impl Clocks {
    /// Gives a command its host's clock.
    pub(super) fn wind(&self, host: &str, command: &mut Command) {
        let clocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(ahead), Some(shared)) = (clocks.0.get(host), &clocks.1) else { return };
        let names = shared.names().map(|name| format!("/{name}")).join(" ");
        command.env("LD_PRELOAD", library()).env("FAKETIME", format!("{ahead:+}"));
        command.env("FAKETIME_SHARED", names).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}

impl Hosts {
    /// The clock of what is started on a host from now on is ahead by so many seconds, or behind. Durations are right. It is
    /// so for programs that ask the C library, as all but etcd do; times of files move along.
    ///
    /// # Panics
    /// When the library that does it is not installed.
    #[track_caller]
    pub fn set_clock(&self, host: &str, ahead_seconds: i64) {
        let name = self.host(host).name.clone();
        let mut clocks = self.clocks.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = clocks.1.get_or_insert_with(Shared::make);
        let _ = clocks.0.insert(name, ahead_seconds);
    }
}
