//! Reaching a directory without being led elsewhere.
//!
//! The provisioner runs as root and writes into directories that belong to the service user, who could put a
//! symlink where a directory was. So a path is walked part by part, each opened from the one before it, and a link is
//! followed only where nobody but root or this user could have made it. What was reached is held open: renaming it, or
//! putting something else in its place, changes nothing any more.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

/// Links followed on one path, as in Linux.
const MOST_LINKS: usize = 40;

/// A directory that is held open.
#[derive(Debug)]
pub struct HeldDirectory(File);

/// Whether nobody but root and this user can change what the names in a directory mean. A group that may write is
/// taken to be of those who may (`/usr/local` is such a directory in Debian).
fn is_ours(directory: &Metadata) -> bool {
    (directory.uid() == 0 || directory.uid() == geteuid().as_raw()) && directory.mode() & 0o002 == 0
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

fn own(part: Component<'_>) -> OsString {
    part.as_os_str().to_owned()
}

impl HeldDirectory {
    /// Opens a directory.
    ///
    /// # Errors
    /// When there is none, or the way to it leads over a link that somebody else could have made.
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
                // Should it have become a link in this moment, this fails.
                here = open(&entry)?;
                continue;
            }
            links += 1;
            if !is_ours(&here.metadata()?) || links > MOST_LINKS {
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

    /// Opens the directory that a path lies in.
    ///
    /// # Errors
    /// As [`HeldDirectory::open`].
    pub fn of(path: &Path) -> io::Result<Self> {
        Self::open(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    /// The directory, for calls that take a path. Good for as long as this is held.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// A name in it, for calls that take a path. The last part of `name` counts, so the path that it was opened with will do.
    #[must_use]
    pub fn entry(&self, name: &Path) -> PathBuf {
        entry(&self.0, name.file_name().unwrap_or_default())
    }

    /// What the system says of it.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }

    /// Whether nobody but root and this user can change what the names in it mean.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn is_ours(&self) -> io::Result<bool> {
        Ok(is_ours(&self.metadata()?))
    }

    /// Makes what was created, renamed or removed in it survive a power failure.
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

    /// A directory of ours, with `secret` in it, and one in which somebody else may write.
    fn world() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        fs::create_dir_all(ours.join("secret")).unwrap();
        fs::create_dir_all(theirs.join("plain/below")).unwrap();
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o777)).unwrap();
        (dir, ours, theirs)
    }

    #[test]
    fn a_link_is_followed_only_where_nobody_else_could_make_one() {
        let (_dir, ours, theirs) = world();
        HeldDirectory::open(&theirs.join("plain/below")).unwrap();
        symlink(ours.join("secret"), theirs.join("planted")).unwrap();
        for path in ["planted", "planted/.", "plain/../planted", "planted/../secret"] {
            let error = HeldDirectory::open(&theirs.join(path)).unwrap_err();
            assert!(error.to_string().contains("planted on the way"), "{path}: {error}");
        }
        symlink("secret", ours.join("own")).unwrap();
        let found = HeldDirectory::open(&ours.join("own")).unwrap().metadata().unwrap();
        assert_eq!(found.ino(), fs::metadata(ours.join("secret")).unwrap().ino());
        // A link of ours that leads over one of theirs is no way round.
        symlink(theirs.join("planted"), ours.join("long")).unwrap();
        assert!(HeldDirectory::open(&ours.join("long")).is_err());
        symlink("loop", ours.join("loop")).unwrap();
        assert!(HeldDirectory::open(&ours.join("loop")).is_err());
    }

    #[test]
    fn what_is_held_stays_what_it_was() {
        let (_dir, ours, theirs) = world();
        let held = HeldDirectory::of(&theirs.join("plain/file")).unwrap();
        fs::rename(theirs.join("plain"), theirs.join("moved")).unwrap();
        symlink(ours.join("secret"), theirs.join("plain")).unwrap();
        fs::write(held.entry(Path::new("file")), "x").unwrap();
        assert!(theirs.join("moved/file").exists() && !ours.join("secret/file").exists());
    }

    #[test]
    fn files_and_what_is_missing_are_no_directories() {
        let (_dir, ours, _theirs) = world();
        fs::write(ours.join("file"), "").unwrap();
        assert!(HeldDirectory::open(&ours.join("file")).is_err());
        let missing = HeldDirectory::open(&ours.join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(HeldDirectory::open(Path::new("")).is_ok());
    }
}
