//! Processes, as `/proc` shows them. Numbers are reused, so a process is its number and its start time.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use procfs::Current;
use procfs::process::{FDTarget, Process as Entry};

use crate::file_id::FileId;

/// A process that lived when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Name of its program, at most 15 bytes.
    pub program: String,
    /// The process that started it, or that took it over.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Its user.
    pub uid: u32,
    /// Clock ticks between boot and its start.
    start: u64,
}

impl Process {
    /// The process of that number; `None` when there is none, or it has ended and waits to be reaped.
    #[must_use]
    pub fn find(pid: i32) -> Option<Self> {
        Self::of(&Entry::new(pid).ok()?)
    }

    /// Every living process.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let entries = procfs::process::all_processes().into_iter().flatten();
        entries.filter_map(|entry| Self::of(&entry.ok()?)).collect()
    }

    /// Whether the number is taken, also by a process that has ended and waits to be reaped.
    #[must_use]
    pub fn is_pid_taken(pid: i32) -> bool {
        Entry::new(pid).is_ok()
    }

    fn of(entry: &Entry) -> Option<Self> {
        let stat = entry.stat().ok()?;
        (!matches!(stat.state, 'Z' | 'X')).then_some(Self {
            pid: stat.pid,
            program: stat.comm,
            parent: stat.ppid,
            group: stat.pgrp,
            session: stat.session,
            uid: entry.uid().ok()?,
            start: stat.starttime,
        })
    }

    /// Whether this very process still lives, and not another one of its number.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::find(self.pid).is_some_and(|now| now.start == self.start)
    }

    /// Whether a signal has stopped it (SIGSTOP), so that it does nothing until another lets it go on.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        Entry::new(self.pid).and_then(|entry| entry.stat()).is_ok_and(|stat| matches!(stat.state, 'T' | 't'))
    }

    /// Its arguments, the program first; none for one that is gone, or a thread of the kernel. A title that the
    /// process set is in the first.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut bytes = Vec::new();
        // `procfs` reads arguments in UTF-8 only.
        let read = Entry::new(self.pid).and_then(|entry| entry.open_relative("cmdline"));
        let _ = read.map(|mut file| file.read_to_end(&mut bytes));
        bytes
            .split(|byte| *byte == 0)
            .filter(|part| !part.is_empty())
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .collect()
    }

    /// The processes that its main thread started and that live.
    #[must_use]
    pub fn children(&self) -> Vec<Self> {
        let main_thread = Entry::new(self.pid).and_then(|entry| entry.task_main_thread());
        let pids = main_thread.and_then(|thread| thread.children()).unwrap_or_default();
        pids.into_iter().filter_map(|pid| Self::find(pid.cast_signed())).collect()
    }

    /// The directory that it works in.
    ///
    /// # Errors
    /// `PermissionDenied` for another user's process, unless this one is root.
    pub fn working_directory(&self) -> io::Result<FileId> {
        FileId::of(Path::new(&format!("/proc/{}/cwd", self.pid)))
    }

    /// The path of the directory that it works in, without symbolic links; `None` when this user may not look.
    #[must_use]
    pub fn working_path(&self) -> Option<PathBuf> {
        Entry::new(self.pid).and_then(|entry| entry.cwd()).ok()
    }

    /// Bytes that it has given to the kernel to write by itself; 0 for what this user may not see.
    #[must_use]
    pub fn own_bytes_written(&self) -> u64 {
        Entry::new(self.pid).and_then(|entry| entry.io()).map_or(0, |io| io.wchar)
    }

    /// Bytes that it and its descendants have given to the kernel to write; 0 for what this user may not see.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.own_bytes_written() + self.children().iter().map(Self::bytes_written).sum::<u64>()
    }

    /// The files that it has open; none for what this user may not see.
    pub fn open_files(&self) -> impl Iterator<Item = PathBuf> {
        let files = Entry::new(self.pid).and_then(|entry| entry.fd()).into_iter().flatten().flatten();
        files.filter_map(|file| match file.target {
            FDTarget::Path(path) => Some(path),
            _ => None,
        })
    }

    /// The largest regular file below a directory that it or one of its descendants has open, and its size in bytes.
    #[must_use]
    pub fn largest_open_file(&self, below: &Path) -> Option<(PathBuf, u64)> {
        let own = self.open_files().filter(|path| path.starts_with(below)).filter_map(|path| {
            let found = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
            Some((path, found.len()))
        });
        let theirs = self.children().into_iter().filter_map(|child| child.largest_open_file(below));
        own.chain(theirs).max_by_key(|(_, size)| *size)
    }

    /// Sends a signal if it still lives; tells whether it did.
    ///
    /// # Errors
    /// When this user may not signal it.
    pub fn signal(&self, signal: Signal) -> nix::Result<bool> {
        self.send(|| kill(Pid::from_raw(self.pid), signal))
    }

    /// Sends a signal to its whole group if it lives and leads one, else to itself alone; tells whether it did.
    ///
    /// # Errors
    /// When this user may not signal it.
    pub fn signal_group(&self, signal: Signal) -> nix::Result<bool> {
        match self.group == self.pid {
            true => self.send(|| killpg(Pid::from_raw(self.pid), signal)),
            false => self.signal(signal),
        }
    }

    fn send(&self, send: impl FnOnce() -> nix::Result<()>) -> nix::Result<bool> {
        // 0 and 1 stand for our own group and for init.
        if self.pid <= 1 || !self.is_alive() {
            return Ok(false);
        }
        match send() {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

/// Memory in bytes that programs could have now without swapping; `None` when the kernel does not show it.
#[must_use]
pub fn available_memory() -> Option<u64> {
    procfs::Meminfo::current().ok()?.mem_available
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    fn own() -> Process {
        Process::find(std::process::id().cast_signed()).unwrap()
    }

    /// A child that is killed when the test ends, whatever way.
    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A child with a hostile name that works in `directory`. It has begun its program.
    fn sleeper(directory: &Path) -> (Sleeper, Process) {
        let program = directory.join("a) R 1 (b");
        if !program.exists() {
            std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        }
        let child = Command::new(program).arg("600").current_dir(directory).stdin(Stdio::null()).spawn();
        let child = Sleeper(child.unwrap());
        loop {
            let process = Process::find(child.0.id().cast_signed()).unwrap();
            // The kernel shows a new program for a moment without its arguments.
            if !process.arguments().is_empty() {
                return (child, process);
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn largest_open_file_is_found_also_in_a_child() {
        let directory = tempfile::tempdir().unwrap();
        let (small, large) = (directory.path().join("small"), directory.path().join("large"));
        std::fs::write(&small, "1").unwrap();
        std::fs::write(&large, "123").unwrap();
        let shell = format!("exec 3<{}; read -r line", large.display());
        let mut child = std::process::Command::new("sh")
            .args(["-c", &shell])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let _open = std::fs::File::open(&small).unwrap();
        let ours = || Process::find(std::process::id().cast_signed()).unwrap();
        let of = |pid: u32| Process::find(pid.cast_signed())?.largest_open_file(directory.path());
        let begun = std::time::Instant::now();
        while of(child.id()).is_none() {
            assert!(begun.elapsed().as_secs() < 10, "the child opens its file");
            std::thread::yield_now();
        }
        assert_eq!(of(child.id()), Some((large, 3)));
        assert!(ours().largest_open_file(directory.path()).is_some_and(|(_, size)| size >= 1));
        assert_eq!(ours().largest_open_file(Path::new("/nowhere")), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn living_process_is_described() {
        let dir = tempfile::tempdir().unwrap();
        let (mut child, process) = sleeper(dir.path());
        assert_eq!((process.program.as_str(), process.parent), ("a) R 1 (b", own().pid));
        assert_eq!(process.arguments()[1], "600");
        assert_eq!(process.uid, nix::unistd::geteuid().as_raw());
        assert_eq!((process.group, process.session), (own().group, own().session));
        assert!(Process::all().contains(&process));
        assert_eq!(process.working_directory().unwrap(), FileId::of(dir.path()).unwrap());
        assert_eq!(process.working_path().unwrap(), dir.path().canonicalize().unwrap());
        assert!(process.signal(Signal::SIGKILL).unwrap());
        child.0.wait().unwrap();
        assert!(!process.is_alive() && !process.signal(Signal::SIGKILL).unwrap());
        assert!(process.arguments().is_empty() && Process::find(process.pid).is_none());
    }

    #[test]
    fn process_that_waits_to_be_reaped_is_not_alive() {
        let dir = tempfile::tempdir().unwrap();
        let (mut child, process) = sleeper(dir.path());
        child.0.kill().unwrap();
        while process.is_alive() {
            std::thread::yield_now();
        }
        assert!(Process::is_pid_taken(process.pid));
        child.0.wait().unwrap();
    }

    #[test]
    fn another_process_of_the_same_number_is_another() {
        assert!(own().is_alive());
        let earlier = Process { start: own().start + 1, ..own() };
        assert!(!earlier.is_alive() && !earlier.signal(Signal::SIGCONT).unwrap());
    }

    #[test]
    fn children_and_what_they_write_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let shell = |script: &str| {
            let child = Command::new("sh").args(["-c", script]).current_dir(dir.path()).spawn().unwrap();
            let process = Process::find(child.id().cast_signed()).unwrap();
            (Sleeper(child), process)
        };
        let (_writer, process) = shell("head -c 100000 /dev/zero > out; touch done; exec sleep 600");
        while !dir.path().join("done").exists() {
            std::thread::yield_now();
        }
        assert!(process.bytes_written() >= 100_000);
        let (mut parent, process) = shell("sleep 600 & wait");
        let started = loop {
            if let Some(found) = process.children().into_iter().find(|child| child.program == "sleep") {
                break found;
            }
            std::thread::yield_now();
        };
        started.signal(Signal::SIGKILL).unwrap();
        parent.0.wait().unwrap();
    }

    #[test]
    fn available_memory_is_told() {
        assert!(available_memory().unwrap() > 0);
    }
}
