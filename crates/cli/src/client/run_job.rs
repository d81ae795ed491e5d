//! What all commands that begin a job have in common: their flags, and the way from the request to the outcome.

use std::time::Duration;

use cellar_api::v1::{Job, JobState};
use cellar_api::wkt;
use cellar_model::RequestId;
use clap::Args;

use crate::client::follow::follow;
use crate::client::submit;
use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::output::{self, Form};
use crate::render::units::parse_duration;

/// The flags of every command that begins a job.
#[derive(Debug, Args)]
pub(crate) struct JobOptions {
    /// Print the job's id and end at once
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// When the job is given up [default: 3d]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Your own name for this request: repeating it finds the same job
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<RequestId>,
}

/// The flag of the commands that one running job keeps from beginning.
#[derive(Debug, Args)]
pub(crate) struct QueueOption {
    /// Wait behind a running job instead of being refused
    #[arg(long)]
    pub(crate) queue: bool,
}

impl JobOptions {
    /// The job's timeout as requests carry it.
    pub(crate) fn timeout(&self) -> Option<wkt::Duration> {
        self.timeout.map(submit::request_duration)
    }

    /// The request's id as requests carry it.
    pub(crate) fn request_id(&self) -> String {
        submit::request_id(self.request_id.as_ref())
    }
}

/// The job if it succeeded, else its failure.
pub(crate) fn require_success(job: Job) -> Outcome<Job> {
    if job.state() == JobState::Succeeded { Ok(job) } else { Err(Failure::Job(Box::new(job))) }
}

/// Prints a job that was accepted and is not waited for.
pub(crate) fn print_accepted(global: &Global, job: &Job) -> Outcome {
    global.output.print(job, |job| job.id.clone())
}

/// Submits a job, follows it until it has ended, and prints the outcome. With `--no-wait` it prints the job's id.
///
/// `report` makes the text for people from the ended job. It may be `None` only for a job that did not succeed: a
/// drill or a restore that failed also has something to show.
///
/// # Errors
/// Those of the call and of following; the job's own failure when it did not succeed.
pub(crate) async fn run_job(
    global: &Global,
    target: &Target,
    options: &JobOptions,
    submit: impl Future<Output = Outcome<Job>>,
    report: impl AsyncFnOnce(&Job) -> Option<String>,
) -> Outcome {
    let job = submit.await?;
    if options.no_wait {
        return print_accepted(global, &job);
    }
    output::note(&format!("job {}", job.id));
    let job = follow(target, &job.id, false, |_| Ok(())).await?;
    let printed = match global.output {
        Form::Json => output::json(&job),
        Form::Human => match report(&job).await {
            Some(text) => output::print(&text),
            None if job.state() == JobState::Succeeded => {
                return Err(Failure::Bug(format!("job {} succeeded without a result", job.id)));
            }
            None => Ok(()),
        },
    };
    // Also when nobody reads what is printed, which is no failure.
    require_success(job).and(printed)
}
