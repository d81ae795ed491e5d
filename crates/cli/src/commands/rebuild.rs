//! `cellar rebuild`.

use std::time::Instant;

use cellar_api::v1::{Job, JobState, RebuildStandbyRequest};
use cellar_model::CellName;
use clap::Args;

use crate::client::run_job::{JobOptions, QueueOption, run_job};
use crate::client::target::Target;
use crate::failure::Outcome;
use crate::global::Global;
use crate::render::facts::section;
use crate::render::units;

/// Rebuild a standby from the repository
///
/// Stops the standby, restores the newest backup that is proven and has no page errors into its data directory,
/// keeping the files that are the same already, and waits until it streams. The primary is refused.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar rebuild zone2
  cellar rebuild zone2 --queue --no-wait")]
pub(crate) struct Rebuild {
    /// The cell whose standby is rebuilt
    #[arg(value_name = "CELL")]
    cell: CellName,
    #[command(flatten)]
    queue: QueueOption,
    #[command(flatten)]
    options: JobOptions,
}

impl Rebuild {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let begun = Instant::now();
        let target = Target::of(global).await?;
        let request = RebuildStandbyRequest {
            database: global.database(),
            cell: self.cell.to_string(),
            queue: self.queue.queue,
            timeout: self.options.timeout(),
            request_id: self.options.request_id(),
        };
        let submit = target.call(request, async |mut client, request| client.rebuild_standby(request).await);
        let report = async |job: &Job| {
            let took = units::duration(begun.elapsed());
            let result = job.result.as_ref().and_then(|result| result.rebuild());
            let warnings = section("warnings", result.map_or(&[], |rebuild| &rebuild.warnings));
            (job.state() == JobState::Succeeded)
                .then(|| format!("cell {} is rebuilt; that took {took}{warnings}", self.cell))
        };
        run_job(global, &target, &self.options, submit, report).await
    }
}
