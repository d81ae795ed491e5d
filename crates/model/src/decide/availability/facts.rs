//! What members report, and everything that a decision looks at.
//!
//! All ages are told by monotonic clocks: that of the member for what it saw, that of the receiver for how long ago the
//! report came. No wall clock takes part.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::records::leadership::{CopyNumber, Leadership, Position, Rule, Term};
use crate::types::lsn::Lsn;
use crate::types::name::CellName;

/// What one member says of itself and of what it sees. All of it is first-hand.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Facts {
    /// How long ago the receiver got this, by the receiver's clock; zero for a member that looks at its own.
    pub age: Duration,
    /// Which copy of the data it has.
    pub copy: CopyNumber,
    /// The highest term that it has promised durably: it follows no lower one.
    pub promised: Term,
    /// The last term that it began to lead, and with which copy of the data; durable, outside of the data directory.
    pub begun: Option<(Term, CopyNumber)>,
    /// WAL comes in, or may: a walreceiver or a `restore_command` runs.
    pub receives: bool,
    /// How far its data has got. Only final while nothing comes in.
    pub position: Position,
    /// What its own probes say of its instance.
    pub instance: Instance,
    /// What it leads; none for a standby, and for an instance that does not run.
    pub leads: Option<Leading>,
    /// The cell and term that it receives from.
    pub follows: Option<(CellName, Term)>,
    /// What it sees of the recorded leader; none when it has not looked long enough to know.
    pub sees: Option<Sight>,
    /// Its data must be replaced before it can follow the leader: it has WAL that the leader lacks, or is broken.
    pub needs_replacing: bool,
    /// It was appointed and cannot lead: below the floor, a full disk, a promotion that failed.
    pub cannot_lead: bool,
    /// Its host is about to stop: it shall not lead.
    pub leaves: bool,
}

/// An instance as its own pooler's probes see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Instance {
    /// A probe reached a backend.
    Runs,
    /// It refuses connections because all are taken, the reserved one too. It works.
    Saturated,
    /// It ended, and is being started again within its restart budget.
    Restarting,
    /// It ended and does not come back within the restart budget.
    Gone,
    /// It ended because it was asked to: there is a marker. No failover.
    Stopped,
    /// It accepts connections or not, but no probe reached a backend for that long.
    Frozen {
        /// Since when.
        since: Duration,
    },
}

/// What a member that runs as a primary says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leading {
    /// Under which term.
    pub term: Term,
    /// Where that term's row ends in its own WAL; none until it is flushed.
    pub row: Option<Lsn>,
    /// The row has its quorum: the term is established.
    pub established: bool,
    /// The number of the rule that its settings hold.
    pub rule: u32,
    /// A commit that was made after that rule took effect has its quorum, so that all before it has, too.
    pub settled: bool,
    /// Its canary.
    pub canary: Canary,
}

/// The row that a primary commits every second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Canary {
    /// Committed.
    Committed {
        /// How long ago.
        age: Duration,
    },
    /// Flushed on the primary; waits for the standbys.
    AwaitsQuorum {
        /// Since when.
        since: Duration,
    },
    /// Not even flushed on the primary: a hung disk, or a stopped process that holds a lock.
    Hung {
        /// Since when.
        since: Duration,
    },
}

/// What a standby sees of the leader at first hand.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sight {
    /// Whom it looked at.
    pub of: CellName,
    /// Its walreceiver.
    pub stream: Link,
    /// How long ago new WAL came in; none if none came since it started.
    pub new_wal: Option<Duration>,
    /// Its own heartbeat to the leader's pooler.
    pub pooler: Link,
    /// Where that pooler answered before, nobody listens any more: its process ended, and is not only slow or out of reach.
    pub refused: bool,
}

/// A connection as one end sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// Something came in.
    Heard {
        /// How long ago.
        ago: Duration,
    },
    /// Not connected, and nothing came in.
    Silent {
        /// For at least that long.
        since: Duration,
    },
}

impl Link {
    /// For how long nothing came in.
    pub(super) fn silent_for(self) -> Duration {
        match self {
            Self::Heard { ago } => ago,
            Self::Silent { since } => since,
        }
    }
}

/// The times that decisions go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A report older than this says nothing.
    pub fresh: Duration,
    /// Nothing heard for this long is silence.
    pub silence: Duration,
    /// The same where the leader's host refuses connections to its pooler: there is less doubt.
    pub refused: Duration,
    /// An instance whose probes or canary stand still for this long is frozen.
    pub frozen: Duration,
    /// A primary whose commits have waited for this long, while its standbys report and do not stream, is replaced.
    pub isolated: Duration,
    /// A primary that sees neither etcd nor its quorum for this long stops: what it shows to readers is not old for longer than
    /// ten seconds. More than two renewals of a lease, so that one that is late stops nobody.
    pub fence_after: Duration,
    /// An appointed member that reports, and whose first commit has had no quorum for this long, is given up.
    pub appointed: Duration,
    /// A planned move that has not come to an end after this long is given up.
    pub handover: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            fresh: Duration::from_millis(1500),
            silence: Duration::from_secs(2),
            refused: Duration::from_secs(1),
            frozen: Duration::from_secs(5),
            isolated: Duration::from_secs(10),
            fence_after: Duration::from_secs(8),
            appointed: Duration::from_secs(30),
            handover: Duration::from_secs(30),
        }
    }
}

/// Everything that a decision looks at.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The record as it was read. What is written must be guarded by its revision.
    pub record: &'a Leadership,
    /// The last report of each member, however old.
    pub facts: &'a BTreeMap<CellName, Facts>,
    /// The cells that shall be members.
    pub wanted: &'a BTreeSet<CellName>,
    /// Cells that shall lead rather than others, the best first.
    pub preference: &'a [CellName],
    /// For how long the receiver has known this record, by its own clock. A receiver that has just started waits longer.
    pub unchanged: Duration,
    /// For how long it has known this term in this phase: members that join or leave meanwhile change the record, and not this.
    pub in_phase: Duration,
    /// A person works on the database: no failover begins.
    pub paused: bool,
    /// The times to go by.
    pub timing: &'a Timing,
}

impl<'a> View<'a> {
    /// What a member reported, unless that is too old to say anything.
    pub(super) fn fresh(&self, cell: &CellName) -> Option<&'a Facts> {
        self.facts.get(cell).filter(|facts| facts.age <= self.timing.fresh)
    }

    /// Every copy that is in a cohort of the record, by cell; the newest rule's where several copies of a cell are.
    pub(super) fn members(&self) -> BTreeMap<&'a CellName, CopyNumber> {
        let all = self.record.rules.iter().flat_map(|rule: &Rule| &rule.cohort);
        all.map(|(cell, copy)| (cell, *copy)).collect()
    }
}
