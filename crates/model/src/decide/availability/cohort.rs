//! The steps in which the cohort changes.
//!
//! PostgreSQL has no setting by which two rules hold at once. So the record keeps both: elections need enough promises under
//! each, and the primary moves from one to the other. When a commit that it made under the new rule has its quorum, so has
//! everything before, and the old rule goes.

use std::collections::BTreeMap;
use std::fmt;

use super::facts::{Leading, View};
use super::rules::Rules;
use crate::records::leadership::{CopyNumber, Leadership, Phase, Rule};
use crate::types::name::CellName;

/// Rules that may be in the record at once. The change that would make more waits.
const MAX_RULES: usize = 4;

/// The fewest members that a change leaves: a primary alone would acknowledge what no other disk has.
const MIN_MEMBERS: usize = 2;

/// A step of a change of the cohort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new rule is put beside the others.
    Begin {
        /// Cells whose copies come in.
        joins: Vec<CellName>,
        /// Cells whose copies go.
        leaves: Vec<CellName>,
    },
    /// Only the last rule stays.
    Settle {
        /// Its number.
        number: u32,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |cells: &[CellName]| {
            let names: Vec<&str> = cells.iter().map(CellName::as_str).collect();
            if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
        };
        match self {
            Self::Begin { joins, leaves } => {
                write!(f, "{} joins the cohort and {} leaves", list(joins), list(leaves))
            }
            Self::Settle { number } => write!(f, "rule {number} has its quorum, and those before it go"),
        }
    }
}

/// The next step of a change of the cohort, if one is due, and the record after it.
pub(super) fn change(rules: Rules, view: &View<'_>) -> Option<(Change, Leadership)> {
    let record = view.record;
    let leader = view.facts.get(&record.cell)?;
    let leads = leader.leads.filter(|leads| leads.term == record.term)?;
    if record.phase == Phase::Recruiting {
        return None;
    }
    settle(rules, record, &leads).or_else(|| begin(rules, view))
}

/// Drops the rules before the one that the leader holds, once that covers everything. The report may be an old one: what it
/// says of a rule by its number stays true, for the leader never goes back to a lower one.
fn settle(rules: Rules, record: &Leadership, leads: &Leading) -> Option<(Change, Leadership)> {
    let last = record.rule()?;
    // Without the number, a report that some change has settled is taken for one of this change.
    let is_settled = leads.settled && (leads.rule == last.number || !rules.numbered_rules);
    (record.rules.len() > 1 && is_settled).then(|| {
        let after = Leadership { rules: vec![last.clone()], ..record.clone() };
        (Change::Settle { number: last.number }, after)
    })
}

/// Puts a new rule beside the others: without the copies that are gone or want to leave, and with those that have caught up.
fn begin(rules: Rules, view: &View<'_>) -> Option<(Change, Leadership)> {
    let record = view.record;
    let last = record.rule()?;
    let leader = view.fresh(&record.cell)?;
    let mut cohort: BTreeMap<CellName, CopyNumber> =
        last.cohort.iter().filter(|(cell, copy)| stays(view, cell, **copy)).map(own).collect();
    for (cell, facts) in view.facts.iter().filter(|(cell, _)| view.wanted.contains(*cell)) {
        let has_caught_up = streams(view, cell, facts.copy)
            && !facts.needs_replacing
            // The position of the primary at this moment, or of a moment before it.
            && facts.position >= leader.position;
        if has_caught_up {
            cohort.insert(cell.clone(), facts.copy);
        }
    }
    if cohort == last.cohort || cohort.len() < MIN_MEMBERS.min(last.cohort.len()) {
        return None;
    }
    let missing = |of: &BTreeMap<CellName, CopyNumber>, from: &BTreeMap<CellName, CopyNumber>| {
        of.iter()
            .filter(|(cell, copy)| from.get(*cell) != Some(*copy))
            .map(|(cell, _)| cell.clone())
            .collect()
    };
    let joins: Vec<CellName> = missing(&cohort, &last.cohort);
    let leaves: Vec<CellName> = missing(&last.cohort, &cohort);
    // Under an appointed leader only what gets it its quorum: somebody must come in.
    if record.rules.len() >= MAX_RULES || (record.phase == Phase::Appointed && joins.is_empty()) {
        return None;
    }
    let new = Rule::of(last.number.saturating_add(1), cohort);
    // Under a rule without a quorum every commit would wait.
    let streaming = new.cohort.iter().filter(|(cell, copy)| streams(view, cell, **copy)).count();
    if streaming < new.k as usize {
        return None;
    }
    let kept = if rules.cohort_steps { record.rules.clone() } else { Vec::new() };
    let after = Leadership { rules: kept.into_iter().chain([new]).collect(), ..record.clone() };
    Some((Change::Begin { joins, leaves }, after))
}

/// Whether that copy receives from the leader under its term now.
fn streams(view: &View<'_>, cell: &CellName, copy: CopyNumber) -> bool {
    let from = (view.record.cell.clone(), view.record.term);
    view.fresh(cell).is_some_and(|facts| facts.copy == copy && facts.follows.as_ref() == Some(&from))
}

fn own((cell, copy): (&CellName, &CopyNumber)) -> (CellName, CopyNumber) {
    (cell.clone(), *copy)
}

/// Whether a copy stays in the cohort. The leader does; a silent member does, since nobody knows anything of it.
fn stays(view: &View<'_>, cell: &CellName, copy: CopyNumber) -> bool {
    if *cell == view.record.cell {
        return true;
    }
    let is_gone = view.fresh(cell).is_some_and(|facts| facts.copy != copy || facts.needs_replacing);
    view.wanted.contains(cell) && !is_gone
}
