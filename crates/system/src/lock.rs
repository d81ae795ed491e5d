//! A lock that is a file: at most one process holds it, for as long as it lives, and its pid can be read.
//!
//! The kernel releases it however the process ends (`flock`, by std's `File::lock`), so a file that is left behind
//! locks nothing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use crate::atomic_file::open_regular;

/// Bytes of a lock file that are read: a pid and a line feed, with room for a word before it.
const MAX_CONTENT: u64 = 64;

/// How often to try again for a lock that another process holds.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A lock that this process holds until the value is dropped or the process ends.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

/// The lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} holds the lock {path}", holder_name(*.holder))]
    Held {
        /// Its pid, unless it has not written it yet.
        holder: Option<u32>,
        /// The lock file.
        path: PathBuf,
    },
    /// The file cannot be used.
    #[error("cannot use the lock file {path}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn holder_name(holder: Option<u32>) -> String {
    holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl FileLock {
    /// Takes the lock if it is free, and writes this process's id into the file, which is made with mode 0600 if there
    /// is none.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process holds it.
    pub fn try_acquire(path: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        // Neither a link nor a FIFO that another user put in its place is followed or waited for.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags.bits())
            .open(path)
            .map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(io(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { holder: read_pid(&file), path: path.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let text = format!("{}\n", std::process::id());
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(text.as_bytes())
        };
        write(&mut file).map_err(io)?;
        Ok(Self { _file: file })
    }

    /// Takes the lock, and waits at most `timeout` for the process that holds it. `on_wait` is called once with that process,
    /// if there is a wait.
    ///
    /// # Errors
    /// [`LockError::Held`] when the time is over.
    pub async fn acquire(
        path: &Path,
        timeout: Duration,
        on_wait: impl FnOnce(Option<u32>),
    ) -> Result<Self, LockError> {
        let deadline = Instant::now() + timeout;
        let mut on_wait = Some(on_wait);
        loop {
            match Self::try_acquire(path) {
                Err(LockError::Held { holder, .. }) if Instant::now() < deadline => {
                    if let Some(on_wait) = on_wait.take() {
                        on_wait(holder);
                    }
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                done => return done,
            }
        }
    }

    /// Like [`FileLock::acquire`], for callers that are not async: blocks the thread.
    ///
    /// # Errors
    /// [`LockError::Held`] when the time is over.
    pub fn acquire_blocking(path: &Path, timeout: Duration) -> Result<Self, LockError> {
        let deadline = Instant::now() + timeout;
        loop {
            match Self::try_acquire(path) {
                Err(LockError::Held { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(RETRY_INTERVAL);
                }
                done => return done,
            }
        }
    }

    /// The process that holds the lock now; `None` when no process does, whatever is in the file.
    ///
    /// Root asks too, for files in the service user's directories: no link is followed and no FIFO waited for.
    #[must_use]
    pub fn holder(path: &Path) -> Option<u32> {
        let (file, _) = open_regular(path).ok()?;
        let pid = read_pid(&file)?;
        // The lock that this takes for a moment, if it is free, is shared with others who look.
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)).then_some(pid)
    }
}

/// The number that ends the content. Versions up to 0.1 wrote `process 123`.
pub(crate) fn read_pid(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(MAX_CONTENT).read_to_string(&mut text).ok()?;
    text.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_living_holder_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(FileLock::holder(&path), None);
        let lock = FileLock::try_acquire(&path).unwrap();
        let own = Some(std::process::id());
        assert_eq!(FileLock::holder(&path), own);
        assert!(matches!(FileLock::try_acquire(&path), Err(LockError::Held { holder, .. }) if holder == own));
        drop(lock);
        assert_eq!(FileLock::holder(&path), None, "a file that is left behind is no lock");
        FileLock::acquire_blocking(&path, Duration::ZERO).unwrap();
    }

    #[tokio::test]
    async fn waiting_ends_at_the_deadline_or_when_the_lock_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = FileLock::try_acquire(&path).unwrap();
        let error = FileLock::acquire(&path, Duration::ZERO, |_| ()).await.unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        let (told, waiting) = tokio::sync::oneshot::channel();
        let path_again = path.clone();
        let second = tokio::spawn(async move {
            let on_wait = |holder| {
                let _ = told.send(holder);
            };
            FileLock::acquire(&path_again, Duration::from_secs(60), on_wait).await
        });
        assert_eq!(waiting.await.unwrap(), Some(std::process::id()));
        drop(lock);
        second.await.unwrap().unwrap();
    }

    #[test]
    fn neither_a_link_nor_a_fifo_is_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("other"), "precious").unwrap();
        std::os::unix::fs::symlink(at("other"), at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(FileLock::try_acquire(&at("link")), Err(LockError::Io { .. })));
        assert!(matches!(FileLock::try_acquire(&at("fifo")), Err(LockError::Io { .. })));
        assert_eq!(std::fs::read_to_string(at("other")).unwrap(), "precious");
        let _lock = FileLock::try_acquire(&at("lock")).unwrap();
        std::os::unix::fs::symlink(at("lock"), at("second")).unwrap();
        assert_eq!((FileLock::holder(&at("second")), FileLock::holder(&at("fifo"))), (None, None));
    }

    #[test]
    fn pid_of_an_earlier_version_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::fs::write(&path, "process 4711\n").unwrap();
        assert_eq!(read_pid(&File::open(&path).unwrap()), Some(4711));
        std::fs::write(&path, "").unwrap();
        assert_eq!(read_pid(&File::open(&path).unwrap()), None);
    }
}
