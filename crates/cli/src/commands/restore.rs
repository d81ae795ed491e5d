//! `cellar restore`.

mod decision;
mod plan;
mod point;

use cellar_api::v1::{GetDatabaseRequest, GetJobRequest, RestoreDatabaseRequest};
use cellar_model::{BackupLabel, CellName, DatabaseName, JobId, RequestId};
use clap::{Args, Subcommand};
use jiff::Timestamp;

use crate::client::run_job::{JobOptions, QueueOption, run_job};
use crate::client::submit::or_empty;
use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::output;
use crate::question::check_terminal;
use crate::render::restore::report;
use crate::render::when::resolved_time;

#[cfg(test)]
pub(crate) use plan::plan_of;

/// Restore the whole database to a point in time
///
/// Plans first and shows the plan, then asks. The old data is kept beside the new until you confirm the
/// restore; until then a rollback brings everything back. What was written after the target is not in the
/// restored database.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  cellar restore --to-time '2026-03-01 10:15:00+01' --plan
  cellar restore --to-time 2026-03-01T09:15:00Z
  cellar restore --to-name before-the-migration --onto zone2 --yes
  cellar restore --to-lsn 0/5000060 --timeline 1
  cellar restore --to-time 2026-03-01T09:15:00Z --backup 20260228-020000F
  cellar restore confirm 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00
  cellar restore rollback 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00"
)]
pub(crate) struct Restore {
    #[command(subcommand)]
    decision: Option<Decision>,
    #[command(flatten)]
    to: point::Point,
    /// The timeline on which the target lies [default: the present primary's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    timeline: Option<u32>,
    /// The cell that is restored first and becomes the primary [default: the present primary's, if it is up]
    #[arg(long, value_name = "CELL")]
    onto: Option<CellName>,
    /// The backup that recovery begins from [default: the newest sound one before the target]
    #[arg(long, value_name = "LABEL")]
    backup: Option<BackupLabel>,
    /// Show what would be done, and end
    #[arg(long)]
    plan: bool,
    /// Restore over the old data, where there is no room for both: no rollback is possible then
    #[arg(long)]
    in_place: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    queue: QueueOption,
    #[command(flatten)]
    options: JobOptions,
}

/// What is done about a restore that took effect.
#[derive(Debug, Subcommand)]
enum Decision {
    /// Keep what was restored: delete the old data
    #[command(after_help = "Example:
  cellar restore confirm 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00")]
    Confirm(decision::Options),
    /// Go back to the old data: what was written since the restore is lost
    #[command(after_help = "Example:
  cellar restore rollback 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00")]
    Rollback(decision::Options),
}

/// Whether the request has become a job already. Its plan may be refused now just because it was done.
async fn is_repeated(target: &Target, database: &str, request: &RequestId) -> Outcome<bool> {
    let name = GetDatabaseRequest { name: database.to_owned() };
    let view = target.call(name, async |mut client, name| client.get_database(name).await).await?;
    let name = view.database.unwrap_or_default().name;
    let name: DatabaseName = name
        .parse()
        .map_err(|error| Failure::Bug(format!("multiadmin calls a database {name:?}: {error}")))?;
    let id = GetJobRequest { id: JobId::for_request(&name, request).to_string() };
    match target.call(id, async |mut client, id| client.get_job(id).await).await {
        Ok(_) => Ok(true),
        Err(Failure::Rpc(status)) if status.code() == tonic::Code::NotFound => Ok(false),
        Err(failure) => Err(failure),
    }
}

impl Restore {
    fn request(&self, global: &Global) -> RestoreDatabaseRequest {
        RestoreDatabaseRequest {
            database: global.database(),
            target: Some(self.to.target()),
            timeline: self.timeline.unwrap_or(0),
            onto: or_empty(self.onto.as_ref()),
            in_place: self.in_place,
            backup: or_empty(self.backup.as_ref()),
            queue: self.queue.queue,
            timeout: self.options.timeout(),
            request_id: self.options.request_id(),
        }
    }

    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self.decision {
            Some(Decision::Confirm(options)) => return decision::confirm(global, &options).await,
            Some(Decision::Rollback(options)) => return decision::rollback(global, &options).await,
            None => {}
        }
        if let Some(time) = self.to.time() {
            output::note(&resolved_time(time, Timestamp::now()));
        }
        if self.plan {
            let target = Target::of(global).await?;
            return plan::show(global, &target, self.request(global), self.options.no_wait).await;
        }
        check_terminal(self.yes)?;
        let target = Target::of(global).await?;
        let request = self.request(global);
        let is_repeated = match &self.options.request_id {
            Some(id) => is_repeated(&target, &request.database, id).await?,
            None => false,
        };
        if is_repeated {
            output::note("this request was made before: its job is followed, and no other begins");
        } else {
            plan::confirm(&target, &request, self.yes).await?;
        }
        let submit = target.call(request, async |mut client, request| client.restore_database(request).await);
        run_job(global, &target, &self.options, submit, async |job| report(job)).await
    }
}
