//! How much room a file system has.

use std::path::Path;

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
