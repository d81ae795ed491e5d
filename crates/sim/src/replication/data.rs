//! What lies on disks: data directories with their WAL, and the archive.

use std::collections::BTreeMap;
use std::sync::Arc;

use cellar_model::{History, Lineage, Lsn, SegmentSize, Term, Timeline};

/// How many bytes of WAL a record takes: few of them fill a segment.
const RECORD: u64 = 1 << 20;

/// Where the first record begins: in the first segment after the one that PostgreSQL leaves empty.
const FIRST: u64 = 16 << 20;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A row of a client.
    Row,
    /// A row of the canary.
    Canary,
    /// The row of a term.
    Term(Term),
    /// A timeline begins, or a segment ends.
    Other,
}

/// One record of WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// No other record has it.
    pub id: u64,
    /// What it says.
    pub content: Content,
}

/// A data directory.
#[derive(Debug, Clone)]
pub struct Data {
    /// The records that it has flushed.
    pub records: Vec<Record>,
    /// The highest term of its term rows.
    pub term: Term,
    /// The timeline on which its WAL goes on.
    pub timeline: u32,
    /// The timelines that it left, oldest first, and after how many records.
    pub left: Vec<(u32, u64)>,
    /// Whether it has `standby.signal`.
    pub recovers: bool,
}

/// The position behind so many records.
#[must_use]
pub fn lsn(records: u64) -> Lsn {
    Lsn::new(FIRST + records * RECORD)
}

/// The segment that so many records reach into.
#[must_use]
pub fn segment(records: u64) -> u64 {
    SegmentSize::default().number_of(lsn(records))
}

/// How many records there are before a segment.
#[must_use]
pub fn records_before(segment: u64) -> u64 {
    SegmentSize::default().start_of(segment).bytes().saturating_sub(FIRST) / RECORD
}

impl Data {
    /// How many records it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.records.len() as u64
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds a record.
    pub fn push(&mut self, record: Record) {
        if let Content::Term(term) = record.content {
            self.term = self.term.max(term);
        }
        self.records.push(record);
    }

    /// The content of its timeline's history file.
    #[must_use]
    pub fn history(&self) -> String {
        let lines = self.left.iter().map(|(timeline, at)| format!("{timeline}\t{}\tpromotion\n", lsn(*at)));
        lines.collect()
    }

    /// The line of WAL that it is on.
    #[must_use]
    pub fn lineage(&self) -> Lineage {
        let history: History = self.history().parse().unwrap_or_default();
        Lineage::new(Timeline::new(self.timeline), &history)
    }

    /// Whether it has that record at that place.
    #[must_use]
    pub fn has(&self, place: u64, id: u64) -> bool {
        self.records.get(place as usize).is_some_and(|record| record.id == id)
    }

    /// The first of its records, as a backup has them that was made then.
    #[must_use]
    pub fn until(&self, records: u64) -> Self {
        let records = records.min(self.len());
        let left: Vec<(u32, u64)> = self.left.iter().copied().filter(|(_, at)| *at < records).collect();
        let after = self.left.iter().find(|(_, at)| *at >= records);
        let records = self.records[..records as usize].to_vec();
        let terms = records.iter().filter_map(|record| match record.content {
            Content::Term(term) => Some(term),
            _ => None,
        });
        Self {
            term: terms.max().unwrap_or_default(),
            records,
            timeline: after.map_or(self.timeline, |(timeline, _)| *timeline),
            left,
            recovers: true,
        }
    }
}

/// The archive of a database.
#[derive(Debug, Default)]
pub struct Archive {
    /// Histories by timeline.
    pub histories: BTreeMap<u32, String>,
    /// Whole segments by timeline and number.
    segments: BTreeMap<(u32, u64), Arc<[Record]>>,
}

impl Archive {
    /// Takes a history.
    ///
    /// # Errors
    /// When it has another one of that timeline.
    pub fn push_history(&mut self, timeline: u32, history: String) -> Result<(), String> {
        match self.histories.get(&timeline) {
            Some(known) if *known == history => Ok(()),
            Some(known) => Err(format!("two histories of timeline {timeline}: {known:?} and {history:?}")),
            None => {
                self.histories.insert(timeline, history);
                Ok(())
            }
        }
    }

    /// Takes a segment of a timeline.
    ///
    /// # Errors
    /// When it has another one of that name.
    pub fn push(&mut self, timeline: u32, number: u64, records: &[Record]) -> Result<(), String> {
        match self.segments.get(&(timeline, number)) {
            Some(known) if **known == *records => Ok(()),
            Some(_) => Err(format!("two versions of segment {number} of timeline {timeline}")),
            None => {
                self.segments.insert((timeline, number), records.into());
                Ok(())
            }
        }
    }

    /// A segment.
    #[must_use]
    pub fn get(&self, timeline: u32, number: u64) -> Option<Arc<[Record]>> {
        self.segments.get(&(timeline, number)).cloned()
    }
}
