//! What to do next about an instance that does not run: a pure decision from what was found.
//!
//! Its first rule: initdb may only create the first member of a database that has no backup, no other member and no
//! recorded identity. When no step is certain to be safe the decision is `Broken`, with a message that says what a
//! person can do.

use cellar_model::{CellName, Leader, SystemIdentifier};
use cellar_postgres::{CopySource, DataDirectory};

use crate::instance::incarnation::Standing;
use crate::instance::unrecorded::Succession;

/// What quorum commit says of a primary's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Term {
    /// There is no quorum commit.
    None,
    /// It is the leader's.
    Leads,
    /// It is the leader's, which saw neither etcd nor its quorum and stopped.
    CutOff,
    /// It is the leader's, which has stopped so that another one can lead.
    HandsOver,
    /// Another member was given a later term.
    Replaced {
        /// Whether its own term was established: then whoever leads now went on from its timeline, so that it can be seen
        /// whether this data can follow.
        established: bool,
        /// Whether nobody counts on this copy any more, and no person works on the database.
        may_replace: bool,
    },
}

/// What was found.
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
    /// Whether pgBackRest has succeeded in that restore.
    pub(crate) restored: bool,
    /// Whether old data of this cell is kept for a rollback, so that its place may be empty.
    pub(crate) kept: bool,
    /// Whether this cell has ever been seeded.
    pub(crate) seeded_before: bool,
    /// The recorded primary.
    pub(crate) leader: Option<&'a Leader>,
    /// Whether the data says that it was promoted, though its control file may not name the new timeline yet.
    pub(crate) promoted: bool,
    /// Whether the recorded primary, of another cell, says itself that it is a standby of the same database.
    pub(crate) record_denied: bool,
    /// What is known of promotions since this data was a primary's; none where that decides nothing.
    pub(crate) succession: Option<&'a Succession>,
    /// Whether another cell reports that it has a database.
    pub(crate) others_have_data: bool,
    /// Whether the repo has a backup of the database; `None` while that is not known.
    pub(crate) backup_exists: Option<bool>,
    /// Whether the repo has the database's stanza. The primary makes it after the role that copies it.
    pub(crate) stanza_exists: bool,
    /// How often copying the primary failed in this process.
    pub(crate) failed_copies: u32,
    /// How the data relates to the database's incarnation.
    pub(crate) standing: Standing,
    /// Whether a copy of the current incarnation beside the data is to replace it.
    pub(crate) successor: bool,
    /// What quorum commit says, if the data is a primary's.
    pub(crate) term: Term,
    /// Whether the data is a standby's that cannot follow, and that nobody counts on.
    pub(crate) replace: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing yet; the text says what is awaited.
    Wait(String),
    /// Record that this cell creates the database, then run initdb.
    Initdb,
    /// Restore the newest backup as a standby.
    Restore {
        /// Whether the data directory has files that can be completed.
        delta: bool,
    },
    /// Copy the primary, because there is no backup to restore yet.
    CopyPrimary(CopySource),
    /// Record the identity that initdb gave the database.
    RecordIdentity(SystemIdentifier),
    /// Finish a restore whose files are all there.
    FinishRestore,
    /// Replace the data by the copy of the current incarnation.
    TakeOver,
    /// Set data from before a restore aside, and restore the newest backup as a standby.
    Reseed,
    /// Let the data of a primary that was replaced follow the new one, if it can.
    Demote,
    /// Restore the newest backup over data that cannot follow.
    Rejoin,
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
            "the data directory of {cell} is gone, and {cell} is the recorded primary: mount its disk again, or promote another cell and then `cellar rebuild {cell}`; if there is none, `cellar restore --latest`"
        )),
        (_, None) => Step::Wait("the repo to be read".to_owned()),
        // The decision to create the database here is recorded, and initdb did not end.
        (Some(leader), Some(false)) if leader.cell == *cell => Step::Initdb,
        (Some(leader), Some(true)) if leader.cell == *cell => Step::Broken(format!(
            "{cell} was about to run initdb, but the repo has backups of this database: a new database would not be theirs. Restore one, or use another repo"
        )),
        (Some(_), _) if s.seeded_before && !s.seeding && !s.kept => Step::Broken(format!(
            "the data directory of {cell} was there and is gone: mount its disk again, or rebuild the cell with `cellar rebuild {cell}`"
        )),
        (Some(_), Some(true)) => Step::Restore { delta: false },
        (Some(leader), Some(false)) => match copy_source(s, leader) {
            Some(source) => Step::CopyPrimary(source),
            None if !s.stanza_exists && s.failed_copies == 0 => {
                Step::Wait(format!("the primary in {} to be ready", leader.cell))
            }
            None => Step::Wait(format!("the first backup of the primary in {}", leader.cell)),
        },
        (None, Some(true)) => Step::Broken(
            "the repo has backups of this database, but the topology knows no primary: if etcd lost its data, start the cell that was the primary first".to_owned(),
        ),
        (None, Some(false)) if s.seeded_before => Step::Broken(format!(
            "the data directory of {cell} was there and is gone, and the topology knows no primary: mount its disk again"
        )),
        (None, Some(false)) if s.others_have_data => {
            Step::Wait("the primary of the database that other cells have".to_owned())
        }
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
            // The data is a part of a backup. Or it looks whole and is the old data that was to be overwritten, or a copy
            // that was recovered over it by a restore that then failed.
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
                "the data directory is not whole ({reason}) and no restore of Cellar's was under way: look at it, then rebuild the cell with `cellar rebuild {}`",
                s.cell
            ));
        }
        DataDirectory::OtherVersion { reason } => {
            return Step::Broken(format!("the data directory {reason}; nothing in it was touched"));
        }
        DataDirectory::Foreign { reason } => {
            return Step::Broken(format!(
                "the data directory {reason}; nothing in it was touched. Empty it, or rebuild the cell with `cellar rebuild {}`",
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
                    "the data directory has system identifier {}, the database has {identity}: it belongs to another database. Rebuild the cell with `cellar rebuild {}`",
                    control.system_identifier, s.cell
                ));
            }
            _ => {}
        }
        if s.seeding {
            return Step::FinishRestore;
        }
        if !s.standing.current {
            // A standby with data from before a restore may be read while the restore goes on; a primary may not run.
            return if s.standing.fenced || !s.standing.left_alone {
                Step::Wait("the restore of the database".to_owned())
            } else if leader.cell == *s.cell {
                Step::Broken(format!(
                    "{} is the recorded primary, and its data is from before a restore: bring back the data directory that it had, or restore the database again with `cellar restore`",
                    s.cell
                ))
            } else {
                Step::Reseed
            };
        }
        if s.standing.fenced && !recovers {
            return Step::Wait("the restore of the database, for which nobody may write".to_owned());
        }
        if s.replace {
            return Step::Rejoin;
        }
        match s.term {
            _ if recovers => {}
            Term::Leads => return Step::Start,
            Term::CutOff => {
                return Step::Wait(
                    "etcd: this primary saw neither etcd nor its quorum, and stopped".to_owned(),
                );
            }
            Term::HandsOver => return Step::Wait("another member to lead, as a person asked for".to_owned()),
            Term::Replaced { established: true, .. } => return Step::Demote,
            Term::Replaced { may_replace: true, .. } => return Step::Rejoin,
            Term::Replaced { .. } => {
                return Step::Wait(
                    "the others to do without this copy of the data: it was the primary's, and another member leads now. It is kept while the database is paused (`cellar resume`)"
                        .to_owned(),
                );
            }
            Term::None => {}
        }
        // It would run as a second primary and accept writes that no other member has.
        if !recovers && leader.cell != *s.cell {
            if leader.term > control.timeline {
                return Step::Broken(format!(
                    "this was the primary on timeline {}, and {} has been it on timeline {} since: starting it would make a second primary. Make it a standby with `cellar rebuild {}`",
                    control.timeline, leader.cell, leader.term, s.cell
                ));
            }
            // A promotion raises the timeline, so on the same one this never was a primary beside the recorded one.
            if leader.term == control.timeline && !s.promoted && !s.record_denied {
                return Step::Broken(format!(
                    "this data has no standby.signal, and {} is the recorded primary on the same timeline {}: starting it would make a second primary. Make it a standby with `cellar rebuild {}`",
                    leader.cell, leader.term, s.cell
                ));
            }
        }
    }
    if s.seeding {
        return Step::FinishRestore;
    }
    // Nobody knows the primary, so this data must show that it is the newest primary's.
    match s.succession {
        Some(Succession::Unknown(what)) => Step::Wait(what.clone()),
        Some(Succession::Left(timeline, known)) => Step::Broken(format!(
            "this was the primary on timeline {}, no primary is recorded, and another cell was promoted to timeline {timeline} since ({known}): starting this one would make a second primary. Start the multipooler of that cell, then make this one a standby with `cellar rebuild {}`; if that cell is lost, docs/runbooks/lost-etcd.md says how to go on with this one",
            control.timeline, s.cell
        )),
        Some(Succession::Present) | None => Step::Start,
    }
}

#[cfg(test)]
mod tests;
