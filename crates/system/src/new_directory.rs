//! Making directories for a user, on paths that may lead through directories of another user.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use crate::directory::OpenDirectory;
use crate::owner::Owner;

/// Mode of the parents that are made on the way.
const PARENT_MODE: u32 = 0o755;

/// Makes a directory with this mode and owner, and its parents with mode 0755 and this process's user. A directory that
/// exists is left as it is: a person may have changed it on purpose.
///
/// # Errors
/// When it cannot be made, or a part of the path is a symlink that another user could have made.
pub fn create_directory(path: &Path, mode: u32, owner: Option<Owner>) -> io::Result<()> {
    match OpenDirectory::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        opened => return opened.map(drop),
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_directory(parent, PARENT_MODE, None)?;
    }
    let parent = OpenDirectory::parent_of(path)?;
    // Mode and owner first and the name last: a directory of root's that a killed process left at the path would
    // keep the service user out for ever.
    let draft = tempfile::Builder::new().prefix(".new.").tempdir_in(parent.path())?;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY).bits())
        .open(draft.path())?;
    if opened.metadata()?.uid() != geteuid().as_raw() {
        return Err(io::Error::new(
            ErrorKind::PermissionDenied,
            "another process replaced the new directory while it was being made: look who works in there",
        ));
    }
    opened.set_permissions(Permissions::from_mode(mode))?;
    if let Some(Owner { uid, gid }) = owner {
        fchown(&opened, Some(uid), Some(gid))?;
    }
    match fs::rename(draft.path(), parent.entry(path)) {
        Ok(()) => {
            // It has another name now, so this removes nothing.
            drop(draft);
            parent.sync()
        }
        // Another process made it meanwhile, and filled it.
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn directory_and_its_parents_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_directory(&path, 0o700, None).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o700, 0o755));
        fs::write(path.join("x"), "").unwrap();
        create_directory(&path, 0o755, None).unwrap();
        assert_eq!(mode(&path), 0o700, "one that exists is left as it is");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn planted_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, private) = (dir.path().join("shared"), dir.path().join("private"));
        fs::create_dir(&shared).unwrap();
        fs::create_dir(&private).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
        symlink(&private, shared.join("link")).unwrap();
        assert!(create_directory(&shared.join("link"), 0o700, None).is_err());
        assert!(create_directory(&shared.join("link/below"), 0o700, None).is_err());
        assert_eq!(fs::read_dir(&private).unwrap().count(), 0);
    }
}
