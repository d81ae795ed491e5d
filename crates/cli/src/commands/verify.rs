//! `cellar verify`.

use std::time::Duration;

use cellar_api::v1::VerifyBackupsRequest;
use cellar_model::{CellName, RequestId};
use clap::Args;

use crate::arguments::{Form, Global};
use crate::client::follow::follow;
use crate::client::retry::call;
use crate::client::submit::{accepted, judge, request_id, span};
use crate::failure::Outcome;
use crate::output;
use crate::render::maintenance::verified;
use crate::render::units::parse_duration;

/// Read the whole repository: every file by its checksum, and the WAL for gaps
///
/// Ends with exit code 1 when a file is damaged or missing, a backup lacks WAL that it needs, or the newest one does
/// not lead to the present. Nothing is changed, and backups go on meanwhile. That a backup can be restored is proven
/// by `cellar drill`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar verify
  cellar verify --on zone3
  cellar verify --output json | jq '.result.verify.damaged'")]
pub(crate) struct Verify {
    /// The cell whose multipooler reads the repository [default: a standby's]
    #[arg(long, value_name = "CELL")]
    on: Option<CellName>,
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

impl Verify {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let target = global.target()?;
        let client = target.client()?;
        let request = VerifyBackupsRequest {
            database: super::database(global),
            cell: self.on.map(|cell| cell.to_string()).unwrap_or_default(),
            timeout: self.timeout.map(span),
            request_id: request_id(self.request_id.as_ref()),
        };
        let job = call(&target, || {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.verify_backups(request).await }
        })
        .await?;
        if self.no_wait {
            return accepted(global, &job);
        }
        output::note(&format!("job {}", job.id));
        let job = follow(&target, &job.id, false, |_| Ok(())).await?;
        match (global.output, job.result.as_ref().and_then(|result| result.verify())) {
            (Form::Json, _) => output::json(&job)?,
            // One that found damage tells all that it found.
            (Form::Human, Some(result)) => output::print(&verified(&job, result))?,
            (Form::Human, None) => {}
        }
        judge(job).map(drop)
    }
}
