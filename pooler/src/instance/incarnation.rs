//! Which copy of the database a data directory is: its mark, compared with the record in etcd.
//!
//! A restore makes the next incarnation. From that moment every other copy is outdated, wherever it is and whenever its
//! cell comes back: it may be read for a while, and it never becomes a primary.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cellar_model::{CellLayout, CellName, Incarnation, JobId, Key};
use cellar_system::AtomicFile;
use serde::{Deserialize, Serialize};

use crate::agent::Agent;

/// The mark's file. It is inside the data directory, so that it moves with it.
const MARK: &str = "cellar.incarnation";

/// The mark of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The number of its incarnation.
    pub(crate) number: u32,
    /// The restore or rollback that made it; none for the first.
    pub(crate) job: Option<JobId>,
}

impl Mark {
    /// The mark of the current incarnation's data.
    pub(crate) fn of(incarnation: &Incarnation) -> Self {
        Self { number: incarnation.number, job: incarnation.job }
    }

    /// The mark of a data directory. One without a mark was made before any restore.
    ///
    /// # Errors
    /// When there is a mark that cannot be read: then it is not known of which incarnation the data is.
    pub(crate) fn read(data: &Path) -> std::io::Result<Self> {
        match std::fs::read(data.join(MARK)) {
            Ok(text) => serde_json::from_slice(&text).map_err(std::io::Error::from),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self { number: 1, job: None }),
            Err(error) => Err(error),
        }
    }

    /// Marks a data directory, durably.
    pub(crate) fn write(self, data: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string(&self).map_err(std::io::Error::other)?;
        AtomicFile::new(&data.join(MARK)).replace(text)
    }
}

/// The restore to whose rollback the data of a cell with this mark belongs. A cell's rebuild as a step of the restore has
/// set it aside, unless that failed; then whoever replaces it must.
pub(crate) fn way_back(incarnation: &Incarnation, cell: &CellName, mark: Option<Mark>) -> Option<JobId> {
    let is_kept_here = incarnation.kept_in.as_ref() == Some(cell);
    incarnation.job.filter(|_| is_kept_here && mark != Some(Mark::of(incarnation)))
}

/// How this cell's data relates to the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The data directory is of the current incarnation.
    pub(crate) current: bool,
    /// A restore has fenced the database: nobody may write.
    pub(crate) fenced: bool,
    /// The job that made the current incarnation has ended, so no step of it will rebuild this cell; and the new data is
    /// in use, so the cell can do that by itself. Before that the backups that lead to the new primary are not known.
    pub(crate) left_alone: bool,
}

/// It is not known how the data relates to the record. Then nothing is started, and nothing is stopped but what a fence
/// stops.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StandingError {
    /// The mark of the data directory cannot be read.
    #[error(
        "{path} cannot be read ({source}), so it is not known whether this data is from before a restore: PostgreSQL goes on if it runs, and is not started. Look at the disk; `cellar rebuild` makes a standby again, and `cellar restore` a primary"
    )]
    Mark {
        /// The mark's file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The record in etcd cannot be read.
    #[error(
        "the record {key} in etcd cannot be read ({reason}), so it is not known whether a restore has fenced the database: PostgreSQL goes on if it runs, and is not started. Correct the record with etcdctl, or delete it if the database was never restored"
    )]
    Record {
        /// Its key.
        key: String,
        /// Why.
        reason: String,
    },
    /// The record is from before the restore that made this data: etcd itself was put back to an older state.
    #[error(
        "the record {key} in etcd is of incarnation {recorded}, and this data is of incarnation {found}: etcd was put back to a state from before a restore of the database. PostgreSQL goes on if it runs, and is not started, and this data is not replaced. Correct the record as docs/runbooks/lost-etcd.md says; or, if the record is right, `cellar rebuild` makes this cell a standby"
    )]
    RecordBehind {
        /// Its key.
        key: String,
        /// The number in the record.
        recorded: u32,
        /// The number in the mark.
        found: u32,
    },
    /// The data was made in the place of this cell's data by a restore that never took effect.
    #[error(
        "this data was restored in place by job {job}, which was given up before it took effect: it is not the database's. PostgreSQL goes on if it runs, and is not started. If this cell is the recorded primary, restore the database again with `cellar restore`; if not, `cellar rebuild` makes it a standby"
    )]
    Abandoned {
        /// The restore.
        job: JobId,
    },
}

/// Why data has a higher number than the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ahead {
    /// The record is from before the restore that made the data: etcd has lost writes. Then it must not be obeyed: it
    /// would call the newest data outdated, and replace it by a backup.
    RecordBehind,
    /// The restore that made the data in place was given up, and the record is right.
    Abandoned(JobId),
}

/// Why data with this mark has a higher number than the record; none when it has not. Numbers only grow. While a restore
/// has fenced the database, data may have its mark already, and the fence holds anyway.
///
/// The end of a restore is recorded after its incarnation. So where a restore is known to have ended without effect, and its
/// incarnation is not recorded, the record is not behind.
fn ahead(incarnation: &Incarnation, mark: Mark, is_given_up: impl Fn(&JobId) -> bool) -> Option<Ahead> {
    let is_ahead = incarnation.fence.is_none() && mark.number > incarnation.number;
    let abandoned = || mark.job.filter(is_given_up).map(Ahead::Abandoned);
    is_ahead.then(|| abandoned().unwrap_or(Ahead::RecordBehind))
}

/// The record as this pooler sees it.
pub(crate) fn record(agent: &Agent) -> Incarnation {
    agent.mirror.view().incarnation(&agent.database)
}

/// How a data directory relates to the record.
///
/// # Errors
/// When one of the two is there and cannot be read.
pub(crate) fn standing(agent: &Agent, data: &Path) -> Result<Standing, StandingError> {
    let view = agent.mirror.view();
    let Some(incarnation) = view.incarnations.get(&agent.database) else {
        let key = agent.store.keys().path(&Key::Incarnation(agent.database.clone()));
        return match view.unreadable.get(&key) {
            Some(reason) => Err(StandingError::Record { key, reason: reason.clone() }),
            // The database was never restored, or etcd has lost the record. A record that is not known must not stop a
            // primary.
            None => Ok(Standing { current: true, fenced: false, left_alone: true }),
        };
    };
    let mark = Mark::read(data).map_err(|source| StandingError::Mark { path: data.join(MARK), source })?;
    match ahead(incarnation, mark, |job| view.is_known_to_have_failed(job)) {
        None => {}
        Some(Ahead::Abandoned(job)) => return Err(StandingError::Abandoned { job }),
        Some(Ahead::RecordBehind) => {
            let key = agent.store.keys().path(&Key::Incarnation(agent.database.clone()));
            return Err(StandingError::RecordBehind {
                key,
                recorded: incarnation.number,
                found: mark.number,
            });
        }
    }
    Ok(Standing {
        current: mark == Mark::of(incarnation),
        fenced: incarnation.fence.is_some(),
        left_alone: incarnation.job.is_none_or(|job| view.has_ended(&job))
            && incarnation.is_in_use(view.leaders.get(&agent.database)),
    })
}

/// The highest number that data of this cell is marked with, in the data directory and beside it; none while there is no
/// mark. What cannot be read is left out: it is told where it matters.
pub(crate) fn highest_mark(layout: &CellLayout) -> Option<u32> {
    let beside = siblings(layout).unwrap_or_default().into_iter().map(|(path, _, _)| path);
    let marked = beside.chain([layout.data()]).filter(|data| data.join(MARK).exists());
    marked.filter_map(|data| Mark::read(&data).ok()).map(|mark| mark.number).max()
}

/// The directory that is to replace the data directory: this cell's whole and stopped copy of the current incarnation,
/// which a restore or a rollback made beside it.
pub(crate) fn successor(agent: &Agent) -> Option<PathBuf> {
    let incarnation = record(agent);
    if incarnation.cell.as_ref() != Some(&agent.cell) {
        return None;
    }
    beside(&agent.layout, Mark::of(&incarnation))
}

/// A sibling of the data directory with that mark.
///
/// A backup contains the mark of the time when it was taken, so a copy that another job is restoring may have the
/// current mark and not be whole. So only the copy of the mark's own job counts, or old data that a rollback has marked.
fn beside(layout: &CellLayout, mark: Mark) -> Option<PathBuf> {
    // The first incarnation was made by no restore, so it has no copy beside the data directory.
    let made_by = mark.job?;
    siblings(layout)
        .inspect_err(|error| tracing::warn!(%error, "the cell's directory cannot be read"))
        .ok()?
        .into_iter()
        .filter(|(_, kind, job)| *kind == Kind::Kept || *job == made_by)
        .map(|(path, _, _)| path)
        .find(|path| Mark::read(path).is_ok_and(|found| found == mark))
}

/// What a directory beside the data directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Being restored by a job, or restored and waiting to take the data directory's place.
    Restored,
    /// Old data, kept after a job.
    Kept,
}

/// The directories beside the data directory that restores made.
///
/// # Errors
/// When the cell's directory cannot be read: then it is not known which there are.
pub(crate) fn siblings(layout: &CellLayout) -> std::io::Result<Vec<(PathBuf, Kind, JobId)>> {
    let entries = std::fs::read_dir(layout.root())?.collect::<std::io::Result<Vec<_>>>()?;
    let named = |name: &str| {
        let restored = CellLayout::restored_by(name).map(|job| (Kind::Restored, job));
        restored.or_else(|| Some((Kind::Kept, CellLayout::kept_by(name)?)))
    };
    let siblings = entries.into_iter().filter_map(|entry| {
        let (kind, job) = named(entry.file_name().to_str()?)?;
        Some((entry.path(), kind, job))
    });
    Ok(siblings.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_without_a_mark_is_of_the_first_incarnation() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Mark::read(dir.path()).unwrap(), Mark { number: 1, job: None });
        let mark = Mark { number: 3, job: Some("01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap()) };
        mark.write(dir.path()).unwrap();
        assert_eq!(Mark::read(dir.path()).unwrap(), mark);
        assert_eq!(Mark::of(&Incarnation::default()), Mark { number: 1, job: None });
        // What is there and cannot be read says nothing.
        std::fs::write(dir.path().join(MARK), "{\"number\":3").unwrap();
        assert!(Mark::read(dir.path()).is_err());
        std::fs::remove_file(dir.path().join(MARK)).unwrap();
        std::fs::create_dir(dir.path().join(MARK)).unwrap();
        assert!(Mark::read(dir.path()).is_err());
    }

    #[test]
    fn data_to_which_a_rollback_returns_is_known_by_its_mark() {
        let job: JobId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let (here, other): (CellName, CellName) = ("zone1".parse().unwrap(), "zone2".parse().unwrap());
        let open =
            Incarnation { number: 2, job: Some(job), kept_in: Some(here.clone()), ..Incarnation::default() };
        let before = Some(Mark { number: 1, job: None });
        assert_eq!(way_back(&open, &here, before), Some(job));
        assert_eq!(way_back(&open, &here, None), Some(job), "a mark that cannot be read");
        assert_eq!(way_back(&open, &here, Some(Mark::of(&open))), None, "it was set aside already");
        assert_eq!(way_back(&open, &other, before), None);
        assert_eq!(way_back(&Incarnation { kept_in: None, ..open }, &here, before), None, "confirmed");
    }

    #[test]
    fn record_from_before_the_data_is_not_obeyed() {
        let job: JobId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let mark = |number, job| Mark { number, job };
        let record = |number, fence| Incarnation { number, fence, ..Incarnation::default() };
        let open = |_: &JobId| false;
        let behind = Some(Ahead::RecordBehind);
        assert_eq!(ahead(&record(1, None), mark(2, Some(job)), open), behind, "etcd was put back");
        assert_eq!(ahead(&record(1, None), mark(2, None), |_| true), behind);
        assert_eq!(ahead(&record(2, None), mark(2, Some(job)), open), None);
        assert_eq!(
            ahead(&record(3, None), mark(2, Some(job)), open),
            None,
            "the data is from before a restore"
        );
        assert_eq!(
            ahead(&record(1, Some(job)), mark(2, Some(job)), open),
            None,
            "a restore in place is under way"
        );
    }

    #[test]
    fn data_of_a_restore_in_place_that_was_given_up_does_not_say_that_etcd_was_put_back() {
        let (job, other): (JobId, JobId) = (
            "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
            "01890a5d-ac96-774b-bcce-b302099a8058".parse().unwrap(),
        );
        let record = Incarnation { number: 3, job: Some(other), ..Incarnation::default() };
        let mark = Mark { number: 4, job: Some(job) };
        assert_eq!(ahead(&record, mark, |ended| *ended == job), Some(Ahead::Abandoned(job)));
        assert_eq!(ahead(&record, mark, |ended| *ended == other), Some(Ahead::RecordBehind));
        let later = Incarnation { number: 5, ..record };
        assert_eq!(ahead(&later, mark, |_| true), None, "from before the next restore, as all other data");
        let said = StandingError::Abandoned { job }.to_string();
        assert!(said.contains(&job.to_string()) && !said.contains("etcd"), "{said}");
    }

    #[test]
    fn highest_mark_is_that_of_any_data_of_the_cell() {
        let dir = tempfile::tempdir().unwrap();
        let layout = CellLayout::new(dir.path());
        let job: JobId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(highest_mark(&layout), None);
        for (data, number) in [(layout.data(), 2), (layout.kept(job), 1), (layout.restored(job), 3)] {
            std::fs::create_dir(&data).unwrap();
            Mark { number, job: Some(job) }.write(&data).unwrap();
        }
        assert_eq!(highest_mark(&layout), Some(3));
        std::fs::write(layout.restored(job).join(MARK), "{").unwrap();
        assert_eq!(highest_mark(&layout), Some(2));
    }

    #[test]
    fn only_a_copy_with_the_current_mark_of_its_own_job_is_a_successor() {
        let dir = tempfile::tempdir().unwrap();
        let layout = CellLayout::new(dir.path());
        let job: JobId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let other: JobId = "01890a5d-ac96-774b-bcce-b302099a8058".parse().unwrap();
        let mark = Mark { number: 2, job: Some(job) };
        for path in [layout.restored(job), layout.kept(other), dir.path().join("pg_data.restored-x")] {
            std::fs::create_dir(path).unwrap();
        }
        assert_eq!(siblings(&layout).unwrap().len(), 2);
        assert_eq!(beside(&layout, mark), None, "not marked yet: it is not whole");
        Mark { number: 2, job: Some(other) }.write(&layout.kept(other)).unwrap();
        assert_eq!(beside(&layout, mark), None, "another job's");
        std::fs::create_dir(layout.restored(other)).unwrap();
        mark.write(&layout.restored(other)).unwrap();
        assert_eq!(beside(&layout, mark), None, "a backup's own mark");
        mark.write(&layout.restored(job)).unwrap();
        assert_eq!(beside(&layout, mark), Some(layout.restored(job)));
    }
}
