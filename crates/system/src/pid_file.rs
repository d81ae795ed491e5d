//! A pid file that cannot lie: its process holds a lock on it for as long as it lives.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

/// A pid file holds a number and a line feed.
const LONGEST: u64 = 32;

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
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
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
    // Root asks too, of files in the service user's directories: no link is followed, and no FIFO waited for.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    (&file).take(LONGEST).read_to_string(&mut text).ok()?;
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
    fn neither_a_link_nor_a_fifo_is_a_pid_file() {
        let dir = tempfile::tempdir().unwrap();
        let (other, link, fifo) =
            (dir.path().join("other"), dir.path().join("link"), dir.path().join("fifo"));
        std::fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(PidFile::acquire(&link).is_err());
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "precious");
        let held = PidFile::acquire(&dir.path().join("pid")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("pid"), dir.path().join("second")).unwrap();
        assert_eq!((running_pid(&dir.path().join("second")), running_pid(&fifo)), (None, None));
        drop(held);
    }

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
