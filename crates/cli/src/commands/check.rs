//! `cellar check`.

use std::time::Duration;

use cellar_api::v1::CheckArchiveRequest;
use cellar_model::RequestId;
use clap::Args;

use crate::arguments::Global;
use crate::client::retry::call;
use crate::client::submit::{request_id, span, to_its_end};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::render::maintenance::checked;
use crate::render::units::parse_duration;

/// See that WAL arrives in the repository
///
/// The primary ends a WAL segment and waits until it is archived: at most a minute. Ends with exit code 1 when it
/// does not arrive.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar check
  cellar check --output json | jq .result.check")]
pub(crate) struct Check {
    /// Print the job and end at once
    #[arg(long)]
    no_wait: bool,
    /// When the job is given up [default: 3d]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Your own name for this request: repeating it finds the same job
    #[arg(long, value_name = "ID")]
    request_id: Option<RequestId>,
}

impl Check {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let target = global.target()?;
        let client = target.client()?;
        let request = CheckArchiveRequest {
            database: super::database(global),
            timeout: self.timeout.map(span),
            request_id: request_id(self.request_id.as_ref()),
        };
        let job = call(&target, || {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.check_archive(request).await }
        })
        .await?;
        let Some(job) = to_its_end(global, &target, job, self.no_wait).await? else { return Ok(()) };
        match job.result.as_ref().and_then(|result| result.check()) {
            Some(result) => output::print(&checked(&job, result)),
            None => Err(Failure::Bug(format!("job {} succeeded without a result", job.id))),
        }
    }
}
