//! `cellar jobs`.

mod list;
mod log;
mod watch;

use cellar_api::v1::{CancelJobRequest, GetJobRequest};
use cellar_model::JobId;
use clap::Subcommand;

use crate::client::target::Target;
use crate::failure::Outcome;
use crate::global::Global;
use crate::output::{self, Form};
use crate::render::job::details;
use crate::render::progress::has_ended;
use crate::render::words::state_word;

/// Backups, restores, drills, rebuilds: list, show, follow and cancel them
#[derive(Debug, Subcommand)]
pub(crate) enum Jobs {
    /// List jobs, newest first
    #[command(after_help = "Examples:
  cellar jobs list
  cellar jobs list --steps
  cellar jobs list --limit 5 --output json | jq -r '.jobs[].state'")]
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Also the steps of restores, rollbacks and confirmations
        #[arg(long)]
        steps: bool,
    },
    /// Show one job: parameters, steps, progress, result or error with the tool's output
    #[command(after_help = "Example:
  cellar jobs show 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00")]
    Show {
        /// Its id
        #[arg(value_name = "ID")]
        id: JobId,
    },
    /// Follow a job until it has ended; exit code 1 when it failed
    #[command(after_help = "Example:
  cellar jobs watch 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00")]
    Watch {
        /// Its id
        #[arg(value_name = "ID")]
        id: JobId,
    },
    /// Print what the job's tools wrote
    #[command(after_help = "Examples:
  cellar jobs logs 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00
  cellar jobs logs -f 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00")]
    Logs {
        /// Its id
        #[arg(value_name = "ID")]
        id: JobId,
        /// Go on until the job has ended
        #[arg(long, short)]
        follow: bool,
    },
    /// Cancel a job; pgBackRest ends cleanly and the stanza is released
    #[command(after_help = "Example:
  cellar jobs cancel 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00")]
    Cancel {
        /// Its id
        #[arg(value_name = "ID")]
        id: JobId,
    },
}

impl Jobs {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::List { limit, steps } => list::run(global, limit, steps).await,
            Self::Show { id } => show(global, id).await,
            Self::Watch { id } => watch::run(global, id).await,
            Self::Logs { id, follow } => log::run(global, id, follow).await,
            Self::Cancel { id } => cancel(global, id).await,
        }
    }
}

async fn show(global: &Global, id: JobId) -> Outcome {
    let request = GetJobRequest { id: id.to_string() };
    let job = Target::of(global)
        .await?
        .call(request, async |mut client, request| client.get_job(request).await)
        .await?;
    global.output.print(&job, details)
}

async fn cancel(global: &Global, id: JobId) -> Outcome {
    // A second request to cancel changes nothing, so this one may be repeated.
    let request = CancelJobRequest { id: id.to_string() };
    let job = Target::of(global)
        .await?
        .call(request, async |mut client, request| client.cancel_job(request).await)
        .await?;
    if global.output == Form::Human && !has_ended(&job) {
        output::note(&format!("follow it with `cellar jobs watch {id}`"));
    }
    global.output.print(&job, |job| {
        if has_ended(job) {
            format!("job {id} has ended: {}", state_word(job.state()))
        } else {
            format!("job {id} is being canceled")
        }
    })
}
