//! What the leading multiadmin does with what nobody else can end.
//!
//! [`decide`] is a pure function of the picture; the executor follows it and
//! guards every write with the revisions that the decision saw. So it may be
//! run at any time, by a leader that does not know that it is not one any more.

mod close_jobs;
mod driving;
mod fences;
mod history;
mod locks;

#[cfg(test)]
mod tests;

use cellar_model::{
    AuditId, CellName, Database, DatabaseName, Incarnation, JobId, JobRecord, Key, Lock, forgettable_audit,
};
use cellar_topology::View;
use jiff::Timestamp;

use crate::jobs::closure::{ClosureGuards, closed};
use crate::jobs::stage::{job_key, run_key};
use crate::leader::observations::Observations;

/// One thing to do, with the revisions that it stands on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Take what has ended out of a database's lock and move the first that waits up.
    PassLock { database: DatabaseName, lock: Lock, revision: i64 },
    /// Replace a job's record by one with a closure.
    Close { record: Box<JobRecord>, guards: ClosureGuards },
    /// Let the database be written again: the job that fenced it has ended, or is gone.
    LiftFence {
        database: DatabaseName,
        incarnation: Incarnation,
        revision: i64,
        job: JobId,
        job_revision: i64,
    },
    /// Delete old jobs with their runs.
    Forget { jobs: Vec<Forgotten> },
    /// Delete old audit records.
    ForgetAudit { ids: Vec<AuditId> },
    /// Raise what a database demands of every process: all its poolers are newer now.
    RaiseMinimum { database: Database, revision: i64 },
    /// Do the next thing for a job that multiadmin drives.
    Drive(Box<Drive>),
}

/// Audit records that one transaction deletes, of etcd's 128 operations.
const AUDIT_BATCH: usize = 100;

/// One transaction for a job that multiadmin drives.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Drive {
    pub(crate) job: JobId,
    /// Revisions that must still hold; 0 for a record that must not be there.
    pub(crate) guards: Vec<(Key, i64)>,
    /// Jobs to write: new steps, steps with a wish to end, or the job itself, closed.
    pub(crate) records: Vec<JobRecord>,
    pub(crate) incarnation: Option<(DatabaseName, Incarnation)>,
}

/// A job of the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forgotten {
    pub(crate) database: DatabaseName,
    pub(crate) cell: CellName,
    pub(crate) id: JobId,
    pub(crate) job_revision: i64,
    pub(crate) run_revision: i64,
}

/// Everything that is to be done as things are.
pub(crate) fn decide(view: &View, observed: &Observations, now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    for record in view.jobs.values() {
        let Some((state, error)) = close_jobs::how_to_close(view, observed, record) else { continue };
        actions.push(Action::Close {
            record: Box::new(closed(record, state, error, now)),
            guards: ClosureGuards {
                job: view.revision(&job_key(record)),
                run: view.revision(&run_key(record)),
                lock: view.revision(&Key::Lock(record.database.clone())),
            },
        });
    }
    actions.extend(fences::left_behind(view));
    actions.extend(driving::next(view, observed, now));
    for database in view.databases.values() {
        if let Some(minimum_protocol) = view.snapshot().raised_minimum(database) {
            let revision = view.revision(&Key::Database(database.name.clone()));
            let database = Database { minimum_protocol, ..database.clone() };
            actions.push(Action::RaiseMinimum { database, revision });
        }
    }
    for (database, lock) in locks::moved_on(view) {
        let revision = view.revision(&Key::Lock(database.clone()));
        actions.push(Action::PassLock { database, lock, revision });
    }
    actions.extend(history::forgettable(view, now).into_iter().map(|jobs| Action::Forget { jobs }));
    let audit = forgettable_audit(view.audit.iter().map(|(id, outcome)| (*id, *outcome)));
    actions.extend(audit.chunks(AUDIT_BATCH).map(|ids| Action::ForgetAudit { ids: ids.to_vec() }));
    actions
}
