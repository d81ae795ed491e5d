//! How good a backup is, and which of several is the best.
//!
//! Whatever chooses among backups goes by this: retention and expiry, plans of restores, seeds of new members, drills,
//! and the base of an incremental backup.

use crate::decide::mark::Mark;
use crate::decide::survey::SurveyedBackup;
use crate::records::backup::{BackupLabel, BackupType};
use crate::types::wal::Lineage;

/// How good a backup is, from the worst to the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// It, or a backup that it builds on, is not proven to have come from the cell that was named; or a backup that it
    /// builds on is gone.
    Unproven,
    /// Proven, and pages with wrong checksums were found while it was taken.
    PageErrors,
    /// Proven, and its last drill failed.
    DrillFailed,
    /// Nothing is known to be wrong with it.
    Sound,
}

impl Worth {
    /// Whether it is proven and its pages were as they should be. What retention counts, and what a new member or an
    /// incremental backup may begin from. A failed drill alone may be the fault of a check that somebody wrote.
    #[must_use]
    pub fn is_sound(self) -> bool {
        self >= Self::DrillFailed
    }

    /// What is wrong with it, in words.
    #[must_use]
    pub fn flaw(self) -> Option<&'static str> {
        match self {
            Self::Unproven => Some("it is not proven that it came from the cell that was named"),
            Self::PageErrors => Some("pages with wrong checksums were found while it was taken"),
            Self::DrillFailed => Some("its last drill failed"),
            Self::Sound => None,
        }
    }
}

/// How good a backup is. `all` are the backups of the repo, among which are those that it builds on.
#[must_use]
pub fn worth(backup: &SurveyedBackup, all: &[SurveyedBackup]) -> Worth {
    let base_is_proven =
        |label: &BackupLabel| all.iter().any(|other| other.label == *label && other.mark == Mark::Proven);
    if backup.mark != Mark::Proven || !backup.bases.iter().all(base_is_proven) {
        Worth::Unproven
    } else if backup.page_errors {
        // pgBackRest counts the pages of files that are taken over from a base, too.
        Worth::PageErrors
    } else if backup.drill_passed == Some(false) {
        Worth::DrillFailed
    } else {
        Worth::Sound
    }
}

/// The best backup that leads to the end of a lineage: the newest of the best worth.
#[must_use]
pub fn best_on<'a>(backups: &'a [SurveyedBackup], lineage: &Lineage) -> Option<&'a SurveyedBackup> {
    backups
        .iter()
        .filter(|backup| lineage.contains(backup.timeline, backup.stop_lsn))
        .max_by_key(|backup| (worth(backup, backups), backup.stop_lsn, backup.stop_time))
}

/// The type of backup to take when `asked` for one, and why it is another.
///
/// pgBackRest builds on the newest backup (of a diff: the newest full one), however good that is. What builds on a
/// backup that is not sound is not sound either, so a full one is taken instead.
#[must_use]
pub fn type_to_take(asked: BackupType, all: &[SurveyedBackup]) -> (BackupType, Option<String>) {
    let may_be_base = |backup: &&SurveyedBackup| match asked {
        BackupType::Full => false,
        BackupType::Diff => backup.backup_type == BackupType::Full,
        BackupType::Incr => true,
    };
    let base = all.iter().filter(may_be_base).max_by(|a, b| a.label.cmp(&b.label));
    match base.map(|base| (&base.label, worth(base, all))) {
        Some((label, worth)) if !worth.is_sound() => {
            let flaw = worth.flaw().unwrap_or_default();
            let why = format!("a full backup was taken, because {asked} would build on {label}: {flaw}");
            (BackupType::Full, Some(why))
        }
        _ => (asked, None),
    }
}

#[cfg(test)]
mod tests;
