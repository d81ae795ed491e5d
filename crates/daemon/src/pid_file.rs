//! A pid file that cannot lie: its process holds a lock on it for as long as it lives.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The process's claim on its place. Released by the kernel however the process ends.
#[derive(Debug)]
pub struct PidFile {
    _lock: Flock<File>,
}

/// The place is taken or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// Another process is there.
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

impl PidFile {
    /// Takes the place and writes this process's id.
    ///
    /// # Errors
    /// [`PidFileError::Taken`] when another process holds it.
    pub fn acquire(path: &Path) -> Result<Self, PidFileError> {
        let io = |source| PidFileError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                let text = format!("{}\n", std::process::id());
                lock.set_len(0)
                    .and_then(|()| lock.rewind())
                    .and_then(|()| lock.write_all(text.as_bytes()))
                    .map_err(io)?;
                Ok(Self { _lock: lock })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                Err(PidFileError::Taken { pid: text.trim().parse().unwrap_or(0), path: path.to_owned() })
            }
            Err((_, errno)) => Err(io(errno.into())),
        }
    }
}

/// The process that holds the pid file now; `None` when nobody does, whatever the file says.
#[must_use]
pub fn running_pid(path: &Path) -> Option<u32> {
    let mut file = OpenOptions::new().read(true).open(path).ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let pid = text.trim().parse().ok()?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_released_at_once) => None,
        Err((_, Errno::EWOULDBLOCK)) => Some(pid),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_living_holder_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        assert_eq!(running_pid(&path), None);
        let held = PidFile::acquire(&path).unwrap();
        assert_eq!(running_pid(&path), Some(std::process::id()));
        assert!(
            matches!(PidFile::acquire(&path), Err(PidFileError::Taken { pid, .. }) if pid == std::process::id())
        );
        drop(held);
        assert_eq!(running_pid(&path), None, "a stale file names nobody");
        PidFile::acquire(&path).unwrap();
    }
}
