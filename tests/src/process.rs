//! Looking at and ending processes, by pid only.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn cmdline(pid: i32) -> Option<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(
        bytes
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .filter(|word| !word.is_empty())
            .collect(),
    )
}

fn all() -> Vec<i32> {
    std::fs::read_dir("/proc")
        .map(|entries| {
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
        })
        .unwrap_or_default()
}

fn name(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// Processes called `program` with some argument that contains `needle`. A needle of one test's own
/// directory makes sure that nobody else's are met.
#[must_use]
pub fn processes_with(program: &str, needle: &str) -> Vec<i32> {
    all()
        .into_iter()
        .filter(|pid| name(*pid) == program)
        .filter(|pid| cmdline(*pid).is_some_and(|words| words.iter().any(|word| word.contains(needle))))
        .collect()
}

/// Processes, of whatever program, that work in `directory` or name it in their arguments.
#[must_use]
pub(crate) fn processes_of(directory: &Path) -> Vec<i32> {
    let needle = directory.display().to_string();
    let me = std::process::id().cast_signed();
    all()
        .into_iter()
        .filter(|pid| *pid != me)
        .filter(|pid| {
            let works_there =
                std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
            works_there || cmdline(*pid).is_some_and(|words| words.iter().any(|word| word.contains(&needle)))
        })
        .collect()
}

/// Child processes of `parent` called `program`.
#[must_use]
pub fn children_named(parent: i32, program: &str) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| name(*pid) == program).collect()
}

/// Whether the process is there and not a zombie.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

/// Sends a signal; a process that is gone is fine.
pub fn signal(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// SIGKILL, and waits until it is gone.
pub fn kill_hard(pid: i32) {
    signal(pid, Signal::SIGKILL);
    crate::eventually("a killed process to be gone", || !is_alive(pid));
}
