//! A backup of this cell's own instance, and of no other.
//!
//! Before the backup the live instance is asked for its identity. During the backup the config lists only this cell
//! and the primary, so pgBackRest can copy from nowhere else. After the backup its log and the repo are read, and the
//! source is proven.

mod at_repository;
mod follow_log;
mod names;
mod source_check;

use std::path::Path;
use std::time::{Duration, Instant};

use cellar_model::{
    BackupResult, BackupType, CELL_ANNOTATION, Code, Database, JOB_ANNOTATION, JobOutcome, JobSpec, Pooler,
    Refusal, Schedule,
};
use cellar_pgbackrest::{CLOCK, Invocation, LOCK_ACQUIRE, LOST_INFO_HINT, Running, lost_info};

use crate::agent::Agent;
use crate::config_files::write_job_or_reading;
use crate::disk::write_refusal;
use crate::jobs::backup::at_repository::AtRepository;
use crate::jobs::backup::follow_log::FollowedLog;
use crate::jobs::backup::names::check_names;
use crate::jobs::backup::source_check::wait_for_source;
use crate::jobs::claim::ClaimedJob;
use crate::jobs::context::{JobContext, JobResult};
use crate::jobs::failure::JobFailure;
use crate::repository::backup_proof::{log_parser, verify_backup};
use crate::repository::reader::Repo;
use crate::repository::stanza::{self, StanzaError};
use crate::repository::tool_failure::{Disks, tool_failure};
use crate::services::server_files;

/// How long another pgBackRest command is waited for that works on the stanza, here or at the primary. The job's lock in
/// etcd keeps all others out but what a lost job has left at the primary, which ends within seconds (`lost_sessions`).
const HELD_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it is tried again.
const HELD_INTERVAL: Duration = Duration::from_secs(2);

/// Runs a backup job to its end. A backup with page errors is a failure that has a result.
pub(crate) async fn run(context: &mut JobContext<'_>) -> JobResult {
    let backup = backup(context).await?;
    ended(context.job, backup)
}

/// How a job ends whose backup is proven.
pub(crate) fn ended(job: &mut ClaimedJob, backup: BackupResult) -> JobResult {
    if !backup.page_errors {
        return Ok(Some(JobOutcome::Backup(backup)));
    }
    let error = Refusal::new(
        Code::PageErrors,
        format!(
            "backup {} of cell {} is proven, and pages with wrong checksums were found in it",
            backup.label, backup.source.cell
        ),
    )
    .hint("the job's log names the files (`cellar jobs logs`). Take a full backup of another cell, and rebuild this one if only its files are damaged");
    job.keep_outcome(JobOutcome::Backup(backup));
    Err(error.into())
}

/// The type of backup to take, and why it is another than was asked for.
///
/// A repo that cannot be read now decides nothing here: pgBackRest itself says what is wrong with it, and the proof
/// looks at what the backup builds on.
async fn type_to_take(
    context: &JobContext<'_>,
    database: &Database,
    card: &Pooler,
    asked: BackupType,
) -> Result<(BackupType, Option<String>), JobFailure> {
    let Ok(repo) = Repo::open(context.agent, database, card).await else { return Ok((asked, None)) };
    // There may be many, and nobody may write to the repo beside the next job.
    context.unless_interrupted(repo.write_missing_marks()).await?;
    Ok(cellar_model::type_to_take(asked, &repo.backups()))
}

/// The pooler on whose host the repository is; none when this one's has it.
fn home_of(agent: &Agent, database: &Database) -> Result<Option<Pooler>, Refusal> {
    let Some(home) = database.repository.reached_through(&agent.cell) else { return Ok(None) };
    agent.card_of(home).map(Some).ok_or_else(|| {
        Refusal::new(
            Code::UnknownCell,
            format!("the repository {} is in a cell that is not there", database.repository),
        )
        .about("cell", home)
    })
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
    context.unless_interrupted(check_names(agent, &card)).await??;
    let mut begun_anew = false;
    if params.backup_type == BackupType::Full && origin.primary.is_none() {
        // A full backup of the primary may begin a new repository.
        let no_stanza = |error: StanzaError| {
            Refusal::new(
                Code::PgbackrestFailed,
                format!("the stanza cannot be looked up or created: {error}"),
            )
            .hint(match lost_info(&database.repository, &agent.cell, database.stanza.as_str()) {
                Some(_) => LOST_INFO_HINT,
                None => "check that the repository can be reached and written (`cellar doctor`)",
            })
        };
        // A person knows whether the repository is the one that is wanted. A schedule, or a step of a restore, does not: a
        // directory in which nothing is mounted would become the repository, and the WAL since would be missing in it.
        let asked =
            context.job.record.parent.is_none() && !Schedule::is_requester(&context.job.record.requested_by);
        match asked {
            true => begun_anew = stanza::ensure(agent, &database, &card).await.map_err(no_stanza)?,
            false => stanza::ensure_first(agent, &database, &card).await.map_err(no_stanza)?,
        }
    }
    let (backup_type, why) = type_to_take(context, &database, &card, params.backup_type).await?;
    let mut warnings: Vec<String> = why.into_iter().collect();
    if begun_anew {
        warnings.push(format!(
            "the repository had nothing of stanza {}, so it was begun anew: backups and WAL from before are not in it",
            database.stanza
        ));
    }
    let home = home_of(agent, &database)?;
    if home.is_some() {
        // The backup reads this cell through its server.
        server_files::until_current(agent).await;
    }
    let primary = origin.primary.as_ref();
    let config = write_job_or_reading(agent, &id.to_string(), &database, &card, primary)
        .map_err(|error| Refusal::new(Code::Internal, format!("no config for the job: {error}")))?;
    origin.write(agent, &id).map_err(|error| {
        write_refusal(&format!("cannot write to {}", agent.layout.jobs().display()), &error)
    })?;
    let annotations =
        [(CELL_ANNOTATION.to_owned(), agent.cell.to_string()), (JOB_ANNOTATION.to_owned(), id.to_string())];
    let invocation = |backup_type| Invocation::backup(&config, &database.stanza, backup_type, &annotations);
    context.if_interrupted("pgBackRest was ended and no backup was made");
    let log_file = context.log_file();
    let mut log = FollowedLog::new(&log_file, log_parser(agent, &database, &card, &origin));
    let data = Path::new(&card.data_directory);
    let at_repository = home.as_ref().map(|home| AtRepository {
        home,
        primary: origin.primary.as_ref().map(|primary| &primary.cell),
        log: &log_file,
    });
    let mut run = async |context: &mut JobContext<'_>, backup_type| match &at_repository {
        None => {
            let watch = async |context: &mut JobContext<'_>, running: &Running| {
                log.read();
                context.copying_progress(log.progress(), running, data).await;
            };
            context.run_pgbackrest(&invocation(backup_type), 0, watch).await
        }
        Some(wanted) => {
            let watch = async |context: &mut JobContext<'_>| {
                log.read();
                context.periodic_progress(log.progress()).await;
            };
            at_repository::run(context, wanted, backup_type, watch).await
        }
    };
    let deadline = Instant::now() + HELD_TIMEOUT;
    let mut failed = loop {
        let failed = run(context, backup_type).await?;
        let is_held = failed.as_ref().is_some_and(|failed| failed.failure.cause == Some(LOCK_ACQUIRE));
        if !is_held || Instant::now() >= deadline {
            break failed;
        }
        // Before it has copied anything.
        context.progress("waiting for another pgBackRest command to end").await;
        context.pause(HELD_INTERVAL).await?;
    };
    let is_behind = failed.as_ref().is_some_and(|failed| failed.failure.exit_code == Some(CLOCK));
    if is_behind && backup_type != BackupType::Full {
        // Before it has copied anything.
        warnings.push(format!(
            "a full backup was taken, because a later one than {backup_type} would build on was in the repo once and has expired"
        ));
        failed = run(context, BackupType::Full).await?;
    }
    if let Some(failed) = failed {
        let doing = format!("backing up cell {}", agent.cell);
        let (repository, data_directory) = (&database.repository, card.data_directory.as_str());
        let disks = Disks { repository, cell: &agent.cell, data_directory };
        return Err(tool_failure(&doing, &failed.failure, &failed.log, disks).into());
    }
    context.if_interrupted("a backup was made, and counts as not proven");
    let proof = verify_backup(agent, &database, &card, &config, &id, &origin);
    let mut result = context.unless_interrupted(proof).await??;
    result.warnings = warnings;
    // The log stays; a config of the job's own is not needed any more.
    if home.is_none() {
        let _ = std::fs::remove_file(&config);
    }
    Ok(result)
}
