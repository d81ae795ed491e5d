//! The stage of a job, and whether it has ended and its lock can be given to the next.
//!
//! A job whose record cannot be read may still be running pgBackRest. So a job
//! counts as deleted only when etcd has no such key, not when the view has no record.

use cellar_model::{DatabaseName, JobId, JobRecord, Key, Run};
use cellar_topology::{RunKey, Store, StoreError, View};

/// The stage of a job, which decides who can end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No pooler has begun it.
    Pending,
    /// A pooler has claimed it.
    Running,
    /// A pooler began it, and no pooler claims it now.
    Lost,
    /// It has ended and cannot change any more.
    Ended,
}

/// The stage of a job whose record the view has.
pub(crate) fn stage(view: &View, record: &JobRecord) -> Stage {
    let run = view.run(record);
    if record.closure.is_some() || run.is_some_and(|run| run.state.is_terminal()) {
        return Stage::Ended;
    }
    // Also a claim or a run that cannot be read shows that a pooler has begun.
    if view.claim(record).is_some() || view.revision(&claim_key(record)) != 0 {
        Stage::Running
    } else if run.is_some() || view.revision(&run_key(record)) != 0 {
        Stage::Lost
    } else {
        Stage::Pending
    }
}

/// Whether the view shows that a job of `database` has ended or is deleted.
pub(crate) fn has_ended(view: &View, database: &DatabaseName, id: &JobId) -> bool {
    match view.jobs.get(id) {
        Some(record) => stage(view, record) == Stage::Ended,
        None if view.ended.contains_key(id) => true,
        None if view.revision(&Key::Job(database.clone(), *id)) == 0 => true,
        None => {
            let of_job = |(db, _, job): &RunKey| db == database && job == id;
            let has_run = |terminal: bool| {
                view.runs.iter().any(|(key, run)| of_job(key) && run.state.is_terminal() == terminal)
            };
            let is_over = !view.claims.keys().any(of_job) && !has_run(false);
            // Unreadable. A process of a newer build can begin or drive such a job, so it has ended only when that says
            // so; no pooler can begin one that is damaged, but one may have begun it before.
            is_over && (has_run(true) || !view.newer_jobs.contains(id))
        }
    }
}

/// The same, read from etcd: for a job that the view may not have yet, or whose end it may not
/// have yet.
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
