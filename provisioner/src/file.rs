//! Files and directories of a cluster, with errors that name them. What is done is `cellar-system`'s.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use cellar_system::{AtomicFile, OpenDirectory, Owner, create_directory, last_lines_of};

use crate::error::provision_error::{ProvisionError, Result};

/// Lines of a log that a message shows.
const MAX_TAIL_LINES: usize = 8;

/// Refuses a directory in which another user than root and this one could put things under our names: the
/// authority's key is to lie below it.
pub(crate) fn check_ours(directory: &Path) -> Result<()> {
    let check = || match OpenDirectory::open(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(opened) if opened.is_private_to_us()? => Ok(()),
        Ok(_) => Err(Error::new(
            ErrorKind::PermissionDenied,
            "other users may write in it: choose another directory, or make it your own",
        )),
    };
    check().map_err(ProvisionError::io("use", directory))
}

/// Makes a directory with this mode and owner, and its parents; one that exists is left as it is.
pub(crate) fn make_directory(path: &Path, mode: u32, owner: Option<Owner>) -> Result<()> {
    create_directory(path, mode, owner).map_err(ProvisionError::io("make the directory", path))
}

/// Writes a file whole or not at all, in place of what was there.
pub(crate) fn replace(path: &Path, text: &str, mode: u32, owner: Option<Owner>) -> Result<()> {
    AtomicFile::new(path).mode(mode).owner(owner).replace(text).map_err(ProvisionError::io("write", path))
}

/// Writes a file whole or not at all, unless it has that text, mode and owner; tells whether it did.
pub(crate) fn put(path: &Path, text: &str, mode: u32, owner: Option<Owner>) -> Result<bool> {
    let file = AtomicFile::new(path).mode(mode).owner(owner);
    file.replace_if_changed(text).map_err(ProvisionError::io("write", path))
}

/// Gives a directory that exists this mode and owner; tells whether it had others.
pub(crate) fn correct_directory(path: &Path, mode: u32, owner: Option<Owner>) -> Result<bool> {
    let correct = || -> std::io::Result<bool> {
        let opened = OpenDirectory::open(path)?;
        let found = opened.metadata()?;
        let is_owners = owner.is_none_or(|owner| (owner.uid, owner.gid) == (found.uid(), found.gid()));
        if is_owners && found.mode() & 0o7777 == mode {
            return Ok(false);
        }
        // First, as it may take bits of the mode away.
        if let Some(Owner { uid, gid }) = owner {
            std::os::unix::fs::chown(opened.path(), Some(uid), Some(gid))?;
        }
        std::fs::set_permissions(opened.path(), std::fs::Permissions::from_mode(mode))?;
        Ok(true)
    };
    correct().map_err(ProvisionError::io("set the owner and mode of", path))
}

/// Opens a log to append to.
pub(crate) fn open_log(path: &Path, owner: Option<Owner>) -> Result<File> {
    cellar_system::open_log(path, owner).map_err(ProvisionError::io("open", path))
}

/// The last lines of a log; empty when it cannot be read.
pub(crate) fn log_tail(path: &Path) -> String {
    last_lines_of(path, 0, MAX_TAIL_LINES).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};

    #[test]
    fn directory_in_which_others_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
        assert!(check_ours(&shared).unwrap_err().to_string().contains("shared"));
        check_ours(dir.path()).unwrap();
        check_ours(&dir.path().join("missing")).unwrap();
    }

    #[test]
    fn modes_are_the_same_under_any_umask() {
        // A umask is the whole process's, and other tests run beside this one: in a process of its own.
        let Ok(umask) = std::env::var("CELLAR_TEST_UMASK") else {
            for umask in ["000", "022", "077"] {
                let name = "file::tests::modes_are_the_same_under_any_umask";
                let status = std::process::Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", name])
                    .env("CELLAR_TEST_UMASK", umask)
                    .status()
                    .unwrap();
                assert!(status.success(), "umask {umask}");
            }
            return;
        };
        let bits = u32::from_str_radix(&umask, 8).unwrap();
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(bits));
        let dir = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mode() & 0o777;
        make_directory(&dir.path().join("sockets"), 0o700, None).unwrap();
        make_directory(&dir.path().join("log"), 0o750, None).unwrap();
        replace(&dir.path().join("key"), "x", 0o600, None).unwrap();
        open_log(&dir.path().join("l"), None).unwrap();
        assert_eq!(["sockets", "log", "key", "l"].map(mode), [0o700, 0o750, 0o600, 0o640]);
        let key = cellar_tls::KeyFile::load_or_create(&dir.path().join("tls/server.key"), None).unwrap();
        assert_eq!((mode("tls"), key.path().metadata().unwrap().mode() & 0o777), (0o700, 0o600));
    }
}
