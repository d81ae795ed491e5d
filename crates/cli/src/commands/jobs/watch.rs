//! `cellar jobs watch`.

use cellar_api::v1::{Job, JobState};
use cellar_model::JobId;

use crate::client::follow::follow;
use crate::client::run_job::require_success;
use crate::client::target::Target;
use crate::failure::Outcome;
use crate::global::Global;
use crate::output::{self, Form};
use crate::render::job::details;

/// Follows a job until it has ended. With JSON every update is a line; else the job is shown at the end, also one that
/// failed with a result: a drill's checks, a restore that took effect.
pub(super) async fn run(global: &Global, id: JobId) -> Outcome {
    let target = Target::of(global).await?;
    let is_json = global.output == Form::Json;
    let each = |job: &Job| if is_json { output::json_line(job) } else { Ok(()) };
    let job = follow(&target, &id.to_string(), is_json, each).await?;
    let shows = !is_json && (job.result.is_some() || job.state() == JobState::Succeeded);
    let printed = if shows { output::print(&details(&job)) } else { Ok(()) };
    require_success(job).and(printed)
}
