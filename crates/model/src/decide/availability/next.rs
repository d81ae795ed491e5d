//! The next guarded write.
//!
//! Members act by the record that they see, so every order is a write of the record: recruit, appoint, establish, and the
//! steps of a cohort. Followers go by it, too ([`super::following`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::backoff::{HOLDS_AFTER, backoff};
use super::cohort::{Change, change};
use super::election::{Shortage, enough, winner};
use super::evidence::{Death, NoEvidence, evidence, others_could_elect};
use super::facts::{Facts, View};
use super::handover::successor;
use super::rules::Rules;
use crate::records::leadership::{Leadership, Phase, Position, Rule, Term};
use crate::types::name::CellName;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// The record is replaced by this one, if it still has the revision that was read.
    Write(Leadership),
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The leader leads, and there is no evidence against it.
    Well(NoEvidence),
    /// There is evidence, but the last attempt did not hold, and its time is not over.
    BackingOff(Death),
    /// Promises are asked for: the leader is dead.
    Recruit(Death),
    /// Too few promises so far.
    Promises(Shortage),
    /// A planned move: enough have promised, and the member that it is for is about to.
    AwaitPromise(CellName),
    /// Enough promises, and this member has most.
    Appoint {
        /// Who wins.
        cell: CellName,
        /// From which position it leads.
        floor: Position,
    },
    /// The leader is back before enough members have promised. The term asked for is spent.
    Reappoint {
        /// The leader.
        cell: CellName,
        /// Its new term.
        term: Term,
    },
    /// The appointed member's term row has its quorum.
    Establish,
    /// The cohort changes.
    Cohort(Change),
    /// The leader's host is about to stop, so the leader is asked to make room for this member.
    Leaves(CellName),
    /// A planned move: the leader has been asked to stop, and has not ended yet.
    AwaitStop(CellName),
    /// A planned move: the leader has stopped, and everybody has all that it wrote.
    HandOver(CellName),
    /// A planned move is given up, and the leader goes on.
    HandoverFailed(CellName),
    /// There is evidence, but a person works on the database.
    Paused(Death),
    /// There is evidence, but quorum commit only begins: what was acknowledged before is known to be on the leader alone.
    Begins(Death),
    /// There is evidence, but too few other members report to elect one of them.
    NobodyToElect(Death),
    /// The record has no rule: nothing can be decided by it.
    NoRule,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Well(why) => write!(f, "no failover: {why}"),
            Self::BackingOff(death) => {
                write!(f, "{death}, but the last failover did not hold: the next one waits")
            }
            Self::Recruit(death) => write!(f, "failover: {death}"),
            Self::Promises(shortage) => {
                write!(f, "nobody can be promoted without losing commits: {shortage}")
            }
            Self::AwaitPromise(to) => {
                write!(f, "enough members have promised, and {to}, which is to lead, has not yet")
            }
            Self::Appoint { cell, floor } => write!(f, "{cell} has most of those that promised: {floor}"),
            Self::Reappoint { cell, term } => {
                write!(f, "{cell} is back before enough members promised: it leads under term {term}")
            }
            Self::Establish => f.write_str("the term row of the appointed member has its quorum"),
            Self::Cohort(change) => change.fmt(f),
            Self::Leaves(to) => write!(f, "the leader's host is about to stop: {to} is to lead"),
            Self::AwaitStop(to) => write!(f, "the leader stops, so that {to} can lead"),
            Self::HandOver(to) => write!(f, "switchover: the leader has stopped, so that {to} can lead"),
            Self::HandoverFailed(to) => {
                write!(f, "the switchover to {to} is given up: it took too long, and the leader goes on")
            }
            Self::Paused(death) => {
                write!(f, "{death}, and no failover begins while the database is paused (`cellar resume`)")
            }
            Self::Begins(death) => {
                write!(
                    f,
                    "{death}, and quorum commit only begins: what was acknowledged before may be on it alone"
                )
            }
            Self::NobodyToElect(death) => {
                write!(f, "{death}, and too few other members report to elect one of them")
            }
            Self::NoRule => f.write_str("the record has no rule to go by"),
        }
    }
}

/// What is to be done, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What.
    pub step: Step,
    /// Why.
    pub why: Reason,
}

impl Decision {
    fn write(record: Leadership, why: Reason) -> Self {
        Self { step: Step::Write(record), why }
    }

    fn wait(why: Reason) -> Self {
        Self { step: Step::Wait, why }
    }
}

/// The next step for a database. Any number of deciders may ask at any time and with old reports; the guard on the record's
/// revision decides who did it.
#[must_use]
pub fn next(rules: Rules, view: &View<'_>) -> Decision {
    let record = view.record;
    let Some(last) = record.rule() else { return Decision::wait(Reason::NoRule) };
    if let Some(to) = &record.handover {
        if view.unchanged >= view.timing.handover && record.phase != Phase::Appointed {
            let after = Leadership { handover: None, ..record.clone() };
            return Decision::write(after, Reason::HandoverFailed(to.clone()));
        }
        if record.phase == Phase::Steady {
            return hand_over(view, to);
        }
    }
    match record.phase {
        Phase::Recruiting => elect(rules, view, last),
        Phase::Appointed if is_established(view) => {
            let steady = Leadership { phase: Phase::Steady, begins: false, ..record.clone() };
            Decision::write(steady, Reason::Establish)
        }
        Phase::Steady | Phase::Appointed => {
            let death = match evidence(view) {
                Ok(death) => death,
                Err(why) => {
                    if let Some(to) = leaves_to(view) {
                        let after = Leadership { handover: Some(to.clone()), ..record.clone() };
                        return Decision::write(after, Reason::Leaves(to));
                    }
                    return match change(rules, view) {
                        Some((change, after)) => Decision::write(after, Reason::Cohort(change)),
                        None => Decision::wait(Reason::Well(why)),
                    };
                }
            };
            recruit(view, death)
        }
    }
}

/// Who is to lead because the leader says that its host is about to stop; none while it does not, or nobody can.
fn leaves_to(view: &View<'_>) -> Option<CellName> {
    // What it said before the last move was given up does not begin the next one.
    let is_new = view.unchanged < view.timing.fresh;
    view.fresh(&view.record.cell).filter(|facts| facts.leaves && facts.leads.is_some() && !is_new)?;
    let fresh: BTreeMap<&CellName, &Facts> =
        view.facts.keys().filter_map(|cell| Some((cell, view.fresh(cell)?))).collect();
    // Which members have copies of logical slots is known from etcd, which may be away.
    successor(view.record, &fresh, None, &BTreeSet::new()).ok()
}

/// Whether the appointed member reports that its term is established. Old reports count: what was committed stays so.
fn is_established(view: &View<'_>) -> bool {
    let leads = view.facts.get(&view.record.cell).and_then(|facts| facts.leads);
    leads.is_some_and(|leads| leads.term == view.record.term && leads.established)
}

/// The leader was asked to make room. Its death is a failover like any other; what it says of its own stop is no evidence, and
/// need not be: a failover from a leader that lives loses nothing.
fn hand_over(view: &View<'_>, to: &CellName) -> Decision {
    let record = view.record;
    let has_stopped = view
        .fresh(&record.cell)
        .is_some_and(|facts| facts.leads.is_none() && facts.instance == super::facts::Instance::Stopped);
    if has_stopped {
        let after = Leadership {
            phase: Phase::Recruiting,
            term: next_term(view),
            floor: None,
            attempts: 0,
            ..record.clone()
        };
        return Decision::write(after, Reason::HandOver(to.clone()));
    }
    match evidence(view) {
        Ok(death) => recruit(view, death),
        Err(_) => Decision::wait(Reason::AwaitStop(to.clone())),
    }
}

/// A term that nobody was given: members may know of more than a record that was put back.
pub(super) fn next_term(view: &View<'_>) -> Term {
    let begun = view.facts.values().filter_map(|facts| facts.begun.map(|(term, _)| term));
    let known = view.facts.values().map(|facts| facts.promised).chain(begun);
    known.fold(view.record.term, Term::max).next()
}

fn recruit(view: &View<'_>, death: Death) -> Decision {
    if view.paused {
        return Decision::wait(Reason::Paused(death));
    }
    if view.record.begins {
        return Decision::wait(Reason::Begins(death));
    }
    // An instance that ended or stands still promises nothing: it would only lose its term, also where it comes back.
    let can_promise = !matches!(death, Death::Gone | Death::Frozen | Death::Hung);
    if !can_promise && !others_could_elect(view) {
        return Decision::wait(Reason::NobodyToElect(death));
    }
    let record = view.record;
    let has_held = record.phase == Phase::Steady && view.in_phase >= HOLDS_AFTER;
    let attempts = if has_held { 0 } else { record.attempts };
    if view.in_phase < backoff(attempts) {
        return Decision::wait(Reason::BackingOff(death));
    }
    let after = Leadership {
        phase: Phase::Recruiting,
        term: next_term(view),
        floor: None,
        attempts: attempts.saturating_add(1),
        ..record.clone()
    };
    Decision::write(after, Reason::Recruit(death))
}

fn elect(rules: Rules, view: &View<'_>, last: &Rule) -> Decision {
    let record = view.record;
    let shortage = match enough(rules, view) {
        Ok(()) => {
            if let Some(to) = awaited(view) {
                return Decision::wait(Reason::AwaitPromise(to.clone()));
            }
            if let Some((cell, floor)) = winner(rules, view) {
                return appoint(view, last, cell, floor);
            }
            return Decision::wait(Reason::AwaitPromise(record.cell.clone()));
        }
        Err(shortage) => shortage,
    };
    // The leader of an unbroken term has everything that was acknowledged: nobody else could acknowledge since.
    // What it said before it was missed is not its return.
    let said = view.fresh(&record.cell).filter(|facts| facts.age < view.timing.refused);
    let back = said.filter(|facts| {
        facts.leads.is_some_and(|leads| leads.term >= record.since && leads.term <= record.held)
            && evidence(view).is_err()
    });
    match back {
        Some(facts) => {
            let term = next_term(view);
            let after = Leadership {
                phase: Phase::Appointed,
                term,
                held: term,
                floor: Some(facts.position),
                ..record.clone()
            };
            Decision::write(after, Reason::Reappoint { cell: record.cell.clone(), term })
        }
        None => Decision::wait(Reason::Promises(shortage)),
    }
}

/// The member that a planned move is for, while it reports and has only been slower to promise than others: all that streamed
/// have the same. It is waited for as long as its silence would take to be noticed.
fn awaited<'a>(view: &View<'a>) -> Option<&'a CellName> {
    let to = view.record.handover.as_ref().filter(|_| view.in_phase < view.timing.silence)?;
    let facts = view.fresh(to)?;
    (facts.promised < view.record.term || facts.receives).then_some(to)
}

fn appoint(view: &View<'_>, last: &Rule, cell: &CellName, floor: Position) -> Decision {
    let record = view.record;
    let mut list = record.rules.clone();
    // A primary outside of its cohort would acknowledge with k copies, not k+1.
    let copy = view.facts.get(cell).map(|facts| facts.copy).filter(|copy| !last.has(cell, *copy));
    if let Some(copy) = copy {
        let cohort = last.cohort.clone().into_iter().chain([(cell.clone(), copy)]).collect();
        list.push(Rule::of(last.number.saturating_add(1), cohort));
    }
    let after = Leadership {
        phase: Phase::Appointed,
        cell: cell.clone(),
        held: record.term,
        since: record.term,
        floor: Some(floor),
        rules: list,
        handover: None,
        ..record.clone()
    };
    Decision::write(after, Reason::Appoint { cell: cell.clone(), floor })
}
