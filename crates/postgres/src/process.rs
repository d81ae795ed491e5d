//! What `/proc` says of a process. Numbers are reused, so a process is its number and its start time.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::error::PostgresError;

/// A directory's identity, which renaming does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inode(u64, u64);

impl Inode {
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        fs::metadata(path).map(|found| Self(found.dev(), found.ino()))
    }
}

/// One process that was alive when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Name of its program, at most 15 bytes.
    pub(crate) program: String,
    /// Its process group.
    pub(crate) group: i32,
    /// Clock ticks between boot and its start.
    pub(crate) start: u64,
    /// Its user.
    pub(crate) uid: u32,
}

/// Program, state, group and start time in `/proc/<pid>/stat`. The program's name may hold spaces and parentheses.
fn parse_stat(text: &str) -> Option<(String, char, i32, u64)> {
    let (head, tail) = text.rsplit_once(')')?;
    let program = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    // proc(5) counts from 1 and the state is field 3: group is 5, start time 22.
    let state = fields.first()?.chars().next()?;
    Some((program, state, fields.get(2)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

impl Process {
    /// The process of that number, unless there is none or it has ended and waits to be reaped.
    pub(crate) fn find(pid: i32) -> Option<Self> {
        let directory = format!("/proc/{pid}");
        let uid = fs::metadata(&directory).ok()?.uid();
        let (program, state, group, start) =
            parse_stat(&String::from_utf8_lossy(&fs::read(format!("{directory}/stat")).ok()?))?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, program, group, start, uid })
    }

    /// Whether this very process still lives.
    pub(crate) fn lives(&self) -> bool {
        Self::find(self.pid).is_some_and(|now| now.start == self.start)
    }

    /// The directory it works in; an error of kind `PermissionDenied` for another user's process.
    pub(crate) fn working_directory(&self) -> std::io::Result<Inode> {
        Inode::of(Path::new(&format!("/proc/{}/cwd", self.pid)))
    }

    /// Signals it if it still lives; says whether it did.
    pub(crate) fn signal(&self, signal: Signal) -> Result<bool, PostgresError> {
        if !self.lives() {
            return Ok(false);
        }
        let sent = match self.group == self.pid && signal == Signal::SIGKILL {
            // PostgreSQL's processes lead groups, so that this reaches an archive_command too.
            true => killpg(Pid::from_raw(self.pid), signal),
            false => kill(Pid::from_raw(self.pid), signal),
        };
        match sent {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(source) => Err(PostgresError::Signal { pid: self.pid, signal: signal.as_str(), source }),
        }
    }
}

/// Every process.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Process::find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_program_is_called() {
        let tail = "S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        for program in ["postgres", "a) R 1 (b", ""] {
            let read = parse_stat(&format!("42 ({program}) {tail}"));
            assert_eq!(read, Some((program.to_owned(), 'S', 42, 987_654)), "{program}");
        }
        assert_eq!(parse_stat("42 (x) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn we_are_found_and_nobody_else() {
        let own = Process::find(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.lives());
        assert!(!Process { start: own.start + 1, ..own }.lives());
    }
}
