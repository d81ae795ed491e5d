//! What a member of a database with quorum commit keeps, and what PostgreSQL is told because of it. The loop that acts is in
//! [`crate::instance::failover`].
//!
//! | file | what is in it |
//! |---|---|
//! | `kept` | what a member must not forget: its promise, its term, which copy of the data it has |
//! | `settings` | what PostgreSQL is told: whom to follow, who acknowledges |

pub(crate) mod kept;
pub(crate) mod settings;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use cellar_api::v1::MemberFacts;
use cellar_model::Lineage;
use cellar_model::availability::{Facts, Stop};
use cellar_system::clock;
use jiff::Timestamp;

use crate::availability::kept::KeptFile;

/// What the parts of the agent tell each other about it.
#[derive(Debug)]
pub struct Availability {
    /// What must not be forgotten.
    pub kept: KeptFile,
    /// The last report; none while the database has no quorum commit.
    pub report: RefCell<Option<Report>>,
    /// Why the primary that runs here must stop.
    pub stop: Cell<Option<Stop>>,
    /// The primary that runs here is to be stopped cleanly, or was, so that another one can lead.
    pub hands_over: Cell<bool>,
    /// The postmaster of the primary that runs here is stopped (SIGSTOP): it lets nobody in, and does not end by itself.
    pub frozen: Cell<bool>,
    /// The primary that runs here has had no quorum for a while: what it writes may be on no other member.
    pub isolated: Cell<bool>,
    /// The line of WAL on which the leader leads, as it said last; none while it has not.
    pub leaders_line: RefCell<Option<Lineage>>,
    /// A job wants to replace the data, which must leave the cohort before.
    pub wants_replacing: Cell<bool>,
    /// Whether the data may be replaced now: nobody counts on it.
    pub may_replace: Cell<bool>,
    /// Whether the standby that runs here cannot follow and is to be made again.
    pub replace: Cell<bool>,
}

/// What a member says of itself.
#[derive(Debug, Clone)]
pub struct Report {
    /// When it was made, by [`cellar_system::clock::uptime`].
    pub at: Duration,
    /// What decisions go by.
    pub facts: Facts,
    /// Of a primary: the history of its timeline.
    pub history: String,
    /// The timeline of the data; 0 while that is not known.
    pub timeline: u32,
    /// The database's identity; empty while that is not known.
    pub system_identifier: String,
    /// The transaction id that is given next.
    pub next_xid: Option<u64>,
    /// When the last transaction was committed that a standby has.
    pub last_commit: Option<Timestamp>,
}

impl Availability {
    /// Of a member that has not looked at its instance yet.
    #[must_use]
    pub fn new(kept: KeptFile) -> Self {
        Self {
            kept,
            report: RefCell::default(),
            stop: Cell::new(None),
            hands_over: Cell::new(false),
            frozen: Cell::new(false),
            isolated: Cell::new(false),
            leaders_line: RefCell::default(),
            wants_replacing: Cell::new(false),
            // Until the first look it is not known.
            may_replace: Cell::new(false),
            replace: Cell::new(false),
        }
    }

    /// What this member last said of itself, for whoever asks; none before its first look.
    #[must_use]
    pub fn member_facts(&self) -> Option<MemberFacts> {
        let report = self.report.borrow().clone()?;
        // The loop that makes reports may wait for a promotion: what it said before is that old.
        let facts = Facts { age: clock::uptime().saturating_sub(report.at), ..report.facts };
        let facts = cellar_api::member_facts(&facts, report.timeline, report.system_identifier);
        Some(MemberFacts {
            next_xid: report.next_xid,
            last_commit: report.last_commit.map(Into::into),
            timeline_history: report.history,
            ..facts
        })
    }
}
