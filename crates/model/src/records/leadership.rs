//! Who leads a database under which term, and whose acknowledgement a commit needs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::lsn::Lsn;
use crate::types::name::CellName;

/// A counter of Cellar's own that rises with every attempt to make somebody the primary. Each is given to one member at most.
///
/// It is not the timeline: two promotions made independently reach the same timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(u32);

impl Term {
    /// A number; 0 is the term of a member that never saw any.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The term after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which copy of the data a cell has: another number whenever the data directory was replaced, restored or rewound. What one
/// copy acknowledged says nothing about another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CopyNumber(u32);

impl CopyNumber {
    /// A number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for CopyNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far a data directory has got: the term of the last term row in it, then the WAL position that is flushed.
///
/// Of two members the one with the higher position holds every acknowledged commit that the other one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    /// The term of the last term row.
    pub term: Term,
    /// What is flushed: the greater of received and replayed.
    pub lsn: Lsn,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {} at {}", self.term, self.lsn)
    }
}

/// Whose acknowledgement a commit needs: that of any `k` members of the cohort beside the primary.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Rises with every change, so that a report of a rule of before is not taken for one of now.
    pub number: u32,
    /// The cohort, the primary included: cells, and which copy of each.
    pub cohort: BTreeMap<CellName, CopyNumber>,
    /// How many members beside the primary must acknowledge.
    #[serde(default)]
    pub k: u32,
}

impl Rule {
    /// The rule for a cohort of N members: k = ⌊N/2⌋.
    #[must_use]
    pub fn of(number: u32, cohort: BTreeMap<CellName, CopyNumber>) -> Self {
        let k = u32::try_from(cohort.len() / 2).unwrap_or(u32::MAX);
        Self { number, cohort, k }
    }

    /// Whether that copy of that cell is one whose acknowledgement counts.
    #[must_use]
    pub fn has(&self, cell: &CellName, copy: CopyNumber) -> bool {
        self.cohort.get(cell) == Some(&copy)
    }

    /// Whether one member acknowledges alone: what is left after a failover for which a person accepted a loss.
    #[must_use]
    pub fn is_of_one(&self) -> bool {
        self.cohort.len() == 1
    }
}

/// Where a database is between one primary and the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// The term is established: its first commit has its quorum.
    #[serde(rename = "LEADERSHIP_PHASE_STEADY")]
    Steady,
    /// Promises to follow no term below this one are collected.
    #[serde(rename = "LEADERSHIP_PHASE_RECRUITING")]
    Recruiting,
    /// A member was told to lead; its term is not established yet.
    #[serde(rename = "LEADERSHIP_PHASE_APPOINTED")]
    Appointed,
}

/// Who leads a database. Written by multiadmin only, each time guarded by the revision that was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leadership {
    /// Where it is.
    pub phase: Phase,
    /// The highest term of all.
    pub term: Term,
    /// The member that leads, is appointed, or was the last to be.
    pub cell: CellName,
    /// The last term that was given to `cell`. Below `term` only while promises are collected.
    pub held: Term,
    /// The first term given to `cell` since when no other member was given one.
    pub since: Term,
    /// The least position at which an appointed member may begin to lead.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub floor: Option<Position>,
    /// Every rule under which a commit may have been acknowledged that the last one does not cover yet, oldest first. The last
    /// is the one to reach. Never empty.
    pub rules: Vec<Rule>,
    /// Attempts in a row that did not hold.
    #[serde(default)]
    pub attempts: u32,
    /// The incarnation of the database that it is of: a restore ends it.
    #[serde(default)]
    pub incarnation: u32,
    /// The member that a person wants to lead, while the present leader makes room for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<CellName>,
    /// Quorum commit begins: until the first commit that a majority has, what was acknowledged before may be on the leader alone,
    /// and nobody else is to lead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begins: bool,
    /// The database has given quorum commit up: only the numbers count, which are not given again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}

impl Leadership {
    /// A new database, led by `cell`.
    #[must_use]
    pub fn begin(cell: CellName, cohort: BTreeMap<CellName, CopyNumber>) -> Self {
        let first = Term::new(1);
        Self {
            phase: Phase::Steady,
            term: first,
            cell,
            held: first,
            since: first,
            floor: None,
            rules: vec![Rule::of(1, cohort)],
            attempts: 0,
            incarnation: 0,
            handover: None,
            begins: false,
            ended: false,
        }
    }

    /// Quorum commit begins, for a database that `cell` leads already: whatever it has committed so far counts, and it leads
    /// under a term that nobody had. `before` is what was recorded last, `promised` the highest promise of all members, which may
    /// know more than an etcd that was put back.
    #[must_use]
    pub fn take_up(
        before: Option<&Self>,
        promised: Term,
        cell: CellName,
        cohort: BTreeMap<CellName, CopyNumber>,
        floor: Position,
        incarnation: u32,
    ) -> Self {
        let term = before.map_or(promised, |before| before.term.max(promised)).next();
        let number = before.and_then(Self::rule).map_or(0, |rule| rule.number).saturating_add(1);
        Self {
            phase: Phase::Appointed,
            term,
            held: term,
            // It goes on under its new term, whatever term it had.
            since: Term::default(),
            floor: Some(floor),
            rules: vec![Rule::of(number, cohort)],
            incarnation,
            begins: true,
            ..Self::begin(cell, BTreeMap::new())
        }
    }

    /// Whether a member that began that term last, with the copy that it has, is the one that leads. One that began none with it
    /// leads only where quorum commit is about to begin under it.
    #[must_use]
    pub fn is_led_by(&self, cell: &CellName, begun: Option<Term>) -> bool {
        let leads = match begun {
            Some(begun) => begun >= self.since,
            None => self.phase == Phase::Appointed && self.since == Term::default(),
        };
        self.cell == *cell && leads
    }

    /// The rule to reach; the only one unless the cohort is being changed.
    #[must_use]
    pub fn rule(&self) -> Option<&Rule> {
        self.rules.last()
    }

    /// Whether that copy of that cell is in the cohort of any of the rules.
    #[must_use]
    pub fn has(&self, cell: &CellName, copy: CopyNumber) -> bool {
        self.rules.iter().any(|rule| rule.has(cell, copy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_that_has_lost_what_it_began_leads_only_where_quorum_commit_begins_under_it() {
        let (cell, term) = ("zone1".parse().unwrap(), Term::new);
        let at = Position { term: term(0), lsn: Lsn::new(1) };
        let begins = Leadership::take_up(None, term(0), cell, BTreeMap::new(), at, 1);
        let cell: CellName = "zone1".parse().unwrap();
        assert!(begins.is_led_by(&cell, None) && begins.is_led_by(&cell, Some(term(1))));
        let steady = Leadership { phase: Phase::Steady, ..begins };
        assert!(!steady.is_led_by(&cell, None) && steady.is_led_by(&cell, Some(term(1))));
        assert!(!steady.is_led_by(&"zone2".parse().unwrap(), Some(term(1))));
    }

    #[test]
    fn stored_form_is_canonical_json_and_an_unknown_field_does_not_hinder() {
        let stored = json!({
            "phase": "LEADERSHIP_PHASE_APPOINTED", "term": 4, "cell": "zone2", "held": 4, "since": 4,
            "floor": {"term": 2, "lsn": "0/3000028"},
            "rules": [{"number": 1, "cohort": {"zone1": 1, "zone2": 1, "zone3": 2}, "k": 1}],
            "attempts": 1, "incarnation": 2,
        });
        let record: Leadership = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!(serde_json::to_value(&record).unwrap(), stored);
        let mut newer = stored;
        newer["weather"] = json!("fair");
        assert_eq!(serde_json::from_value::<Leadership>(newer).unwrap(), record);
    }

    #[test]
    fn k_is_half_the_cohort_rounded_down() {
        for (members, k) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3)] {
            let cohort = (0..members).map(|n| (format!("zone{n}").parse().unwrap(), CopyNumber::new(1)));
            assert_eq!(Rule::of(1, cohort.collect()).k, k, "{members} members");
        }
    }

    #[test]
    fn a_later_term_outranks_more_wal() {
        let at = |term, lsn| Position { term: Term::new(term), lsn: Lsn::new(lsn) };
        assert!(at(2, 10) > at(1, 99) && at(2, 11) > at(2, 10));
    }
}
