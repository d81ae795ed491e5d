//! How a member whose data cannot follow the leader comes back: a pure decision from what was found.
//!
//! `pg_rewind` takes back what only this member wrote, and copies from the leader what that has changed. It is right where the two
//! share all that lies before one known position, and nothing tells that but what Cellar itself keeps: two promotions that knew
//! nothing of each other reach the same timeline, and `pg_rewind` finds nothing to do. So a member is rewound when its own term had
//! its quorum, since every later leader has the row of that term. Everything else is made again from the repository.

use std::fmt;

use cellar_model::{CellName, Leadership, Lineage, Lsn, Phase, SystemIdentifier};
use cellar_postgres::DataDirectory;

use crate::availability::kept::Kept;

/// What was found.
#[derive(Debug, Clone)]
pub(super) struct Found<'a> {
    /// This cell.
    pub(super) cell: &'a CellName,
    /// What its data directory holds.
    pub(super) data: &'a DataDirectory,
    /// The line of WAL that its data is on; none while it has no history of it.
    pub(super) own_line: Option<&'a Lineage>,
    /// What this member keeps beside it.
    pub(super) kept: &'a Kept,
    /// Something of the data that `pg_rewind` would not do right.
    pub(super) oddity: Option<&'a str>,
    /// The record of the leader.
    pub(super) record: Option<&'a Leadership>,
    /// The database's identity.
    pub(super) identity: Option<SystemIdentifier>,
    /// The line of WAL on which the leader says that it leads under the term of the record.
    pub(super) leaders_line: Option<&'a Lineage>,
    /// Whether its multipooler said a moment ago that its term is established and its commits get through.
    pub(super) leader_commits: bool,
}

/// Why a member is made again rather than rewound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rebuild {
    NoLeader,
    LeaderNotEstablished,
    LeadersLineUnknown,
    NotWhole,
    OtherDatabase,
    NoHints,
    NeverEstablished,
    TriedBefore,
    ForkUnknown,
    Odd(String),
}

impl fmt::Display for Rebuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoLeader => "no other member leads steadily",
            Self::LeaderNotEstablished => "the leader's commits do not get through",
            Self::LeadersLineUnknown => "the leader has not said on which line of WAL it leads",
            Self::NotWhole => "the data directory is not whole",
            Self::OtherDatabase => "the data is another database's",
            Self::NoHints => "the data has neither checksums nor `wal_log_hints`",
            Self::NeverEstablished => "this copy of the data led under no term that had its quorum",
            Self::TriedBefore => "it was rewound under this term before",
            Self::ForkUnknown => "it is not known where the leader's line of WAL left that of the data",
            Self::Odd(what) => what,
        })
    }
}

/// Where the leader's line left that of this member's data; none when that is not sure.
fn fork(own: &Lineage, leaders: &Lineage) -> Option<Lsn> {
    let is_same = |timeline| own.end_of(timeline) == leaders.end_of(timeline);
    let mut earlier = own.timelines().filter(|timeline| *timeline != own.timeline());
    let mut leading = leaders.timelines();
    // One after the other, so that none is on one line only.
    let shares_the_past = earlier.all(|timeline| leading.next() == Some(timeline) && is_same(timeline));
    let is_next = leading.next() == Some(own.timeline());
    leaders.end_of(own.timeline()).filter(|at| shares_the_past && is_next && *at > own.begins_at())
}

/// Where the data is to be rewound to.
///
/// # Errors
/// Why it is to be made again instead.
pub(super) fn way_back(found: &Found<'_>) -> Result<Lsn, Rebuild> {
    let leads_elsewhere = |record: &&Leadership| record.cell != *found.cell && record.phase == Phase::Steady;
    let record = found.record.filter(leads_elsewhere).ok_or(Rebuild::NoLeader)?;
    if !found.leader_commits {
        return Err(Rebuild::LeaderNotEstablished);
    }
    let leaders_line = found.leaders_line.ok_or(Rebuild::LeadersLineUnknown)?;
    let DataDirectory::Valid { control, .. } = found.data else { return Err(Rebuild::NotWhole) };
    if found.identity != Some(control.system_identifier) {
        return Err(Rebuild::OtherDatabase);
    }
    if !control.data_checksums && !control.logs_hints {
        return Err(Rebuild::NoHints);
    }
    let kept = found.kept;
    let led = kept.begun.filter(|begun| begun.1 == kept.copy && begun.0 < record.held);
    if led.is_none() || kept.rule.is_none() && kept.led != led {
        return Err(Rebuild::NeverEstablished);
    }
    if kept.rewound.is_some_and(|rewound| rewound.term >= record.held) {
        return Err(Rebuild::TriedBefore);
    }
    let own_line = found.own_line.filter(|own| own.timeline() == control.timeline);
    let fork = own_line.and_then(|own| fork(own, leaders_line)).ok_or(Rebuild::ForkUnknown)?;
    match found.oddity {
        Some(what) => Err(Rebuild::Odd(what.to_owned())),
        None => Ok(fork),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::availability::kept::Rewound;
    use cellar_model::{CopyNumber, History, Rule, Term, Timeline};
    use cellar_postgres::{ControlData, ControlState, RequiredSettings};

    fn line(timeline: u32, history: &str) -> Lineage {
        Lineage::new(Timeline::new(timeline), &history.parse::<History>().unwrap())
    }

    fn named(cell: &str) -> CellName {
        cell.parse().unwrap()
    }

    /// A former primary of term 2, on timeline 2; zone2 leads under term 3, on timeline 3.
    struct World {
        data: DataDirectory,
        own_line: Option<Lineage>,
        kept: Kept,
        oddity: Option<&'static str>,
        record: Option<Leadership>,
        identity: u64,
        leaders_line: Option<Lineage>,
        leader_commits: bool,
    }

    impl World {
        fn new() -> Self {
            let copy = CopyNumber::new(7);
            let cohort = ["zone2", "zone3"].map(|cell| (named(cell), copy));
            Self {
                data: DataDirectory::Valid { version: 15, control: control(), recovers: false },
                own_line: Some(line(2, "1\t0/3000000\tx\n")),
                kept: Kept {
                    copy,
                    promised: Term::new(2),
                    begun: Some((Term::new(2), copy)),
                    followed: None,
                    left_segments: Vec::new(),
                    rule: Some(Rule::of(1, cohort.clone().into_iter().collect())),
                    led: None,
                    rewound: None,
                },
                oddity: None,
                record: Some(Leadership {
                    phase: Phase::Steady,
                    term: Term::new(3),
                    held: Term::new(3),
                    ..Leadership::begin(named("zone2"), cohort.into_iter().collect())
                }),
                identity: 9,
                leaders_line: Some(line(3, "1\t0/3000000\tx\n2\t0/5000000\ty\n")),
                leader_commits: true,
            }
        }

        fn decide(&self) -> Result<Lsn, Rebuild> {
            way_back(&Found {
                cell: &named("zone1"),
                data: &self.data,
                own_line: self.own_line.as_ref(),
                kept: &self.kept,
                oddity: self.oddity,
                record: self.record.as_ref(),
                identity: Some(SystemIdentifier::new(self.identity)),
                leaders_line: self.leaders_line.as_ref(),
                leader_commits: self.leader_commits,
            })
        }
    }

    fn control() -> ControlData {
        ControlData {
            system_identifier: SystemIdentifier::new(9),
            timeline: Timeline::new(2),
            state: ControlState::InProduction,
            data_checksums: false,
            logs_hints: true,
            checkpoint: Lsn::new(1),
            redo: Lsn::new(1),
            min_recovery: Lsn::new(0),
            required: RequiredSettings::default(),
            segment_size: cellar_model::SegmentSize::default(),
        }
    }

    #[test]
    fn a_former_primary_is_rewound_to_where_its_successor_went_on() {
        let mut world = World::new();
        assert_eq!(world.decide(), Ok(Lsn::new(0x500_0000)));
        // As one that tried to follow in place, and could not.
        (world.kept.rule, world.kept.led) = (None, world.kept.begun);
        world.data = DataDirectory::Valid { version: 15, control: control(), recovers: true };
        assert_eq!(world.decide(), Ok(Lsn::new(0x500_0000)));
        // Others led in between.
        world.leaders_line = Some(line(4, "1\t0/3000000\tx\n2\t0/4000000\ty\n3\t0/6000000\tz\n"));
        assert_eq!(world.decide(), Ok(Lsn::new(0x400_0000)));
        world.kept.rewound = Some(Rewound { term: Term::new(1), copy: CopyNumber::new(3), streams: false });
        assert_eq!(world.decide(), Ok(Lsn::new(0x400_0000)), "that was for another leader");
    }

    #[test]
    fn whatever_is_in_doubt_is_made_again() {
        let refused = |change: fn(&mut World)| {
            let mut world = World::new();
            change(&mut world);
            world.decide().unwrap_err()
        };
        let control_with = |change: fn(&mut ControlData)| {
            let mut control = control();
            change(&mut control);
            let mut world = World::new();
            world.data = DataDirectory::Valid { version: 15, control, recovers: false };
            world.decide()
        };
        assert_eq!(refused(|world| world.record = None), Rebuild::NoLeader);
        let recruits = refused(|world| world.record.as_mut().unwrap().phase = Phase::Recruiting);
        assert_eq!(recruits, Rebuild::NoLeader);
        assert_eq!(refused(|world| world.record.as_mut().unwrap().cell = named("zone1")), Rebuild::NoLeader);
        assert_eq!(refused(|world| world.leader_commits = false), Rebuild::LeaderNotEstablished);
        assert_eq!(refused(|world| world.leaders_line = None), Rebuild::LeadersLineUnknown);
        let part = |world: &mut World| world.data = DataDirectory::Partial { reason: String::new() };
        assert_eq!(refused(part), Rebuild::NotWhole);
        assert_eq!(refused(|world| world.identity = 8), Rebuild::OtherDatabase);
        assert_eq!(control_with(|control| control.logs_hints = false), Err(Rebuild::NoHints));
        let sums = |control: &mut ControlData| (control.logs_hints, control.data_checksums) = (false, true);
        assert!(control_with(sums).is_ok(), "checksums do as well");
        assert_eq!(refused(|world| world.oddity = Some("x")), Rebuild::Odd("x".to_owned()));
    }

    #[test]
    fn only_a_term_that_had_its_quorum_with_this_copy_shows_what_is_shared() {
        let refused = |change: fn(&mut Kept)| {
            let mut world = World::new();
            change(&mut world.kept);
            world.decide()
        };
        assert_eq!(refused(|kept| kept.rule = None), Err(Rebuild::NeverEstablished));
        assert_eq!(refused(|kept| kept.begun = None), Err(Rebuild::NeverEstablished));
        assert_eq!(refused(|kept| kept.copy = CopyNumber::new(8)), Err(Rebuild::NeverEstablished));
        let same_term = |kept: &mut Kept| kept.begun = Some((Term::new(3), kept.copy));
        assert_eq!(refused(same_term), Err(Rebuild::NeverEstablished), "it is the leader's own term");
        let other = |kept: &mut Kept| (kept.rule, kept.led) = (None, Some((Term::new(1), kept.copy)));
        assert_eq!(refused(other), Err(Rebuild::NeverEstablished), "appointed again, and not established");
        let tried = |kept: &mut Kept| {
            kept.rewound = Some(Rewound { term: Term::new(3), copy: CopyNumber::new(6), streams: false });
        };
        assert_eq!(refused(tried), Err(Rebuild::TriedBefore));
    }

    #[test]
    fn timelines_of_the_same_number_are_no_proof() {
        let decide = |own: Option<Lineage>, leaders: Lineage| {
            let mut world = World::new();
            (world.own_line, world.leaders_line) = (own, Some(leaders));
            world.decide()
        };
        let own = || Some(line(2, "1\t0/3000000\tx\n"));
        let unknown = Err(Rebuild::ForkUnknown);
        assert_eq!(decide(None, line(3, "1\t0/3000000\tx\n2\t0/5000000\ty\n")), unknown);
        let same = line(2, "1\t0/3000000\tx\n");
        assert_eq!(decide(own(), same), unknown, "two promotions reached the same timeline");
        let elsewhere = line(3, "1\t0/2000000\tx\n2\t0/5000000\ty\n");
        assert_eq!(decide(own(), elsewhere), unknown, "another timeline 2");
        let without = line(3, "1\t0/3000000\tx\n");
        assert_eq!(decide(own(), without), unknown, "the leader was never on it");
        let between = line(4, "1\t0/3000000\tx\n3\t0/4000000\ty\n");
        assert_eq!(decide(own(), between), unknown);
    }
}
