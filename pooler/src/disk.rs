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
