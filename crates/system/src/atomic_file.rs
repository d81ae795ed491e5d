//! Writing a file so that a crash leaves the old or the new content, never a part of it.
//!
//! The content goes to a new file with an unguessable name in the same directory, with its final mode and owner, is
//! flushed, takes its name, and then the directory is flushed. The path may lead into directories of another user:
//! see [`OpenDirectory`]. A symbolic link at the path itself is replaced and never written through, and the mode
//! and owner of a file that exists are never changed in place.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use tempfile::NamedTempFile;

use crate::directory::OpenDirectory;
use crate::owner::Owner;

/// Mode of a file unless another is asked for: its owner's alone.
const PRIVATE_MODE: u32 = 0o600;

/// Beginning of a draft's name, by which a file that a killed process left is recognised.
const DRAFT_PREFIX: &str = ".new.";

/// A file whose content is being written under another name. It is gone when dropped unfinished.
#[derive(Debug)]
pub struct Draft {
    file: NamedTempFile,
    directory: OpenDirectory,
    path: PathBuf,
}

impl Draft {
    /// Makes it durable and gives it its name, in place of what was there.
    ///
    /// # Errors
    /// When that fails; what was there is then unchanged.
    pub fn finish(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist(self.directory.entry(&self.path)).map_err(|error| error.error)?;
        self.directory.sync()
    }
}

impl Write for Draft {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.file.write(part)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[derive(Debug, Clone, Copy)]
enum FileOwner {
    /// The user of this process.
    Process,
    /// A given user.
    Given(Owner),
    /// The owner of the directory, as far as this process may give files away.
    Directory,
}

/// A file to be written as a whole: mode 0600 and owned by this process's user, unless another mode or owner is set.
#[derive(Debug, Clone, Copy)]
pub struct AtomicFile<'a> {
    path: &'a Path,
    mode: u32,
    owner: FileOwner,
}

impl<'a> AtomicFile<'a> {
    /// The file at that path.
    #[must_use]
    pub fn new(path: &'a Path) -> Self {
        Self { path, mode: PRIVATE_MODE, owner: FileOwner::Process }
    }

    /// Gives it this mode, whatever the umask.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Gives it this owner; `None` for this process's user.
    #[must_use]
    pub fn owner(mut self, owner: Option<Owner>) -> Self {
        self.owner = owner.map_or(FileOwner::Process, FileOwner::Given);
        self
    }

    /// Gives it to the directory's owner if this process is root, which alone may do so.
    #[must_use]
    pub fn owner_of_directory(mut self) -> Self {
        self.owner = FileOwner::Directory;
        self
    }

    /// Writes it, in place of what was there.
    ///
    /// # Errors
    /// When it cannot be written; what was there is then unchanged.
    pub fn replace(&self, content: impl AsRef<[u8]>) -> io::Result<()> {
        let directory = OpenDirectory::parent_of(self.path)?;
        self.replace_in(&directory, content.as_ref())
    }

    /// Writes it unless it has that content, mode and owner; tells whether it did.
    ///
    /// # Errors
    /// When it cannot be written; what was there is then unchanged.
    pub fn replace_if_changed(&self, content: impl AsRef<[u8]>) -> io::Result<bool> {
        let directory = OpenDirectory::parent_of(self.path)?;
        let content = content.as_ref();
        if self.is_present(&directory, content)? {
            return Ok(false);
        }
        self.replace_in(&directory, content).map(|()| true)
    }

    /// Writes it unless something has that name, a dangling symlink included; tells whether it did.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(&self, content: impl AsRef<[u8]>) -> io::Result<bool> {
        let directory = OpenDirectory::parent_of(self.path)?;
        let draft = self.draft(&directory, content.as_ref())?;
        match draft.persist_noclobber(directory.entry(self.path)) {
            Ok(_) => directory.sync().map(|()| true),
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error),
        }
    }

    /// Begins it, for content that comes in parts; nothing has its name before [`Draft::finish`].
    ///
    /// # Errors
    /// When its directory cannot be written.
    pub fn begin(&self) -> io::Result<Draft> {
        let directory = OpenDirectory::parent_of(self.path)?;
        let file = self.draft(&directory, b"")?;
        Ok(Draft { file, directory, path: self.path.to_owned() })
    }

    fn replace_in(&self, directory: &OpenDirectory, content: &[u8]) -> io::Result<()> {
        let draft = self.draft(directory, content)?;
        draft.persist(directory.entry(self.path)).map_err(|error| error.error)?;
        directory.sync()
    }

    fn draft(&self, directory: &OpenDirectory, content: &[u8]) -> io::Result<NamedTempFile> {
        let mut draft = tempfile::Builder::new().prefix(DRAFT_PREFIX).tempfile_in(directory.path())?;
        let file = draft.as_file();
        // Before the content, so that no other user can read it. By handle: the name may be another file's by now.
        file.set_permissions(Permissions::from_mode(self.mode))?;
        if let Some(Owner { uid, gid }) = self.wanted_owner(directory)? {
            fchown(file, Some(uid), Some(gid))?;
        }
        draft.write_all(content)?;
        draft.as_file().sync_all()?;
        Ok(draft)
    }

    fn wanted_owner(&self, directory: &OpenDirectory) -> io::Result<Option<Owner>> {
        Ok(match self.owner {
            FileOwner::Given(owner) => Some(owner),
            FileOwner::Directory if geteuid().is_root() => {
                let found = directory.metadata()?;
                Some(Owner { uid: found.uid(), gid: found.gid() })
            }
            FileOwner::Process | FileOwner::Directory => None,
        })
    }

    /// Whether the file is there as it is to be. One that cannot be read is to be replaced.
    fn is_present(&self, directory: &OpenDirectory, content: &[u8]) -> io::Result<bool> {
        let Ok((file, found)) = open_regular(&directory.entry(self.path)) else { return Ok(false) };
        let owner = self.wanted_owner(directory)?;
        let as_wanted = found.mode() & 0o7777 == self.mode
            && owner.is_none_or(|owner| (owner.uid, owner.gid) == (found.uid(), found.gid()))
            && usize::try_from(found.len()).is_ok_and(|length| length == content.len());
        let mut present = Vec::new();
        Ok(as_wanted && file.take(found.len()).read_to_end(&mut present).is_ok() && present == content)
    }
}

/// Opens a regular file to read, following no symlink in place of it and not waiting at a FIFO.
pub(crate) fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok((file, found))
}

/// Renames a file or directory durably: after a power failure it has the new name.
///
/// # Errors
/// When it cannot be renamed, or a directory that it leaves or enters cannot be flushed.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let (source, target) = (OpenDirectory::parent_of(from)?, OpenDirectory::parent_of(to)?);
    fs::rename(source.entry(from), target.entry(to))?;
    target.sync()?;
    source.sync()
}

/// Flushes a directory's entries: what was created, renamed or removed in it survives a power failure.
///
/// # Errors
/// When there is no such directory or the disk refuses.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    OpenDirectory::open(directory)?.sync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};
    use std::path::PathBuf;

    fn entries(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    /// A directory in which everybody may write, and a private one with `secret` in it.
    fn directories() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (shared, private) = (dir.path().join("shared"), dir.path().join("private"));
        fs::create_dir(&shared).unwrap();
        fs::create_dir(&private).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
        fs::write(private.join("secret"), "secret").unwrap();
        (dir, shared, private)
    }

    #[test]
    fn file_is_replaced_as_a_whole_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        AtomicFile::new(&path).replace("one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        AtomicFile::new(&path).mode(0o644).replace("two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        assert_eq!(entries(dir.path()), 1);
    }

    #[test]
    fn file_in_parts_has_its_name_only_when_finished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "old").unwrap();
        let mut draft = AtomicFile::new(&path).begin().unwrap();
        draft.write_all(b"one ").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        drop(draft);
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), entries(dir.path())), ("old", 1));
        let mut draft = AtomicFile::new(&path).begin().unwrap();
        draft.write_all(b"one ").unwrap();
        draft.write_all(b"two").unwrap();
        draft.finish().unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), entries(dir.path())), ("one two", 1));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn failed_write_leaves_the_old_content_and_no_draft() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "old").unwrap();
        assert!(AtomicFile::new(&path).replace("new").is_err());
        assert_eq!(fs::read_to_string(path.join("inside")).unwrap(), "old");
        assert_eq!(entries(dir.path()), 1);
    }

    #[test]
    fn existing_file_is_not_overwritten_by_create() {
        let (_dir, shared, private) = directories();
        let path = shared.join("x");
        assert!(AtomicFile::new(&path).create("one").unwrap());
        assert!(!AtomicFile::new(&path).create("two").unwrap());
        symlink(private.join("missing"), shared.join("dangling")).unwrap();
        assert!(!AtomicFile::new(&shared.join("dangling")).create("x").unwrap());
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), entries(&shared)), ("one", 2));
    }

    #[test]
    fn unchanged_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let file = AtomicFile::new(&path);
        assert!(file.replace_if_changed("a").unwrap());
        let inode = fs::metadata(&path).unwrap().ino();
        assert!(!file.replace_if_changed("a").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert!(file.replace_if_changed("b").unwrap());
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(file.replace_if_changed("b").unwrap(), "others may read it");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn planted_links_are_replaced_and_never_followed() {
        let (_dir, shared, private) = directories();
        let before = fs::metadata(private.join("secret")).unwrap();
        symlink(&private, shared.join("directory")).unwrap();
        for path in ["directory/secret", "directory/new"] {
            let path = shared.join(path);
            assert!(AtomicFile::new(&path).replace("x").is_err());
            assert!(AtomicFile::new(&path).replace_if_changed("x").is_err());
            assert!(AtomicFile::new(&path).create("x").is_err());
        }
        symlink(private.join("secret"), shared.join("link")).unwrap();
        let link = shared.join("link");
        // The target has this very content, and the link is replaced all the same.
        assert!(AtomicFile::new(&link).replace_if_changed("secret").unwrap());
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        let after = fs::metadata(private.join("secret")).unwrap();
        assert_eq!((after.ino(), after.uid(), after.mode()), (before.ino(), before.uid(), before.mode()));
        assert_eq!((after.len(), entries(&private)), (6, 1));
    }

    #[test]
    fn fifo_in_place_of_the_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(AtomicFile::new(&path).replace_if_changed("a").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a");
    }

    #[test]
    fn file_is_owned_as_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        if !geteuid().is_root() {
            return;
        }
        chown(dir.path(), Some(65534), Some(65534)).unwrap();
        let path = dir.path().join("x");
        let owner = || fs::metadata(&path).unwrap().uid();
        AtomicFile::new(&path).replace("a").unwrap();
        assert_eq!(owner(), 0);
        assert!(AtomicFile::new(&path).owner_of_directory().replace_if_changed("a").unwrap());
        assert_eq!(owner(), 65534);
        assert!(!AtomicFile::new(&path).owner_of_directory().replace_if_changed("a").unwrap());
        AtomicFile::new(&path).owner(Some(Owner { uid: 65533, gid: 65533 })).replace("a").unwrap();
        assert_eq!(owner(), 65533);
    }

    #[test]
    fn rename_moves_between_directories() {
        let (_dir, shared, private) = directories();
        rename(&private.join("secret"), &shared.join("moved")).unwrap();
        assert_eq!((entries(&private), fs::read_to_string(shared.join("moved")).unwrap().len()), (0, 6));
        symlink(&private, shared.join("link")).unwrap();
        assert!(rename(&shared.join("moved"), &shared.join("link/moved")).is_err());
        sync_directory(&private).unwrap();
    }
}
