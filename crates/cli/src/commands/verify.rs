//! `cellar verify`.

use cellar_api::v1::{Job, VerifyBackupsRequest};
use cellar_model::CellName;
use clap::Args;

use crate::client::run_job::{JobOptions, run_job};
use crate::client::submit::or_empty;
use crate::client::target::Target;
use crate::failure::Outcome;
use crate::global::Global;
use crate::render::repository::verified;

/// Read the whole repository: every file by its checksum, and the WAL for gaps
///
/// Ends with exit code 1 when a file is damaged or missing, a backup lacks WAL that it needs, or the newest one cannot
/// be replayed to the present. Nothing is changed, and backups go on meanwhile. That a backup can be restored is
/// proven by `cellar drill`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar verify
  cellar verify --on zone3
  cellar verify --output json | jq '.result.verify.damaged'")]
pub(crate) struct Verify {
    /// The cell whose multipooler reads the repository [default: a standby's; of a repository that is on one cell's host
    /// alone, that cell's]
    #[arg(long, value_name = "CELL")]
    on: Option<CellName>,
    #[command(flatten)]
    options: JobOptions,
}

/// Submits the job.
pub(crate) async fn submit(target: &Target, request: VerifyBackupsRequest) -> Outcome<Job> {
    target.call(request, async |mut client, request| client.verify_backups(request).await).await
}

impl Verify {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let target = Target::of(global).await?;
        let request = VerifyBackupsRequest {
            database: global.database(),
            cell: or_empty(self.on.as_ref()),
            timeout: self.options.timeout(),
            request_id: self.options.request_id(),
        };
        // A job that failed has a result too: the damage that it found.
        let report = async |job: &Job| Some(verified(job, job.result.as_ref()?.verify()?));
        run_job(global, &target, &self.options, submit(&target, request), report).await
    }
}
