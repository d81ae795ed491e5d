//! Reading and writing key and certificate files.
//!
//! The provisioner runs as root and writes into directories that belong to the
//! service user, so a name in such a directory is not trusted: nothing here
//! follows a symlink that somebody else could have made (see [`HeldDirectory`]),
//! and nothing changes the mode or owner of an existing file in place. A file is
//! only ever replaced as a whole.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::fcntl::OFlag;
use tempfile::NamedTempFile;

use crate::{HeldDirectory, Result, TlsError};

/// Mode of certificates: they are public.
pub(crate) const CERTIFICATE_MODE: u32 = 0o644;

/// Mode of private keys. pgBackRest and PostgreSQL refuse anything wider.
pub(crate) const KEY_MODE: u32 = 0o600;

/// No PEM file of ours comes near; anything larger is not one.
const MAX_FILE: u64 = 1 << 20;

/// The user and group that a written file belongs to, when that is not the
/// writing process itself: the provisioner runs as root for the OS user
/// `postgres`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A file's content with what its directory entry says of it.
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
    /// could be somebody else's secret under a name in the service user's directory.
    pub(crate) fn is_sole_link(&self) -> bool {
        self.sole
    }

    pub(crate) fn is_as(&self, mode: u32, owner: Option<Owner>) -> bool {
        self.mode == mode && owner.is_none_or(|o| o.uid == self.uid && o.gid == self.gid)
    }
}

/// Reads a file that this crate wrote, without following a symlink.
pub(crate) fn read_own(path: &Path) -> Result<Content> {
    let held = HeldDirectory::of(path).map_err(TlsError::io("read", path))?;
    let entry = held.entry(path);
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

/// Puts `text` at `path` whole or not at all, replacing what was there.
pub(crate) fn replace(path: &Path, text: &str, mode: u32, owner: Option<Owner>) -> Result<()> {
    let write = || -> io::Result<()> {
        let held = HeldDirectory::of(path)?;
        prepare(&held, path, text, mode, owner)?.persist(held.entry(path)).map_err(|error| error.error)?;
        held.sync()
    };
    write().map_err(TlsError::io("write", path))
}

/// Puts `text` at `path` unless something has that name; tells whether it did.
pub(crate) fn create(path: &Path, text: &str, mode: u32, owner: Option<Owner>) -> Result<bool> {
    let write = || -> io::Result<bool> {
        let held = HeldDirectory::of(path)?;
        match prepare(&held, path, text, mode, owner)?.persist_noclobber(held.entry(path)) {
            Ok(_) => held.sync().map(|()| true),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error),
        }
    };
    write().map_err(TlsError::io("write", path))
}

fn prepare(
    held: &HeldDirectory,
    path: &Path,
    text: &str,
    mode: u32,
    owner: Option<Owner>,
) -> io::Result<NamedTempFile> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut file = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(held.path())?;
    // The mode at creation went through the umask, which can only have narrowed it.
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    if let Some(Owner { uid, gid }) = owner {
        fchown(file.as_file(), Some(uid), Some(gid))?;
    }
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Makes the directory, its parents with ordinary modes and itself 0700. An
/// existing one is left as it is.
pub(crate) fn create_private_directory(directory: &Path, owner: Option<Owner>) -> Result<()> {
    let attempt = || -> io::Result<()> {
        match HeldDirectory::open(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found.map(drop),
        }
        // A name that ends in `..` or is the root is there, or cannot be made.
        let parent = directory.parent().unwrap_or(Path::new("/"));
        make_parents(parent)?;
        let held = HeldDirectory::of(directory)?;
        match DirBuilder::new().mode(0o700).create(held.entry(directory)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                let handle = OpenOptions::new()
                    .read(true)
                    .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY).bits())
                    .open(held.entry(directory))?;
                if let Some(Owner { uid, gid }) = owner {
                    // Somebody who may rename things here could have put another one in its place.
                    if handle.metadata()?.uid() != nix::unistd::geteuid().as_raw() {
                        return Err(io::Error::new(
                            io::ErrorKind::PermissionDenied,
                            "somebody else has replaced it meanwhile: look who works in there",
                        ));
                    }
                    fchown(&handle, Some(uid), Some(gid))?;
                }
                handle.sync_all()
            }
        }
    };
    attempt().map_err(TlsError::io("make the directory", directory))
}

/// Makes directories with ordinary modes where there are none.
fn make_parents(directory: &Path) -> io::Result<()> {
    if directory.as_os_str().is_empty() {
        return Ok(());
    }
    match HeldDirectory::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found.map(drop),
    }
    make_parents(directory.parent().unwrap_or(Path::new("/")))?;
    match fs::create_dir(HeldDirectory::of(directory)?.entry(directory)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_symlink_is_replaced_and_never_followed() {
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
    fn a_planted_link_to_a_directory_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, target) = (dir.path().join("theirs"), dir.path().join("target"));
        fs::create_dir(&theirs).unwrap();
        fs::create_dir(&target).unwrap();
        fs::set_permissions(&theirs, Permissions::from_mode(0o777)).unwrap();
        symlink(&target, theirs.join("tls")).unwrap();
        let path = theirs.join("tls/server.key");
        fs::write(target.join("server.key"), "secret").unwrap();
        assert!(replace(&path, "new", KEY_MODE, None).is_err());
        assert!(create(&theirs.join("tls/other"), "new", KEY_MODE, None).is_err());
        assert!(create_private_directory(&theirs.join("tls"), None).is_err());
        assert!(create_private_directory(&theirs.join("tls/below"), None).is_err());
        assert!(read_own(&path).is_err());
        assert_eq!(fs::read_to_string(target.join("server.key")).unwrap(), "secret");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
        create_private_directory(&theirs.join("new/one"), None).unwrap();
        assert_eq!(fs::metadata(theirs.join("new/one")).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_hard_link_is_not_a_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, link) = (dir.path().join("secret"), dir.path().join("link"));
        fs::write(&secret, "secret").unwrap();
        assert!(read_own(&secret).unwrap().is_sole_link());
        fs::hard_link(&secret, &link).unwrap();
        assert!(!read_own(&link).unwrap().is_sole_link());
    }

    #[test]
    fn a_fifo_does_not_hang_the_reader() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(read_own(&fifo), Err(TlsError::BadFile { .. })));
    }

    #[test]
    fn nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(create(&path, "one", KEY_MODE, None).unwrap());
        assert!(!create(&path, "two", KEY_MODE, None).unwrap());
        replace(&path, "three", CERTIFICATE_MODE, None).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(read_own(&path).unwrap().is_as(CERTIFICATE_MODE, None));
    }
}
