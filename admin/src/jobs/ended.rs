//! Whether a job has ended, for those who would give its place in the lock away.
//!
//! A job that only looks ended because its record cannot be read may still be
//! running pgBackRest. So "not there" means that etcd has no such key, never
//! that the view could not make sense of it.

use cellar_model::{DatabaseName, JobId, JobRecord, Key, Run};
use cellar_topology::{RunKey, Store, StoreError, View};

/// Where a job is, as far as somebody needs to know who may have to end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No pooler has begun.
    Pending,
    /// A living pooler has claimed it.
    Running,
    /// Somebody began, and nobody claims it now.
    Lost,
    /// It can never change again.
    Ended,
}

/// The stage of a job whose record the view has.
pub(crate) fn stage(view: &View, record: &JobRecord) -> Stage {
    let run = view.run(record);
    if record.closure.is_some() || run.is_some_and(|run| run.state.is_terminal()) {
        return Stage::Ended;
    }
    // A claim or a run that cannot be read still says that somebody began.
    if view.claim(record).is_some() || view.revision(&claim_key(record)) != 0 {
        Stage::Running
    } else if run.is_some() || view.revision(&run_key(record)) != 0 {
        Stage::Lost
    } else {
        Stage::Pending
    }
}

/// Whether the view is sure that a job of `database` has ended or is gone.
pub(crate) fn has_ended(view: &View, database: &DatabaseName, id: &JobId) -> bool {
    match view.jobs.get(id) {
        Some(record) => stage(view, record) == Stage::Ended,
        None if view.revision(&Key::Job(database.clone(), *id)) == 0 => true,
        // Unreadable: no pooler can begin it, so only one that has begun counts.
        None => {
            let of_job = |(db, _, job): &RunKey| db == database && job == id;
            !view.claims.keys().any(of_job)
                && !view.runs.iter().any(|(key, run)| of_job(key) && !run.state.is_terminal())
        }
    }
}

/// The same, asked of etcd: for a job that the view does not know yet, or whose end it may have
/// missed.
pub(crate) async fn has_ended_in(
    store: &Store,
    database: &DatabaseName,
    id: &JobId,
) -> Result<bool, StoreError> {
    match store.get::<JobRecord>(&Key::Job(database.clone(), *id)).await {
        Ok(None) => Ok(true),
        Ok(Some(found)) if found.record.closure.is_some() => Ok(true),
        Ok(Some(found)) => match store.get::<Run>(&run_key(&found.record)).await {
            Ok(run) => Ok(run.is_some_and(|run| run.record.state.is_terminal())),
            Err(StoreError::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        },
        Err(StoreError::Corrupt { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn job_key(record: &JobRecord) -> Key {
    Key::Job(record.database.clone(), record.id)
}

pub(crate) fn run_key(record: &JobRecord) -> Key {
    Key::Run(record.database.clone(), record.cell.clone(), record.id)
}

pub(crate) fn claim_key(record: &JobRecord) -> Key {
    Key::Claim(record.database.clone(), record.cell.clone(), record.id)
}
