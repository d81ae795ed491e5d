//! Deleting what a restore kept of the old data.

use cellar_model::JobId;

use crate::agent::Agent;
use crate::instance::incarnation::{Kind, siblings};
use crate::jobs::claim::{ClaimedJob, Ending};
use crate::jobs::restore::private_instance::{clear, remove, say};

/// Runs a discarding step to its end.
pub(crate) async fn run(agent: &Agent, job: &mut ClaimedJob) -> Ending {
    say(agent, job, "deleting the old data", 0, 0).await;
    let of: Vec<JobId> = job.record.spec.subject().into_iter().chain(job.record.parent).collect();
    for (path, kind, kept_for) in siblings(&agent.layout) {
        if kind == Kind::Kept && of.contains(&kept_for) {
            clear(&path, &agent.layout.scratch(job.record.id)).await;
            tracing::info!(path = %path.display(), "deleting old data");
            // Many files, and nobody waits for anything else meanwhile but the supervisor's next look.
            let _ = tokio::task::spawn_blocking(move || remove(&path)).await;
        }
    }
    let left =
        siblings(&agent.layout).into_iter().find(|(_, kind, job)| *kind == Kind::Kept && of.contains(job));
    match left {
        None => Ending::Succeeded(None),
        Some((path, _, _)) => Ending::Failed(
            cellar_model::Refusal::new(
                cellar_model::Code::Internal,
                format!("{} could not be deleted", path.display()),
            )
            .hint("look at the multipooler's log for the reason, then confirm again")
            .into(),
        ),
    }
}
