//! WAL segments, timeline histories, and what a timeline consists of.
//!
//! A restore to a point on one timeline replays segments of several: each
//! timeline begins at a position of its parent. Which file holds which
//! position, and whether a backup lies on the way to a target, follows from the
//! history files alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::code::{Code, Refusal};
use crate::types::lsn::{Lsn, Timeline};

/// Bytes of a WAL segment, unless initdb was told otherwise.
pub const DEFAULT_SEGMENT_SIZE: u64 = 16 << 20;

/// A WAL file: the timeline, and the segment's number counted in `segment size` from position 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// The timeline in the file's name.
    pub timeline: Timeline,
    /// The number: `position / segment size`.
    pub number: u64,
}

/// The size of a segment: a power of two between 1 MiB and 1 GiB, as initdb demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentSize(u64);

impl Default for SegmentSize {
    fn default() -> Self {
        Self(DEFAULT_SEGMENT_SIZE)
    }
}

impl SegmentSize {
    /// From a number of bytes; `None` when PostgreSQL could not have it.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        (bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)).then_some(Self(bytes))
    }

    /// The size that makes `name` the file that holds `lsn`. `None` when the name is no segment's, or when the position
    /// lies in the first segment of its 4 GiB, which tells nothing of the size.
    #[must_use]
    pub fn of_position(lsn: Lsn, name: &str) -> Option<Self> {
        let sizes = (20..=30).map(|power| Self(1 << power));
        let fits = |size: &Self| {
            let segment = size.parse_file_name(name);
            segment.is_some_and(|segment| segment.number == size.number_of(lsn))
        };
        let mut fitting = sizes.filter(fits);
        fitting.next().filter(|_| fitting.next().is_none())
    }

    /// The number of bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// The number of the segment that holds the byte at `lsn`.
    #[must_use]
    pub fn number_of(self, lsn: Lsn) -> u64 {
        lsn.bytes() / self.0
    }

    /// The number of the segment that holds the byte before `lsn`: where a record that ends there lies.
    #[must_use]
    pub fn number_before(self, lsn: Lsn) -> u64 {
        lsn.bytes().saturating_sub(1) / self.0
    }

    /// Where a segment begins.
    #[must_use]
    pub fn start_of(self, number: u64) -> Lsn {
        Lsn::new(number.saturating_mul(self.0))
    }

    /// A segment's file name, 24 hexadecimal digits.
    #[must_use]
    pub fn file_name(self, segment: Segment) -> String {
        let per_log = 0x1_0000_0000 / self.0;
        let (log, low) = (segment.number / per_log, segment.number % per_log);
        format!("{:08X}{log:08X}{low:08X}", segment.timeline.get())
    }

    /// The segment that a file of the archive holds whole. pgBackRest names it by the segment, a SHA-1 checksum and the
    /// suffix of a compression. Anything else is no whole segment: `.partial`, `.backup`, and `.pgbackrest.tmp`, which
    /// is a file that is being written, or that a killed process left.
    #[must_use]
    pub fn parse_archived_name(self, name: &str) -> Option<Segment> {
        let (segment, rest) = name.split_at_checked(24)?;
        let (checksum, suffix) = rest.strip_prefix('-')?.split_at_checked(40)?;
        let whole = checksum.bytes().all(|b| b.is_ascii_hexdigit())
            && matches!(suffix, "" | ".gz" | ".lz4" | ".zst" | ".bz2");
        if whole { self.parse_file_name(segment) } else { None }
    }

    /// Reads a file name; `None` for anything but 24 upper-case hexadecimal digits of a segment of this size.
    #[must_use]
    pub fn parse_file_name(self, name: &str) -> Option<Segment> {
        let plain =
            name.len() == 24 && name.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        if !plain {
            return None;
        }
        let part = |at: usize| u64::from_str_radix(&name[at..at + 8], 16).ok();
        let per_log = 0x1_0000_0000 / self.0;
        let low = part(16)?;
        let timeline = u32::try_from(part(0)?).ok()?;
        (low < per_log).then(|| Segment {
            timeline: Timeline::new(timeline),
            number: part(8).unwrap_or(0) * per_log + low,
        })
    }
}

/// One line of a history file: a timeline and where its child left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ancestor {
    /// The timeline.
    pub timeline: Timeline,
    /// Where it was left.
    pub left_at: Lsn,
}

/// A timeline's ancestors, oldest first: the content of `0000000N.history`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History(pub Vec<Ancestor>);

/// A history file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the timeline's history is not a timeline and a position: {text:?}")]
pub struct HistoryError {
    line: usize,
    text: String,
}

impl FromStr for History {
    type Err = HistoryError;
    fn from_str(text: &str) -> Result<Self, HistoryError> {
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = || HistoryError { line: at + 1, text: line.chars().take(80).collect() };
            let mut words = line.split_whitespace();
            let (timeline, left_at) = words.next().zip(words.next()).ok_or_else(bad)?;
            let timeline = Timeline::new(timeline.parse().map_err(|_| bad())?);
            let left_at: Lsn = left_at.parse().map_err(|_| bad())?;
            // Positions need not rise: a restore to before the point where its own timeline began is written so.
            if ancestors.last().is_some_and(|last| last.timeline >= timeline) {
                return Err(bad());
            }
            ancestors.push(Ancestor { timeline, left_at });
        }
        Ok(Self(ancestors))
    }
}

/// What an archive lacks of a range of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// How many segments.
    pub count: u64,
    /// The first of them.
    pub first: Option<Segment>,
}

/// A timeline with its ancestors: the one line of WAL that a recovery onto it follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// Timelines with the position at which each begins, oldest first; the last one is the timeline itself.
    parts: Vec<(Timeline, Lsn)>,
}

impl Lineage {
    /// The lineage of `timeline`, whose history file says `history`; timeline 1 has none.
    #[must_use]
    pub fn new(timeline: Timeline, history: &History) -> Self {
        let mut parts = Vec::with_capacity(history.0.len() + 1);
        let mut begin = Lsn::new(0);
        for ancestor in history.0.iter().filter(|ancestor| ancestor.timeline < timeline) {
            parts.push((ancestor.timeline, begin));
            begin = ancestor.left_at;
            // A timeline that was left before it began has no part in this; the one before it was left there instead.
            parts.retain(|(_, at)| *at < begin || at.bytes() == 0);
        }
        parts.push((timeline, begin));
        Self { parts }
    }

    /// The timeline itself.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        // `new` always pushes one.
        self.parts.last().map_or(Timeline::new(1), |(timeline, _)| *timeline)
    }

    /// Its timelines, oldest first.
    pub fn timelines(&self) -> impl Iterator<Item = Timeline> + '_ {
        self.parts.iter().map(|(timeline, _)| *timeline)
    }

    /// Where the timeline itself begins.
    #[must_use]
    pub fn begins_at(&self) -> Lsn {
        self.parts.last().map_or(Lsn::new(0), |(_, begin)| *begin)
    }

    /// Where a timeline of this lineage ends; `None` for the last, and for one that is not in it.
    pub(crate) fn end_of(&self, timeline: Timeline) -> Option<Lsn> {
        let at = self.parts.iter().position(|(part, _)| *part == timeline)?;
        self.parts.get(at + 1).map(|(_, begin)| *begin)
    }

    /// Whether position `lsn` of `timeline` lies on this lineage, rather than on a part of that
    /// timeline that was left behind.
    #[must_use]
    pub fn contains(&self, timeline: Timeline, lsn: Lsn) -> bool {
        self.parts.iter().any(|(part, _)| *part == timeline)
            && self.end_of(timeline).is_none_or(|end| lsn <= end)
    }

    /// The files that may hold segment `number`, the one that PostgreSQL tries first in front. Where a
    /// timeline begins in the middle of a segment, its own file repeats its parent's part.
    pub fn files(&self, number: u64, size: SegmentSize) -> impl Iterator<Item = Segment> + '_ {
        self.parts.iter().enumerate().rev().filter_map(move |(at, (timeline, begin))| {
            let begins = size.number_of(*begin) <= number;
            let ends = self.parts.get(at + 1).is_none_or(|(_, end)| number <= size.number_of(*end));
            (begins && ends).then_some(Segment { timeline: *timeline, number })
        })
    }

    /// The file that holds segment `number` as this lineage has it.
    fn file(&self, number: u64, size: SegmentSize) -> Option<Segment> {
        self.files(number, size).next()
    }

    /// The numbers of the segments that are this part's: from the one in which it begins to the last before the one in
    /// which the next part begins, which is the next part's.
    fn numbers_of(&self, at: usize, size: SegmentSize) -> Range<u64> {
        let begin = |(_, begin): &(Timeline, Lsn)| size.number_of(*begin);
        self.parts.get(at).map_or(0, begin)..self.parts.get(at + 1).map_or(u64::MAX, begin)
    }

    /// The segments between `first` and `last` that the archive does not have.
    #[must_use]
    pub fn missing(&self, first: u64, last: u64, archive: &Archive) -> Missing {
        // By what is there: one file with a number far off must not make a list of all numbers before it.
        let mut there = BTreeSet::new();
        for (at, (timeline, _)) in self.parts.iter().enumerate() {
            let numbers = self.numbers_of(at, archive.size);
            let (from, to) = (numbers.start.max(first), numbers.end.min(last.saturating_add(1)));
            if let Some(numbers) = archive.segments.get(timeline).filter(|_| from < to) {
                there.extend(numbers.range(from..to).copied());
            }
        }
        let count = (last + 1).saturating_sub(first).saturating_sub(there.len() as u64);
        let gap = (first..=last).find(|number| !there.contains(number));
        Missing { count, first: gap.and_then(|number| self.file(number, archive.size)) }
    }

    /// The last segment that the archive has of this lineage without a gap behind `first`.
    #[must_use]
    pub fn last_without_gap(&self, first: u64, archive: &Archive) -> Option<u64> {
        let mut last = None;
        let mut number = first;
        while self.file(number, archive.size).is_some_and(|segment| archive.has(&segment)) {
            last = Some(number);
            number += 1;
        }
        last
    }

    /// The newest segment that the archive has of this lineage, whatever is missing before it.
    #[must_use]
    pub fn newest(&self, archive: &Archive) -> Option<u64> {
        let of_part = |(at, (timeline, _)): (usize, &(Timeline, Lsn))| {
            archive.segments.get(timeline)?.range(self.numbers_of(at, archive.size)).next_back().copied()
        };
        self.parts.iter().enumerate().filter_map(of_part).max()
    }

    /// Where the archive would lead a recovery that begins in segment `first` astray: the first such place.
    ///
    /// A timeline begins with a file that repeats its parent's part of the segment. While that file is not in the
    /// archive and the parent's of the same number is, PostgreSQL takes the parent's, and replays it past the position
    /// at which the timelines part.
    #[must_use]
    pub fn fork_without_file(&self, first: u64, archive: &Archive) -> Option<ForkWithoutFile> {
        self.parts.iter().skip(1).find_map(|(_, begin)| {
            let number = archive.size.number_of(*begin);
            let mut files = self.files(number, archive.size);
            let missing = files.next().filter(|own| number >= first && !archive.has(own))?;
            let taken = files.find(|other| archive.has(other))?;
            Some(ForkWithoutFile { missing, taken, at: self.end_of(taken.timeline)? })
        })
    }
}

/// A place at which the archive leads past the end of a timeline: see [`Lineage::fork_without_file`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForkWithoutFile {
    /// The file with which the newer timeline begins, which the archive does not have.
    pub missing: Segment,
    /// The older timeline's, which PostgreSQL takes in its place.
    pub taken: Segment,
    /// Where the older timeline was left.
    pub at: Lsn,
}

impl ForkWithoutFile {
    /// Why nothing can be restored past it, in words.
    #[must_use]
    pub fn refusal(&self, size: SegmentSize) -> Refusal {
        let (missing, taken) = (size.file_name(self.missing), size.file_name(self.taken));
        Refusal::new(
            Code::WalMissing,
            format!(
                "{missing}, with which timeline {} begins, is not in the archive, but {taken} is, which goes on past that position ({})",
                self.missing.timeline, self.at
            ),
        )
    }
}

/// The WAL that a repo's archive has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Archive {
    /// The size of its segments.
    pub size: SegmentSize,
    /// Segment numbers by timeline.
    pub segments: BTreeMap<Timeline, BTreeSet<u64>>,
}

impl Archive {
    /// Whether it has a file.
    #[must_use]
    pub fn has(&self, segment: &Segment) -> bool {
        self.segments.get(&segment.timeline).is_some_and(|numbers| numbers.contains(&segment.number))
    }

    /// Adds a file.
    pub fn add(&mut self, segment: Segment) {
        self.segments.entry(segment.timeline).or_default().insert(segment.number);
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (timeline, begin)) in self.parts.iter().enumerate() {
            if at > 0 {
                write!(f, " -> ")?;
            }
            write!(f, "{timeline}")?;
            if at > 0 {
                write!(f, " from {begin}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn tl(n: u32) -> Timeline {
        Timeline::new(n)
    }

    fn archive(files: &[(u32, u64)]) -> Archive {
        let mut archive = Archive::default();
        for (timeline, number) in files {
            archive.add(Segment { timeline: tl(*timeline), number: *number });
        }
        archive
    }

    #[test]
    fn half_written_file_is_no_archived_segment() {
        let size = SegmentSize::default();
        let name = "000000010000000000000003";
        let whole = format!("{name}-00a1b2c3d4e5f60718293a4b5c6d7e8f90112233");
        for suffix in ["", ".gz", ".lz4", ".zst", ".bz2"] {
            let segment = size.parse_archived_name(&format!("{whole}{suffix}"));
            assert_eq!(segment.map(|segment| segment.number), Some(3), "{suffix}");
        }
        for other in [
            name.to_owned(),
            format!("{whole}.zst.pgbackrest.tmp"),
            format!("{whole}.pgbackrest.tmp"),
            format!("{name}.partial-00a1b2c3d4e5f60718293a4b5c6d7e8f90112233.zst"),
            format!("{name}.00000028.backup"),
            format!("{name}-00a1"),
            format!("{name}-00a1b2c3d4e5f60718293a4b5c6d7e8f901122zz.zst"),
            String::new(),
        ] {
            assert_eq!(size.parse_archived_name(&other), None, "{other}");
        }
    }

    #[test]
    fn segment_size_follows_from_a_position_and_the_name_of_its_file() {
        for power in 20..=30 {
            let size = SegmentSize::new(1 << power).unwrap();
            let lsn = Lsn::new((3 << 32) + size.bytes() * 2 + 40);
            let name = size.file_name(Segment { timeline: Timeline::new(7), number: size.number_of(lsn) });
            assert_eq!(SegmentSize::of_position(lsn, &name), Some(size), "{name}");
        }
        let first = "000000010000000300000000";
        assert_eq!(SegmentSize::of_position(Lsn::new((3 << 32) + 40), first), None);
        assert_eq!(SegmentSize::of_position(Lsn::new(40), "x"), None);
    }

    #[test]
    fn names_are_postgresqls() {
        let size = SegmentSize::default();
        let segment = Segment { timeline: tl(10), number: 0x1_02 };
        assert_eq!(size.file_name(segment), "0000000A0000000100000002");
        assert_eq!(size.parse_file_name("0000000A0000000100000002"), Some(segment));
        for bad in [
            "",
            "0000000A00000001000000",
            "0000000A0000000100000100",
            "0000000a0000000100000002",
            "00000002.history",
        ] {
            assert_eq!(size.parse_file_name(bad), None, "{bad}");
        }
        assert_eq!(SegmentSize::new(3 << 20), None);
    }

    #[test]
    fn history_is_parsed_and_other_text_is_refused() {
        let history: History =
            "1\t0/3000000\tno recovery target specified\n\n2\t0/5000028\tbefore x\n".parse().unwrap();
        assert_eq!(history.0.len(), 2);
        assert_eq!(history.0[1], Ancestor { timeline: tl(2), left_at: Lsn::new(0x500_0028) });
        for bad in ["x 0/1", "1", "2 0/1\n1 0/2"] {
            assert!(bad.parse::<History>().is_err(), "{bad}");
        }
    }

    /// Timeline 3 left 1 at 40 MiB: what 1 and 2 wrote after their ends is not on the way.
    #[test]
    fn position_after_the_branch_is_not_in_the_lineage() {
        let history = History(vec![Ancestor { timeline: tl(1), left_at: Lsn::new(40 * MIB) }]);
        let lineage = Lineage::new(tl(3), &history);
        assert!(lineage.contains(tl(1), Lsn::new(40 * MIB)));
        assert!(!lineage.contains(tl(1), Lsn::new(40 * MIB + 1)));
        assert!(!lineage.contains(tl(2), Lsn::new(1)));
        assert!(lineage.contains(tl(3), Lsn::new(100 * MIB)));
        let size = SegmentSize::default();
        let files: Vec<u32> = lineage.files(2, size).map(|segment| segment.timeline.get()).collect();
        assert_eq!(files, [3, 1], "the switch is inside segment 2, and the newer file is tried first");
        assert_eq!(lineage.files(1, size).count(), 1);
        assert_eq!(lineage.files(3, size).next().unwrap().timeline, tl(3));
        let archive = archive(&[(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (3, 2), (3, 3)]);
        assert_eq!(lineage.newest(&archive), Some(3));
        assert_eq!(lineage.last_without_gap(0, &archive), Some(3));
        let gap = Segment { timeline: tl(3), number: 4 };
        assert_eq!(lineage.missing(0, 4, &archive), Missing { count: 1, first: Some(gap) });
        assert_eq!(lineage.missing(0, 3, &archive), Missing { count: 0, first: None });
    }

    /// Timeline 2 leaves 1 at 40 MiB, in segment 2, and 3 leaves 2 at 80 MiB, where segment 5 begins.
    #[test]
    fn parents_file_does_not_stand_for_the_one_with_which_a_timeline_begins() {
        let text = format!("1\t0/{:X}\tx\n2\t0/{:X}\ty\n", 40 * MIB, 80 * MIB);
        let lineage = Lineage::new(tl(3), &text.parse().unwrap());
        let file = |timeline, number| Segment { timeline: tl(timeline), number };
        let fork = |archive: &Archive, first| {
            let fork = lineage.fork_without_file(first, archive);
            fork.map(|fork| (fork.missing, fork.taken, fork.at.bytes() / MIB))
        };
        let whole = [(1, 0), (1, 1), (1, 2), (2, 2), (2, 3), (2, 4), (2, 5), (3, 5), (3, 6)];
        assert_eq!(fork(&archive(&whole), 0), None);
        let without =
            |missing: (u32, u64)| archive(&whole.map(|file| if file == missing { (9, 0) } else { file }));
        assert_eq!(fork(&without((2, 2)), 0), Some((file(2, 2), file(1, 2), 40)));
        assert_eq!(fork(&without((2, 2)), 3), None, "a recovery from behind it is not led astray");
        let gap = Missing { count: 1, first: Some(file(2, 2)) };
        assert_eq!(lineage.missing(0, 6, &without((2, 2))), gap);
        assert_eq!(lineage.last_without_gap(0, &without((2, 2))), Some(1));
        // Also at the very boundary: PostgreSQL looks at where timelines begin, not at where they end.
        assert_eq!(fork(&without((3, 5)), 0), Some((file(3, 5), file(2, 5), 80)));
        assert_eq!(fork(&without((2, 3)), 0), None, "a gap is not a wrong way");
        let cut = archive(&[(1, 0), (1, 1), (1, 2), (1, 3)]);
        assert_eq!(lineage.newest(&cut), Some(1));
        assert_eq!(fork(&cut, 0), Some((file(2, 2), file(1, 2), 40)));
    }

    /// Timeline 2 left 1 at 40 MiB and was then restored to 20 MiB, which is on 1: PostgreSQL writes both lines.
    #[test]
    fn timeline_left_before_it_began_is_not_in_the_lineage() {
        let text = format!("1\t0/{:X}\tx\n2\t0/{:X}\ty\n", 40 * MIB, 20 * MIB);
        let lineage = Lineage::new(tl(3), &text.parse().unwrap());
        assert_eq!(lineage.begins_at(), Lsn::new(20 * MIB));
        assert!(lineage.contains(tl(1), Lsn::new(20 * MIB)) && !lineage.contains(tl(1), Lsn::new(21 * MIB)));
        assert!(!lineage.contains(tl(2), Lsn::new(10 * MIB)));
        let files: Vec<u32> = lineage.files(1, SegmentSize::default()).map(|s| s.timeline.get()).collect();
        assert_eq!(files, [3, 1]);
    }

    #[test]
    fn first_missing_segment_is_named() {
        let lineage = Lineage::new(tl(1), &History::default());
        let archive = archive(&[(1, 3), (1, 4), (1, 6)]);
        let gap = Some(Segment { timeline: tl(1), number: 5 });
        assert_eq!(lineage.missing(3, 6, &archive), Missing { count: 1, first: gap });
        // No list is made of what is missing.
        let far = u64::MAX >> 24;
        assert_eq!(lineage.missing(3, far, &archive), Missing { count: far - 5, first: gap });
        assert_eq!(lineage.last_without_gap(3, &archive), Some(4));
        assert_eq!(lineage.newest(&archive), Some(6));
    }

    proptest! {
        #[test]
        fn file_names_read_back(number in 0u64..1 << 40, timeline in 1u32.., shift in 20u32..=30) {
            let size = SegmentSize::new(1 << shift).unwrap();
            let segment = Segment { timeline: tl(timeline), number: number % (0xFFFF_FFFF * (0x1_0000_0000 / size.bytes())) };
            prop_assert_eq!(size.parse_file_name(&size.file_name(segment)), Some(segment));
        }

        /// Whatever was restored to where: the parts begin one after the other, and each position has a file.
        #[test]
        fn lineage_is_in_order(hops in proptest::collection::vec((1u64..200, 1u32..4), 0..8), number in 0u64..20) {
            let mut timeline = 0;
            let mut ancestors = Vec::new();
            for (mib, step) in hops {
                timeline += step;
                ancestors.push(Ancestor { timeline: tl(timeline), left_at: Lsn::new(mib * MIB) });
            }
            let lineage = Lineage::new(tl(timeline + 1), &History(ancestors));
            prop_assert!(lineage.parts.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
            let size = SegmentSize::default();
            if lineage.parts[0].1.bytes() == 0 {
                prop_assert!(lineage.files(number, size).count() >= 1);
            }
            prop_assert_eq!(lineage.timeline(), tl(timeline + 1));
        }

        #[test]
        fn no_history_panics(text in "(?s).{0,120}") {
            let _ = text.parse::<History>();
        }
    }
}
