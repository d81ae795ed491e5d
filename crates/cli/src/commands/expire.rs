//! `cellar expire`.

use cellar_api::v1::{ExpireBackupsRequest, Job};
use cellar_model::{BackupLabel, CellName};
use clap::Args;

use crate::client::follow::follow;
use crate::client::run_job::{JobOptions, QueueOption, require_success, run_job};
use crate::client::submit::{or_empty, request_id};
use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::output;
use crate::question::{ask, check_terminal};
use crate::render::repository::expired;

/// Expire the backups and the WAL that the retention does not keep
///
/// First shows what would be deleted, then asks. The cluster's retention is how many full backups are kept; WAL is
/// kept from the oldest of them on. Refused while a restore is neither confirmed nor rolled back, and when no backup
/// would be left.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar expire --dry-run
  cellar expire --yes --queue
  cellar expire --backup 20260301-101500F
  cellar expire --dry-run --output json | jq '.result.expire.backups[]'")]
pub(crate) struct Expire {
    /// Expire this backup and all that build on it, whatever the retention is
    #[arg(long, value_name = "LABEL")]
    backup: Option<BackupLabel>,
    /// The cell whose multipooler does it [default: a standby's; with a repository that is on one cell's host alone, that
    /// cell's]
    #[arg(long, value_name = "CELL")]
    on: Option<CellName>,
    /// Show what would be deleted, and end
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    queue: QueueOption,
    #[command(flatten)]
    options: JobOptions,
}

/// Submits the job.
pub(crate) async fn submit(target: &Target, request: ExpireBackupsRequest) -> Outcome<Job> {
    target.call(request, async |mut client, request| client.expire_backups(request).await).await
}

fn report(job: &Job) -> Option<String> {
    Some(expired(job, job.result.as_ref()?.expire()?))
}

/// Shows what the request would delete, and asks.
async fn confirm(target: &Target, request: &ExpireBackupsRequest) -> Outcome {
    // The request's own id is that of the job that deletes.
    let dry_run = ExpireBackupsRequest { dry_run: true, request_id: request_id(None), ..request.clone() };
    let job = submit(target, dry_run).await?;
    let job = require_success(follow(target, &job.id, true, |_| Ok(())).await?)?;
    let text =
        report(&job).ok_or_else(|| Failure::Bug(format!("job {} succeeded without a result", job.id)))?;
    output::note(&text);
    ask(&format!("Expire backups of database {}?", job.database), &job.database).await
}

impl Expire {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        check_terminal(self.yes || self.dry_run)?;
        let target = Target::of(global).await?;
        let request = ExpireBackupsRequest {
            database: global.database(),
            cell: or_empty(self.on.as_ref()),
            backup: or_empty(self.backup.as_ref()),
            dry_run: self.dry_run,
            queue: self.queue.queue,
            timeout: self.options.timeout(),
            request_id: self.options.request_id(),
        };
        if !self.yes && !self.dry_run {
            confirm(&target, &request).await?;
        }
        run_job(global, &target, &self.options, submit(&target, request), async |job| report(job)).await
    }
}
