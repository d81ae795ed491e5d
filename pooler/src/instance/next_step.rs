//! What to do next about the instance: decided purely, from what is there.
//!
//! The rule above all others: initdb may only ever make the first member of a
//! database that has no backup, no other member and no recorded identity.
//! Everything doubtful stops as `Broken`, with a sentence for a person.

use cellar_model::{CellName, Leader, SystemIdentifier};
use cellar_postgres::{CopySource, DataDirectory};

use crate::instance::incarnation::Standing;

/// What is there.
#[derive(Debug, Clone)]
pub(crate) struct Situation<'a> {
    /// This cell.
    pub(crate) cell: &'a CellName,
    /// The cell that may run initdb.
    pub(crate) bootstrap_cell: &'a CellName,
    /// What the data directory holds.
    pub(crate) data: &'a DataDirectory,
    /// Whether a restore into it was begun and not finished.
    pub(crate) seeding: bool,
    /// Whether that restore has ended well.
    pub(crate) restored: bool,
    /// Whether old data of this cell is kept aside for a rollback, so that its place may be empty.
    pub(crate) kept: bool,
    /// Whether this cell has ever been seeded.
    pub(crate) seeded_before: bool,
    /// The recorded primary.
    pub(crate) leader: Option<&'a Leader>,
    /// Whether the repo has a backup of the database; `None` while that is not known.
    pub(crate) backup_exists: Option<bool>,
    /// Whether the repo has the database's stanza. The primary makes it after the role that copies it.
    pub(crate) stanza_exists: bool,
    /// How often copying the primary failed in this process.
    pub(crate) failed_copies: u32,
    /// How the data stands to the database's incarnation.
    pub(crate) standing: Standing,
    /// Whether a copy of the true incarnation waits beside the data to take its place.
    pub(crate) successor: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing yet; the text says what is awaited.
    Wait(String),
    /// Record that this cell makes the database, then run initdb.
    Initdb,
    /// Restore the newest backup as a standby.
    Restore {
        /// Whether a data directory is there that can be completed.
        delta: bool,
    },
    /// Copy the primary, because there is no backup to restore yet.
    CopyPrimary(CopySource),
    /// Record the identity that initdb gave the database.
    RecordIdentity(SystemIdentifier),
    /// Finish a restore whose files are all there.
    FinishRestore,
    /// Put the copy of the true incarnation in the place of the data.
    TakeOver,
    /// Set data of the past aside and restore the newest backup as a standby.
    Reseed,
    /// Start PostgreSQL.
    Start,
    /// Nothing can be done until a person acts; the text says what.
    Broken(String),
}

/// Copies of the primary that are tried before the first backup is waited for.
const MAX_COPY_ATTEMPTS: u32 = 3;

/// What to copy, for a cell that never had data, of a database that was never restored and has no backup.
fn copy_source(s: &Situation<'_>, leader: &Leader) -> Option<CopySource> {
    let never_had_data = !s.seeded_before && !s.seeding && !s.kept;
    let never_restored = s.standing.current && !s.standing.fenced;
    let allowed = never_had_data
        && never_restored
        && leader.cell != *s.cell
        && s.backup_exists == Some(false)
        && s.stanza_exists
        && s.failed_copies < MAX_COPY_ATTEMPTS;
    let system_identifier = leader.system_identifier.filter(|_| allowed)?;
    Some(CopySource { system_identifier, timeline: leader.term })
}

fn nothing_there(s: &Situation<'_>) -> Step {
    let cell = s.cell;
    match (s.leader, s.backup_exists) {
        (Some(leader), _) if leader.cell == *cell && leader.system_identifier.is_some() => Step::Broken(format!(
            "the data directory of {cell} is gone, and {cell} is the recorded primary: mount its disk again, or promote another cell and rebuild this one"
        )),
        (_, None) => Step::Wait("the repo to be read".to_owned()),
        // The decision to make the database here is recorded, initdb did not end.
        (Some(leader), Some(false)) if leader.cell == *cell => Step::Initdb,
        (Some(leader), Some(true)) if leader.cell == *cell => Step::Broken(format!(
            "{cell} was about to run initdb, but the repo has backups of this database: a new database would not be theirs. Restore one, or use another repo"
        )),
        (Some(_), _) if s.seeded_before && !s.seeding && !s.kept => Step::Broken(format!(
            "the data directory of {cell} was there and is gone: mount its disk again, or make the cell anew with `cellar rebuild {cell}`"
        )),
        (Some(_), Some(true)) => Step::Restore { delta: false },
        (Some(leader), Some(false)) => match copy_source(s, leader) {
            Some(source) => Step::CopyPrimary(source),
            None => Step::Wait(format!("the first backup of the primary in {}", leader.cell)),
        },
        (None, Some(true)) => Step::Broken(
            "the repo has backups of this database, but the topology knows no primary: if etcd lost its data, start the cell that was the primary first".to_owned(),
        ),
        (None, Some(false)) if s.seeded_before => Step::Broken(format!(
            "the data directory of {cell} was there and is gone, and the topology knows no primary: mount its disk again"
        )),
        (None, Some(false)) if s.bootstrap_cell == cell => Step::Initdb,
        (None, Some(false)) => Step::Wait(format!("the first primary in {}", s.bootstrap_cell)),
    }
}

/// Decides what to do about an instance that does not run.
pub(crate) fn next_step(s: &Situation<'_>) -> Step {
    if s.successor {
        return Step::TakeOver;
    }
    let unfinished = match s.data {
        DataDirectory::Partial { .. } => true,
        DataDirectory::Valid { recovers, .. } => !(*recovers && s.restored),
        _ => false,
    };
    let (control, recovers) = match s.data {
        DataDirectory::Missing | DataDirectory::Empty => return nothing_there(s),
        _ if s.seeding && unfinished => {
            // A part; or what looks whole and is the old data that was to be overwritten, or a copy that was recovered
            // over it and then not wanted.
            if s.leader.is_some_and(|leader| leader.cell == *s.cell) {
                return Step::Broken(format!(
                    "{} is the recorded primary, and its data was being restored over when that failed: restore it again with `cellar restore`",
                    s.cell
                ));
            }
            return match s.backup_exists {
                Some(true) => Step::Restore { delta: true },
                Some(false) => Step::Broken(
                    "a restore was begun and cannot be finished: the repo has no backup of this database. See that it is where it was".to_owned(),
                ),
                None => Step::Wait("the repo to be read, to finish the restore that was begun".to_owned()),
            };
        }
        DataDirectory::Partial { reason } => {
            return Step::Broken(format!(
                "the data directory is not whole ({reason}) and no restore of Cellar's was under way: look at it, then make the cell anew with `cellar rebuild {}`",
                s.cell
            ));
        }
        DataDirectory::Foreign { reason } => {
            return Step::Broken(format!(
                "the data directory {reason}; nothing in it was touched. Empty it, or make the cell anew with `cellar rebuild {}`",
                s.cell
            ));
        }
        DataDirectory::Valid { control, recovers, .. } => (control, *recovers),
    };
    if s.leader.is_none() && !s.standing.current {
        return Step::Wait("a recorded primary: this data is from before a restore".to_owned());
    }
    if let Some(leader) = s.leader {
        match leader.system_identifier {
            None if leader.cell == *s.cell => return Step::RecordIdentity(control.system_identifier),
            Some(identity) if identity != control.system_identifier => {
                return Step::Broken(format!(
                    "the data directory has system identifier {}, the database has {identity}: it belongs to another database. Make the cell anew with `cellar rebuild {}`",
                    control.system_identifier, s.cell
                ));
            }
            _ => {}
        }
        if s.seeding {
            return Step::FinishRestore;
        }
        if !s.standing.current {
            // The past may be looked at while the present is being made, and it never comes back as a primary.
            return if s.standing.fenced || !s.standing.left_alone {
                Step::Wait("the restore of the database".to_owned())
            } else if leader.cell == *s.cell {
                Step::Broken(format!(
                    "{} is the recorded primary, and its data is from before a restore: bring back the data directory that it had, or restore the database again",
                    s.cell
                ))
            } else {
                Step::Reseed
            };
        }
        if s.standing.fenced && !recovers {
            return Step::Wait("the restore of the database, for which nobody may write".to_owned());
        }
        // Started like this it would be a second primary, and take writes that nobody else has.
        if !recovers && leader.cell != *s.cell && leader.term > control.timeline {
            return Step::Broken(format!(
                "this was the primary on timeline {}, and {} has been it on timeline {} since: starting it would make a second primary. Make it a standby with `cellar rebuild {}`",
                control.timeline, leader.cell, leader.term, s.cell
            ));
        }
    }
    if s.seeding { Step::FinishRestore } else { Step::Start }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellar_model::Timeline;
    use cellar_postgres::{ControlData, ControlState};
    use proptest::prelude::*;

    fn valid(identity: u64, timeline: u32, recovers: bool) -> DataDirectory {
        DataDirectory::Valid {
            version: 15,
            control: ControlData {
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
        backup: Option<bool>,
        stanza: bool,
        failed_copies: u32,
        standing: Standing,
        successor: bool,
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
                backup: Some(false),
                stanza: false,
                failed_copies: 0,
                standing: Standing { current: true, fenced: false, left_alone: true },
                successor: false,
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
                backup_exists: self.backup,
                stanza_exists: self.stanza,
                failed_copies: self.failed_copies,
                standing: self.standing,
                successor: self.successor,
            })
        }
    }

    /// Killed between the marker and pgBackRest's first file, the directory still holds what was to be overwritten.
    #[test]
    fn old_data_is_not_taken_for_what_was_to_be_restored_over_it() {
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
    fn data_of_the_past_never_becomes_a_primary() {
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
    fn a_fence_stops_the_primary_and_lets_standbys_read() {
        let mut world = World::new("zone1", valid(7, 1, false));
        world.leader = Some(leader("zone1", 1, Some(7)));
        world.standing.fenced = true;
        assert!(matches!(world.step(), Step::Wait(_)));
        world.data = valid(7, 1, true);
        world.cell = "zone2".parse().unwrap();
        assert_eq!(world.step(), Step::Start);
    }

    #[test]
    fn a_copy_recovered_over_the_old_data_is_no_members_data_until_it_is_wanted() {
        let mut world = World::new("zone2", valid(7, 2, false));
        world.leader = Some(leader("zone1", 1, Some(7)));
        (world.seeding, world.backup) = (true, Some(true));
        assert_eq!(world.step(), Step::Restore { delta: true });
        world.leader = Some(leader("zone2", 1, Some(7)));
        assert!(matches!(world.step(), Step::Broken(_)));
    }

    #[test]
    fn the_first_cell_makes_the_database_and_the_others_wait() {
        assert_eq!(World::new("zone1", DataDirectory::Missing).step(), Step::Initdb);
        assert!(matches!(World::new("zone2", DataDirectory::Missing).step(), Step::Wait(_)));
    }

    #[test]
    fn a_killed_initdb_is_run_again_and_an_ended_one_is_recorded() {
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
            assert!(
                matches!(world.step(), Step::Wait(_) | Step::Broken(_)),
                "change {n}: {:?}",
                world.step()
            );
        }
        let mut world = fresh_standby();
        (world.failed_copies, world.backup) = (MAX_COPY_ATTEMPTS, Some(true));
        assert_eq!(world.step(), Step::Restore { delta: false });
    }

    #[test]
    fn a_disk_that_vanished_is_not_papered_over() {
        let mut world = World::new("zone2", DataDirectory::Empty);
        world.leader = Some(leader("zone1", 1, Some(7)));
        world.backup = Some(true);
        world.seeded_before = true;
        assert!(matches!(world.step(), Step::Broken(_)));
        world.leader = Some(leader("zone2", 1, Some(7)));
        assert!(matches!(world.step(), Step::Broken(_)));
    }

    #[test]
    fn an_old_primary_does_not_come_back_as_one() {
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

    #[test]
    fn another_databases_files_are_not_started() {
        let mut world = World::new("zone2", valid(8, 1, true));
        world.leader = Some(leader("zone1", 1, Some(7)));
        assert!(matches!(world.step(), Step::Broken(_)));
    }

    proptest! {
        /// Whatever is there: initdb only where there is no data, no backup, no identity, and only in
        /// the first cell or the one that is recorded to be making the database.
        #[test]
        fn initdb_never_endangers_anything(
            me in 1u8..4, holder in 0u8..4, identity in proptest::option::of(7u64..9),
            kind in 0u8..5, seeding: bool, seeded: bool, backup in proptest::option::of(any::<bool>()),
            recovers: bool, restored: bool, kept: bool, current: bool, fenced: bool, left_alone: bool, successor: bool,
            stanza: bool, failed_copies in 0u32..5,
        ) {
            let data = match kind {
                0 => DataDirectory::Missing,
                1 => DataDirectory::Empty,
                2 => DataDirectory::Partial { reason: "x".into() },
                3 => DataDirectory::Foreign { reason: "x".into() },
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
            match world.step() {
                Step::Initdb => {
                    prop_assert!(kind < 2);
                    prop_assert_eq!(backup, Some(false));
                    prop_assert!(world.leader.as_ref().is_none_or(|l| l.system_identifier.is_none() && l.cell == world.cell));
                    prop_assert!(world.leader.is_some() || (me == 1 && !seeded));
                }
                Step::Restore { .. } => {
                    prop_assert!(kind < 2 || (kind == 2 && seeding) || (kind == 4 && seeding && !(recovers && restored)));
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
                Step::Reseed => prop_assert!(!current && !fenced && left_alone && !seeding),
                Step::Start => {
                    prop_assert_eq!(kind, 4);
                    // The data of a database that has a primary runs only if it is the present, and writes only unfenced.
                    prop_assert!(current && (recovers || !fenced || world.leader.is_none()));
                }
                // What is marked as the present has really been restored.
                Step::FinishRestore => prop_assert!(kind == 4 && seeding && recovers && restored),
                Step::RecordIdentity(_) => prop_assert_eq!(kind, 4),
                Step::Wait(text) | Step::Broken(text) => prop_assert!(!text.is_empty()),
            }
        }
    }
}
