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

    /// How far behind the beginning of its segment `lsn` lies, in bytes.
    #[must_use]
    pub fn offset_of(self, lsn: Lsn) -> u64 {
        lsn.bytes() % self.0
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
    #[must_use]
    pub fn end_of(&self, timeline: Timeline) -> Option<Lsn> {
        let at = self.parts.iter().position(|(part, _)| *part == timeline)?;
        self.parts.get(at + 1).map(|(_, begin)| *begin)
    }

    /// The segments of its earlier timelines that may hold what is not on this lineage, oldest first: of each the one that holds
    /// the position at which it was left, and the next.
    ///
    /// A record that begins where the timeline was left, and of which a member has what lies in the first of them, goes on in
    /// the next. Whoever is given that replays the whole record, and all that follows.
    pub fn left_segments(&self, size: SegmentSize) -> impl Iterator<Item = Segment> + '_ {
        let ends = self.parts.iter().zip(self.parts.iter().skip(1));
        ends.flat_map(move |((timeline, _), (_, end))| {
            let (timeline, first) = (*timeline, size.number_of(*end));
            [first, first.saturating_add(1)].map(|number| Segment { timeline, number })
        })
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
mod tests;
