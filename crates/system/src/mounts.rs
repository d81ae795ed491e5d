//! Where file systems are mounted. A mount point cannot be renamed or removed, and a rename does not cross one.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use procfs::process::Process;

/// Every mount point that this process sees, also of a directory that is mounted elsewhere on the same file system.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn mount_points() -> io::Result<Vec<PathBuf>> {
    let mounts = Process::myself().and_then(|process| process.mountinfo()).map_err(io::Error::other)?;
    Ok(mounts.into_iter().map(|mount| unescaped(&mount.mount_point)).collect())
}

/// Whether a file system or a directory is mounted at this path, or at the place that it leads to. False when that
/// cannot be found out.
#[must_use]
pub fn is_mount_point(path: &Path) -> bool {
    let Ok(real) = path.canonicalize() else { return false };
    mount_points().is_ok_and(|mounts| mounts.contains(&real))
}

/// The kernel writes blanks, tabs, line breaks and backslashes of a path as octal numbers.
fn unescaped(path: &Path) -> PathBuf {
    let mut left = path.as_os_str().as_bytes();
    let mut bytes = Vec::with_capacity(left.len());
    while let Some((first, rest)) = left.split_first() {
        let number = rest.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match number.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                left = &rest[3..];
            }
            None => {
                bytes.push(*first);
                left = rest;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_have_their_real_names() {
        assert_eq!(unescaped(Path::new(r"/a\040b\134c\011")), Path::new("/a b\\c\t"));
        assert_eq!(unescaped(Path::new(r"/a\04")), Path::new(r"/a\04"));
        assert!(is_mount_point(Path::new("/proc")) && is_mount_point(Path::new("/proc/../proc")));
        assert!(!is_mount_point(Path::new("/proc/self")) && !is_mount_point(Path::new("/missing")));
    }
}
