//! Deleting the old data that a restore kept.

use cellar_model::{Code, JobId, Refusal};

use crate::instance::incarnation::{Kind, siblings, successor};
use crate::jobs::context::{JobContext, JobResult};
use crate::jobs::restore::scratch::{remove_directory, stop_and_remove_scratch};

/// Runs a discarding step to its end. It cannot be interrupted: half deleted data is of no use.
pub(crate) async fn run(context: &mut JobContext<'_>) -> JobResult {
    let agent = context.agent;
    context.progress("deleting the old data").await;
    let record = &context.job.record;
    let restores: Vec<JobId> = record.spec.subject().into_iter().chain(record.parent).collect();
    let is_discarded = |kind: Kind, job: JobId| kind == Kind::Kept && restores.contains(&job);
    // Old data that a rollback has recovered and that waits here to be taken into use is the database itself.
    let in_use = successor(agent);
    let unreadable = |error: std::io::Error| {
        Refusal::new(
            Code::Internal,
            format!("{} cannot be read, so nothing more was deleted: {error}", agent.layout.root().display()),
        )
        .hint("repair the cause, then confirm again")
    };
    for (path, kind, job) in siblings(&agent.layout).map_err(unreadable)? {
        if is_discarded(kind, job) && in_use.as_ref() == Some(&path) {
            return Err(Refusal::new(
                Code::Busy,
                format!("{} is about to become the data directory of cell {}", path.display(), agent.cell),
            )
            .hint("wait until the cell runs with it (`cellar status`), then confirm again")
            .into());
        }
        if is_discarded(kind, job) {
            stop_and_remove_scratch(&path, &agent.layout.scratch(record.id)).await;
            tracing::info!(path = %path.display(), "deleting old data");
            remove_directory(&path).await;
        }
    }
    match siblings(&agent.layout)
        .map_err(unreadable)?
        .into_iter()
        .find(|(_, kind, job)| is_discarded(*kind, *job))
    {
        None => Ok(None),
        Some((path, _, _)) => {
            Err(Refusal::new(Code::Internal, format!("{} could not be deleted", path.display()))
                .hint("look at the multipooler's log for the reason, then confirm again")
                .into())
        }
    }
}
