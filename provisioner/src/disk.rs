//! Whether there is room for a cluster.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::preflight::Finding;

/// Room for etcd, logs and the first backup, in MiB.
const BASE: u64 = 512;

/// Room for one empty PostgreSQL with its first WAL segments, in MiB: initdb makes 39 MiB of data, and
/// WAL recycling keeps a few 16 MiB segments.
const PER_CELL: u64 = 200;

fn verdict(place: &Path, free_mib: u64, cells: usize) -> Option<Finding> {
    let needed = BASE + PER_CELL * u64::try_from(cells).unwrap_or(u64::MAX / PER_CELL / 2);
    (free_mib < needed).then(|| Finding {
        message: format!(
            "{} has {free_mib} MiB free, and a cluster of {cells} cells needs at least {needed} MiB",
            place.display()
        ),
        hint: Some("make room, or name a directory on another disk with --dir".to_owned()),
    })
}

/// What is wrong with the room below `place`, which need not exist yet.
pub(crate) fn check(place: &Path, cells: usize) -> Option<Finding> {
    let existing = place.ancestors().find(|path| path.is_dir())?;
    let found = statvfs(existing).ok()?;
    let free = found.blocks_available() * found.fragment_size() / (1 << 20);
    verdict(existing, free, cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_named() {
        let finding = verdict(Path::new("/c"), 1000, 3).unwrap();
        assert_eq!(finding.message, "/c has 1000 MiB free, and a cluster of 3 cells needs at least 1112 MiB");
        assert_eq!(verdict(Path::new("/c"), 1112, 3), None);
    }
}
