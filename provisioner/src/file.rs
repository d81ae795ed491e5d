//! Directories and files of a cluster: who owns them, and writing them whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use cellar_tls::Owner;
use nix::fcntl::OFlag;

use crate::error::{ProvisionError, Result};

/// Of a log, what is read to find its last lines.
const LOG_TAIL: u64 = 16 << 10;

/// Lines of a log that are shown.
const TAIL_LINES: usize = 8;

/// Makes a directory with this mode and owner, and its parents with ordinary ones. One that is there
/// is left as it is: a person may have changed it on purpose.
pub(crate) fn make_directory(path: &Path, mode: u32, owner: Option<Owner>) -> Result<()> {
    let make = || -> std::io::Result<()> {
        if fs::metadata(path).is_ok_and(|found| found.is_dir()) {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent)?;
        // Whole or not at all: a directory of root's that a killed process left in its place would keep
        // the service user out for ever.
        let draft = tempfile::Builder::new().prefix(".new.").tempdir_in(parent)?;
        // By handle and without following a link: the parent may be the service user's.
        let handle = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY).bits())
            .open(draft.path())?;
        handle.set_permissions(Permissions::from_mode(mode))?;
        if let Some(Owner { uid, gid }) = owner {
            fchown(&handle, Some(uid), Some(gid))?;
        }
        match fs::rename(draft.path(), path) {
            Ok(()) => {
                // Its name has changed, so nothing is removed by this.
                drop(draft);
                Ok(())
            }
            // Somebody else has made it meanwhile, and filled it.
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
            Err(error) => Err(error),
        }
    };
    make().map_err(ProvisionError::io("make the directory", path))
}

/// Puts `text` at `path` whole or not at all, replacing what was there.
pub(crate) fn replace(path: &Path, text: &str, mode: u32, owner: Option<Owner>) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".new.").tempfile_in(directory)?;
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        if let Some(Owner { uid, gid }) = owner {
            fchown(file.as_file(), Some(uid), Some(gid))?;
        }
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(ProvisionError::io("write", path))
}

/// Opens a log to append to. Its directory may be the service user's, so a link is not followed.
pub(crate) fn open_log(path: &Path, owner: Option<Owner>) -> Result<File> {
    let open = || -> std::io::Result<File> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)?;
        if let Some(Owner { uid, gid }) = owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        Ok(file)
    };
    open().map_err(ProvisionError::io("open", path))
}

/// The last lines of a log; empty when there is none.
pub(crate) fn log_tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let clean = |line: &&str| line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(clean).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        replace(&path, "one", 0o600, None).unwrap();
        replace(&path, "two", 0o644, None).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_in_place_of_a_log_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("log");
        std::os::unix::fs::symlink(dir.path().join("secret"), &link).unwrap();
        assert!(open_log(&link, None).is_err());
    }

    #[test]
    fn the_last_lines_are_shown_without_control_characters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let text: String = (0..20).map(|n| format!("line {n}\x1b[31m\n\n")).collect();
        fs::write(&path, text).unwrap();
        let tail = log_tail(&path);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("line 19 [31m"), "{tail}");
        assert_eq!(log_tail(&dir.path().join("missing")), "");
    }
}
