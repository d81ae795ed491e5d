//! `cellar check`.

use cellar_api::v1::{CheckArchiveRequest, Job};
use clap::Args;

use crate::client::run_job::{JobOptions, run_job};
use crate::client::target::Target;
use crate::failure::Outcome;
use crate::global::Global;
use crate::render::repository::checked;

/// Check that WAL arrives in the repository
///
/// The primary ends a WAL segment and waits until it is archived: at most a minute. Ends with exit code 1 when it
/// does not arrive.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar check
  cellar check --output json | jq .result.check")]
pub(crate) struct Check {
    #[command(flatten)]
    options: JobOptions,
}

/// Submits the job.
pub(crate) async fn submit(target: &Target, request: CheckArchiveRequest) -> Outcome<Job> {
    target.call(request, async |mut client, request| client.check_archive(request).await).await
}

impl Check {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let target = Target::of(global).await?;
        let request = CheckArchiveRequest {
            database: global.database(),
            timeout: self.options.timeout(),
            request_id: self.options.request_id(),
        };
        let report = async |job: &Job| Some(checked(job, job.result.as_ref()?.check()?));
        run_job(global, &target, &self.options, submit(&target, request), report).await
    }
}
