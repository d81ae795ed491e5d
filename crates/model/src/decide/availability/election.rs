//! Whether the promises are enough, and who wins.

use std::cmp::Reverse;
use std::fmt;

use super::facts::{Facts, View};
use super::rules::Rules;
use crate::records::leadership::{Position, Rule};
use crate::types::name::CellName;

/// How many members of a cohort must promise: N-k, which is n-k+1 of the n = N-1 standbys.
///
/// Every acknowledged commit is on the primary and k more, so one of any N-k members has it. And of the members that have
/// not promised at most k are left, the primary among them, so that k-1 standbys could still acknowledge for it. A primary
/// that has itself promised leads no more, and then counts as any other.
#[must_use]
pub fn needed(rule: &Rule) -> usize {
    rule.cohort.len().saturating_sub(rule.k as usize)
}

/// Too few promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Of the cohort of the rule with this number.
    pub rule: u32,
    /// Members that have promised.
    pub have: Vec<CellName>,
    /// How many must.
    pub need: usize,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.have.iter().map(CellName::as_str).collect();
        let names = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
        write!(f, "{} promises are needed, and {names} promised", self.need)
    }
}

/// Whether what a member reports is a promise to follow no term below the record's. It counts however old the report is: a
/// promise is never taken back.
fn has_promised(view: &View<'_>, facts: &Facts) -> bool {
    facts.promised >= view.record.term && !facts.receives && facts.leads.is_none()
}

/// The members whose promise counts under a rule.
fn promised<'a>(
    rules: Rules,
    view: &View<'a>,
    rule: &'a Rule,
) -> impl Iterator<Item = (&'a CellName, &'a Facts)> {
    let view = *view;
    rule.cohort.iter().filter_map(move |(cell, copy)| {
        let facts = view.facts.get(cell)?;
        let is_the_copy = facts.copy == *copy || !rules.amnesia;
        (is_the_copy && has_promised(&view, facts)).then_some((cell, facts))
    })
}

/// Whether enough members have promised, under every rule by which a commit may have been acknowledged.
///
/// # Errors
/// The first rule under which there are too few.
pub fn enough(rules: Rules, view: &View<'_>) -> Result<(), Shortage> {
    if view.record.rules.is_empty() {
        return Err(Shortage { rule: 0, have: Vec::new(), need: 1 });
    }
    for rule in &view.record.rules {
        let need = needed(rule).saturating_sub(usize::from(!rules.enough_promises)).max(1);
        let have: Vec<CellName> = promised(rules, view, rule).map(|(cell, _)| cell.clone()).collect();
        if have.len() < need {
            return Err(Shortage { rule: rule.number, have, need });
        }
    }
    Ok(())
}

/// The member that wins: the highest (term, LSN), so that it has all that was acknowledged; among equals one of the rule to
/// reach, then by preference, then by name. As long as a rule only begins, none but the member that it begins with: others may
/// lack what was acknowledged before.
#[must_use]
pub fn winner<'a>(rules: Rules, view: &View<'a>) -> Option<(&'a CellName, Position)> {
    let record = view.record;
    let all = record.rules.iter().flat_map(|rule| promised(rules, view, rule));
    let all = all.filter(|(cell, _)| !record.begins || **cell == record.cell);
    let order = |position: Position| {
        // Without the rule: the longest log, as if all logs had one history.
        (rules.term_before_lsn.then_some(position.term), position.lsn)
    };
    all.max_by_key(|(cell, facts)| {
        let is_asked_for = view.record.handover.as_ref() == Some(*cell);
        let preferred = view.preference.iter().position(|name| name == *cell).unwrap_or(usize::MAX);
        let is_in_last = view.record.rule().is_some_and(|rule| rule.has(cell, facts.copy));
        (order(facts.position), is_in_last, is_asked_for, Reverse(preferred), Reverse(*cell))
    })
    .map(|(cell, facts)| (cell, facts.position))
}
