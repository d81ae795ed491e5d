//! The functions by themselves, at their edges. Their interplay is explored by `crates/availability-check`.

mod cohort;
mod evidence;
mod explain;
mod forced;
mod handover;
mod member;
mod next;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::records::leadership::{CopyNumber, Leadership, Phase, Position, Term};
use crate::types::lsn::Lsn;
use crate::types::name::CellName;

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(60);

fn cell(name: &str) -> CellName {
    name.parse().unwrap()
}

fn at(term: u32, lsn: u64) -> Position {
    Position { term: Term::new(term), lsn: Lsn::new(lsn) }
}

/// A database whose first cell leads under term 1 and whose other cells follow; all report that all is well.
#[derive(Clone)]
struct Group {
    record: Leadership,
    facts: BTreeMap<CellName, Facts>,
    wanted: BTreeSet<CellName>,
    preference: Vec<CellName>,
    unchanged: Duration,
    in_phase: Duration,
    paused: bool,
    timing: Timing,
}

impl Group {
    fn of(names: &[&str]) -> Self {
        let cohort: BTreeMap<CellName, CopyNumber> =
            names.iter().map(|name| (cell(name), CopyNumber::new(1))).collect();
        let leader = cell(names[0]);
        let facts = names.iter().map(|name| (cell(name), standby(&leader))).collect();
        let mut group = Self {
            record: Leadership::begin(leader.clone(), cohort.clone()),
            facts,
            wanted: cohort.into_keys().collect(),
            preference: Vec::new(),
            unchanged: LONG,
            in_phase: LONG,
            paused: false,
            timing: Timing::default(),
        };
        *group.at(names[0]) = primary(1);
        group
    }

    fn at(&mut self, name: &str) -> &mut Facts {
        self.facts.get_mut(&cell(name)).unwrap()
    }

    /// That cell is gone, and all others notice.
    fn lose(&mut self, name: &str) {
        self.facts.remove(&cell(name));
        let silent = Link::Silent { since: LONG };
        for facts in self.facts.values_mut() {
            if let Some(sight) = facts.sees.as_mut().filter(|sight| sight.of == cell(name)) {
                *sight = Sight { stream: silent, pooler: silent, new_wal: Some(LONG), ..sight.clone() };
            }
        }
    }

    /// That cell has promised to follow no term below the record's, and ends there.
    fn promise(&mut self, name: &str, position: Position) {
        let term = self.record.term;
        let facts = self.at(name);
        *facts =
            Facts { promised: term, receives: false, follows: None, leads: None, position, ..facts.clone() };
    }

    fn view(&self) -> View<'_> {
        View {
            record: &self.record,
            facts: &self.facts,
            wanted: &self.wanted,
            preference: &self.preference,
            unchanged: self.unchanged,
            in_phase: self.in_phase,
            paused: self.paused,
            timing: &self.timing,
        }
    }

    fn next(&self) -> Decision {
        next(Rules::SAFE, &self.view())
    }

    /// Writes what is decided, which must be a write.
    fn step(&mut self) -> Reason {
        let Decision { step: Step::Write(record), why } = self.next() else { panic!("{}", self.next().why) };
        self.record = record;
        why
    }
}

fn standby(leader: &CellName) -> Facts {
    let link = Link::Heard { ago: NOW };
    Facts {
        age: NOW,
        copy: CopyNumber::new(1),
        promised: Term::new(1),
        begun: None,
        receives: true,
        position: at(1, 100),
        instance: Instance::Runs,
        leads: None,
        follows: Some((leader.clone(), Term::new(1))),
        sees: Some(Sight {
            of: leader.clone(),
            stream: link,
            new_wal: Some(NOW),
            pooler: link,
            refused: false,
        }),
        needs_replacing: false,
        cannot_lead: false,
        leaves: false,
    }
}

fn primary(term: u32) -> Facts {
    let leads = Leading {
        term: Term::new(term),
        row: Some(Lsn::new(1)),
        established: true,
        rule: 1,
        settled: true,
        canary: Canary::Committed { age: NOW },
    };
    let leader =
        Facts { leads: Some(leads), receives: false, follows: None, sees: None, ..standby(&cell("zone1")) };
    Facts { promised: Term::new(term), position: at(term, 100), ..leader }
}

#[test]
fn backoff_begins_at_nothing_and_doubles_to_five_minutes() {
    let seconds: Vec<u64> = (0..8).map(|attempts| backoff(attempts).as_secs()).collect();
    assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(backoff(u32::MAX).as_secs(), 300);
}
