//! The plan of a restore: shown alone, or before the question.

use cellar_api::v1::{Job, JobResult, JobState, RestoreDatabaseRequest, RestorePlan};
use cellar_model::silent_primary;

use crate::client::follow::follow;
use crate::client::run_job::print_accepted;
use crate::client::submit::request_id;
use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::output::{self, Form};
use crate::question::ask;
use crate::render::plan::{plan, question};

/// The plan, or the refusal that planning ended with; nothing was changed then.
pub(crate) fn plan_of(job: &Job) -> Outcome<&RestorePlan> {
    if job.state() != JobState::Succeeded {
        return Err(Failure::Refused(Box::new(job.clone())));
    }
    job.result
        .as_ref()
        .and_then(JobResult::plan)
        .ok_or_else(|| Failure::Bug(format!("job {} succeeded without a plan", job.id)))
}

async fn submit(target: &Target, request: RestoreDatabaseRequest) -> Outcome<Job> {
    target.call(request, async |mut client, request| client.plan_restore(request).await).await
}

/// Plans the restore and prints the plan.
pub(super) async fn show(
    global: &Global,
    target: &Target,
    request: RestoreDatabaseRequest,
    no_wait: bool,
) -> Outcome {
    // The id that a person gives is that of the restore itself. Planning changes nothing, so it can be done again.
    let job = submit(target, RestoreDatabaseRequest { request_id: request_id(None), ..request }).await?;
    if no_wait {
        return print_accepted(global, &job);
    }
    let job = follow(target, &job.id, true, |_| Ok(())).await?;
    if global.output == Form::Json {
        output::json(&job)?;
        return plan_of(&job).map(drop);
    }
    output::print(&plan(&job, plan_of(&job)?))
}

/// Plans the restore and shows the plan, and asks unless `yes`.
pub(super) async fn confirm(target: &Target, request: &RestoreDatabaseRequest, yes: bool) -> Outcome {
    // The request's own id is that of the restore.
    let vouched = request.primary_is_dead;
    let request = RestoreDatabaseRequest {
        request_id: request_id(None),
        queue: false,
        timeout: None,
        ..request.clone()
    };
    let job = submit(target, request).await?;
    output::note(&format!("planning (job {})", job.id));
    let job = follow(target, &job.id, true, |_| Ok(())).await?;
    let found = plan_of(&job)?;
    output::note(&format!("\n{}", plan(&job, found)));
    // Nobody is asked to agree to what is going to be refused.
    let silent = found.silent_primary.as_ref().filter(|_| !vouched);
    if let Some(cell) = silent.and_then(|cell| cell.parse().ok()) {
        return Err(cellar_api::status_of(&silent_primary(&cell)).into());
    }
    if yes { Ok(()) } else { ask(&question(&job, found), &job.database).await }
}
