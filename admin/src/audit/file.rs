//! The file at the end of the audit log's path, whatever happens to that path.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// A file that is only ever appended to.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Device and inode of `file`.
    identity: (u64, u64),
    /// The last line may be incomplete: the next record begins on a new line.
    last_line_incomplete: bool,
}

impl LogFile {
    /// Opens the file; creates it with mode 0600 when there is none.
    ///
    /// # Errors
    /// When it cannot be opened, is a symbolic link or no plain file, or others may write it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // O_NONBLOCK has no effect on a plain file; without it, opening a pipe would wait for a reader.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(flags.bits())
            .open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("it is not a plain file"));
        }
        if found.mode() & 0o022 != 0 {
            return Err(io::Error::other("others than its owner may write it"));
        }
        let mut last = [b'\n'];
        if found.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            identity: (found.dev(), found.ino()),
            last_line_incomplete: last != [b'\n'],
        })
    }

    /// Appends lines, and waits until they are on the disk if `sync`. A file that was renamed or deleted is
    /// created again.
    pub(super) fn append(&mut self, lines: &str, sync: bool) -> io::Result<()> {
        if self.is_gone()? {
            *self = Self::open(&self.path)?;
        }
        let text = if self.last_line_incomplete { format!("\n{lines}") } else { lines.to_owned() };
        self.last_line_incomplete = true;
        // One call, so that the lines of several processes do not get mixed up.
        self.file.write_all(text.as_bytes())?;
        self.last_line_incomplete = false;
        if sync { self.file.sync_data() } else { Ok(()) }
    }

    fn is_gone(&self) -> io::Result<bool> {
        match std::fs::symlink_metadata(&self.path) {
            Ok(found) => Ok((found.dev(), found.ino()) != self.identity),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn log_path() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        (dir, path)
    }

    #[test]
    fn it_is_the_owners_and_only_grows() {
        let (_dir, path) = log_path();
        LogFile::open(&path).unwrap().append("1\n", true).unwrap();
        LogFile::open(&path).unwrap().append("2\n", false).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n2\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        // One that others may read is somebody's decision; one that they may write proves nothing.
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        LogFile::open(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o620)).unwrap();
        assert!(LogFile::open(&path).unwrap_err().to_string().contains("others"));
    }

    #[test]
    fn a_renamed_file_is_created_again() {
        let (dir, path) = log_path();
        let mut log = LogFile::open(&path).unwrap();
        log.append("1\n", false).unwrap();
        let old = dir.path().join("audit.log.1");
        fs::rename(&path, &old).unwrap();
        log.append("2\n", false).unwrap();
        assert_eq!(
            (fs::read_to_string(&old).unwrap(), fs::read_to_string(&path).unwrap()),
            ("1\n".into(), "2\n".into())
        );
        // logrotate with `create`.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        log.append("3\n", false).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "3\n");
    }

    #[test]
    fn only_a_plain_file_is_written() {
        let (dir, path) = log_path();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "").unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert!(LogFile::open(&path).is_err(), "a link");
        fs::remove_file(&path).unwrap();
        let mut log = LogFile::open(&path).unwrap();
        fs::rename(&path, dir.path().join("old")).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert!(log.append("x\n", false).is_err(), "a link in its place");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(log.append("x\n", false).is_err(), "a directory");
        fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(log.append("x\n", false).unwrap_err().to_string().contains("plain"), "a pipe");
        fs::remove_file(&path).unwrap();
        log.append("x\n", false).unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "");
        assert_eq!(fs::read_to_string(&path).unwrap(), "x\n");
    }

    #[test]
    fn an_incomplete_line_does_not_damage_the_next() {
        let (_dir, path) = log_path();
        fs::write(&path, "1\n{\"id").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        LogFile::open(&path).unwrap().append("2\n", false).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n{\"id\n2\n");
    }
}
