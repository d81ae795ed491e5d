//! Looking at and ending processes, by pid only.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process's arguments, the program first; nothing when it is gone.
#[must_use]
pub fn command_line(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    words.filter(|word| !word.is_empty()).collect()
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

/// Processes called `program`.
pub(crate) fn called(program: &str) -> Vec<i32> {
    all().into_iter().filter(|pid| name(*pid) == program).collect()
}

/// Processes called `program` with some argument that contains `needle`. A needle of one test's own
/// directory makes sure that nobody else's are met.
#[must_use]
pub fn processes_with(program: &str, needle: &str) -> Vec<i32> {
    called(program)
        .into_iter()
        .filter(|pid| command_line(*pid).iter().any(|word| word.contains(needle)))
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
            works_there || command_line(*pid).iter().any(|word| word.contains(&needle))
        })
        .collect()
}

/// Child processes of `parent` called `program`.
#[must_use]
pub fn children_named(parent: i32, program: &str) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| name(*pid) == program).collect()
}

fn parent(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // State and parent come after the program's name, which may hold anything.
    text.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

/// The process that started the others of a list. Not the one of the lowest number: those begin again after 32768.
///
/// # Panics
/// When there is none.
#[must_use]
#[track_caller]
pub fn main_process(of: &[i32]) -> i32 {
    let started = |pid: &&i32| parent(**pid).is_some_and(|parent| of.contains(&parent));
    match of.iter().find(|pid| !started(pid)) {
        Some(pid) => *pid,
        None => panic!("nobody started {of:?}"),
    }
}

/// The state in a `stat` file of a process or of one of its threads.
fn state(stat: &Path) -> Option<char> {
    let text = std::fs::read_to_string(stat).ok()?;
    // It comes after the program's name, which may hold anything.
    text.rsplit(')').next()?.trim_start().chars().next()
}

/// The state of a process as the kernel shows it: `R` when it runs or wants to, `S` when it waits for something, `T` when it
/// is stopped. None when it is gone.
#[must_use]
pub fn state_of(pid: i32) -> Option<char> {
    state(Path::new(&format!("/proc/{pid}/stat")))
}

/// Whether the process is there and not a zombie.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    state_of(pid).is_some_and(|state| state != 'Z')
}

/// Whether none of a process's threads goes on: each has been stopped, or is in a call of the kernel from which it does not
/// come back before it is stopped.
pub(crate) fn is_stopped(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| state(&thread.path().join("stat"))).all(|state| !matches!(state, 'R' | 'S'))
}

/// Resident memory of a process, in KiB.
///
/// # Panics
/// When it is gone.
#[must_use]
#[track_caller]
pub fn rss_kib(pid: i32) -> u32 {
    kib_of_status(pid, "VmRSS:")
}

/// The most resident memory that a process has ever had, in KiB.
///
/// # Panics
/// When it is gone.
#[must_use]
#[track_caller]
pub fn peak_rss_kib(pid: i32) -> u32 {
    kib_of_status(pid, "VmHWM:")
}

/// How many file descriptors a process has open; none when it is gone.
#[must_use]
pub fn open_files(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

#[track_caller]
fn kib_of_status(pid: i32, field: &str) -> u32 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    match line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()) {
        Some(kib) => kib,
        None => panic!("process {pid} is gone"),
    }
}

/// The processor time that a process has used, all its threads together.
///
/// # Panics
/// When it is gone.
#[must_use]
#[track_caller]
pub fn cpu_time(pid: i32) -> Duration {
    /// Milliseconds of a tick: Linux shows 100 a second, whatever the kernel counts in.
    const CLOCK_TICK_MILLIS: u64 = 10;
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // utime and stime: the 12th and 13th after the program's name, which may hold anything.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Vec<u64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    assert_eq!(ticks.len(), 2, "process {pid} is gone");
    Duration::from_millis(ticks.iter().sum::<u64>() * CLOCK_TICK_MILLIS)
}

/// Sends a signal; a process that is gone is fine.
pub fn signal(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}
