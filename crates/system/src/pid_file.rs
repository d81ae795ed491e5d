//! A daemon's pid file. It names a process only while that lives, because the process holds a lock on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::atomic_file::open_regular;
use crate::lock::{FileLock, LockError, read_pid};

/// This process's pid file, valid until the value is dropped or the process ends.
#[derive(Debug)]
pub struct PidFile {
    _lock: FileLock,
}

/// The pid file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// The daemon runs already.
    #[error("process {pid} runs already ({path})")]
    Taken {
        /// Its pid, 0 when it has not written it yet.
        pid: u32,
        /// The pid file.
        path: PathBuf,
    },
    /// The file cannot be used.
    #[error("cannot use the pid file {path}")]
    Io {
        /// The pid file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Whoever looks at a pid file holds its lock for a moment, so one look is not enough to say that it is taken.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

impl PidFile {
    /// Writes this process's id, unless another process has the file. Blocks for a second then.
    ///
    /// # Errors
    /// [`PidFileError::Taken`] when another process has it.
    pub fn acquire(path: &Path) -> Result<Self, PidFileError> {
        match FileLock::acquire_blocking(path, LOOK_TIMEOUT) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err(LockError::Held { holder, path }) => {
                Err(PidFileError::Taken { pid: holder.unwrap_or(0), path })
            }
            Err(LockError::Io { path, source }) => Err(PidFileError::Io { path, source }),
        }
    }
}

/// The process whose pid file this is; `None` when it has ended, whatever is in the file.
#[must_use]
pub fn running_pid(path: &Path) -> Option<u32> {
    FileLock::holder(path)
}

/// The number in the pid file of a program that does not lock it; that process may have ended. Root asks too, for files
/// in the service user's directories: no link is followed and no FIFO waited for.
#[must_use]
pub fn recorded_pid(path: &Path) -> Option<u32> {
    let (file, _) = open_regular(path).ok()?;
    read_pid(&file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemon_starts_while_others_look_at_its_pid_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        std::fs::write(&path, "1").unwrap();
        let looks = std::fs::File::open(&path).unwrap();
        looks.lock_shared().unwrap();
        let daemon = std::thread::spawn({
            let path = path.clone();
            move || PidFile::acquire(&path).map(drop)
        });
        // No condition shows that it has looked; were this too short, the test would pass without having met the lock.
        std::thread::sleep(Duration::from_millis(100));
        looks.unlock().unwrap();
        daemon.join().unwrap().unwrap();
    }

    #[test]
    fn pid_is_read_from_a_plain_file_only() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("plain"), " 42\n").unwrap();
        std::os::unix::fs::symlink(at("plain"), at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let read = ["plain", "link", "fifo", "none"].map(|name| recorded_pid(&at(name)));
        assert_eq!(read, [Some(42), None, None, None]);
    }

    #[test]
    fn second_daemon_is_refused_and_a_dead_one_is_not_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        let first = PidFile::acquire(&path).unwrap();
        let own = std::process::id();
        assert_eq!(running_pid(&path), Some(own));
        assert!(matches!(PidFile::acquire(&path), Err(PidFileError::Taken { pid, .. }) if pid == own));
        drop(first);
        assert_eq!(running_pid(&path), None);
        PidFile::acquire(&path).unwrap();
    }
}
