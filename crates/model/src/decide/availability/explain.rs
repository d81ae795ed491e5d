//! What would happen at each loss, by the same functions that decide when it happens.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::facts::{Facts, Instance, Link, Sight, View};
use super::next::{Decision, Reason, Step, next};
use super::rules::Rules;
use crate::records::leadership::{Leadership, Phase, Position};
use crate::types::name::CellName;

/// What is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// These cells, whole.
    Cells(Vec<CellName>),
    /// etcd.
    Etcd,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cells(cells) => {
                let names: Vec<&str> = cells.iter().map(CellName::as_str).collect();
                f.write_str(&names.join(" and "))
            }
            Self::Etcd => f.write_str("etcd"),
        }
    }
}

/// What would come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The leader goes on.
    GoesOn,
    /// The leader goes on, and nobody can be promoted meanwhile.
    GoesOnWithoutFailover,
    /// The leader stays, and commits wait until this many more standbys stream.
    WritesWait {
        /// How many are missing.
        missing: usize,
    },
    /// This member is promoted.
    Promoted {
        /// Who.
        cell: CellName,
        /// From where it leads.
        floor: Position,
        /// So many standbys are missing for its first commit; it waits for them.
        missing: usize,
    },
    /// Nobody is promoted, for this reason.
    Nobody(Reason),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GoesOn => f.write_str("the primary goes on"),
            Self::GoesOnWithoutFailover => {
                f.write_str("the primary goes on, and nobody can be promoted meanwhile")
            }
            Self::WritesWait { missing } => write!(f, "writes wait until {missing} more standbys stream"),
            Self::Promoted { cell, floor, missing: 0 } => write!(f, "{cell} is promoted ({floor})"),
            Self::Promoted { cell, missing, .. } => {
                write!(f, "{cell} is promoted, and writes wait until {missing} more standbys stream")
            }
            Self::Nobody(why) => write!(f, "nobody is promoted: {why}"),
        }
    }
}

/// For each loss of one cell, of two, and of etcd: what would come of it now. A member that does not report now is lost
/// in every case. For a database whose leader leads; while it has none [`next()`] says why.
#[must_use]
pub fn explain(rules: Rules, view: &View<'_>) -> Vec<(Loss, Outcome)> {
    let cells: Vec<&CellName> = view.members().into_keys().collect();
    let single = cells.iter().map(|cell| vec![(*cell).clone()]);
    let pairs = cells
        .iter()
        .enumerate()
        .flat_map(|(at, one)| cells[at + 1..].iter().map(|other| vec![(*one).clone(), (*other).clone()]));
    let of_cells = single.chain(pairs).map(|lost| {
        let outcome = without(rules, view, &lost);
        (Loss::Cells(lost), outcome)
    });
    let etcd = match missing_now(view, &BTreeSet::new()) {
        0 => Outcome::GoesOnWithoutFailover,
        missing => Outcome::WritesWait { missing },
    };
    of_cells.chain([(Loss::Etcd, etcd)]).collect()
}

/// How many standbys the present leader would lack: those that stream from it count.
fn missing_now(view: &View<'_>, lost: &BTreeSet<&CellName>) -> usize {
    let Some(rule) = view.record.rule() else { return 0 };
    let from = (view.record.cell.clone(), view.record.held);
    let have = rule.cohort.iter().filter(|(cell, copy)| {
        !lost.contains(cell)
            && view
                .fresh(cell)
                .is_some_and(|facts| facts.copy == **copy && facts.follows.as_ref() == Some(&from))
    });
    (rule.k as usize).saturating_sub(have.count())
}

/// How many standbys a leader would lack that are needed for a commit under the rule to reach.
fn missing(view: &View<'_>, leader: &CellName, lost: &BTreeSet<&CellName>) -> usize {
    let Some(rule) = view.record.rule() else { return 0 };
    let have = rule.cohort.iter().filter(|(cell, copy)| {
        *cell != leader
            && !lost.contains(cell)
            && view.fresh(cell).is_some_and(|facts| {
                facts.copy == **copy && facts.instance == Instance::Runs && !facts.needs_replacing
            })
    });
    (rule.k as usize).saturating_sub(have.count())
}

fn without(rules: Rules, view: &View<'_>, lost: &[CellName]) -> Outcome {
    let lost: BTreeSet<&CellName> = lost.iter().collect();
    if !lost.contains(&view.record.cell) {
        return match missing_now(view, &lost) {
            0 => Outcome::GoesOn,
            missing => Outcome::WritesWait { missing },
        };
    }
    // First the evidence, then the promises, each by what the members that are left would report.
    let left = |change: &dyn Fn(&CellName, &mut Facts)| -> BTreeMap<CellName, Facts> {
        let reporting =
            view.facts.iter().filter(|(cell, _)| !lost.contains(cell) && view.fresh(cell).is_some());
        reporting
            .map(|(cell, facts)| {
                let mut facts = facts.clone();
                change(cell, &mut facts);
                (cell.clone(), facts)
            })
            .collect()
    };
    let silent = Link::Silent { since: view.timing.silence };
    let of = || view.record.cell.clone();
    let alone = left(&|_, facts| {
        facts.sees = Some(Sight { of: of(), stream: silent, new_wal: None, pooler: silent, refused: false });
    });
    // As if no move were planned: what is lost ends it.
    let settled = Leadership { handover: None, ..view.record.clone() };
    let recruiting = match next(
        rules,
        &View { record: &settled, facts: &alone, unchanged: Duration::MAX, in_phase: Duration::MAX, ..*view },
    ) {
        Decision { step: Step::Write(record), .. } if record.phase == Phase::Recruiting => record,
        Decision { why, .. } => return Outcome::Nobody(why),
    };
    let promising = left(&|cell, facts| promise(&recruiting, cell, facts));
    match next(rules, &View { record: &recruiting, facts: &promising, ..*view }) {
        Decision { why: Reason::Appoint { cell, floor }, .. } => {
            let missing = missing(view, &cell, &lost);
            Outcome::Promoted { cell, floor, missing }
        }
        Decision { why, .. } => Outcome::Nobody(why),
    }
}

/// What a member reports once it has promised.
fn promise(record: &Leadership, cell: &CellName, facts: &mut Facts) {
    let can = matches!(facts.instance, Instance::Runs | Instance::Saturated) && record.has(cell, facts.copy);
    if can && facts.promised <= record.term && facts.leads.is_none() {
        facts.promised = record.term;
        facts.receives = false;
    }
}
