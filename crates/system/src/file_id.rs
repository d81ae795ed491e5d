//! Whether two paths lead to the same file or directory. Their spelling does not tell: a symbolic link, a bind mount
//! or `..` gives one directory many names.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a file or directory is, whatever name leads to it: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(u64, u64);

impl FileId {
    /// Of what the path leads to, symbolic links followed.
    ///
    /// # Errors
    /// When there is nothing, or this user may not look.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|found| Self(found.dev(), found.ino()))
    }
}

/// Whether two paths lead to the same place. A place where nothing exists is identified by the directory that it would
/// be in.
#[must_use]
pub fn is_same_place(one: &Path, other: &Path) -> bool {
    if one == other {
        return true;
    }
    match (FileId::of(one), FileId::of(other)) {
        (Ok(one), Ok(other)) => one == other,
        (Err(_), Err(_)) => match (one.parent(), other.parent()) {
            (Some(parent), Some(other_parent)) => {
                one.file_name() == other.file_name() && is_same_place(parent, other_parent)
            }
            _ => false,
        },
        _ => false,
    }
}

/// Whether a path leads to a directory or into it, or would if both were made. A relative path leads nowhere: whose it
/// is is not known here.
#[must_use]
pub fn is_inside(path: &Path, directory: &Path) -> bool {
    path.is_absolute() && resolved(path).ancestors().any(|ancestor| is_same_place(ancestor, directory))
}

/// The path without symbolic links, as far as it exists: what is above the target of a link is not above the link.
fn resolved(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (fs::canonicalize(ancestor), path.strip_prefix(ancestor)) {
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_is_the_same_under_all_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link, other) =
            (dir.path().join("real"), dir.path().join("link"), dir.path().join("other"));
        fs::create_dir(&real).unwrap();
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(is_same_place(&real, &link) && is_same_place(&link.join("."), &real));
        assert!(!is_same_place(&real, &other));
        // What is not there is compared by where it would be.
        assert!(is_same_place(&real.join("a/b"), &link.join("a/b")));
        assert!(!is_same_place(&real.join("a/b"), &link.join("a/c")));
        assert!(!is_same_place(&real.join("a"), &real));
        assert!(is_inside(&link.join("a/b"), &real) && is_inside(&real, &link));
        assert!(!is_inside(&other, &real) && !is_inside(dir.path(), &real));
        assert!(!is_inside(Path::new("real"), &real));
        fs::remove_dir(&real).unwrap();
        assert!(is_inside(&real.join("a"), &real) && !is_inside(&other, &real));
        // A link into a directory below it, and places that are yet to be made.
        fs::create_dir_all(real.join("deep/er")).unwrap();
        let into = dir.path().join("into");
        std::os::unix::fs::symlink(real.join("deep/er"), &into).unwrap();
        assert!(is_inside(&into.join("repo"), &real) && is_inside(&into, &link.join("deep")));
        assert!(!is_inside(&into, &other));
        assert!(is_inside(&link.join("new/repo"), &real.join("new")));
        assert!(!is_inside(&link.join("new"), &real.join("new/repo")));
        assert!(!is_inside(&link.join("newer"), &real.join("new")));
    }
}
