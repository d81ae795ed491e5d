//! What a primary may acknowledge.

use std::collections::BTreeMap;
use std::fmt;

use super::facts::{Facts, Leading};
use super::rules::Rules;
use crate::records::leadership::{CopyNumber, Leadership, Rule};
use crate::types::lsn::Lsn;
use crate::types::name::CellName;

/// What a primary's `synchronous_standby_names` lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Its term row is not written: the setting names nobody, so that every commit waits.
    NoRow,
    /// Its term row has not reached its quorum: the setting names nobody still.
    RowAwaitsQuorum,
    /// Its settings hold no rule that it could go by.
    NoRule,
    /// Commits up to this position have their quorum.
    Open {
        /// The position.
        committed: Lsn,
    },
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRow => f.write_str("its term row is not written, so nothing is acknowledged"),
            Self::RowAwaitsQuorum => {
                f.write_str("its term row waits for its quorum, so nothing is acknowledged")
            }
            Self::NoRule => f.write_str("it has no rule to acknowledge by, so nothing is acknowledged"),
            Self::Open { committed } => write!(f, "commits up to {committed} are acknowledged"),
        }
    }
}

/// How far a primary may acknowledge, given what the standbys that are connected under its term have flushed.
///
/// A promoted standby's sessions can write at once, before the pooler's term row. Such a commit lies in the WAL before the
/// row, so it counts for the term of before; acknowledged, it would lose an election against a longer log of that term.
/// Therefore a promoted member's setting names nobody until k members of the cohort have flushed its row; only then its
/// pooler puts the rule in.
#[must_use]
pub fn gate(
    rules: Rules,
    cell: &CellName,
    leads: &Leading,
    rule: &Rule,
    flushed: &BTreeMap<(CellName, CopyNumber), Lsn>,
) -> Gate {
    let is_alone = rule.is_of_one() && rule.cohort.contains_key(cell);
    if rule.number != leads.rule || (rule.k == 0 && !is_alone) {
        return Gate::NoRule;
    }
    let row = match leads.row {
        Some(row) => row,
        None if rules.term_row_first => return Gate::NoRow,
        None => Lsn::new(0),
    };
    if is_alone {
        return Gate::Open { committed: row };
    }
    let counts = |(at, copy): &(CellName, CopyNumber)| {
        at != cell && (rule.has(at, *copy) || (!rules.amnesia && rule.cohort.contains_key(at)))
    };
    let mut positions: Vec<Lsn> =
        flushed.iter().filter(|(standby, _)| counts(standby)).map(|(_, lsn)| *lsn).collect();
    positions.sort_unstable_by(|a, b| b.cmp(a));
    match positions.get(rule.k as usize - 1) {
        Some(committed) if *committed >= row || !rules.term_row_first => Gate::Open { committed: *committed },
        _ => Gate::RowAwaitsQuorum,
    }
}

/// The rule that a leader's settings shall hold: the one to reach. None when it has it, or knows a later one.
///
/// The record that a member knows may be an old one. Back to an older rule would be to acknowledge by one that no election
/// asks for any more.
#[must_use]
pub fn rule_to_hold<'a>(facts: &Facts, record: &'a Leadership) -> Option<&'a Rule> {
    let leads = facts.leads?;
    let is_own = leads.term >= record.since && leads.term <= record.held;
    record.rule().filter(|rule| is_own && rule.number > leads.rule)
}
