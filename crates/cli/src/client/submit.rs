//! Asking for a job: what all such commands have in common.

use std::time::Duration;

use cellar_api::v1::{Job, JobState};
use cellar_api::wkt;
use cellar_model::RequestId;

use crate::arguments::{Form, Global};
use crate::client::follow::follow;
use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::output;

/// A span as requests carry it; `parse_duration` keeps it far below where it would not fit.
pub(crate) fn span(duration: Duration) -> wkt::Duration {
    wkt::Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}

/// A name for a request that has none, so that a broken connection can be followed by a second attempt.
pub(crate) fn request_id(given: Option<&RequestId>) -> String {
    given.map_or_else(|| format!("cli-{}", uuid::Uuid::now_v7()), ToString::to_string)
}

/// Ends the command with a job that was accepted and is not waited for.
pub(crate) fn accepted(global: &Global, job: &Job) -> Outcome {
    match global.output {
        Form::Json => output::json(job),
        Form::Human => output::print(&job.id),
    }
}

/// Ends a command that waited for a job: the answer, or the job's failure.
pub(crate) fn judge(job: Job) -> Outcome<Job> {
    if job.state() == JobState::Succeeded { Ok(job) } else { Err(Failure::Job(Box::new(job))) }
}

/// Follows a job that was asked for until it has ended well; `None` when nothing is left to be said: nobody waits for
/// it, or its JSON has been printed.
pub(crate) async fn to_its_end(
    global: &Global,
    target: &Target,
    job: Job,
    no_wait: bool,
) -> Outcome<Option<Job>> {
    if no_wait {
        return accepted(global, &job).map(|()| None);
    }
    output::note(&format!("job {}", job.id));
    let job = follow(target, &job.id, false, |_| Ok(())).await?;
    if global.output == Form::Json {
        output::json(&job)?;
        return judge(job).map(|_| None);
    }
    judge(job).map(Some)
}
