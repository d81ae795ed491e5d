//! Doing what housekeeping decided, one guarded transaction each.

use std::time::Duration;

use cellar_model::Key;
use cellar_topology::{Store, StoreError, TxnOutcome};

use crate::jobs::closure::close;
use crate::jobs::stage::job_key;
use crate::leader::housekeeping::Action;

/// Bound on one transaction, above the store's own.
const CALL: Duration = Duration::from_secs(8);

/// Does one thing. False when the world was not as the decision saw it: nothing was done, and the
/// next decision will be another.
///
/// # Errors
/// When the store cannot be reached or refuses.
pub(crate) async fn execute(
    store: &Store,
    leader_revision: i64,
    action: &Action,
) -> Result<bool, StoreError> {
    // A leader that has been replaced writes nothing.
    let transaction = store.transaction().expect(&Key::AdminLeader, leader_revision);
    let transaction = match action {
        Action::PassLock { database, lock, revision } => {
            let key = Key::Lock(database.clone());
            transaction.expect(&key, *revision).put(&key, lock)
        }
        Action::RaiseMinimum { database, revision } => {
            let key = Key::Database(database.name.clone());
            transaction.expect(&key, *revision).put(&key, database)
        }
        Action::Close { record, guards } => close(transaction, record, *guards),
        Action::LiftFence { database, incarnation, revision, job, job_revision } => transaction
            .expect(&Key::Job(database.clone(), *job), *job_revision)
            .expect(&Key::Incarnation(database.clone()), *revision)
            .put(&Key::Incarnation(database.clone()), incarnation),
        Action::Drive(drive) => {
            let mut transaction = transaction;
            for (key, revision) in &drive.guards {
                transaction = transaction.expect(key, *revision);
            }
            for record in &drive.records {
                transaction = transaction.put(&job_key(record), record);
            }
            match &drive.incarnation {
                Some((database, incarnation)) => {
                    transaction.put(&Key::Incarnation(database.clone()), incarnation)
                }
                None => transaction,
            }
        }
        Action::Forget { jobs } => jobs.iter().fold(transaction, |transaction, job| {
            let record = Key::Job(job.database.clone(), job.id);
            let run = Key::Run(job.database.clone(), job.cell.clone(), job.id);
            transaction
                .expect(&record, job.job_revision)
                .expect(&run, job.run_revision)
                .delete(&record)
                .delete(&run)
        }),
        // Nobody ever changes one: there is nothing to guard.
        Action::ForgetAudit { ids } => {
            ids.iter().fold(transaction, |transaction, id| transaction.delete(&Key::Audit(*id)))
        }
    };
    let outcome = tokio::time::timeout(CALL, transaction.commit())
        .await
        .unwrap_or_else(|_| Err(StoreError::Retryable("no answer in time".to_owned())))?;
    let done = matches!(outcome, TxnOutcome::Committed(_));
    if done {
        tell(action);
    }
    Ok(done)
}

fn tell(action: &Action) {
    match action {
        Action::PassLock { database, lock, .. } => match lock.holder {
            Some(job) => tracing::info!(%database, %job, waiting = lock.queue.len(), "the lock moved on"),
            None => tracing::info!(%database, "the lock is free"),
        },
        Action::RaiseMinimum { database, .. } => {
            let (database, protocol) = (&database.name, database.minimum_protocol);
            tracing::info!(%database, %protocol, "all multipoolers are new enough: raised the minimum");
        }
        Action::Close { record, .. } => tell_closed(record),
        Action::LiftFence { database, job, .. } => {
            tracing::warn!(%database, %job, "lifted the fence of a job that has ended");
        }
        Action::Drive(drive) => {
            if let Some((database, incarnation)) = &drive.incarnation {
                let fence = incarnation.fence.map(|job| job.to_string()).unwrap_or_default();
                tracing::info!(%database, number = incarnation.number, fence, "wrote the incarnation");
            }
            for record in &drive.records {
                if record.closure.is_some() {
                    tell_closed(record);
                } else if record.id != drive.job {
                    let canceled = record.cancel.is_some();
                    tracing::info!(job = %drive.job, step = %record.id, kind = %record.kind(), cell = %record.cell, canceled, "a step");
                }
            }
        }
        Action::Forget { jobs } => tracing::info!(jobs = jobs.len(), "forgot old jobs"),
        Action::ForgetAudit { ids } => tracing::debug!(records = ids.len(), "forgot old audit records"),
    }
}

fn tell_closed(record: &cellar_model::JobRecord) {
    let Some(closure) = &record.closure else { return };
    let (code, reason) =
        closure.error.as_ref().map_or(("", ""), |error| (error.code.as_str(), error.message.as_str()));
    tracing::info!(job = %record.id, kind = %record.kind(), state = closure.state.as_str(), code, reason, "closed a job");
}
