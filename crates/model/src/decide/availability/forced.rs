//! A failover that a person asks for: where too few members are left to decide by themselves, or while the database is paused.
//!
//! The election is the same. When too few members are left to promise, the cohort is cut down to those that are: then one of
//! them leads, and what only the others have is lost. That is for a person to accept, and it is the one step that the
//! argument of the protocol does not cover: whatever the others acknowledge among themselves from now on, out of reach of etcd,
//! is lost, too.

use std::collections::BTreeMap;
use std::fmt;

use super::election::needed;
use super::evidence::evidence;
use super::facts::{Facts, Instance, View};
use super::next::next_term;
use crate::records::leadership::{CopyNumber, Leadership, Phase, Position, Rule};
use crate::types::name::CellName;

/// What a person's failover would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forced {
    /// The record that begins it.
    pub record: Leadership,
    /// The member that is to lead, and what it has.
    pub position: Position,
    /// The members that take part, it included.
    pub takes_part: Vec<CellName>,
    /// The members that do not: silent, or without an instance that runs.
    pub missing: Vec<CellName>,
    /// Acknowledged commits may be on missing members alone.
    pub may_lose: bool,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CannotForce {
    /// The recorded leader leads, and there is no evidence against it.
    LeaderLeads,
    /// The member is the recorded leader.
    IsLeader,
    /// The member does not report, or its instance does not run.
    Missing,
    /// Its data is in no cohort: it was replaced, and has not caught up since.
    Stranger,
    /// Another member that takes part has more.
    Behind {
        /// Which one.
        best: CellName,
    },
}

impl fmt::Display for CannotForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaderLeads => f.write_str("the primary is well"),
            Self::IsLeader => f.write_str("it is the recorded primary"),
            Self::Missing => f.write_str("it does not report, or its PostgreSQL does not run"),
            Self::Stranger => f.write_str("its data was replaced and has not caught up since"),
            Self::Behind { best } => write!(f, "{best} has more"),
        }
    }
}

/// The failover to `to` that a person asks for.
///
/// # Errors
/// When it is not needed, or that member is not the one to take.
pub fn forced(view: &View<'_>, to: &CellName) -> Result<Forced, CannotForce> {
    let record = view.record;
    if record.cell == *to {
        return Err(CannotForce::IsLeader);
    }
    let leads = view.fresh(&record.cell).is_some_and(|facts| facts.leads.is_some());
    if leads && evidence(view).is_err() {
        return Err(CannotForce::LeaderLeads);
    }
    let can = |facts: &Facts| {
        facts.leads.is_none() && matches!(facts.instance, Instance::Runs | Instance::Saturated)
    };
    let left: BTreeMap<&CellName, &Facts> = view
        .facts
        .keys()
        .filter_map(|cell| Some((cell, view.fresh(cell)?)))
        .filter(|(_, facts)| can(facts))
        .collect();
    let chosen = left.get(to).ok_or(CannotForce::Missing)?;
    let members = view.members();
    let cohort: BTreeMap<CellName, CopyNumber> = left
        .iter()
        .filter(|(cell, facts)| members.get(**cell) == Some(&facts.copy))
        .map(|(cell, facts)| ((*cell).clone(), facts.copy))
        .collect();
    if !cohort.contains_key(to) {
        return Err(CannotForce::Stranger);
    }
    let best = cohort.keys().max_by_key(|cell| left[*cell].position);
    if let Some(best) = best.filter(|best| left[*best].position > chosen.position) {
        return Err(CannotForce::Behind { best: best.clone() });
    }
    // As long as quorum commit only begins, what was acknowledged before may be on the leader alone.
    let too_few = record.rules.iter().any(|rule| {
        rule.cohort.iter().filter(|(cell, copy)| cohort.get(*cell) == Some(*copy)).count() < needed(rule)
    });
    let may_lose = record.begins || too_few;
    let missing = members.into_keys().filter(|cell| !cohort.contains_key(*cell)).cloned().collect();
    let takes_part = cohort.keys().cloned().collect();
    let asked = Leadership {
        phase: Phase::Recruiting,
        term: next_term(view),
        floor: None,
        attempts: 0,
        ..record.clone()
    };
    let after = if may_lose {
        // Given to nobody before, and never begun: whoever led until now is deposed by it, should it come back. The new rule
        // begins with the member that was chosen: what it has is not in the others that are left.
        let deposing = asked.term;
        Leadership {
            term: deposing.next(),
            cell: to.clone(),
            held: deposing,
            since: deposing,
            rules: vec![Rule::of(record.rule().map_or(0, |rule| rule.number).saturating_add(1), cohort)],
            handover: None,
            begins: true,
            ..asked
        }
    } else {
        Leadership { handover: Some(to.clone()), ..asked }
    };
    Ok(Forced { record: after, position: chosen.position, takes_part, missing, may_lose })
}
