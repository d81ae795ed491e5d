//! Opening a directory without following a symbolic link that another user could have made.
//!
//! The provisioner runs as root and writes into directories of the service user, who could put a symlink where a
//! directory was. So a path is walked part by part, each part opened from the one before it, and a link is followed
//! only where nobody but root or this user could have made it. The directory stays open: renaming it, or putting
//! something else in its place, does not change where later calls act.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

/// Links followed on one path, the same as in Linux (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// A directory that was opened on a safe path, and is addressed by its file descriptor from then on.
#[derive(Debug)]
pub struct OpenDirectory(File);

/// Whether nobody but root and this user can change what the names in a directory mean. A group that may write is
/// taken to be of those who may (`/usr/local` is such a directory in Debian).
fn is_private_to_us(directory: &Metadata) -> bool {
    (directory.uid() == 0 || directory.uid() == geteuid().as_raw()) && directory.mode() & 0o002 == 0
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

fn own(part: Component<'_>) -> OsString {
    part.as_os_str().to_owned()
}

impl OpenDirectory {
    /// Opens a directory.
    ///
    /// # Errors
    /// When there is none, or a part of the path is a symbolic link that another user could have made.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let mut here = open(if directory.is_absolute() { Path::new("/") } else { Path::new(".") })?;
        let mut parts: VecDeque<OsString> = directory.components().map(own).collect();
        let mut links = 0;
        while let Some(part) = parts.pop_front() {
            if part == OsStr::new("/") {
                here = open(Path::new("/"))?;
                continue;
            }
            let entry = entry(&here, &part);
            if !fs::symlink_metadata(&entry)?.is_symlink() {
                // If it became a link since that look, this fails.
                here = open(&entry)?;
                continue;
            }
            links += 1;
            if !is_private_to_us(&here.metadata()?) || links > MAX_LINKS {
                let text = format!(
                    "{} on the way to it is a symbolic link that another user could have made: remove it",
                    part.display()
                );
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
            }
            for part in fs::read_link(&entry)?.components().rev() {
                parts.push_front(own(part));
            }
        }
        Ok(Self(here))
    }

    /// Opens the directory that holds a path's last part.
    ///
    /// # Errors
    /// As [`OpenDirectory::open`].
    pub fn parent_of(path: &Path) -> io::Result<Self> {
        Self::open(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    /// The directory, for calls that take a path. Valid while this value lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// A name in it, for calls that take a path. Only the last part of `name` is used, so a whole path will do.
    #[must_use]
    pub fn entry(&self, name: &Path) -> PathBuf {
        entry(&self.0, name.file_name().unwrap_or_default())
    }

    /// Its metadata.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }

    /// Whether nobody but root and this user can change what the names in it mean.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_private_to_us(&self) -> io::Result<bool> {
        Ok(is_private_to_us(&self.metadata()?))
    }

    /// Flushes its entries, so that what was created, renamed or removed in it survives a power failure.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> io::Result<()> {
        File::open(self.path())?.sync_all()
    }
}

fn entry(directory: &File, name: &OsStr) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A directory of ours, with `secret` in it, and one in which every user may write.
    fn world() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (ours, shared) = (dir.path().join("ours"), dir.path().join("shared"));
        fs::create_dir_all(ours.join("secret")).unwrap();
        fs::create_dir_all(shared.join("plain/below")).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        (dir, ours, shared)
    }

    #[test]
    fn link_is_followed_only_where_nobody_else_could_have_made_it() {
        let (_dir, ours, shared) = world();
        OpenDirectory::open(&shared.join("plain/below")).unwrap();
        symlink(ours.join("secret"), shared.join("planted")).unwrap();
        for path in ["planted", "planted/.", "plain/../planted", "planted/../secret"] {
            let error = OpenDirectory::open(&shared.join(path)).unwrap_err();
            assert!(error.to_string().contains("planted on the way"), "{path}: {error}");
        }
        symlink("secret", ours.join("own")).unwrap();
        let found = OpenDirectory::open(&ours.join("own")).unwrap().metadata().unwrap();
        assert_eq!(found.ino(), fs::metadata(ours.join("secret")).unwrap().ino());
        // Nor through a link of our own to it.
        symlink(shared.join("planted"), ours.join("long")).unwrap();
        assert!(OpenDirectory::open(&ours.join("long")).is_err());
        symlink("loop", ours.join("loop")).unwrap();
        assert!(OpenDirectory::open(&ours.join("loop")).is_err());
    }

    #[test]
    fn open_directory_stays_the_same_when_its_path_changes() {
        let (_dir, ours, shared) = world();
        let opened = OpenDirectory::parent_of(&shared.join("plain/file")).unwrap();
        fs::rename(shared.join("plain"), shared.join("moved")).unwrap();
        symlink(ours.join("secret"), shared.join("plain")).unwrap();
        fs::write(opened.entry(Path::new("file")), "x").unwrap();
        assert!(shared.join("moved/file").exists() && !ours.join("secret/file").exists());
    }

    #[test]
    fn files_and_missing_paths_are_refused() {
        let (_dir, ours, _shared) = world();
        fs::write(ours.join("file"), "").unwrap();
        assert!(OpenDirectory::open(&ours.join("file")).is_err());
        let missing = OpenDirectory::open(&ours.join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(OpenDirectory::open(Path::new("")).is_ok());
    }
}
