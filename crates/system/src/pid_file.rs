//! A daemon's pid file. It names a process only while that lives, because the process holds a lock on it.

use std::path::{Path, PathBuf};

use crate::lock::{FileLock, LockError};

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

impl PidFile {
    /// Writes this process's id, unless another process has the file.
    ///
    /// # Errors
    /// [`PidFileError::Taken`] when another process has it.
    pub fn acquire(path: &Path) -> Result<Self, PidFileError> {
        match FileLock::try_acquire(path) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
