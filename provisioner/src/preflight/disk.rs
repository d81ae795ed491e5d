//! Whether there is room for a cluster.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::error::finding::Finding;

/// Room for etcd, logs and the first backup, in MiB.
const SHARED_MIB: u64 = 512;

/// Room for one empty PostgreSQL with its first WAL segments, in MiB: initdb makes 39 MiB of data, and
/// WAL recycling keeps a few 16 MiB segments.
const CELL_MIB: u64 = 200;

/// Room for the repository of an empty database, in MiB: the first backup and some hours of WAL. When it
/// is full, archiving stops and so does every backup.
const REPO_MIB: u64 = 128;

/// Somewhere that needs room.
struct Need {
    what: String,
    mib: u64,
    flag: &'static str,
}

fn cluster(cells: usize) -> Need {
    let mib = SHARED_MIB + CELL_MIB * u64::try_from(cells).unwrap_or(u64::MAX / CELL_MIB / 2);
    Need { what: format!("a cluster of {cells} cells"), mib, flag: "--dir" }
}

fn compare(place: &Path, free_mib: u64, need: &Need) -> Option<Finding> {
    (free_mib < need.mib).then(|| Finding {
        message: format!(
            "{} has {free_mib} MiB free, and {} needs at least {} MiB",
            place.display(),
            need.what,
            need.mib
        ),
        hint: Some(format!("make room, or name a directory on another disk with {}", need.flag)),
    })
}

fn check_need(place: &Path, need: &Need) -> Option<Finding> {
    let existing = place.ancestors().find(|path| path.is_dir())?;
    let found = statvfs(existing).ok()?;
    let free = found.blocks_available() * found.fragment_size() / (1 << 20);
    compare(existing, free, need)
}

/// What is wrong with the room for a cluster below `place`, which need not exist yet.
pub(crate) fn check(place: &Path, cells: usize) -> Option<Finding> {
    check_need(place, &cluster(cells))
}

/// What is wrong with the room for a new repository at `place`, which need not exist yet.
pub(crate) fn check_repo(place: &Path) -> Option<Finding> {
    check_need(place, &Need { what: "a repository".to_owned(), mib: REPO_MIB, flag: "--repo" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_says_how_much_is_free_and_how_much_is_needed() {
        let finding = compare(Path::new("/c"), 1000, &cluster(3)).unwrap();
        assert_eq!(finding.message, "/c has 1000 MiB free, and a cluster of 3 cells needs at least 1112 MiB");
        assert_eq!(compare(Path::new("/c"), 1112, &cluster(3)), None);
    }
}
