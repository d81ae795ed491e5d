//! `cellar restore confirm` and `cellar restore rollback`: what is done about a restore that took effect.

use std::time::Instant;

use cellar_api::v1::{GetDatabaseRequest, GetJobRequest, Job, JobState, RestoreJobRequest};
use cellar_model::JobId;
use clap::Args;

use crate::client::run_job::{JobOptions, QueueOption, run_job};
use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::question::{ask, check_terminal};
use crate::render::restore::report;
use crate::render::units;

/// The flags of both.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The restore's id
    #[arg(value_name = "JOB")]
    id: JobId,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    queue: QueueOption,
    #[command(flatten)]
    options: JobOptions,
}

impl Options {
    fn request(&self) -> RestoreJobRequest {
        RestoreJobRequest {
            id: self.id.to_string(),
            queue: self.queue.queue,
            timeout: self.options.timeout(),
            request_id: self.options.request_id(),
        }
    }

    /// Asks unless `--yes`, and returns the multiadmin that is called.
    async fn confirm(&self, global: &Global, question: impl FnOnce(&str) -> String) -> Outcome<Target> {
        check_terminal(self.yes)?;
        let target = Target::of(global).await?;
        if !self.yes {
            let request = GetJobRequest { id: self.id.to_string() };
            let restore =
                target.call(request, async |mut client, request| client.get_job(request).await).await;
            let database = match restore {
                Ok(restore) => restore.database,
                // The restore may stand, though its job is forgotten: multiadmin knows it by what it kept.
                Err(Failure::Rpc(status)) if status.code() == tonic::Code::NotFound => {
                    let request = GetDatabaseRequest { name: global.database() };
                    let view =
                        target.call(request, async |mut client, request| client.get_database(request).await);
                    view.await?.database.unwrap_or_default().name
                }
                Err(failure) => return Err(failure),
            };
            ask(&question(&database), &database).await?;
        }
        Ok(target)
    }
}

/// `cellar restore confirm`.
pub(super) async fn confirm(global: &Global, options: &Options) -> Outcome {
    let (begun, id) = (Instant::now(), options.id);
    let question = |database: &str| {
        format!(
            "Delete the data that database {database} had before restore {id}? No rollback is possible then."
        )
    };
    let target = options.confirm(global, question).await?;
    let submit =
        target.call(options.request(), async |mut client, request| client.confirm_restore(request).await);
    let report = async |job: &Job| {
        let took = units::duration(begun.elapsed());
        (job.state() == JobState::Succeeded).then(|| {
            format!(
                "restore {id} of database {} is confirmed, the old data is deleted; that took {took}",
                job.database
            )
        })
    };
    run_job(global, &target, &options.options, submit, report).await
}

/// `cellar restore rollback`.
pub(super) async fn rollback(global: &Global, options: &Options) -> Outcome {
    let id = options.id;
    let question = |database: &str| {
        format!(
            "Roll database {database} back to what it was before restore {id}? What was written since is lost."
        )
    };
    let target = options.confirm(global, question).await?;
    let submit =
        target.call(options.request(), async |mut client, request| client.rollback_restore(request).await);
    run_job(global, &target, &options.options, submit, async |job| report(job)).await
}
