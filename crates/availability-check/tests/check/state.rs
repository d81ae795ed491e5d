//! What the checker knows of the world: the record, the members with their logs, and what was acknowledged.

use std::fmt;
use std::sync::Arc;

use cellar_model::{Leadership, Rule};

/// Members of the group.
pub(crate) const MEMBERS: usize = 3;

/// One record of WAL: the term it was written in, who wrote it, and whether it is a term row. Of two copies of one member's data
/// the records differ.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) term: u8,
    pub(crate) writer: u8,
    pub(crate) copy: u8,
    pub(crate) is_row: bool,
}

/// The WAL of one member, of at most eight records, one in each byte; an unused byte is 0. A position in it is a length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Log(u64);

impl Entry {
    fn byte(self) -> u64 {
        assert!(self.term < 8, "the bound on terms is too high");
        let copy = u64::from(self.copy & 1);
        0x80 | copy << 6 | u64::from(self.term) << 3 | u64::from(self.writer) << 1 | u64::from(self.is_row)
    }

    fn of(byte: u8) -> Self {
        Self { term: byte >> 3 & 7, writer: byte >> 1 & 3, copy: byte >> 6 & 1, is_row: byte & 1 == 1 }
    }
}

impl Log {
    pub(crate) fn len(self) -> u8 {
        u8::try_from((64 - self.0.leading_zeros()).div_ceil(8)).unwrap()
    }

    pub(crate) fn entries(self) -> impl DoubleEndedIterator<Item = Entry> {
        self.0.to_le_bytes().into_iter().take(self.len().into()).map(Entry::of)
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        assert!(self.len() < 8, "the bound on a log is too high");
        self.0 |= entry.byte() << (8 * self.len());
    }

    /// The first part of it.
    pub(crate) fn prefix(self, length: u8) -> Self {
        if length >= 8 { self } else { Self(self.0 & ((1 << (8 * length)) - 1)) }
    }

    pub(crate) fn starts_with(self, other: Self) -> bool {
        self.prefix(other.len()) == other
    }

    /// How long the two are the same.
    pub(crate) fn common(self, other: Self) -> u8 {
        let differs = u8::try_from((self.0 ^ other.0).trailing_zeros() / 8).unwrap();
        differs.min(self.len()).min(other.len())
    }

    /// The term of the last term row.
    pub(crate) fn term(self) -> u8 {
        self.entries().rev().find(|entry| entry.is_row).map_or(0, |entry| entry.term)
    }

    /// Where the row of a term ends.
    pub(crate) fn row(self, term: u8) -> Option<u8> {
        let at = self.entries().position(|entry| entry.is_row && entry.term == term)?;
        Some(u8::try_from(at).unwrap() + 1)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in self.entries() {
            let kind = if entry.is_row { "R" } else { "w" };
            write!(f, "{kind}{}{} ", entry.term, name(entry.writer as usize))?;
        }
        Ok(())
    }
}

/// What a member that runs as a primary has in mind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Lead {
    pub(crate) term: u8,
    /// The term at which it was promoted. Connections to it last from then on.
    pub(crate) promoted: u8,
    /// The rule in its settings, and how long its log was when that took effect.
    pub(crate) rule: Arc<Rule>,
    pub(crate) rule_since: u8,
    pub(crate) is_established: bool,
    pub(crate) is_settled: bool,
    /// Copy and flushed position of each standby; only kept where one acknowledgement is not enough.
    pub(crate) flushed: [Option<(u8, u8)>; MEMBERS],
}

/// An acknowledgement on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ack {
    pub(crate) to: u8,
    /// The promotion of the primary to which the connection was made.
    pub(crate) promoted: u8,
    pub(crate) copy: u8,
    pub(crate) flushed: u8,
}

/// What deciders were last told by a member and still go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Report {
    pub(crate) copy: u8,
    pub(crate) promised: u8,
    pub(crate) position: (u8, u8),
    /// Term, whether it is established, number of the rule, whether that is settled.
    pub(crate) leads: Option<(u8, bool, u32, bool)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Member {
    pub(crate) log: Log,
    pub(crate) copy: u8,
    /// On disk.
    pub(crate) promised: u8,
    /// In memory: the same, unless the rule of durable promises is broken.
    pub(crate) remembers: u8,
    /// The last term that it began to lead, and with which copy. On disk.
    pub(crate) begun: Option<(u8, u8)>,
    pub(crate) follows: Option<u8>,
    pub(crate) leads: Option<Lead>,
    pub(crate) ack: Option<Ack>,
    pub(crate) report: Option<Report>,
    /// Only for a property: the highest term that it told deciders it promised.
    pub(crate) swore: u8,
}

/// What may still go wrong, or happen at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) writes: u8,
    pub(crate) crashes: u8,
    pub(crate) stops: u8,
    pub(crate) losses: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) record: Arc<Leadership>,
    /// The write that arrives next. Of all that are decided on one record only one takes effect, so the others need not be kept.
    pub(crate) pending: Option<Arc<Leadership>>,
    /// Appointments that may still reach their members, however late.
    pub(crate) orders: Vec<Arc<Leadership>>,
    pub(crate) members: [Member; MEMBERS],
    pub(crate) budget: Budget,
    /// Only for properties: everything that was acknowledged.
    pub(crate) acked: Log,
    /// A member began to lead, or acknowledged under a later term, without something that was acknowledged before.
    pub(crate) is_lost: bool,
    /// A member acknowledged beside one of a later term.
    pub(crate) is_split: bool,
    /// A member took WAL of a lower term than it had promised.
    pub(crate) is_broken: bool,
}

/// The name of a member.
pub(crate) fn name(member: usize) -> &'static str {
    ["a", "b", "c"][member]
}
