//! `cellar rebuild`.

use std::time::Duration;

use cellar_api::v1::RebuildStandbyRequest;
use cellar_model::{CellName, RequestId};
use clap::Args;

use crate::arguments::Global;
use crate::client::retry::call;
use crate::client::submit::{request_id, span, to_its_end};
use crate::failure::Outcome;
use crate::local::took;
use crate::output;
use crate::render::units::parse_duration;

/// Make a standby anew from the repository
///
/// Stops the standby, restores the newest backup into its data directory, keeping the files that are the
/// same already, and waits until it streams. The primary is refused.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar rebuild zone2
  cellar rebuild zone2 --queue --no-wait")]
pub(crate) struct Rebuild {
    /// The cell whose standby is made anew
    #[arg(value_name = "CELL")]
    cell: CellName,
    /// Print the job and end at once
    #[arg(long)]
    no_wait: bool,
    /// Wait behind a running job rather than be refused
    #[arg(long)]
    queue: bool,
    /// When the job is given up [default: 3d]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Your own name for this request: repeating it finds the same job
    #[arg(long, value_name = "ID")]
    request_id: Option<RequestId>,
}

impl Rebuild {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let begun = std::time::Instant::now();
        let target = global.target()?;
        let client = target.client()?;
        let request = RebuildStandbyRequest {
            database: super::database(global),
            cell: self.cell.to_string(),
            queue: self.queue,
            timeout: self.timeout.map(span),
            request_id: request_id(self.request_id.as_ref()),
        };
        let job = call(&target, || {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.rebuild_standby(request).await }
        })
        .await?;
        if to_its_end(global, &target, job, self.no_wait).await?.is_none() {
            return Ok(());
        }
        output::print(&format!("cell {} is rebuilt; that took {}", self.cell, took(begun)))
    }
}
