//! Where test clusters live.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::sys::statvfs::statvfs;

/// The directory of all test clusters, below [`MEMORY`] or [`DISK`]. Short, because a unix socket's path has 107 bytes.
const NAME: &str = "cellar-e2e";

/// A file system in memory: nothing waits for a disk there. What tests kill are processes, so what they left in the
/// page cache of a disk would be there all the same.
const MEMORY: &str = "/dev/shm";

/// Reachable for the user that PostgreSQL runs as.
const DISK: &str = "/tmp";

/// What [`MEMORY`] must have free to be used: a dozen clusters, the largest of which has 600 MB.
const MIN_MEMORY_BYTES: u64 = 6 << 30;

static ONLY_DISK: AtomicBool = AtomicBool::new(false);

/// Makes this process keep its clusters on disk, for figures that are compared with those of real use.
pub fn keep_clusters_on_disk() {
    ONLY_DISK.store(true, Ordering::Relaxed);
}

/// Both directories in which an earlier process may have left clusters.
pub(crate) fn all() -> [PathBuf; 2] {
    [MEMORY, DISK].map(|root| Path::new(root).join(NAME))
}

/// The directory of this process's clusters.
pub(crate) fn base() -> PathBuf {
    static ROOM: OnceLock<bool> = OnceLock::new();
    let has_room = || {
        let free = |file_system: nix::sys::statvfs::Statvfs| {
            file_system.blocks_available() * file_system.fragment_size() >= MIN_MEMORY_BYTES
        };
        statvfs(MEMORY).is_ok_and(free)
    };
    let in_memory = !ONLY_DISK.load(Ordering::Relaxed) && *ROOM.get_or_init(has_room);
    let base = Path::new(if in_memory { MEMORY } else { DISK }).join(NAME);
    let _ = std::fs::create_dir_all(&base);
    let _ = std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o1777));
    base
}

/// A directory for one more cluster, `<pid>-<n>`; it is not made. No name is the beginning of another one, so that
/// a cluster's processes are found by what they name.
pub(crate) fn next() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    base().join(format!("{}-{n:03}", std::process::id()))
}

/// The test process that a cluster's directory, `<pid>-<n>`, or a file `<pid>.shm` belongs to.
pub(crate) fn owner_of(path: &Path) -> Option<i32> {
    path.file_name()?.to_str()?.split(['-', '.']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_process_and_is_no_other_ones_beginning() {
        let (one, two) = (next(), next());
        assert_eq!(owner_of(&one), Some(std::process::id().cast_signed()));
        assert_ne!(one, two);
        assert_eq!(one.as_os_str().len(), two.as_os_str().len());
        assert_eq!(owner_of(Path::new("/tmp/cellar-e2e/77.shm")), Some(77));
        assert_eq!(owner_of(Path::new("/tmp/cellar-e2e/other")), None);
    }
}
