use super::*;
use cellar_model::Timeline;
use cellar_postgres::{ControlData, ControlState};
use proptest::prelude::*;

fn valid(identity: u64, timeline: u32, recovers: bool) -> DataDirectory {
    DataDirectory::Valid {
        version: 15,
        control: ControlData {
            redo: cellar_model::Lsn::new(1),
            min_recovery: cellar_model::Lsn::new(0),
            required: cellar_postgres::RequiredSettings::default(),
            system_identifier: SystemIdentifier::new(identity),
            timeline: Timeline::new(timeline),
            state: ControlState::ShutDown,
            data_checksums: true,
            checkpoint: cellar_model::Lsn::new(1),
            segment_size: cellar_model::SegmentSize::default(),
        },
        recovers,
    }
}

fn leader(cell: &str, term: u32, identity: Option<u64>) -> Leader {
    Leader {
        cell: cell.parse().unwrap(),
        term: Timeline::new(term),
        system_identifier: identity.map(SystemIdentifier::new),
        lsn: None,
        leadership: None,
    }
}

struct World {
    cell: CellName,
    first: CellName,
    data: DataDirectory,
    restored: bool,
    kept: bool,
    seeding: bool,
    seeded_before: bool,
    leader: Option<Leader>,
    promoted: bool,
    record_denied: bool,
    succession: Option<Succession>,
    others_have_data: bool,
    backup: Option<bool>,
    stanza: bool,
    failed_copies: u32,
    standing: Standing,
    successor: bool,
    term: Term,
    replace: bool,
}

impl World {
    fn new(cell: &str, data: DataDirectory) -> Self {
        Self {
            cell: cell.parse().unwrap(),
            first: "zone1".parse().unwrap(),
            data,
            restored: true,
            kept: false,
            seeding: false,
            seeded_before: false,
            leader: None,
            promoted: false,
            record_denied: false,
            succession: None,
            others_have_data: false,
            backup: Some(false),
            stanza: false,
            failed_copies: 0,
            standing: Standing { current: true, fenced: false, left_alone: true },
            successor: false,
            term: Term::None,
            replace: false,
        }
    }

    fn step(&self) -> Step {
        next_step(&Situation {
            cell: &self.cell,
            bootstrap_cell: &self.first,
            data: &self.data,
            seeding: self.seeding,
            restored: self.restored,
            kept: self.kept,
            seeded_before: self.seeded_before,
            leader: self.leader.as_ref(),
            promoted: self.promoted,
            record_denied: self.record_denied,
            succession: self.succession.as_ref(),
            others_have_data: self.others_have_data,
            backup_exists: self.backup,
            stanza_exists: self.stanza,
            failed_copies: self.failed_copies,
            standing: self.standing,
            successor: self.successor,
            term: self.term,
            replace: self.replace,
        })
    }
}

/// Killed between the marker and pgBackRest's first file, the directory still holds what was to be overwritten.
#[test]
fn old_data_is_not_started_when_a_restore_over_it_was_begun() {
    let mut world = World::new("zone2", valid(7, 1, true));
    world.leader = Some(leader("zone1", 2, Some(7)));
    (world.seeding, world.restored, world.backup) = (true, false, Some(true));
    assert_eq!(world.step(), Step::Restore { delta: true });
    world.restored = true;
    assert_eq!(world.step(), Step::FinishRestore);
    // And between the two moves of keeping it, its place is empty.
    let mut world = World::new("zone2", DataDirectory::Missing);
    world.leader = Some(leader("zone1", 2, Some(7)));
    (world.seeded_before, world.backup) = (true, Some(true));
    assert!(matches!(world.step(), Step::Broken(_)));
    world.kept = true;
    assert_eq!(world.step(), Step::Restore { delta: false });
}

#[test]
fn a_primary_that_etcd_has_forgotten_starts_only_if_nobody_was_promoted_since() {
    let mut world = World::new("zone1", valid(7, 1, false));
    world.succession = Some(Succession::Unknown("zone2 to report".to_owned()));
    assert_eq!(world.step(), Step::Wait("zone2 to report".to_owned()));
    world.succession = Some(Succession::Left(Timeline::new(2), "zone2 is on it".to_owned()));
    let Step::Broken(why) = world.step() else { panic!("{:?}", world.step()) };
    assert!(why.contains("timeline 2") && why.contains("zone2 is on it"), "{why}");
    world.succession = Some(Succession::Present);
    assert_eq!(world.step(), Step::Start);
}

#[test]
fn no_database_is_created_beside_one_that_another_cell_has() {
    let mut world = World::new("zone1", DataDirectory::Empty);
    assert_eq!(world.step(), Step::Initdb);
    world.others_have_data = true;
    assert!(matches!(world.step(), Step::Wait(_)));
}

#[test]
fn data_from_before_a_restore_never_becomes_a_primary() {
    let mut world = World::new("zone1", valid(7, 1, false));
    world.leader = Some(leader("zone2", 2, Some(7)));
    world.standing = Standing { current: false, fenced: false, left_alone: false };
    assert!(matches!(world.step(), Step::Wait(_)), "its rebuild is a step of the restore");
    world.standing.left_alone = true;
    assert_eq!(world.step(), Step::Reseed);
    world.data = valid(7, 9, false);
    assert_eq!(world.step(), Step::Reseed, "whatever its timeline");
    world.standing.fenced = true;
    assert!(matches!(world.step(), Step::Wait(_)), "another restore is under way");
    world.successor = true;
    assert_eq!(world.step(), Step::TakeOver);
}

#[test]
fn a_fenced_primary_waits_and_a_fenced_standby_starts() {
    let mut world = World::new("zone1", valid(7, 1, false));
    world.leader = Some(leader("zone1", 1, Some(7)));
    world.standing.fenced = true;
    assert!(matches!(world.step(), Step::Wait(_)));
    world.data = valid(7, 1, true);
    world.cell = "zone2".parse().unwrap();
    assert_eq!(world.step(), Step::Start);
}

#[test]
fn a_copy_recovered_in_place_is_not_started_before_the_restore_takes_effect() {
    let mut world = World::new("zone2", valid(7, 2, false));
    world.leader = Some(leader("zone1", 1, Some(7)));
    (world.seeding, world.backup) = (true, Some(true));
    assert_eq!(world.step(), Step::Restore { delta: true });
    world.leader = Some(leader("zone2", 1, Some(7)));
    assert!(matches!(world.step(), Step::Broken(_)));
}

#[test]
fn the_first_cell_creates_the_database_and_the_others_wait() {
    assert_eq!(World::new("zone1", DataDirectory::Missing).step(), Step::Initdb);
    assert!(matches!(World::new("zone2", DataDirectory::Missing).step(), Step::Wait(_)));
}

#[test]
fn a_killed_initdb_is_repeated_and_a_finished_one_is_recorded() {
    let mut world = World::new("zone1", DataDirectory::Missing);
    world.leader = Some(leader("zone1", 1, None));
    assert_eq!(world.step(), Step::Initdb);
    world.data = valid(7, 1, false);
    assert_eq!(world.step(), Step::RecordIdentity(SystemIdentifier::new(7)));
    world.leader = Some(leader("zone1", 1, Some(7)));
    assert_eq!(world.step(), Step::Start);
}

#[test]
fn the_others_restore_once_there_is_a_backup() {
    let mut world = World::new("zone2", DataDirectory::Empty);
    world.leader = Some(leader("zone1", 1, Some(7)));
    assert!(matches!(world.step(), Step::Wait(_)));
    world.backup = Some(true);
    assert_eq!(world.step(), Step::Restore { delta: false });
    world.seeding = true;
    world.data = DataDirectory::Partial { reason: "no pg_control".into() };
    assert_eq!(world.step(), Step::Restore { delta: true });
    world.data = valid(7, 1, true);
    assert_eq!(world.step(), Step::FinishRestore);
}

fn fresh_standby() -> World {
    let mut world = World::new("zone2", DataDirectory::Missing);
    world.leader = Some(leader("zone1", 1, Some(7)));
    world.stanza = true;
    world
}

#[test]
fn a_fresh_standby_copies_the_primary_while_there_is_no_backup() {
    let source = CopySource { system_identifier: SystemIdentifier::new(7), timeline: Timeline::new(1) };
    let mut world = fresh_standby();
    assert_eq!(world.step(), Step::CopyPrimary(source));
    world.data = DataDirectory::Empty;
    assert_eq!(world.step(), Step::CopyPrimary(source));
    world.backup = Some(true);
    assert_eq!(world.step(), Step::Restore { delta: false });
    world.backup = None;
    assert!(matches!(world.step(), Step::Wait(_)));
}

#[test]
fn the_primary_is_not_copied_before_it_is_ready_nor_over_what_was_there() {
    let changes: [fn(&mut World); 8] = [
        |world| world.stanza = false,
        |world| world.leader = Some(leader("zone1", 1, None)),
        |world| world.failed_copies = MAX_COPY_ATTEMPTS,
        |world| world.seeded_before = true,
        |world| world.seeding = true,
        |world| world.kept = true,
        |world| world.standing.current = false,
        |world| world.standing.fenced = true,
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut world = fresh_standby();
        change(&mut world);
        assert!(matches!(world.step(), Step::Wait(_) | Step::Broken(_)), "change {n}: {:?}", world.step());
    }
    let mut world = fresh_standby();
    (world.failed_copies, world.backup) = (MAX_COPY_ATTEMPTS, Some(true));
    assert_eq!(world.step(), Step::Restore { delta: false });
}

#[test]
fn a_cell_whose_disk_vanished_waits_for_a_person() {
    let mut world = World::new("zone2", DataDirectory::Empty);
    world.leader = Some(leader("zone1", 1, Some(7)));
    world.backup = Some(true);
    world.seeded_before = true;
    assert!(matches!(world.step(), Step::Broken(_)));
    world.leader = Some(leader("zone2", 1, Some(7)));
    assert!(matches!(world.step(), Step::Broken(_)));
}

#[test]
fn a_former_primary_is_not_started_as_a_primary() {
    let mut world = World::new("zone1", valid(7, 1, false));
    world.leader = Some(leader("zone2", 2, Some(7)));
    assert!(matches!(world.step(), Step::Broken(_)));
    // As a standby it may.
    world.data = valid(7, 1, true);
    assert_eq!(world.step(), Step::Start);
    // A primary that was promoted while its pooler was away is newer than the record.
    world.data = valid(7, 3, false);
    assert_eq!(world.step(), Step::Start);
}

/// Its standby.signal is gone: moved away by hand, or lost with a file system.
#[test]
fn data_on_the_recorded_primarys_timeline_is_not_started_as_a_second_primary() {
    let mut world = World::new("zone2", valid(7, 2, false));
    world.leader = Some(leader("zone1", 2, Some(7)));
    assert!(matches!(world.step(), Step::Broken(_)));
    // Killed right after its promotion, when only the history file has the new timeline.
    world.promoted = true;
    assert_eq!(world.step(), Step::Start);
    // The record is false, as a stolen certificate may have written it.
    (world.promoted, world.record_denied) = (false, true);
    assert_eq!(world.step(), Step::Start);
    world.leader = Some(leader("zone2", 2, Some(7)));
    world.record_denied = false;
    assert_eq!(world.step(), Step::Start, "it is the recorded primary");
}

/// With quorum commit the term decides, whatever the timelines say.
#[test]
fn a_primary_whose_term_is_over_becomes_a_standby_once_nobody_counts_on_its_data() {
    let mut world = World::new("zone2", valid(7, 2, false));
    world.leader = Some(leader("zone1", 2, Some(7)));
    world.term = Term::Replaced { established: false, may_replace: false };
    assert!(matches!(world.step(), Step::Wait(_)));
    world.term = Term::Replaced { established: false, may_replace: true };
    assert_eq!(world.step(), Step::Rejoin);
    // Whoever leads now went on from its timeline: PostgreSQL sees whether it can follow.
    world.term = Term::Replaced { established: true, may_replace: false };
    assert_eq!(world.step(), Step::Demote);
    // It was promoted, and died before its term was established.
    world.term = Term::Leads;
    assert_eq!(world.step(), Step::Start);
    for term in [Term::CutOff, Term::HandsOver] {
        world.term = term;
        assert!(matches!(world.step(), Step::Wait(_)));
    }
    world.data = valid(7, 2, true);
    assert_eq!(world.step(), Step::Start, "a standby runs");
    world.replace = true;
    assert_eq!(world.step(), Step::Rejoin, "one that cannot follow is made again");
}

#[test]
fn another_databases_files_are_not_started() {
    let mut world = World::new("zone2", valid(8, 1, true));
    world.leader = Some(leader("zone1", 1, Some(7)));
    assert!(matches!(world.step(), Step::Broken(_)));
}

/// The number of whole data among the kinds of what a data directory may hold.
const WHOLE: u8 = 5;

proptest! {
    /// Whatever is there: initdb only where there is no data, no backup, no identity, and only in
    /// the first cell or the one that is recorded to be making the database.
    #[test]
    fn initdb_runs_only_without_data_backup_and_identity(
        me in 1u8..4, holder in 0u8..4, identity in proptest::option::of(7u64..9),
        kind in 0..=WHOLE, seeding: bool, seeded: bool, backup in proptest::option::of(any::<bool>()),
        recovers: bool, restored: bool, kept: bool, current: bool, fenced: bool, left_alone: bool, successor: bool,
        stanza: bool, failed_copies in 0u32..5, promoted: bool, record_denied: bool, others: bool,
        term in 0u8..7, replace: bool,
    ) {
        let data = match kind {
            0 => DataDirectory::Missing,
            1 => DataDirectory::Empty,
            2 => DataDirectory::Partial { reason: "x".into() },
            3 => DataDirectory::Foreign { reason: "x".into() },
            4 => DataDirectory::OtherVersion { reason: "x".into() },
            _ => valid(7, 1, recovers),
        };
        let mut world = World::new(&format!("zone{me}"), data);
        world.leader = (holder > 0).then(|| leader(&format!("zone{holder}"), 1, identity));
        world.seeding = seeding;
        world.seeded_before = seeded;
        world.backup = backup;
        (world.restored, world.kept) = (restored, kept);
        world.standing = Standing { current, fenced, left_alone };
        world.successor = successor;
        (world.stanza, world.failed_copies) = (stanza, failed_copies);
        (world.promoted, world.record_denied) = (promoted, record_denied);
        world.others_have_data = others;
        world.term = [
            Term::None,
            Term::Leads,
            Term::CutOff,
            Term::HandsOver,
            Term::Replaced { established: false, may_replace: true },
            Term::Replaced { established: false, may_replace: false },
            Term::Replaced { established: true, may_replace: false },
        ][usize::from(term)];
        world.replace = replace;
        match world.step() {
            Step::Initdb => {
                prop_assert!(kind < 2);
                prop_assert_eq!(backup, Some(false));
                prop_assert!(world.leader.as_ref().is_none_or(|l| l.system_identifier.is_none() && l.cell == world.cell));
                prop_assert!(world.leader.is_some() || (me == 1 && !seeded && !others));
            }
            Step::Restore { .. } => {
                prop_assert!(kind < 2 || (kind == 2 && seeding) || (kind == WHOLE && seeding && !(recovers && restored)));
                prop_assert_eq!(backup, Some(true));
            }
            Step::CopyPrimary(source) => {
                prop_assert!(kind < 2 && !seeding && !seeded && !kept && current && !fenced);
                prop_assert_eq!(backup, Some(false));
                prop_assert!(stanza && failed_copies < MAX_COPY_ATTEMPTS);
                let leader = world.leader.as_ref().expect("a primary to copy");
                prop_assert!(leader.cell != world.cell);
                prop_assert_eq!(leader.system_identifier, Some(source.system_identifier));
            }
            Step::TakeOver => prop_assert!(successor),
            Step::Rejoin => {
                prop_assert_eq!(kind, WHOLE);
                prop_assert!(current && !seeding && (recovers || !fenced));
                let is_over = world.term == Term::Replaced { established: false, may_replace: true };
                prop_assert!(replace || is_over && !recovers);
            }
            Step::Demote => {
                prop_assert!(kind == WHOLE && !recovers && current && !fenced && !seeding);
                prop_assert_eq!(world.term, Term::Replaced { established: true, may_replace: false });
            }
            Step::Reseed => prop_assert!(!current && !fenced && left_alone && !seeding),
            Step::Start => {
                prop_assert_eq!(kind, WHOLE);
                // The data of a database that has a primary runs only if it is the present, and writes only unfenced.
                prop_assert!(current && (recovers || !fenced || world.leader.is_none()));
                // Never beside a primary on the same timeline.
                let other = world.leader.as_ref().is_some_and(|leader| leader.cell != world.cell);
                let may_lead = match world.term {
                    Term::None => !other || promoted || record_denied,
                    Term::Leads => true,
                    // Nobody is recorded, so nobody has a term.
                    Term::CutOff | Term::HandsOver | Term::Replaced { .. } => world.leader.is_none(),
                };
                prop_assert!(recovers || may_lead);
            }
            // What is marked as the present has really been restored.
            Step::FinishRestore => prop_assert!(kind == WHOLE && seeding && recovers && restored),
            Step::RecordIdentity(_) => prop_assert_eq!(kind, WHOLE),
            Step::Wait(text) => prop_assert!(!text.is_empty()),
            Step::Broken(text) => {
                let ways = ["`cellar re", "mount its disk again", "use another repo", "where it was", "primary first"];
                let is_told = kind == 4 || ways.iter().any(|way| text.contains(way));
                prop_assert!(is_told, "nobody learns what to do: {}", text);
            }
        }
    }
}
