//! How much room a file system has, and what it means when a file cannot be written.

use std::io::ErrorKind;
use std::path::Path;

use cellar_model::{Code, Refusal};

/// A file system with less than this is full: one WAL segment of PostgreSQL's default size does not fit, in bytes.
const MIN_FREE_BYTES: u64 = 16 << 20;

/// Bytes that an ordinary user may still write to the file system of `path`; 0 when it cannot be asked.
///
/// `path` itself need not exist yet: the nearest directory above that exists is asked.
pub(crate) fn free_bytes(path: &Path) -> u64 {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    nix::sys::statvfs::statvfs(existing).map_or(0, |stat| stat.blocks_available() * stat.fragment_size())
}

/// What must stay free for a live instance while a copy is made beside it: 2 % of the file system, within these bounds.
/// Less than the lower one is soon written, and more than the upper one would refuse copies for no reason.
const FLOOR_BYTES: (u64, u64) = (256 << 20, 8 << 30);

/// What must stay free on the file system of `path` for the live instance; the nearest directory that exists is asked.
/// None when it cannot be asked.
pub(crate) fn floor_bytes(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let stat = nix::sys::statvfs::statvfs(existing).ok()?;
    Some(floor_of(stat.blocks() * stat.fragment_size()))
}

/// What must stay free of a file system of that size.
fn floor_of(total_bytes: u64) -> u64 {
    (total_bytes / 50).clamp(FLOOR_BYTES.0, FLOOR_BYTES.1)
}

/// Says how much is free when that is less than `floor` on the file system of `path`. None also when it cannot be asked,
/// which says nothing.
pub(crate) fn below_floor(path: &Path, floor: u64) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    Some(stat.blocks_available() * stat.fragment_size()).filter(|free| *free < floor)
}

/// Whether the file system of `path` has no room for one more WAL segment; false when it cannot be asked.
pub(crate) fn is_full(path: &Path) -> bool {
    nix::sys::statvfs::statvfs(path)
        .is_ok_and(|stat| stat.blocks_available() * stat.fragment_size() < MIN_FREE_BYTES)
}

/// The refusal when a file or directory could not be written. `doing` says which, and what for.
///
/// Only the operating system knows whether the disk is full. What it refuses for another reason is not solved by making
/// room.
pub(crate) fn write_refusal(doing: &str, error: &std::io::Error) -> Refusal {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Refusal::new(Code::DiskFull, format!("{doing}: {error}")).hint("make room on the cell's disk, then ask again")
        }
        _ => Refusal::new(Code::Internal, format!("{doing}: {error}"))
            .hint("see that the directory is writable by the user that runs the multipooler, and that its disk is sound"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_grows_with_the_file_system_within_bounds() {
        let (mib, gib) = (1 << 20, 1 << 30);
        assert_eq!(floor_of(0), 256 * mib);
        assert_eq!(floor_of(10 * gib), 256 * mib);
        assert_eq!(floor_of(100 * gib), 2 * gib);
        assert_eq!(floor_of(100 << 40), 8 * gib);
    }

    #[test]
    fn room_is_short_only_below_the_floor() {
        let directory = tempfile::tempdir().unwrap();
        assert!(floor_bytes(&directory.path().join("not/yet")).is_some());
        assert_eq!(below_floor(directory.path(), 0), None);
        assert!(below_floor(directory.path(), u64::MAX).is_some());
        assert_eq!(below_floor(Path::new("/no/such/path"), u64::MAX), None);
    }

    #[test]
    fn only_a_full_disk_is_called_full() {
        let code = |errno: nix::errno::Errno| {
            write_refusal("cannot create /x", &std::io::Error::from_raw_os_error(errno as i32)).code
        };
        for full in [nix::errno::Errno::ENOSPC, nix::errno::Errno::EDQUOT] {
            assert_eq!(code(full), Code::DiskFull, "{full}");
        }
        for other in [nix::errno::Errno::EACCES, nix::errno::Errno::EROFS, nix::errno::Errno::EIO] {
            assert_eq!(code(other), Code::Internal, "{other}");
        }
    }
}
