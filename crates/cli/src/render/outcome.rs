//! The outcome of a job: in full, as the command that begins it shows it, and in a few words for a column.

use cellar_api::v1::job_result::Outcome;
use cellar_api::v1::{Job, RecoveryResult};

use crate::render::{backup, drill, plan, repository, restore, units};

/// The outcome in full; `None` if there is none.
pub(crate) fn outcome(job: &Job) -> Option<String> {
    Some(match job.result.as_ref()?.outcome.as_ref()? {
        Outcome::Backup(result) => backup::summary(job, result, None),
        Outcome::Plan(result) => plan::plan(job, result),
        Outcome::Fence(result) => restore::fenced(result),
        Outcome::Recovery(result) => restore::recovered(result),
        Outcome::Restore(result) => restore::summary(job, result),
        Outcome::Rebuild(result) => restore::rebuilt(result),
        Outcome::Drill(result) => drill::report(job, result),
        Outcome::Expire(result) => repository::expired(job, result),
        Outcome::Verify(result) => repository::verified(job, result),
        Outcome::Check(result) => repository::checked(job, result),
    })
}

fn reached(recovery: &RecoveryResult) -> String {
    format!("reached {} of timeline {}", recovery.lsn, recovery.from_timeline)
}

/// The outcome in a few words; `None` if there is none, or nothing to say about it.
pub(crate) fn outcome_in_short(job: &Job) -> Option<String> {
    Some(match job.result.as_ref()?.outcome.as_ref()? {
        Outcome::Backup(result) => result.label.clone(),
        Outcome::Plan(result) => format!("to {}", plan::target(result.target.as_ref())),
        Outcome::Fence(_) => return None,
        Outcome::Recovery(result) => reached(result),
        Outcome::Restore(result) => reached(result.recovery.as_ref()?),
        Outcome::Rebuild(result) => format!("from {}", result.backup.as_ref()?),
        Outcome::Drill(result) => {
            format!("{} readable after {}", result.backup, units::millis(result.readable_millis))
        }
        Outcome::Expire(result) => {
            let deleted = if result.dry_run { "would be deleted" } else { "deleted" };
            format!("{} {deleted}, {} kept", result.backups.len(), result.kept.len())
        }
        Outcome::Verify(result) => format!("{} backups read", result.backups.len()),
        Outcome::Check(result) => format!("{} arrived", result.segment),
    })
}
