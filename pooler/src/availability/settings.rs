//! What PostgreSQL is told of replication: whom to follow, what to take from the archive, and who acknowledges.

use std::collections::BTreeSet;

use cellar_model::{CellName, CopyNumber, Durability, Leader, Leadership, Rule};
use cellar_postgres::{NOBODY, NOBODYS_SLOT, member_slot};

use crate::availability::Availability;
use crate::availability::kept::Kept;
use crate::member::Member;

/// What a standby may take from the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromArchive {
    /// Everything.
    All,
    /// Everything but these segments, in which and behind which the leader's line leaves earlier timelines: the leader has that
    /// part, too.
    But(Vec<String>),
    /// Histories of timelines only: for a promotion, whose timeline must be one that nobody has taken.
    Histories,
    /// Nothing: it has promised, and its position is final.
    Nothing,
}

/// What an instance archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archives {
    /// Everything.
    All,
    /// Histories of timelines only: so that nobody else takes its timeline, while what it writes may not count.
    Histories,
    /// Nothing.
    Nothing,
}

/// Who must have what a subscriber gets from a failover slot, so that it never has what a failover loses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Awaits {
    /// Subscribers wait: nobody knows yet who is to have it.
    Nobody,
    /// As many as acknowledge a commit.
    Rule(Rule),
    /// Those that stream, none if there are none.
    WhoStreams,
}

/// What an instance is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replication {
    /// The cell to stream from.
    pub upstream: Option<CellName>,
    /// What is taken from the archive.
    pub from_archive: FromArchive,
    /// What it archives.
    pub archives: Archives,
    /// Its name as a standby.
    pub standby_name: String,
    /// `synchronous_standby_names`; none where that is the operator's own.
    pub acknowledge: Option<String>,
    /// Who must have what a subscriber gets.
    pub awaits: Awaits,
}

/// The name of a copy as a standby. A copy that took another one's place has another name, and acknowledges nothing for it.
#[must_use]
pub fn standby_name(cell: &CellName, copy: CopyNumber) -> String {
    format!("{cell}:{copy}")
}

/// The copy behind a standby's name; none for a name that is not of that form.
#[must_use]
pub fn copy_of(name: &str) -> Option<(CellName, CopyNumber)> {
    let (cell, copy) = name.rsplit_once(':')?;
    Some((cell.parse().ok()?, CopyNumber::new(copy.parse().ok()?)))
}

/// `synchronous_standby_names` for a rule, on the primary in `cell`.
fn acknowledged_by(rule: &Rule, cell: &CellName) -> String {
    let others = rule.cohort.iter().filter(|(member, _)| *member != cell);
    let names: Vec<String> =
        others.map(|(member, copy)| format!("\"{}\"", standby_name(member, *copy))).collect();
    if names.is_empty() && rule.is_of_one() {
        return String::new();
    }
    if rule.k == 0 || names.is_empty() {
        return NOBODY.to_owned();
    }
    format!("ANY {} ({})", rule.k, names.join(", "))
}

/// `synchronized_standby_slots` of the primary in `cell`, where `with_slots` are the standbys whose slots say what they have; none
/// before that was looked at.
///
/// PostgreSQL waits for all that are named. Those that are away are left out while enough others are there for every election to
/// know of what was sent, as with commits; while there are too few, subscribers wait as commits do.
pub(crate) fn awaited_slots(
    awaits: &Awaits,
    cell: &CellName,
    with_slots: Option<&BTreeSet<String>>,
) -> String {
    // Before that is known nobody goes ahead of anybody.
    let Some(with_slots) = with_slots else { return NOBODYS_SLOT.to_owned() };
    let slots = match awaits {
        Awaits::Nobody => return NOBODYS_SLOT.to_owned(),
        Awaits::WhoStreams => {
            let cells = with_slots.iter().filter_map(|name| name.split(':').next()?.parse().ok());
            cells.map(|cell| member_slot(&cell)).collect::<BTreeSet<_>>()
        }
        Awaits::Rule(rule) if rule.is_of_one() && rule.cohort.contains_key(cell) => BTreeSet::new(),
        Awaits::Rule(rule) => {
            let others = rule.cohort.iter().filter(|(member, _)| *member != cell);
            let there: BTreeSet<String> = others
                .filter(|(member, copy)| with_slots.contains(&standby_name(member, **copy)))
                .map(|(member, _)| member_slot(member))
                .collect();
            match usize::try_from(rule.k) {
                Ok(enough) if enough > 0 && there.len() >= enough => there,
                _ => return NOBODYS_SLOT.to_owned(),
            }
        }
    };
    slots.into_iter().collect::<Vec<_>>().join(",")
}

/// What an instance is told without quorum commit.
pub(crate) fn without_quorum(cell: &CellName, leader: Option<&Leader>) -> Replication {
    Replication {
        upstream: leader.map(|leader| leader.cell.clone()).filter(|upstream| upstream != cell),
        from_archive: FromArchive::All,
        archives: match leader {
            Some(leader) if leader.cell == *cell => Archives::All,
            _ => Archives::Nothing,
        },
        standby_name: cell.to_string(),
        acknowledge: None,
        awaits: Awaits::WhoStreams,
    }
}

/// What an instance of a database with quorum commit is told. `governing` is none until the first term, and after a restore
/// until its first one.
pub(crate) fn with_quorum(
    cell: &CellName,
    kept: &Kept,
    leader: Option<&Leader>,
    governing: Option<&Leadership>,
) -> Replication {
    let standby_name = standby_name(cell, kept.copy);
    let own_term = kept.begun.filter(|(_, copy)| *copy == kept.copy).map(|(term, _)| term);
    let rule = kept.rule.as_ref().filter(|_| own_term.is_some());
    let own_rule = rule.map(|rule| acknowledged_by(rule, cell));
    let own_awaits = rule.map(|rule| Awaits::Rule(rule.clone()));
    let Some(record) = governing else {
        return Replication {
            standby_name,
            // Also when etcd has lost the record: what was promised to clients holds on.
            acknowledge: own_rule.or_else(|| Some(String::new())),
            awaits: own_awaits.unwrap_or(Awaits::WhoStreams),
            ..without_quorum(cell, leader)
        };
    };
    // On a standby, too: one that is promoted begins with commits that wait.
    let closed = Replication {
        upstream: None,
        from_archive: FromArchive::Nothing,
        archives: Archives::Nothing,
        standby_name,
        acknowledge: Some(NOBODY.to_owned()),
        awaits: Awaits::Nobody,
    };
    if record.cell == *cell {
        if !record.is_led_by(cell, own_term) {
            return Replication { from_archive: FromArchive::Histories, ..closed };
        }
        // A promotion that goes on must find no WAL that it did not have when it was elected.
        return Replication {
            from_archive: FromArchive::Histories,
            archives: if own_rule.is_some() { Archives::All } else { Archives::Histories },
            acknowledge: own_rule.or(closed.acknowledge.clone()),
            awaits: own_awaits.unwrap_or(Awaits::Nobody),
            ..closed
        };
    }
    // Kept before it is followed, once the copy is known to be on the leader's branch: see `member`.
    if kept.promised == record.held && kept.followed == Some((record.held, kept.copy)) {
        let from_archive = FromArchive::But(kept.left_segments.clone());
        return Replication { upstream: Some(record.cell.clone()), from_archive, ..closed };
    }
    closed
}

/// What this member's instance is told now. `leader` is the record as it is known here.
#[must_use]
pub fn under_quorum(member: &Member, availability: &Availability, leader: Option<&Leader>) -> Replication {
    let number = member.mirror.view().incarnation(&member.database).number;
    let governing = leader.and_then(|leader| leader.governed_by(Durability::Quorum, number));
    let told = with_quorum(&member.cell, &availability.kept.get(), leader, governing);
    match told.archives {
        // What has no quorum may be on no other member, and would mislead whoever restores.
        Archives::All if availability.isolated.get() => Replication { archives: Archives::Histories, ..told },
        _ => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellar_model::{Phase, Term};

    fn named(cell: &str) -> CellName {
        cell.parse().unwrap()
    }

    fn record(phase: Phase, cell: &str, held: u32, term: u32) -> Leadership {
        let cohort = ["zone1", "zone2", "zone3"].map(|cell| (named(cell), CopyNumber::new(7)));
        Leadership {
            phase,
            term: Term::new(term),
            held: Term::new(held),
            since: Term::new(held),
            ..Leadership::begin(named(cell), cohort.into_iter().collect())
        }
    }

    fn kept(promised: u32, begun: Option<u32>) -> Kept {
        let copy = CopyNumber::new(7);
        let followed = Some((Term::new(promised), copy)).filter(|_| begun.is_none());
        let begun = begun.map(|term| (Term::new(term), copy));
        Kept { copy, promised: Term::new(promised), begun, followed, left_segments: Vec::new(), rule: None }
    }

    #[test]
    fn a_member_that_promised_takes_wal_from_nowhere_and_one_that_follows_streams() {
        let (me, of) = (named("zone2"), |phase, held, term| record(phase, "zone1", held, term));
        let told = |kept: &Kept, record: &Leadership| with_quorum(&me, kept, None, Some(record));
        let follows = told(&kept(1, None), &of(Phase::Steady, 1, 1));
        assert_eq!(follows.upstream, Some(named("zone1")));
        assert_eq!(follows.standby_name, "zone2:7");
        assert_eq!(follows.acknowledge.as_deref(), Some(NOBODY), "promoted, it acknowledges nothing");
        assert_eq!(follows.archives, Archives::Nothing);
        let left = vec!["000000010000000000000009".to_owned()];
        let behind_a_fork = Kept { left_segments: left.clone(), ..kept(1, None) };
        let told_of_it = told(&behind_a_fork, &of(Phase::Steady, 1, 1));
        assert_eq!(
            told_of_it.from_archive,
            FromArchive::But(left),
            "a former primary's end of it may be there"
        );
        let promised = told(&kept(2, None), &of(Phase::Recruiting, 1, 2));
        assert_eq!((promised.upstream, promised.from_archive), (None, FromArchive::Nothing));
        // Asked, and not promised yet: it goes on.
        assert_eq!(told(&kept(1, None), &of(Phase::Recruiting, 1, 2)).upstream, Some(named("zone1")));
        let unknown = Kept { followed: None, ..kept(1, None) };
        assert_eq!(told(&unknown, &of(Phase::Steady, 1, 1)).upstream, None, "its branch is not known");
        // A new leader is followed once that is kept.
        assert_eq!(told(&kept(1, None), &of(Phase::Steady, 3, 3)).upstream, None);
    }

    #[test]
    fn a_primary_acknowledges_by_its_rule_and_before_that_nothing() {
        let (me, steady) = (named("zone1"), record(Phase::Steady, "zone1", 3, 3));
        let appointed = with_quorum(&me, &kept(3, None), None, Some(&steady));
        assert_eq!(appointed.from_archive, FromArchive::Histories);
        let begun = with_quorum(&me, &kept(3, Some(3)), None, Some(&steady));
        assert_eq!((begun.archives, begun.acknowledge.as_deref()), (Archives::Histories, Some(NOBODY)));
        let opened = Kept { rule: steady.rule().cloned(), ..kept(3, Some(3)) };
        let leads = with_quorum(&me, &opened, None, Some(&steady));
        assert_eq!(leads.archives, Archives::All);
        assert_eq!(leads.awaits, Awaits::Rule(opened.rule.clone().unwrap()));
        assert_eq!((begun.awaits, appointed.awaits), (Awaits::Nobody, Awaits::Nobody));
        assert_eq!(leads.acknowledge.as_deref(), Some("ANY 1 (\"zone2:7\", \"zone3:7\")"));
        // What is left after a failover with a loss acknowledges alone, and for another member's rule nobody does.
        let alone = |cell: &str| Kept {
            rule: Some(Rule::of(9, [(named(cell), CopyNumber::new(7))].into())),
            ..opened.clone()
        };
        assert_eq!(with_quorum(&me, &alone("zone1"), None, Some(&steady)).acknowledge.as_deref(), Some(""));
        assert_eq!(
            with_quorum(&me, &alone("zone2"), None, Some(&steady)).acknowledge.as_deref(),
            Some(NOBODY)
        );
        // The copy that began the term is gone.
        let other = Kept { copy: CopyNumber::new(8), ..opened };
        assert_eq!(with_quorum(&me, &other, None, Some(&steady)).acknowledge.as_deref(), Some(NOBODY));
    }

    #[test]
    fn subscribers_get_what_no_election_loses_and_wait_for_no_member_that_is_away() {
        let rule = |cells: &[&str]| {
            let cohort = cells.iter().map(|cell| (named(cell), CopyNumber::new(7)));
            Awaits::Rule(Rule::of(1, cohort.collect()))
        };
        let slots = |awaits: &Awaits, there: &[&str]| {
            let there = there.iter().map(|name| (*name).to_owned()).collect();
            awaited_slots(awaits, &named("zone1"), Some(&there))
        };
        let three = rule(&["zone1", "zone2", "zone3"]);
        assert_eq!(slots(&three, &["zone2:7", "zone3:7"]), "cellar_zone2,cellar_zone3");
        assert_eq!(slots(&three, &["zone3:7"]), "cellar_zone3", "zone2 is away");
        assert_eq!(slots(&three, &[]), NOBODYS_SLOT);
        let none_counts = ["zone2:8", "zone4:7", "pg_basebackup"];
        assert_eq!(slots(&three, &none_counts), NOBODYS_SLOT);
        let five = rule(&["zone1", "zone2", "zone3", "zone4", "zone5"]);
        assert_eq!(slots(&five, &["zone2:7", "zone5:7"]), "cellar_zone2,cellar_zone5");
        assert_eq!(slots(&five, &["zone5:7"]), NOBODYS_SLOT, "one is too few");
        assert_eq!(slots(&rule(&["zone1"]), &[]), "");
        let none = Awaits::Rule(Rule { k: 0, ..Rule::of(1, [(named("zone2"), CopyNumber::new(7))].into()) });
        for nobody in [Awaits::Nobody, none] {
            assert_eq!(slots(&nobody, &["zone2:7"]), NOBODYS_SLOT);
        }
        assert_eq!(slots(&Awaits::WhoStreams, &["zone2"]), "cellar_zone2");
        assert_eq!(slots(&Awaits::WhoStreams, &[]), "");
        for awaits in [Awaits::WhoStreams, rule(&["zone1"]), three] {
            assert_eq!(awaited_slots(&awaits, &named("zone1"), None), NOBODYS_SLOT, "not looked at yet");
        }
    }

    #[test]
    fn names_of_copies_are_read_back() {
        assert_eq!(copy_of("zone2:7"), Some((named("zone2"), CopyNumber::new(7))));
        for other in ["zone2", "zone2:", "zone2:x", ":7", "walreceiver", "pg_basebackup"] {
            assert_eq!(copy_of(other), None, "{other}");
        }
    }
}
