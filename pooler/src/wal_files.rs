//! The WAL that lies in a data directory: its files, the timelines that they are on, and PostgreSQL's notes of what becomes
//! of them.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use cellar_model::{ArchiveNote, History, Lineage, Lsn, Segment, SegmentSize, Timeline};

/// The files of whole or begun segments.
///
/// # Errors
/// When the directory cannot be read.
pub(crate) fn segments(data: &Path, size: SegmentSize) -> std::io::Result<Vec<Segment>> {
    let entries = std::fs::read_dir(data.join("pg_wal"))?.collect::<std::io::Result<Vec<_>>>()?;
    let named = |entry: std::fs::DirEntry| size.parse_file_name(entry.file_name().to_str()?);
    Ok(entries.into_iter().filter_map(named).collect())
}

/// The names of all files that PostgreSQL is going to archive, in order.
///
/// # Errors
/// When its notes cannot be read.
pub(crate) fn waiting(data: &Path) -> std::io::Result<BTreeSet<String>> {
    noted(data, ".ready")
}

fn noted(data: &Path, suffix: &str) -> std::io::Result<BTreeSet<String>> {
    let entries = std::fs::read_dir(data.join("pg_wal/archive_status"))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.strip_suffix(suffix).map(str::to_owned)).collect())
}

/// The segments with what PostgreSQL has noted of each.
///
/// # Errors
/// When a directory cannot be read.
pub(crate) fn segments_with_notes(
    data: &Path,
    size: SegmentSize,
) -> std::io::Result<Vec<(Segment, ArchiveNote)>> {
    // The notes first: a segment that has ended since has its note by the time that its file is seen.
    let (done, ready) = (noted(data, ".done")?, noted(data, ".ready")?);
    let note = |segment: &Segment| match size.file_name(*segment) {
        // PostgreSQL, too, looks at this one first.
        name if done.contains(&name) => ArchiveNote::Done,
        name if ready.contains(&name) => ArchiveNote::Ready,
        _ => ArchiveNote::Nothing,
    };
    Ok(segments(data, size)?.into_iter().map(|segment| (segment, note(&segment))).collect())
}

/// Whether PostgreSQL has noted anything of a file.
pub(crate) fn has_note(data: &Path, name: &str) -> bool {
    let notes = data.join("pg_wal/archive_status");
    ["ready", "done"].iter().any(|kind| notes.join(format!("{name}.{kind}")).exists())
}

/// Notes for PostgreSQL that a file is to be archived. It keeps the file until then.
///
/// # Errors
/// When that cannot be written.
pub(crate) fn note_to_archive(data: &Path, name: &str) -> std::io::Result<()> {
    let notes = data.join("pg_wal/archive_status");
    let ready = notes.join(format!("{name}.ready"));
    // In one step where there is the other note: while both are there, PostgreSQL takes it for archived.
    match std::fs::rename(notes.join(format!("{name}.done")), &ready) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::File::options().create(true).append(true).open(ready).map(drop)
        }
        renamed => renamed,
    }
}

/// Notes that a file was archived.
pub(crate) fn note_archived(data: &Path, name: &str) {
    let notes = data.join("pg_wal/archive_status");
    let ready = notes.join(format!("{name}.ready"));
    if ready.exists() {
        let _ = std::fs::rename(ready, notes.join(format!("{name}.done")));
    }
}

/// The history of a timeline that the data itself has; none for the first, and when it has none.
pub(crate) fn history(data: &Path, timeline: Timeline) -> Option<String> {
    std::fs::read_to_string(data.join("pg_wal").join(history_name(timeline))).ok()
}

/// The name of a timeline's history.
pub(crate) fn history_name(timeline: Timeline) -> String {
    format!("{:08X}.history", timeline.get())
}

/// The lineage of a timeline by the history that a data directory has of it; none when it has none, or one that cannot be
/// read.
pub(crate) fn own_lineage(data: &Path, timeline: Timeline) -> Option<Lineage> {
    if timeline == Timeline::new(1) {
        return Some(Lineage::new(timeline, &History::default()));
    }
    Some(Lineage::new(timeline, &history(data, timeline)?.parse().ok()?))
}

/// The timeline on which the WAL in `wal` goes on, of data whose control file knows of `known` and begins to replay at
/// `redo`.
///
/// A standby that follows a promotion names the new timeline in its control file only after its next restartpoint, minutes
/// later, or when a page goes out. Before that it has the timeline's history, and then WAL of it. A history alone says
/// nothing: a standby that cannot follow its primary fetches it all the same.
pub(crate) fn timeline_of_wal(wal: &Path, known: Timeline, redo: Lsn) -> Timeline {
    let entries = std::fs::read_dir(wal).into_iter().flatten().flatten();
    let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let has_wal = |timeline: Timeline| {
        let begins = format!("{:08X}", timeline.get());
        names.iter().any(|name| {
            name.len() == 24 && name.starts_with(&begins) && name.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    let followed = names.iter().filter_map(|name| {
        let digits = name.strip_suffix(".history")?;
        let timeline = Timeline::new(u32::from_str_radix(digits, 16).ok()?);
        let history: History = std::fs::read_to_string(wal.join(name)).ok()?.parse().ok()?;
        let leads_there = Lineage::new(timeline, &history).contains(known, redo);
        (timeline > known && leads_there && has_wal(timeline)).then_some(timeline)
    });
    followed.fold(known, Timeline::max)
}

/// Where the first page of a file of WAL has its own position: `xlp_pageaddr` of `XLogPageHeaderData`, in PostgreSQL's
/// `src/include/access/xlog_internal.h`.
const PAGE_ADDRESS_OFFSET: usize = 8;

/// Whether a segment's file was begun. PostgreSQL makes files in advance, of zeros or from old ones that it gives a new
/// name.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn is_begun(data: &Path, segment: Segment, size: SegmentSize) -> std::io::Result<bool> {
    let mut head = [0; PAGE_ADDRESS_OFFSET + 8];
    let path = data.join("pg_wal").join(size.file_name(segment));
    std::fs::File::open(path)?.read_exact(&mut head)?;
    let address = head[PAGE_ADDRESS_OFFSET..].try_into().map_or(0, u64::from_ne_bytes);
    Ok(address == size.start_of(segment.number).bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment() -> Segment {
        Segment { timeline: Timeline::new(1), number: 3 }
    }

    const NAME: &str = "000000010000000000000003";

    fn data() -> tempfile::TempDir {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(data.path().join("pg_wal/archive_status")).unwrap();
        std::fs::write(data.path().join("pg_wal/00000002.history"), "").unwrap();
        std::fs::write(data.path().join("pg_wal").join(NAME), [0; 32]).unwrap();
        data
    }

    #[test]
    fn note_of_a_standby_is_replaced() {
        let data = data();
        let data = data.path();
        let noted = || segments_with_notes(data, SegmentSize::default()).unwrap();
        assert_eq!(noted(), [(segment(), ArchiveNote::Nothing)]);
        assert!(!has_note(data, NAME));
        note_to_archive(data, NAME).unwrap();
        assert_eq!(noted(), [(segment(), ArchiveNote::Ready)]);
        assert!(waiting(data).unwrap().contains(NAME));
        note_archived(data, NAME);
        assert_eq!(noted(), [(segment(), ArchiveNote::Done)]);
        note_to_archive(data, NAME).unwrap();
        assert_eq!(noted(), [(segment(), ArchiveNote::Ready)], "there is no other note beside it");
        assert!(has_note(data, NAME));
    }

    #[test]
    fn file_that_was_made_in_advance_is_not_begun() {
        let data = data();
        let size = SegmentSize::default();
        assert!(!is_begun(data.path(), segment(), size).unwrap());
        let with_address = |number: u64| {
            let page = [[0; 8], size.start_of(number).bytes().to_ne_bytes()].concat();
            std::fs::write(data.path().join("pg_wal").join(NAME), page).unwrap();
            is_begun(data.path(), segment(), size).unwrap()
        };
        assert!(with_address(3));
        assert!(!with_address(2), "an old one with a new name");
    }

    #[test]
    fn standby_is_on_the_newest_timeline_of_which_it_has_the_history_and_wal() {
        let directory = tempfile::tempdir().unwrap();
        let wal = directory.path();
        let put = |name: &str, text: &str| std::fs::write(wal.join(name), text).unwrap();
        let (first, redo) = (Timeline::new(1), Lsn::new(0x400_0028));
        let found = || timeline_of_wal(wal, first, redo).get();
        put("000000010000000000000004", "");
        assert_eq!(found(), 1);
        put("00000002.history", "1\t0/5000000\tno recovery target specified\n");
        assert_eq!(found(), 1, "it may not be able to follow");
        put("000000020000000000000005.partial", "");
        assert_eq!(found(), 1);
        put("000000020000000000000005", "");
        assert_eq!(found(), 2);
        // A restore to before what the data has: another line.
        put("00000003.history", "1\t0/3000000\tbefore\n");
        put("000000030000000000000003", "");
        assert_eq!(found(), 2);
        // What a restore writes for a timeline whose history is lost.
        put("00000004.history", "# lost\n");
        put("000000040000000000000005", "");
        assert_eq!(found(), 2);
        assert_eq!(timeline_of_wal(wal, Timeline::new(9), redo).get(), 9);
        assert_eq!(timeline_of_wal(&wal.join("none"), first, redo), first);
    }
}
