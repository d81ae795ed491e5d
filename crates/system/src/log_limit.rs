//! Keeping the logs of programs that know no rotation from filling the disk.
//!
//! The programs have their logs open and go on appending, so a log is copied and emptied rather than renamed. What is
//! written in the moment between the last look and the emptying is lost, as with logrotate's `copytruncate`.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;

use crate::directory::OpenDirectory;

/// The size in bytes from which a log is begun again.
pub const MAX_LOG_BYTES: u64 = 64 << 20;

/// How often the sizes of logs are looked at.
const LOG_POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Bytes that are kept of a log when the disk has no room for more.
const KEPT_ON_FULL_DISK: u64 = 1 << 20;

/// The file that holds what was in a log before it was begun again: `x.log.old` beside `x.log`.
#[must_use]
pub fn old_log(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".old");
    name.into()
}

/// The files of a directory whose names end with `.log`.
#[must_use]
pub fn logs_in(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut logs: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect();
    logs.sort();
    logs
}

/// Begins logs again that have grown to [`MAX_LOG_BYTES`], over and over; never returns. `logs` says which there are.
pub async fn limit_logs(logs: impl Fn() -> Vec<PathBuf> + Clone + Send + 'static) {
    let mut failing = BTreeSet::new();
    loop {
        let logs = logs.clone();
        match tokio::task::spawn_blocking(move || limit_each(logs(), &failing)).await {
            Ok(now) => failing = now,
            Err(error) => {
                tracing::warn!(%error, "the look at the sizes of logs failed");
                failing = BTreeSet::new();
            }
        }
        tokio::time::sleep(LOG_POLL_INTERVAL).await;
    }
}

/// Looks at each log once. Of those that cannot be begun again, which are returned, it warns unless they are known.
fn limit_each(logs: Vec<PathBuf>, known: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let mut failing = BTreeSet::new();
    for log in logs {
        match limit_log(&log, MAX_LOG_BYTES) {
            Ok(true) => tracing::info!(log = %log.display(), "a log was begun again"),
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                if !known.contains(&log) {
                    tracing::warn!(log = %log.display(), %error, "a log cannot be begun again and goes on growing");
                }
                failing.insert(log);
            }
        }
    }
    failing
}

/// Begins a log again when it has `max_bytes` or more; tells whether it did. What was in it is in [`old_log`] then: all
/// of it, or the last `max_bytes` when it had twice as much.
///
/// # Errors
/// When it cannot be read, copied or emptied, or is not a regular file.
pub fn limit_log(log: &Path, max_bytes: u64) -> io::Result<bool> {
    limit_log_by(log, max_bytes, copy_from)
}

/// Copies the rest of a log from a position on, to a new file at the path.
type Copy = fn(&File, u64, &Path) -> io::Result<()>;

fn limit_log_by(log: &Path, max_bytes: u64, copy: Copy) -> io::Result<bool> {
    let directory = OpenDirectory::parent_of(log)?;
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let entry = directory.entry(log);
    // Most looks find a small one, and a look needs no permission to write.
    if std::fs::symlink_metadata(&entry)?.len() < max_bytes {
        return Ok(false);
    }
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(&entry)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let length = found.len();
    let from = if length >= max_bytes.saturating_mul(2) { length - max_bytes } else { 0 };
    let old = directory.entry(&old_log(log));
    // One name: what a killed process left is written over by the next one.
    let draft = directory.entry(&old_log(&old_log(log)));
    match copy(&file, from, &draft) {
        Ok(()) => {
            std::fs::rename(&draft, &old)?;
            file.set_len(0)?;
        }
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            let _ = std::fs::remove_file(&draft);
            let _ = std::fs::remove_file(&old);
            let last = read_from(&file, length.saturating_sub(KEPT_ON_FULL_DISK.min(max_bytes)))?;
            file.set_len(0)?;
            // The disk may be full again: then this is lost.
            let _ = create(&draft, found.mode())
                .and_then(|mut file| file.write_all(&last))
                .and_then(|()| std::fs::rename(&draft, &old));
        }
        Err(error) => {
            let _ = std::fs::remove_file(&draft);
            return Err(error);
        }
    }
    Ok(true)
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode & 0o777).custom_flags(flags.bits());
    options.open(path)
}

fn copy_from(mut log: &File, from: u64, to: &Path) -> io::Result<()> {
    let found = log.metadata()?;
    let mut copy = create(to, found.mode())?;
    log.seek(SeekFrom::Start(from))?;
    io::copy(&mut log.take(found.len() - from), &mut copy)?;
    // What was written meanwhile: little, so that little is lost between its end and the emptying.
    io::copy(&mut log.take(MAX_LOG_BYTES), &mut copy).map(drop)
}

fn read_from(mut file: &File, from: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(KEPT_ON_FULL_DISK).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn appender(log: &Path) -> File {
        OpenOptions::new().append(true).create(true).open(log).unwrap()
    }

    #[test]
    fn program_goes_on_in_a_log_that_was_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        let mut program = appender(&log);
        fs::set_permissions(&log, fs::Permissions::from_mode(0o640)).unwrap();
        program.write_all(b"first\n").unwrap();
        assert!(!limit_log(&log, 7).unwrap(), "it is small");
        program.write_all(b"second\n").unwrap();
        assert!(limit_log(&log, 7).unwrap());
        program.write_all(b"third\n").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "third\n");
        assert_eq!(fs::read_to_string(old_log(&log)).unwrap(), "first\nsecond\n");
        assert_eq!(fs::metadata(old_log(&log)).unwrap().mode() & 0o777 & !0o640, 0);
        program.write_all(b"fourth\n").unwrap();
        assert!(limit_log(&log, 7).unwrap());
        assert_eq!(fs::read_to_string(old_log(&log)).unwrap(), "third\nfourth\n");
        assert_eq!(logs_in(dir.path()), [log], "no draft is left, and the old one is not taken for a log");
    }

    #[test]
    fn of_a_huge_log_the_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        fs::write(&log, "a".repeat(100) + "0123456789").unwrap();
        assert!(limit_log(&log, 10).unwrap());
        assert_eq!(fs::read_to_string(old_log(&log)).unwrap(), "0123456789");
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
    }

    #[test]
    fn full_disk_costs_the_older_lines_and_not_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        fs::write(&log, "0123456789").unwrap();
        fs::write(old_log(&log), "older").unwrap();
        let full: Copy = |_, _, to| {
            fs::write(to, "012").unwrap();
            Err(ErrorKind::StorageFull.into())
        };
        assert!(limit_log_by(&log, 4, full).unwrap());
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
        assert_eq!(fs::read_to_string(old_log(&log)).unwrap(), "6789");
        // Another failure changes nothing.
        fs::write(&log, "0123456789").unwrap();
        let refused: Copy = |_, _, _| Err(ErrorKind::PermissionDenied.into());
        assert!(limit_log_by(&log, 4, refused).is_err());
        assert_eq!(fs::read_to_string(&log).unwrap(), "0123456789");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn planted_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("other"), "0123456789").unwrap();
        symlink(at("other"), at("x.log")).unwrap();
        assert!(limit_log(&at("x.log"), 1).is_err());
        fs::write(at("y.log"), "0123456789").unwrap();
        // The draft's name.
        symlink(at("other"), at("y.log.old.old")).unwrap();
        assert!(limit_log(&at("y.log"), 1).is_err());
        assert_eq!(fs::read_to_string(at("other")).unwrap(), "0123456789");
        assert!(limit_log(&at("none.log"), 1).is_err_and(|error| error.kind() == ErrorKind::NotFound));
    }

    #[tokio::test(start_paused = true)]
    async fn logs_are_looked_at_over_and_over() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        // Sparse: neither the log nor its copy needs the room.
        appender(&log).set_len(MAX_LOG_BYTES).unwrap();
        let directory = dir.path().to_owned();
        let task = tokio::spawn(limit_logs(move || logs_in(&directory)));
        for _ in 0..2 {
            while fs::metadata(&log).unwrap().len() > 0 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            appender(&log).set_len(MAX_LOG_BYTES).unwrap();
        }
        task.abort();
    }
}
