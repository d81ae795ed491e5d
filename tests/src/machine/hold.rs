//! Stopping pgBackRest in the middle of its work.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::machine::process::{command_line, processes_with, signal};
use crate::machine::wait::wait_for;

/// How long what is to be held may take until it is there.
pub const HOLD_TIMEOUT: Duration = Duration::from_secs(60);

/// For how long what is held runs between two looks: a small part of what copying a small database takes.
const SLICE: Duration = Duration::from_millis(5);

/// Whether some argument of a process contains `needle`.
#[must_use]
pub fn has_word(pid: i32, needle: &str) -> bool {
    command_line(pid).iter().any(|word| word.contains(needle))
}

/// Stops the processes of pgBackRest that are meant, at the first look that finds them and `has_begun`. They stand still
/// except for a slice between two looks: what copies a small database on a busy machine would otherwise be over before
/// the test has its turn again.
///
/// # Panics
/// When there are none in time.
#[track_caller]
pub fn hold(
    what: &str,
    timeout: Duration,
    is_meant: impl Fn(i32) -> bool,
    mut has_begun: impl FnMut() -> bool,
) -> Vec<i32> {
    let stop = || {
        let mut running = processes_with("pgbackrest", "");
        running.retain(|pid| is_meant(*pid));
        running.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
        running
    };
    wait_for(what, timeout, || {
        stop();
        // Those that were forked in between.
        let held = stop();
        if !held.is_empty() && has_begun() {
            return Some(held);
        }
        release(&held);
        std::thread::sleep(SLICE);
        // At once: looking for others takes longer on a busy machine than they need.
        held.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
        None
    })
}

/// Holds a backup as soon as it copies: the one whose config has this name. `log` reads what pgBackRest prints.
///
/// # Panics
/// When it does not copy in time, or has ended.
#[track_caller]
pub(crate) fn hold_backup(config: &str, log: impl Fn() -> String) -> Vec<i32> {
    let copies = || log().contains("DETAIL: backup file");
    let held = hold("the backup to copy", HOLD_TIMEOUT, |pid| has_word(pid, config), copies);
    let log = log();
    assert!(!log.contains("backup command end"), "held too late:\n{log}");
    held
}

/// Lets processes that were stopped go on.
pub fn release(held: &[i32]) {
    held.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
}
