//! Clocks of hosts that are not right.

use std::path::PathBuf;
use std::process::Command;
use std::sync::PoisonError;

use crate::hosts::set::Hosts;

/// Debian's package has the library here, below the directory of the machine's architecture.
const LIBRARIES: &str = "/usr/lib";
const LIBRARY: &str = "faketime/libfaketime.so.1";

fn library() -> PathBuf {
    let directories = std::fs::read_dir(LIBRARIES).into_iter().flatten().flatten();
    match directories.map(|entry| entry.path().join(LIBRARY)).find(|library| library.exists()) {
        Some(library) => library,
        None => panic!("there is no {LIBRARY} below {LIBRARIES}: install the Debian package libfaketime"),
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
        let _ = library();
        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = clocks.insert(self.host(host).name.clone(), ahead_seconds);
    }

    /// Gives a command its host's clock.
    pub(super) fn wind(&self, host: &str, command: &mut Command) {
        let clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ahead) = clocks.get(host) {
            command.env("LD_PRELOAD", library()).env("FAKETIME", format!("{ahead:+}"));
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DISABLE_SHM", "1");
        }
    }
}
