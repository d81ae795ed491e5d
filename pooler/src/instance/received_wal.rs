//! The WAL that only this cell has, saved from a restore over its data directory.
//!
//! When the primary is lost, a standby's `pg_wal` may hold the only copy of the newest transactions, and pgBackRest empties
//! that directory. So the segments get a second name in the cell's directory before anything is overwritten. They stay
//! there, whatever interrupts the restore, until a restore or a rebuild of the cell has succeeded.

use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use cellar_model::{Segment, SegmentSize};
use cellar_system::sync_directory;

use crate::agent::Agent;
use crate::instance::held_wal::HeldWal;

/// Removes what is saved, durably.
///
/// # Errors
/// When it cannot be removed.
pub(crate) fn remove(agent: &Agent) -> std::io::Result<()> {
    match std::fs::remove_dir_all(agent.layout.received_wal()) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync_directory(agent.layout.root())),
    }
}

/// Saves the segments of `wal` that are not in the archive, and all histories, durably. The server that writes there must be
/// stopped. What an interrupted attempt has saved of data that had more than this stays.
///
/// # Errors
/// When a file cannot be linked or copied; then nothing may be overwritten.
pub(crate) fn save(
    directory: &Path,
    wal: &Path,
    held: &HeldWal,
    size: SegmentSize,
    is_archived: impl Fn(&Segment) -> bool,
) -> std::io::Result<()> {
    let before = HeldWal::noted_in(directory);
    let is_newer = before.is_none_or(|before| (held.timeline, held.end()) >= (before.timeline, before.end()));
    // Behind what was received lie segments with names of the future, which hold old WAL.
    let last = held.received.map_or(u64::MAX, |_| size.number_of(held.end()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    for entry in std::fs::read_dir(wal)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_needed = match size.parse_file_name(&name) {
            Some(segment) => segment.number <= last && !is_archived(&segment),
            None => name.ends_with(".history"),
        };
        let to = directory.join(&name);
        if is_needed && (is_newer || !to.exists()) {
            link_or_copy(&entry.path(), &to)?;
        }
    }
    sync_directory(directory)?;
    if is_newer {
        held.note_in(directory)?;
    }
    directory.parent().map_or(Ok(()), sync_directory)
}

/// A second name for a file, or a copy when `pg_wal` is on another disk.
pub(super) fn link_or_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(to) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(from, to)?;
    std::fs::File::open(to)?.sync_all()
}

#[cfg(test)]
mod tests {
    use cellar_model::{Lsn, Timeline};

    use super::*;

    #[test]
    fn what_the_archive_lacks_is_saved_and_outlives_the_overwritten_data() {
        let cell = tempfile::tempdir().unwrap();
        let (wal, saved) = (cell.path().join("pg_wal"), cell.path().join("received-wal"));
        std::fs::create_dir(&wal).unwrap();
        let size = SegmentSize::default();
        let name = |number| size.file_name(Segment { timeline: Timeline::new(1), number });
        for number in 3..=7 {
            std::fs::write(wal.join(name(number)), number.to_string()).unwrap();
        }
        std::fs::write(wal.join("00000002.history"), "1\t0/3000000\tx\n").unwrap();
        let held = |number: u64| {
            let at = Lsn::new(size.start_of(number).bytes() + 100);
            HeldWal { timeline: Timeline::new(1), replayed: at, received: Some(at) }
        };
        let save = |number| save(&saved, &wal, &held(number), size, |segment| segment.number < 4).unwrap();
        let there = || {
            let entries = std::fs::read_dir(&saved).unwrap().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        save(5);
        let expected = [name(4), name(5), "00000002.history".to_owned(), "held.json".to_owned()];
        assert_eq!(there(), expected, "neither what is archived nor what bears the name of a future segment");
        assert_eq!(HeldWal::noted_in(&saved), Some(held(5)));
        // pgBackRest empties the directory; and what replaces the data has less.
        std::fs::remove_dir_all(&wal).unwrap();
        std::fs::create_dir(&wal).unwrap();
        std::fs::write(wal.join(name(4)), "of a backup").unwrap();
        save(4);
        assert_eq!(there(), expected);
        assert_eq!(std::fs::read_to_string(saved.join(name(4))).unwrap(), "4");
        assert_eq!(HeldWal::noted_in(&saved), Some(held(5)));
    }
}
