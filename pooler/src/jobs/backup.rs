//! A backup of this cell's own instance, and of no other.
//!
//! Before the backup the live instance is asked for its identity. During the backup the config lists only this cell
//! and the primary, so pgBackRest can copy from nowhere else. After the backup its log and the repo are read, and the
//! source is proven.

mod follow_log;
mod source_check;

use cellar_model::{BackupResult, CELL_ANNOTATION, Code, JOB_ANNOTATION, JobOutcome, JobSpec, Refusal};
use cellar_pgbackrest::Invocation;

use crate::config_files::write_job;
use crate::jobs::backup::follow_log::FollowedLog;
use crate::jobs::backup::source_check::wait_for_source;
use crate::jobs::context::{JobContext, JobResult};
use crate::jobs::failure::JobFailure;
use crate::repository::backup_proof::{log_parser, verify_backup};
use crate::repository::tool_failure::tool_failure;

/// Runs a backup job to its end.
pub(crate) async fn run(context: &mut JobContext<'_>) -> JobResult {
    let backup = backup(context).await?;
    Ok(Some(JobOutcome::Backup(backup)))
}

async fn backup(context: &mut JobContext<'_>) -> Result<BackupResult, JobFailure> {
    let JobSpec::Backup(params) = context.job.record.spec.clone() else {
        return Err(Refusal::new(Code::InvalidArgument, "the job has no parameters of a backup").into());
    };
    let (agent, id) = (context.agent, context.job.record.id);
    context.if_interrupted("no backup was begun");
    context.progress("checking the instance").await;
    let (card, database) = agent.assignment()?;
    let origin = wait_for_source(context, &card, &params).await?;
    let config = write_job(agent, &id.to_string(), &database, &card, origin.primary.as_ref())
        .map_err(|error| Refusal::new(Code::Internal, format!("no config for the job: {error}")))?;
    origin.write(agent, &id).map_err(|error| {
        Refusal::new(Code::Internal, format!("cannot write to {}: {error}", agent.layout.jobs().display()))
            .hint("is the cell's disk full?")
    })?;
    let annotations =
        [(CELL_ANNOTATION.to_owned(), agent.cell.to_string()), (JOB_ANNOTATION.to_owned(), id.to_string())];
    let invocation = Invocation::backup(&config, &database.stanza, params.backup_type, &annotations);
    context.if_interrupted("pgBackRest was ended and no backup was made");
    let log_file = context.log_file();
    let mut log = FollowedLog::new(&log_file, log_parser(&origin));
    let watch = async |context: &mut JobContext<'_>, _: &_| {
        log.read();
        context.periodic_progress(log.progress()).await;
    };
    if let Some(failed) = context.run_pgbackrest(&invocation, 0, watch).await? {
        let doing = format!("backing up cell {}", agent.cell);
        let (repository, data) = (&database.repository, card.data_directory.as_str());
        return Err(tool_failure(&doing, &failed.failure, &failed.log, repository, data).into());
    }
    let result = verify_backup(agent, &database, &config, &log_file, &origin).await?;
    // The log stays; the config is not needed any more.
    let _ = std::fs::remove_file(&config);
    Ok(result)
}
