//! Reading and writing key and certificate files.
//!
//! The provisioner runs as root and writes into directories that belong to the service user, so a name in such a
//! directory is not trusted: nothing here follows a symlink that another user could have made (see
//! [`OpenDirectory`]). Files are only ever replaced as a whole, never changed in place.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use cellar_system::{AtomicFile, OpenDirectory, Owner, create_directory};
use nix::fcntl::OFlag;

use crate::error::{Result, TlsError};

/// Mode of certificates: they are public.
pub(crate) const CERTIFICATE_MODE: u32 = 0o644;

/// Mode of private keys. pgBackRest and PostgreSQL refuse anything wider.
pub(crate) const KEY_MODE: u32 = 0o600;

/// No PEM file of ours comes near; anything larger is not one.
const MAX_FILE: u64 = 1 << 20;

/// A file's content, mode, owner and links.
pub(crate) struct Content {
    pub(crate) text: String,
    mode: u32,
    uid: u32,
    gid: u32,
    sole: bool,
    inode: (u64, u64),
}

impl Content {
    pub(crate) fn mode(&self) -> u32 {
        self.mode
    }

    /// Whether the file may be copied under another owner: one with another hard link, now or a moment ago,
    /// could be another user's secret under a name in the service user's directory.
    pub(crate) fn is_sole_link(&self) -> bool {
        self.sole
    }

    pub(crate) fn is_as(&self, mode: u32, owner: Option<Owner>) -> bool {
        self.mode == mode && owner.is_none_or(|o| o.uid == self.uid && o.gid == self.gid)
    }
}

/// Reads a file that this crate wrote, without following a symlink.
pub(crate) fn read_own(path: &Path) -> Result<Content> {
    let directory = OpenDirectory::parent_of(path).map_err(TlsError::io("read", path))?;
    let entry = directory.entry(path);
    // O_NONBLOCK so that a FIFO put in the place cannot hang the reader.
    let mut content = read_with(path, &entry, OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK)?;
    // The name and the number of links in one look: seen apart, a link could be removed in between.
    let named = fs::symlink_metadata(&entry).map_err(TlsError::io("read", path))?;
    content.sole = content.sole && named.nlink() == 1 && (named.dev(), named.ino()) == content.inode;
    Ok(content)
}

/// Reads a file that a person may have linked into place.
pub(crate) fn read(path: &Path) -> Result<String> {
    read_with(path, path, OFlag::O_NONBLOCK).map(|content| content.text)
}

/// `path` is for messages.
fn read_with(path: &Path, place: &Path, flags: OFlag) -> Result<Content> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(place)
        .map_err(TlsError::io("read", path))?;
    let metadata = file.metadata().map_err(TlsError::io("read", path))?;
    if !metadata.is_file() {
        return Err(TlsError::bad_file(path, "it is not a regular file"));
    }
    if metadata.len() > MAX_FILE {
        return Err(TlsError::bad_file(path, "it is larger than 1 MiB, so no key or certificate"));
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(TlsError::io("read", path))?;
    Ok(Content {
        text,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        sole: metadata.nlink() == 1,
        inode: (metadata.dev(), metadata.ino()),
    })
}

/// Whether anything has this name, a dangling symlink included.
pub(crate) fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(TlsError::io("look for", path)(error)),
    }
}

/// Writes a file whole or not at all, in place of what was there.
pub(crate) fn replace(path: &Path, text: &str, mode: u32, owner: Option<Owner>) -> Result<()> {
    AtomicFile::new(path).mode(mode).owner(owner).replace(text).map_err(TlsError::io("write", path))
}

/// Like [`replace`], unless the file is as it is to be; tells whether it changed.
pub(crate) fn replace_if_changed(path: &Path, text: &str, mode: u32, owner: Option<Owner>) -> Result<bool> {
    let file = AtomicFile::new(path).mode(mode).owner(owner);
    file.replace_if_changed(text).map_err(TlsError::io("write", path))
}

/// Writes a file unless something has that name; tells whether it did.
pub(crate) fn create(path: &Path, text: &str, mode: u32, owner: Option<Owner>) -> Result<bool> {
    AtomicFile::new(path).mode(mode).owner(owner).create(text).map_err(TlsError::io("write", path))
}

/// Makes a directory that only its owner may enter, and its parents; one that exists is left as it is.
pub(crate) fn create_private_directory(directory: &Path, owner: Option<Owner>) -> Result<()> {
    create_directory(directory, 0o700, owner).map_err(TlsError::io("make the directory", directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn symlink_is_replaced_and_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        let link = dir.path().join("link");
        symlink(&secret, &link).unwrap();
        assert!(read_own(&link).is_err());
        assert!(!create(&link, "new", KEY_MODE, None).unwrap());
        replace(&link, "new", KEY_MODE, None).unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(read_own(&link).unwrap().text, "new");
    }

    #[test]
    fn planted_link_to_a_directory_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, target) = (dir.path().join("shared"), dir.path().join("target"));
        fs::create_dir(&shared).unwrap();
        fs::create_dir(&target).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
        symlink(&target, shared.join("tls")).unwrap();
        let path = shared.join("tls/server.key");
        fs::write(target.join("server.key"), "secret").unwrap();
        assert!(replace(&path, "new", KEY_MODE, None).is_err());
        assert!(create(&shared.join("tls/other"), "new", KEY_MODE, None).is_err());
        assert!(create_private_directory(&shared.join("tls"), None).is_err());
        assert!(create_private_directory(&shared.join("tls/below"), None).is_err());
        assert!(read_own(&path).is_err());
        assert_eq!(fs::read_to_string(target.join("server.key")).unwrap(), "secret");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
        create_private_directory(&shared.join("new/one"), None).unwrap();
        assert_eq!(fs::metadata(shared.join("new/one")).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn second_hard_link_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, link) = (dir.path().join("secret"), dir.path().join("link"));
        fs::write(&secret, "secret").unwrap();
        assert!(read_own(&secret).unwrap().is_sole_link());
        fs::hard_link(&secret, &link).unwrap();
        assert!(!read_own(&link).unwrap().is_sole_link());
    }

    #[test]
    fn fifo_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(read_own(&fifo), Err(TlsError::BadFile { .. })));
    }

    #[test]
    fn writes_leave_one_file_and_no_draft() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(create(&path, "one", KEY_MODE, None).unwrap());
        assert!(!create(&path, "two", KEY_MODE, None).unwrap());
        replace(&path, "three", CERTIFICATE_MODE, None).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(read_own(&path).unwrap().is_as(CERTIFICATE_MODE, None));
    }
}
