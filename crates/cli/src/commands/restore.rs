//! `cellar restore`.

use std::time::Duration;

use cellar_api::v1::restore_target::Target as To;
use cellar_api::v1::{
    GetDatabaseRequest, GetJobRequest, Job, JobState, LatestTarget, RestoreDatabaseRequest,
    RestoreJobRequest, RestorePlan, RestoreTarget,
};
use cellar_model::{BackupLabel, CellName, DatabaseName, JobId, Lsn, RequestId, RestorePointName};
use clap::{Args, Subcommand};
use jiff::Timestamp;

use crate::arguments::{Form, Global};
use crate::client::follow::follow;
use crate::client::retry::call;
use crate::client::submit::{accepted, judge, request_id, span, to_its_end};
use crate::client::target::{Client, Target};
use crate::failure::{Failure, Outcome};
use crate::local::took;
use crate::output;
use crate::question::{ask, can_be_asked};
use crate::render::restore;
use crate::render::units::parse_duration;
use crate::render::when::{parse_time, understood};

/// Bring the whole database back to a point in time
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
  cellar restore confirm 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00
  cellar restore rollback 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00"
)]
pub(crate) struct Restore {
    #[command(subcommand)]
    after: Option<After>,
    #[command(flatten)]
    to: Point,
    /// The timeline on which the target lies [default: the present primary's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    timeline: Option<u32>,
    /// The cell that is restored first and becomes the primary [default: the present primary's, if it is up]
    #[arg(long, value_name = "CELL")]
    onto: Option<CellName>,
    /// Show what would be done, and end
    #[arg(long)]
    plan: bool,
    /// Restore over the old data, where there is no room for both: no rollback is possible then
    #[arg(long)]
    in_place: bool,
    #[command(flatten)]
    how: How,
}

/// What the restore and what comes after it have in common.
#[derive(Debug, Args)]
struct How {
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

/// Where to; exactly one.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Point {
    /// To the end of what is archived
    #[arg(long)]
    latest: bool,
    /// To a time: everything that was committed then or before; UTC unless it has an offset
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to_time: Option<Timestamp>,
    /// To a WAL position; the record there is included
    #[arg(long, value_name = "LSN")]
    to_lsn: Option<Lsn>,
    /// To a restore point, made by pg_create_restore_point
    #[arg(long, value_name = "NAME")]
    to_name: Option<RestorePointName>,
    /// To the commit of a transaction; it is included
    #[arg(long, value_name = "XID", value_parser = clap::value_parser!(u64).range(3..))]
    to_xid: Option<u64>,
    /// To the end of a backup
    #[arg(long, value_name = "LABEL")]
    to_backup: Option<BackupLabel>,
}

#[derive(Debug, Subcommand)]
enum After {
    /// Keep what was restored: delete the old data
    #[command(after_help = "Example:
  cellar restore confirm 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00")]
    Confirm {
        /// The restore's id
        #[arg(value_name = "JOB")]
        id: JobId,
        #[command(flatten)]
        how: How,
    },
    /// Go back to the old data: what was written since the restore is lost
    #[command(after_help = "Example:
  cellar restore rollback 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00")]
    Rollback {
        /// The restore's id
        #[arg(value_name = "JOB")]
        id: JobId,
        #[command(flatten)]
        how: How,
    },
}

impl Point {
    fn target(&self) -> RestoreTarget {
        let target = self
            .to_time
            .map(|time| To::Time(time.into()))
            .or_else(|| self.to_lsn.map(|lsn| To::Lsn(lsn.to_string())))
            .or_else(|| self.to_name.as_ref().map(|name| To::Name(name.to_string())))
            .or_else(|| self.to_xid.map(To::Xid))
            .or_else(|| self.to_backup.as_ref().map(|label| To::Backup(label.to_string())))
            .or_else(|| self.latest.then_some(To::Latest(LatestTarget {})));
        RestoreTarget { target }
    }
}

/// The plan, or the refusal that it found; nothing was changed then.
pub(crate) fn plan_of(job: &Job) -> Outcome<&RestorePlan> {
    if job.state() != JobState::Succeeded {
        return Err(Failure::Refused(Box::new(job.clone())));
    }
    job.result
        .as_ref()
        .and_then(|result| result.plan())
        .ok_or_else(|| Failure::Bug(format!("job {} succeeded without a plan", job.id)))
}

/// The question before a restore.
pub(crate) fn question(job: &Job, plan: &RestorePlan) -> String {
    let cell = job.restore().and_then(|params| params.onto.as_deref()).unwrap_or(&job.cell);
    format!("Restore database {} in cell {cell} to {}?", job.database, restore::target(plan.target.as_ref()))
}

async fn start_plan(target: &Target, client: &Client, request: &RestoreDatabaseRequest) -> Outcome<Job> {
    call(target, || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.plan_restore(request).await }
    })
    .await
}

async fn get_job(target: &Target, client: &Client, id: JobId) -> Outcome<Job> {
    call(target, || {
        let mut client = client.clone();
        async move { client.get_job(GetJobRequest { id: id.to_string() }).await }
    })
    .await
}

/// Whether the request has become a job already. Its plan may not hold any more just because it was done.
async fn is_repeated(target: &Target, client: &Client, database: &str, request: &RequestId) -> Outcome<bool> {
    let view = call(target, || {
        let mut client = client.clone();
        let request = GetDatabaseRequest { name: database.to_owned() };
        async move { client.get_database(request).await }
    })
    .await?;
    let name = view.database.unwrap_or_default().name;
    let name: DatabaseName = name
        .parse()
        .map_err(|error| Failure::Bug(format!("multiadmin calls a database {name:?}: {error}")))?;
    match get_job(target, client, JobId::for_request(&name, request)).await {
        Ok(_) => Ok(true),
        Err(Failure::Rpc(status)) if status.code() == tonic::Code::NotFound => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// Follows a restore or a rollback and tells what it did, also when something went wrong behind the point of no return.
async fn finish(global: &Global, target: &Target, job: &Job) -> Outcome {
    output::note(&format!("job {}", job.id));
    let job = follow(target, &job.id, false, |_| Ok(())).await?;
    match (global.output, job.result.as_ref().and_then(|result| result.restore())) {
        (Form::Json, _) => output::json(&job)?,
        (Form::Human, Some(result)) => {
            output::print(&format!("{}{}", restore::summary(&job, result), restore::next(&job, result)))?;
        }
        (Form::Human, None) if job.state() == JobState::Succeeded => {
            return Err(Failure::Bug(format!("job {} succeeded without a result", job.id)));
        }
        (Form::Human, None) => {}
    }
    judge(job).map(drop)
}

impl Restore {
    fn request(&self, global: &Global) -> RestoreDatabaseRequest {
        RestoreDatabaseRequest {
            database: super::database(global),
            target: Some(self.to.target()),
            timeline: self.timeline.unwrap_or(0),
            onto: self.onto.as_ref().map(ToString::to_string).unwrap_or_default(),
            in_place: self.in_place,
            queue: self.how.queue,
            timeout: self.how.timeout.map(span),
            request_id: request_id(self.how.request_id.as_ref()),
        }
    }

    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self.after {
            Some(After::Confirm { id, how }) => return confirm(global, id, &how).await,
            Some(After::Rollback { id, how }) => return rollback(global, id, &how).await,
            None => {}
        }
        if let Some(time) = self.to.to_time {
            output::note(&understood(time, Timestamp::now()));
        }
        if self.plan {
            return self.show_plan(global).await;
        }
        can_be_asked(self.how.yes)?;
        let target = global.target()?;
        let client = target.client()?;
        let request = self.request(global);
        let repeated = match &self.how.request_id {
            Some(id) => is_repeated(&target, &client, &request.database, id).await?,
            None => false,
        };
        if repeated {
            output::note("this request was made before: its job is followed, and nothing begins anew");
        } else {
            self.agree(&target, &client, &request).await?;
        }
        let job = call(&target, || {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.restore_database(request).await }
        })
        .await?;
        if self.how.no_wait {
            return accepted(global, &job);
        }
        finish(global, &target, &job).await
    }

    /// Shows the plan, and asks unless told not to.
    async fn agree(&self, target: &Target, client: &Client, request: &RestoreDatabaseRequest) -> Outcome {
        // The request's own id is the restore's.
        let planned = RestoreDatabaseRequest {
            request_id: request_id(None),
            queue: false,
            timeout: None,
            ..request.clone()
        };
        let job = start_plan(target, client, &planned).await?;
        output::note(&format!("planning (job {})", job.id));
        let job = follow(target, &job.id, true, |_| Ok(())).await?;
        let plan = plan_of(&job)?;
        output::note(&format!("\n{}", restore::plan(&job, plan)));
        if self.how.yes {
            return Ok(());
        }
        ask(&question(&job, plan), &job.database).await
    }

    async fn show_plan(&self, global: &Global) -> Outcome {
        let target = global.target()?;
        let client = target.client()?;
        let job = start_plan(&target, &client, &self.request(global)).await?;
        if self.how.no_wait {
            return accepted(global, &job);
        }
        let job = follow(&target, &job.id, true, |_| Ok(())).await?;
        if global.output == Form::Json {
            output::json(&job)?;
            return plan_of(&job).map(drop);
        }
        output::print(&restore::plan(&job, plan_of(&job)?))
    }
}

fn request_of(id: JobId, how: &How) -> RestoreJobRequest {
    RestoreJobRequest {
        id: id.to_string(),
        queue: how.queue,
        timeout: how.timeout.map(span),
        request_id: request_id(how.request_id.as_ref()),
    }
}

/// Asks the person whether what is done about a restore may be done, and finds multiadmin.
async fn agreed(
    global: &Global,
    id: JobId,
    how: &How,
    question: impl FnOnce(&str) -> String,
) -> Outcome<(Target, Client)> {
    can_be_asked(how.yes)?;
    let target = global.target()?;
    let client = target.client()?;
    if !how.yes {
        let database = get_job(&target, &client, id).await?.database;
        ask(&question(&database), &database).await?;
    }
    Ok((target, client))
}

async fn confirm(global: &Global, id: JobId, how: &How) -> Outcome {
    let begun = std::time::Instant::now();
    let (target, client) = agreed(global, id, how, |database| {
        format!(
            "Delete the data that database {database} had before restore {id}? No rollback is possible then."
        )
    })
    .await?;
    let request = request_of(id, how);
    let job = call(&target, || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.confirm_restore(request).await }
    })
    .await?;
    let Some(job) = to_its_end(global, &target, job, how.no_wait).await? else { return Ok(()) };
    output::print(&format!(
        "restore {id} of database {} is confirmed, the old data is deleted; that took {}",
        job.database,
        took(begun)
    ))
}

async fn rollback(global: &Global, id: JobId, how: &How) -> Outcome {
    let (target, client) = agreed(global, id, how, |database| {
        format!("Bring database {database} back to what it was before restore {id}? What was written since is lost.")
    })
    .await?;
    let request = request_of(id, how);
    let job = call(&target, || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.rollback_restore(request).await }
    })
    .await?;
    if how.no_wait {
        return accepted(global, &job);
    }
    finish(global, &target, &job).await
}
