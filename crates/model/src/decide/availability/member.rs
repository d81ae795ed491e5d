//! What a member may do. It decides by what it knows durably, so that it is right with a record that is old.

use std::fmt;
use std::time::Duration;

use super::facts::{Facts, Timing};
use super::rules::Rules;
use crate::records::leadership::{CopyNumber, Leadership, Phase, Position, Term};
use crate::types::name::CellName;

/// Why a member does not do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Nobody asked for it.
    NotAsked,
    /// It promised to follow no term below this one.
    Promised(Term),
    /// Its copy of the data is in no cohort: it does not have what the copy before it acknowledged.
    Stranger,
    /// It runs as a primary.
    Leads,
    /// Its data ends before the floor.
    BelowFloor {
        /// Where it is.
        at: Position,
        /// Where it must be.
        floor: Position,
    },
    /// It has begun this term with data that it has no more.
    Begun,
    /// WAL still comes in.
    Receives,
    /// It has WAL that the leader lacks, or the leader's is not known: it would have to be rewound.
    InUse,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("the record does not ask for it"),
            Self::Promised(term) => write!(f, "it promised to follow no term below {term}"),
            Self::Stranger => f.write_str("its copy of the data is in no cohort"),
            Self::Leads => f.write_str("it runs as a primary"),
            Self::BelowFloor { at, floor } => {
                write!(f, "its data ends at {at}, and the appointment asks for {floor}")
            }
            Self::Begun => f.write_str("it began this term with another copy of the data"),
            Self::Receives => f.write_str("WAL still comes in"),
            Self::InUse => {
                f.write_str("its copy of the data is in a cohort, and the leader does without another one")
            }
        }
    }
}

/// The next step of a member that is asked to promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromiseStep {
    /// Make the promise durable: synced outside of the data directory, and in PostgreSQL's own settings.
    Keep(Term),
    /// Stop the walreceiver and every `restore_command`, then replay what is there.
    StopReceiving,
    /// Report promise and position.
    Report(Term),
}

/// What a member does that is asked for a promise: first the promise, then it stops receiving, then it reports.
///
/// # Errors
/// When nobody asks, or it must not.
pub fn may_promise(
    rules: Rules,
    cell: &CellName,
    facts: &Facts,
    record: &Leadership,
) -> Result<PromiseStep, Refused> {
    if record.phase != Phase::Recruiting {
        return Err(Refused::NotAsked);
    }
    if facts.promised > record.term {
        return Err(Refused::Promised(facts.promised));
    }
    if rules.amnesia && !record.has(cell, facts.copy) {
        return Err(Refused::Stranger);
    }
    if facts.leads.is_some() {
        return Err(Refused::Leads);
    }
    Ok(if rules.durable_promise && facts.promised < record.term {
        PromiseStep::Keep(record.term)
    } else if facts.receives {
        PromiseStep::StopReceiving
    } else {
        PromiseStep::Report(record.term)
    })
}

/// Whether a standby may receive from a primary of that term. It keeps the term as a promise, durably, before it begins.
///
/// # Errors
/// When it has promised to follow no such term.
pub fn may_follow(facts: &Facts, term: Term) -> Result<Term, Refused> {
    match facts {
        Facts { leads: Some(_), .. } => Err(Refused::Leads),
        Facts { promised, .. } if *promised > term => Err(Refused::Promised(*promised)),
        _ => Ok(term),
    }
}

/// Whom a standby shall follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// That cell, under that term: `primary_conninfo` names it, by reload.
    Follow(CellName, Term),
    /// As it does now.
    Stay,
    /// Nobody: it has promised, and nobody is appointed.
    Nobody,
}

/// Whom a member follows by this record.
#[must_use]
pub fn following(cell: &CellName, facts: &Facts, record: &Leadership) -> Whom {
    let new = (record.cell.clone(), record.held);
    if record.cell == *cell || facts.leads.is_some() {
        return Whom::Stay;
    }
    match may_follow(facts, record.held) {
        Ok(_) if facts.follows.as_ref() == Some(&new) => Whom::Stay,
        Ok(_) => Whom::Follow(new.0, new.1),
        // Its promise is for a term that is not given yet, or the record is an old one.
        Err(_) if record.phase == Phase::Recruiting && facts.promised >= record.term => Whom::Nobody,
        Err(_) => Whom::Stay,
    }
}

/// How an appointed member takes its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// It keeps durably that it begins the term, and with which copy; that is a promise, too. Then it promotes.
    Promote(Term),
    /// It runs as the primary of an unbroken term already: it keeps the same durably, and writes the row of the new term.
    Continue(Term),
}

/// Whether a member may lead under the term of an appointment, which may be an old one.
///
/// # Errors
/// When it must not.
pub fn may_promote(
    rules: Rules,
    cell: &CellName,
    facts: &Facts,
    record: &Leadership,
) -> Result<Taking, Refused> {
    if record.phase != Phase::Appointed || record.cell != *cell {
        return Err(Refused::NotAsked);
    }
    if facts.promised > record.term {
        return Err(Refused::Promised(facts.promised));
    }
    match record.floor {
        Some(floor) if rules.floor && facts.position < floor => {
            return Err(Refused::BelowFloor { at: facts.position, floor });
        }
        Some(_) => {}
        None => return Err(Refused::NotAsked),
    }
    // The floor is what it had when it was appointed. What it has acknowledged since is in no other copy of its data.
    let has_begun = |(term, copy): (Term, CopyNumber)| term == record.term && copy != facts.copy;
    if rules.begun_once && facts.begun.is_some_and(has_begun) {
        return Err(Refused::Begun);
    }
    match facts.leads {
        Some(leads) if leads.term >= record.term => Err(Refused::Leads),
        Some(leads) if leads.term >= record.since => Ok(Taking::Continue(record.term)),
        // It was deposed in between.
        Some(_) => Err(Refused::Leads),
        None if facts.receives => Err(Refused::Receives),
        None => Ok(Taking::Promote(record.term)),
    }
}

/// Why a primary stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A higher term was given to another member.
    Deposed(Term),
    /// It has itself promised a higher term.
    Promised(Term),
    /// It saw neither etcd nor its quorum for too long: what it shows to readers may be old.
    CutOff,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deposed(term) => write!(f, "another member was given term {term}"),
            Self::Promised(term) => write!(f, "it promised to follow no term below {term}"),
            Self::CutOff => f.write_str("it sees neither etcd nor its quorum"),
        }
    }
}

/// Whether a primary must stop at once. `record` is the last that it knows, `etcd` how long ago it last heard of etcd and
/// `quorum` how long ago it last had its quorum, both by its own monotonic clock.
///
/// A term that is only asked for deposes nobody: the primary goes on while it has its quorum, and is appointed again.
#[must_use]
pub fn must_stop(
    cell: &CellName,
    facts: &Facts,
    record: &Leadership,
    etcd: Duration,
    quorum: Duration,
    timing: &Timing,
) -> Option<Stop> {
    let leads = facts.leads?;
    let is_own = record.cell == *cell && record.since <= leads.term;
    let is_deposed = record.held > leads.term && !is_own;
    if is_deposed {
        Some(Stop::Deposed(record.held))
    } else if facts.promised > leads.term {
        Some(Stop::Promised(facts.promised))
    } else if etcd >= timing.fence_after && quorum >= timing.fence_after {
        Some(Stop::CutOff)
    } else {
        None
    }
}
