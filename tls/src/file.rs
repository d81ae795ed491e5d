//! Reading and writing key and certificate files.
//!
//! The provisioner runs as root and writes into directories that belong to the
//! service user, so a name in such a directory is not trusted: nothing here
//! follows a symlink to read, and nothing changes the mode or owner of an
//! existing file in place. A file is only ever replaced as a whole.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::fcntl::OFlag;
use tempfile::NamedTempFile;

use crate::{Result, TlsError};

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
    links: u64,
}

impl Content {
    pub(crate) fn mode(&self) -> u32 {
        self.mode
    }

    /// Whether the file may be copied under another owner: a second hard link
    /// could be somebody else's secret under a name in the service user's directory.
    pub(crate) fn is_sole_link(&self) -> bool {
        self.links == 1
    }

    pub(crate) fn is_as(&self, mode: u32, owner: Option<Owner>) -> bool {
        self.mode == mode && owner.is_none_or(|o| o.uid == self.uid && o.gid == self.gid)
    }
}

/// Reads a file that this crate wrote, without following a symlink.
pub(crate) fn read_own(path: &Path) -> Result<Content> {
    // O_NONBLOCK so that a FIFO put in the place cannot hang the reader.
    read_with(path, OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK)
}

/// Reads a file that a person may have linked into place.
pub(crate) fn read(path: &Path) -> Result<String> {
    read_with(path, OFlag::O_NONBLOCK).map(|content| content.text)
}

fn read_with(path: &Path, flags: OFlag) -> Result<Content> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
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
        links: metadata.nlink(),
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
    let temporary = prepare(path, text, mode, owner)?;
    temporary.persist(path).map_err(|e| TlsError::io("write", path)(e.error))?;
    sync_directory(path)
}

/// Puts `text` at `path` unless something has that name; tells whether it did.
pub(crate) fn create(path: &Path, text: &str, mode: u32, owner: Option<Owner>) -> Result<bool> {
    let temporary = prepare(path, text, mode, owner)?;
    match temporary.persist_noclobber(path) {
        Ok(_) => sync_directory(path).map(|()| true),
        Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(TlsError::io("write", path)(e.error)),
    }
}

fn prepare(path: &Path, text: &str, mode: u32, owner: Option<Owner>) -> Result<NamedTempFile> {
    let directory = parent(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let write = || -> io::Result<NamedTempFile> {
        let mut file = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(directory)?;
        // The mode at creation went through the umask, which can only have narrowed it.
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        if let Some(Owner { uid, gid }) = owner {
            fchown(file.as_file(), Some(uid), Some(gid))?;
        }
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        Ok(file)
    };
    write().map_err(TlsError::io("write", path))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    let directory = parent(path);
    File::open(directory).and_then(|d| d.sync_all()).map_err(TlsError::io("sync", directory))
}

/// Makes the directory, its parents with ordinary modes and itself 0700. An
/// existing one is left as it is.
pub(crate) fn create_private_directory(directory: &Path, owner: Option<Owner>) -> Result<()> {
    let attempt = || -> io::Result<()> {
        if fs::metadata(directory).is_ok_and(|m| m.is_dir()) {
            return Ok(());
        }
        fs::create_dir_all(parent(directory))?;
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                let handle = OpenOptions::new()
                    .read(true)
                    .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY).bits())
                    .open(directory)?;
                if let Some(Owner { uid, gid }) = owner {
                    fchown(&handle, Some(uid), Some(gid))?;
                }
                handle.sync_all()
            }
        }
    };
    attempt().map_err(TlsError::io("make the directory", directory))
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
