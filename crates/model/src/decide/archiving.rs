//! Which WAL that lies in a data directory the archive must get.
//!
//! PostgreSQL keeps its own notes in `pg_wal/archive_status`, and they are not what the archive has. A standby notes every
//! segment that it receives as archived, whatever becomes of its primary's copy; and the note that a segment is to be
//! archived is written without a sync, so a crash may lose it.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::types::wal::{Archive, Lineage, Segment, SegmentSize};

/// What is noted of a segment beside the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveNote {
    /// Nothing.
    Nothing,
    /// PostgreSQL is going to archive it, and keeps it until then: `.ready`.
    Ready,
    /// It was archived, or came from elsewhere: `.done`.
    Done,
}

/// Of the segments that are `there`, those between the `numbers` that lie on a lineage and that the archive does not have;
/// in order. Of a timeline that was left, the segment in which that happened is not on it: it may go on behind the
/// position, so it must never be archived.
#[must_use]
pub fn unarchived(
    there: &[Segment],
    lineage: &Lineage,
    numbers: &RangeInclusive<u64>,
    archive: &Archive,
) -> Vec<Segment> {
    let is_on = |segment: &Segment| lineage.files(segment.number, archive.size).next() == Some(*segment);
    let mut found: Vec<Segment> = there
        .iter()
        .filter(|segment| numbers.contains(&segment.number) && is_on(segment) && !archive.has(segment))
        .copied()
        .collect();
    found.sort_by_key(|segment| (segment.number, segment.timeline));
    found
}

/// Of the segments that are `there`, those of which a running primary's notes do not tell whether the archive has them.
///
/// On its own timeline the primary has archived what it noted as archived. On an earlier one it was a standby.
#[must_use]
pub fn in_doubt(
    there: &[(Segment, ArchiveNote)],
    lineage: &Lineage,
    numbers: &RangeInclusive<u64>,
    size: SegmentSize,
) -> Vec<Segment> {
    let told = |segment: &Segment, note: ArchiveNote| match note {
        ArchiveNote::Nothing => false,
        ArchiveNote::Ready => true,
        ArchiveNote::Done => segment.timeline == lineage.timeline(),
    };
    let untold: Vec<Segment> =
        there.iter().filter(|(segment, note)| !told(segment, *note)).map(|(segment, _)| *segment).collect();
    unarchived(&untold, lineage, numbers, &Archive { size, ..Archive::default() })
}

/// The number of the first segment from which on an instance has all up to `last`: a standby that needs one of them can
/// stream it. None when it does not have `last` itself.
#[must_use]
pub fn kept_from(there: &[Segment], last: u64) -> Option<u64> {
    let numbers: BTreeSet<u64> = there.iter().map(|segment| segment.number).collect();
    let kept = (0..=last).rev().take_while(|number| numbers.contains(number));
    kept.last()
}

/// The first segment that a member which is restored from a backup beginning in segment `first` would wait for without end:
/// the archive does not have it, and the primary, which has all from `kept` on, does not have it either. When it is not
/// known what the primary has, whatever is missing before the archive's newest counts.
#[must_use]
pub fn unreachable_from(
    first: u64,
    kept: Option<u64>,
    lineage: &Lineage,
    archive: &Archive,
) -> Option<Segment> {
    let last = match kept {
        Some(kept) => kept.checked_sub(1),
        None => lineage.newest(archive),
    }?;
    if last < first {
        return None;
    }
    lineage.missing(first, last, archive).first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::lsn::Timeline;

    fn segment(timeline: u32, number: u64) -> Segment {
        Segment { timeline: Timeline::new(timeline), number }
    }

    fn segments(all: &[(u32, u64)]) -> Vec<Segment> {
        all.iter().map(|(timeline, number)| segment(*timeline, *number)).collect()
    }

    fn archive(all: &[(u32, u64)]) -> Archive {
        let mut archive = Archive::default();
        segments(all).into_iter().for_each(|segment| archive.add(segment));
        archive
    }

    /// Timeline 2 leaves 1 in the middle of segment 6.
    fn lineage() -> Lineage {
        Lineage::new(Timeline::new(2), &"1\t0/6800000\tx\n".parse().unwrap())
    }

    #[test]
    fn only_what_is_on_the_lineage_is_archived() {
        let there = segments(&[(1, 7), (1, 6), (1, 5), (1, 4), (1, 3), (2, 8), (2, 7), (2, 6), (3, 5)]);
        let found = unarchived(&there, &lineage(), &(4..=7), &archive(&[(1, 4)]));
        assert_eq!(found, segments(&[(1, 5), (2, 6), (2, 7)]));
    }

    #[test]
    fn notes_of_the_time_as_a_standby_tell_nothing() {
        let there = [
            (segment(1, 3), ArchiveNote::Ready),
            (segment(1, 4), ArchiveNote::Done),
            (segment(1, 5), ArchiveNote::Nothing),
            (segment(1, 6), ArchiveNote::Done),
            (segment(2, 6), ArchiveNote::Done),
            (segment(2, 7), ArchiveNote::Nothing),
            (segment(2, 8), ArchiveNote::Ready),
            (segment(2, 9), ArchiveNote::Nothing),
        ];
        let found = in_doubt(&there, &lineage(), &(0..=8), SegmentSize::default());
        assert_eq!(found, segments(&[(1, 4), (1, 5), (2, 7)]));
    }

    #[test]
    fn what_is_kept_has_no_gap() {
        let there = segments(&[(1, 2), (1, 4), (1, 5), (2, 6), (1, 6), (2, 7), (2, 8)]);
        assert_eq!(kept_from(&there, 7), Some(4));
        assert_eq!(kept_from(&there, 9), None);
    }

    #[test]
    fn gap_that_the_primary_can_fill_is_none() {
        let all = archive(&[(1, 3), (1, 5), (2, 6), (2, 7)]);
        let gap = |first, kept| unreachable_from(first, kept, &lineage(), &all);
        assert_eq!(gap(3, Some(4)), None, "it streams it from there");
        assert_eq!(gap(3, Some(5)), Some(segment(1, 4)));
        assert_eq!(gap(5, Some(7)), None, "a later backup");
        assert_eq!(gap(5, Some(5)), None);
        assert_eq!(gap(3, None), Some(segment(1, 4)));
        assert_eq!(gap(5, None), None);
        assert_eq!(gap(5, Some(10)), Some(segment(2, 8)), "neither archived nor kept any more");
    }
}
