//! How many jobs that take no lock may be open at once.
//!
//! Jobs that take the lock wait in its queue, which is bounded. Plans, drills, verifications and checks begin beside each
//! other, so nothing else would bound them: each costs records in etcd and time of a pooler.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cellar_model::{Code, DatabaseName, JobId, JobRecord, Refusal};
use cellar_topology::View;

/// Open jobs of one database that take no lock.
const MAX_OF_DATABASE: usize = 32;

/// Those of them that one caller may have asked for, so that nobody keeps the others out.
const MAX_OF_CALLER: usize = 16;

/// The database and the caller of a job.
type Origin = (DatabaseName, String);

/// Jobs that this process is recording and that its view may not show yet.
///
/// Several multiadmins do not know of each other's. So each can exceed a limit by what it records within the few
/// milliseconds in which its view does not show the others' jobs.
#[derive(Debug, Clone, Default)]
pub(crate) struct OpenJobs {
    recording: Arc<Mutex<BTreeMap<JobId, Origin>>>,
}

/// Counts as an open job until it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    jobs: OpenJobs,
    id: JobId,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.jobs.recording.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

fn is_counted(record: &JobRecord) -> bool {
    !record.kind().takes_lock() && record.parent.is_none()
}

impl OpenJobs {
    /// Reserves a place for a job that is about to be recorded; none for a job that waits in the lock's queue.
    ///
    /// # Errors
    /// [`Code::QueueFull`] when there are too many already.
    pub(crate) fn reserve(&self, view: &View, record: &JobRecord) -> Result<Option<Reservation>, Refusal> {
        if !is_counted(record) {
            return Ok(None);
        }
        let mut recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = view.jobs.values().filter(|job| is_counted(job) && !view.has_ended(&job.id));
        let seen = seen.map(|job| (job.id, (&job.database, job.requested_by.as_str())));
        let unseen = recording.iter().filter(|(id, _)| !view.knows(id));
        let unseen = unseen.map(|(id, (database, caller))| (*id, (database, caller.as_str())));
        let callers: Vec<&str> = seen
            .chain(unseen)
            .filter(|(id, (database, _))| **database == record.database && *id != record.id)
            .map(|(_, (_, caller))| caller)
            .collect();
        let of_caller = callers.iter().filter(|caller| **caller == record.requested_by).count();
        if of_caller >= MAX_OF_CALLER {
            return Err(too_many(record, &format!("{of_caller} of {}", record.requested_by)));
        }
        if callers.len() >= MAX_OF_DATABASE {
            return Err(too_many(record, &callers.len().to_string()));
        }
        recording.insert(record.id, (record.database.clone(), record.requested_by.clone()));
        Ok(Some(Reservation { jobs: self.clone(), id: record.id }))
    }
}

fn too_many(record: &JobRecord, open: &str) -> Refusal {
    let database = &record.database;
    let message = format!(
        "database {database} has {open} plans, drills, verifications and checks that have not ended; a database may have {MAX_OF_DATABASE}, and one caller {MAX_OF_CALLER} of them"
    );
    Refusal::new(Code::QueueFull, message)
        .hint("wait until some have ended (`cellar jobs list`), or cancel what is not needed (`cellar jobs cancel`)")
        .about("database", database)
        .about("cell", &record.cell)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellar_model::{Closure, JobSpec, JobState, RebuildParams};
    use jiff::Timestamp;

    fn job(n: usize, spec: JobSpec, caller: &str) -> JobRecord {
        JobRecord::new(
            JobId::new(uuid::Uuid::from_u128(n as u128)),
            spec,
            "app".parse().unwrap(),
            "zone1".parse().unwrap(),
            caller,
            Timestamp::UNIX_EPOCH,
            Timestamp::UNIX_EPOCH,
        )
    }

    fn check(n: usize, caller: &str) -> JobRecord {
        job(n, JobSpec::Check, caller)
    }

    #[test]
    fn one_caller_cannot_fill_a_database_and_many_cannot_exceed_it() {
        let (jobs, view) = (OpenJobs::default(), View::default());
        let mut held = Vec::new();
        for (who, caller) in ["a", "b"].into_iter().enumerate() {
            for n in 0..MAX_OF_CALLER {
                held.push(jobs.reserve(&view, &check(who * 100 + n, caller)).unwrap().unwrap());
            }
            let refusal = jobs.reserve(&view, &check(999, caller)).unwrap_err();
            assert_eq!(refusal.code, Code::QueueFull);
            assert!(refusal.message.contains(&format!("16 of {caller}")), "{}", refusal.message);
        }
        assert!(jobs.reserve(&view, &check(998, "c")).unwrap_err().message.contains("has 32 plans"));
        let other = JobRecord { database: "web".parse().unwrap(), ..check(997, "a") };
        assert!(jobs.reserve(&view, &other).unwrap().is_some(), "another database has its own");
        let locked = job(996, JobSpec::Rebuild(RebuildParams::default()), "a");
        assert!(jobs.reserve(&view, &locked).unwrap().is_none(), "the queue bounds those that take the lock");
        held.pop();
        assert!(jobs.reserve(&view, &check(995, "c")).unwrap().is_some(), "one was not recorded after all");
    }

    #[test]
    fn recorded_jobs_count_once_until_they_have_ended() {
        let (jobs, mut view) = (OpenJobs::default(), View::default());
        let mut held = Vec::new();
        for n in 0..MAX_OF_CALLER {
            held.push(jobs.reserve(&view, &check(n, "a")).unwrap());
            view.jobs.insert(check(n, "a").id, check(n, "a"));
        }
        drop(held);
        assert!(jobs.reserve(&view, &check(99, "a")).is_err());
        let closure =
            Closure { state: JobState::Failed, time: Timestamp::UNIX_EPOCH, error: None, result: None };
        let ended = JobRecord { closure: Some(closure), ..check(3, "a") };
        view.jobs.insert(ended.id, ended);
        assert!(jobs.reserve(&view, &check(99, "a")).unwrap().is_some());
    }
}
