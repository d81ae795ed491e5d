//! `cellar expire`.

use std::time::Duration;

use cellar_api::v1::{ExpireBackupsRequest, Job};
use cellar_model::{BackupLabel, CellName, RequestId};
use clap::Args;

use crate::arguments::{Form, Global};
use crate::client::follow::follow;
use crate::client::retry::call;
use crate::client::submit::{accepted, judge, request_id, span};
use crate::client::target::{Client, Target};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::question::{ask, can_be_asked};
use crate::render::maintenance::expired;
use crate::render::units::parse_duration;

/// Take away the backups and the WAL that the retention does not keep
///
/// Shows first what would go, then asks. How many full backups stay is the cluster's retention; WAL stays from the
/// oldest of them on. Refused while a restore is neither confirmed nor rolled back, and when no backup would be left.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar expire --dry-run
  cellar expire --yes --queue
  cellar expire --backup 20260301-101500F
  cellar expire --dry-run --output json | jq '.result.expire.backups[]'")]
pub(crate) struct Expire {
    /// This backup and all that build on it, whatever the retention says
    #[arg(long, value_name = "LABEL")]
    backup: Option<BackupLabel>,
    /// The cell whose multipooler does it [default: a standby's]
    #[arg(long, value_name = "CELL")]
    on: Option<CellName>,
    /// Show what would go, and end
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
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

async fn start(target: &Target, client: &Client, request: &ExpireBackupsRequest) -> Outcome<Job> {
    call(target, || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.expire_backups(request).await }
    })
    .await
}

/// What a job that has ended well says.
fn told(job: &Job) -> Outcome<String> {
    let result = job.result.as_ref().and_then(|result| result.expire());
    let result = result.ok_or_else(|| Failure::Bug(format!("job {} succeeded without a result", job.id)))?;
    Ok(expired(job, result))
}

impl Expire {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        // Of a job that is not waited for nobody would see the rehearsal.
        can_be_asked(self.yes || self.dry_run)?;
        let target = global.target()?;
        let client = target.client()?;
        let request = ExpireBackupsRequest {
            database: super::database(global),
            cell: self.on.map(|cell| cell.to_string()).unwrap_or_default(),
            backup: self.backup.map(|label| label.to_string()).unwrap_or_default(),
            dry_run: self.dry_run,
            queue: self.queue,
            timeout: self.timeout.map(span),
            request_id: request_id(self.request_id.as_ref()),
        };
        if !self.yes && !self.dry_run {
            let rehearsal =
                ExpireBackupsRequest { dry_run: true, request_id: request_id(None), ..request.clone() };
            let job = start(&target, &client, &rehearsal).await?;
            let job = judge(follow(&target, &job.id, true, |_| Ok(())).await?)?;
            output::note(&told(&job)?);
            ask(&format!("Expire backups of database {}?", job.database), &job.database).await?;
        }
        let job = start(&target, &client, &request).await?;
        if self.no_wait {
            return accepted(global, &job);
        }
        output::note(&format!("job {}", job.id));
        let job = follow(&target, &job.id, false, |_| Ok(())).await?;
        if global.output == Form::Json {
            output::json(&job)?;
            return judge(job).map(drop);
        }
        output::print(&told(&judge(job)?)?)
    }
}
