//! Quorum commit and failover, on the side of one member.
//!
//! Members act by the record that multiadmin writes, and by what they keep durably themselves. What may be done is decided
//! in [`cellar_model::availability`]; here it is looked at and done. Nothing of this runs for a database without quorum commit.
//!
//! | file | what is in it |
//! |---|---|
//! | `kept` | what a member must not forget: its promise, its term, which copy of the data it has |
//! | `member` | the loop that looks, reports and acts |
//! | `heartbeat` | whether the leader's multipooler answers |
//! | `canary` | a commit a second that waits for the quorum |
//! | `settings` | what PostgreSQL is told: whom to follow, who acknowledges |

pub(crate) mod canary;
pub(crate) mod heartbeat;
pub(crate) mod kept;
pub(crate) mod member;
pub(crate) mod settings;

use std::cell::{Cell, RefCell};

use cellar_model::Leadership;
use cellar_model::availability::{Facts, Stop};

use crate::agent::Agent;
use crate::availability::kept::KeptFile;
use crate::instance::incarnation;

/// What the parts of the agent tell each other about it.
#[derive(Debug)]
pub(crate) struct Availability {
    /// What must not be forgotten.
    pub(crate) kept: KeptFile,
    /// The last report; none while the database has no quorum commit.
    pub(crate) report: RefCell<Option<Report>>,
    /// Why the primary that runs here must stop.
    pub(crate) stop: Cell<Option<Stop>>,
    /// A job wants to replace the data, which must leave the cohort before.
    pub(crate) wants_replacing: Cell<bool>,
    /// Whether the data may be replaced now: nobody counts on it.
    pub(crate) may_replace: Cell<bool>,
}

/// What a member says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// What decisions go by.
    pub(crate) facts: Facts,
    /// The timeline of the data; 0 while that is not known.
    pub(crate) timeline: u32,
    /// The database's identity; empty while that is not known.
    pub(crate) system_identifier: String,
}

impl Availability {
    pub(crate) fn new(kept: KeptFile) -> Self {
        Self {
            kept,
            report: RefCell::default(),
            stop: Cell::new(None),
            wants_replacing: Cell::new(false),
            // Until the first look it is not known.
            may_replace: Cell::new(false),
        }
    }
}

/// The record by which this member acts; none while the database has no quorum commit.
pub(crate) fn governing(agent: &Agent) -> Option<Leadership> {
    let number = incarnation::record(agent).number;
    let view = agent.mirror.view();
    let durability = view.databases.get(&agent.database)?.durability;
    view.leaders.get(&agent.database)?.governed_by(durability, number).cloned()
}

/// Whether this member's data is that of the leader, by what it began last.
pub(crate) fn is_led_here(agent: &Agent, leadership: &Leadership) -> bool {
    leadership.is_led_by(&agent.cell, agent.availability.kept.own_term())
}
