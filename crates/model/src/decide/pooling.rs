//! What the PgBouncer of a cell is to do: where it leads clients, and whether it holds them.
//!
//! A client that is held waits with its next transaction, and knows nothing of it. While the primary is moved on request, that
//! is the difference between a pause and an error.

use std::time::Duration;

use crate::records::leadership::{Leadership, Phase, Term};
use crate::types::name::CellName;

/// The longest time for which clients are held. A planned move is given up after 30 s, so it comes to an end before.
pub const HOLD_LIMIT: Duration = Duration::from_secs(35);

/// What is known when it is decided.
#[derive(Debug, Clone, Copy)]
pub struct PoolScene<'a> {
    /// The record that the members go by; none without quorum commit.
    pub record: Option<&'a Leadership>,
    /// The recorded primary; none while there is none.
    pub leader: Option<&'a CellName>,
    /// Who has said of itself that its term is established, and which. The record says so a moment later.
    pub established: Option<(&'a CellName, Term)>,
    /// Where PgBouncer leads clients now.
    pub target: Option<&'a CellName>,
    /// The term whose leader asked that clients be held, because it is about to stop.
    pub asked: Option<Term>,
    /// For how long clients have been held without a break, or would have been.
    pub held_for: Duration,
}

/// What PgBouncer is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pooling {
    /// The cell whose PostgreSQL it leads clients to; none while nobody knows a primary.
    pub target: Option<CellName>,
    /// Whether nobody leads now, so that clients had better wait. The time for it may be over all the same.
    pub is_between: bool,
    /// Whether clients are held.
    pub hold: bool,
}

/// Whether a leader may ask for its clients to be held: it makes room for another one under this term.
#[must_use]
pub fn is_hold_due(record: &Leadership, leader: &CellName, term: Term) -> bool {
    record.phase == Phase::Steady
        && record.cell == *leader
        && record.term == term
        && record.handover.is_some()
}

/// Decides it. Clients go to a leader whose term is established, and wait between one and the next.
#[must_use]
pub fn pooling(scene: &PoolScene<'_>) -> Pooling {
    let Some(record) = scene.record else {
        return Pooling { target: scene.leader.cloned(), is_between: false, hold: false };
    };
    // Quorum commit is about to begin under a primary that goes on meanwhile.
    let begins = record.is_led_by(&record.cell, None);
    let is_established =
        record.phase == Phase::Appointed && scene.established == Some((&record.cell, record.term));
    let is_steady = record.phase == Phase::Steady || begins || is_established;
    let stops = scene.asked.is_some_and(|term| is_hold_due(record, &record.cell, term));
    let is_between = !is_steady || stops;
    // One that is to lead may never lead, and until it does, writing there fails.
    let target = if is_steady { Some(&record.cell) } else { scene.target.or(Some(&record.cell)) };
    Pooling { target: target.cloned(), is_between, hold: is_between && scene.held_for < HOLD_LIMIT }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn cell(name: &str) -> CellName {
        name.parse().unwrap()
    }

    fn record(phase: Phase, handover: Option<&str>) -> Leadership {
        let begun = Leadership::begin(cell("zone1"), BTreeMap::new());
        Leadership { phase, term: Term::new(4), handover: handover.map(cell), ..begun }
    }

    /// The decision for zone1's record with clients led to `target`: the cell, and whether clients are held.
    fn decided(record: &Leadership, target: &str, asked: Option<u32>, held_for: u64) -> (String, bool) {
        let scene = PoolScene {
            record: Some(record),
            leader: None,
            established: None,
            target: Some(&cell(target)),
            asked: asked.map(Term::new),
            held_for: Duration::from_secs(held_for),
        };
        let done = pooling(&scene);
        (done.target.unwrap().to_string(), done.hold)
    }

    #[test]
    fn clients_go_to_an_established_leader_and_wait_while_there_is_none() {
        let steady = record(Phase::Steady, None);
        assert_eq!(decided(&steady, "zone1", None, 0), ("zone1".into(), false));
        assert_eq!(decided(&steady, "zone3", None, 0), ("zone1".into(), false), "it follows");
        for phase in [Phase::Recruiting, Phase::Appointed] {
            assert_eq!(decided(&record(phase, None), "zone3", None, 0), ("zone3".into(), true), "{phase:?}");
        }
    }

    #[test]
    fn an_appointed_member_that_says_that_it_leads_is_led_to_before_the_record_says_so() {
        let appointed = record(Phase::Appointed, None);
        for (who, term, phase, leads) in [
            ("zone1", 4, Phase::Appointed, true),
            ("zone1", 3, Phase::Appointed, false),
            ("zone3", 4, Phase::Appointed, false),
            ("zone1", 4, Phase::Recruiting, false),
        ] {
            let (who, from) = (cell(who), cell("zone2"));
            let done = pooling(&PoolScene {
                record: Some(&Leadership { phase, ..appointed.clone() }),
                leader: None,
                established: Some((&who, Term::new(term))),
                target: Some(&from),
                asked: None,
                held_for: Duration::ZERO,
            });
            let expected = if leads { (Some(cell("zone1")), false) } else { (Some(from), true) };
            assert_eq!((done.target, done.hold), expected, "{who} {term} {phase:?}");
        }
    }

    #[test]
    fn nobody_is_held_while_quorum_commit_begins_under_a_primary_that_goes_on() {
        let begins = Leadership { since: Term::default(), ..record(Phase::Appointed, None) };
        assert_eq!(decided(&begins, "zone1", None, 0), ("zone1".into(), false));
    }

    #[test]
    fn clients_are_held_for_a_move_once_its_leader_asks_and_let_go_when_it_is_given_up() {
        let moves = record(Phase::Steady, Some("zone2"));
        assert!(!decided(&moves, "zone1", None, 0).1, "its checkpoint takes a while");
        assert!(decided(&moves, "zone1", Some(4), 0).1);
        assert!(!decided(&moves, "zone1", Some(3), 0).1, "that was another move");
        assert!(!decided(&record(Phase::Steady, None), "zone1", Some(4), 1).1, "given up");
        assert!(is_hold_due(&moves, &cell("zone1"), Term::new(4)));
        assert!(!is_hold_due(&moves, &cell("zone2"), Term::new(4)), "only the leader asks");
    }

    #[test]
    fn nobody_is_held_for_ever() {
        let limit = HOLD_LIMIT.as_secs();
        for (record, asked) in
            [(record(Phase::Recruiting, None), None), (record(Phase::Steady, Some("zone2")), Some(4))]
        {
            assert!(decided(&record, "zone1", asked, limit - 1).1);
            assert!(!decided(&record, "zone1", asked, limit).1);
        }
    }

    #[test]
    fn without_quorum_commit_clients_follow_the_recorded_primary() {
        let leader = cell("zone2");
        let held_for = Duration::ZERO;
        let scene = PoolScene {
            record: None,
            leader: Some(&leader),
            established: None,
            target: None,
            asked: None,
            held_for,
        };
        assert_eq!(pooling(&scene), Pooling { target: Some(leader.clone()), is_between: false, hold: false });
        assert_eq!(pooling(&PoolScene { leader: None, ..scene }).target, None);
    }
}
