//! Finding out how a job ended that an earlier process of this cell left running.
//!
//! pgBackRest was killed together with the process that ran it, unless it had just ended; on the host of a repository that
//! is another cell's it ends soon after. So the log and the repo decide: a backup that is in the repo and whose source is
//! proven has succeeded.

use std::time::Duration;

use cellar_model::{
    BackupResult, Code, JOB_ANNOTATION, JobError, JobKind, JobRecord, JobSpec, RecoverParams, WORK_TIMEOUT,
};
use cellar_pgbackrest::StanzaStatus;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::config_files::write_job_or_reading;
use crate::jobs::backup;
use crate::jobs::claim::ClaimedJob;
use crate::jobs::context::JobResult;
use crate::jobs::control::{Control, Interruption};
use crate::jobs::failure::JobFailure;
use crate::jobs::restore::scratch::{remove_directory, stop_and_remove_scratch, stop_private};
use crate::repository::backup_proof::{BackupOrigin, verify_backup};
use crate::repository::tool_failure::{last_lines, read_log};

/// How long to wait before something that could not be read or written is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How often a takeover looks whether its job must end.
const INTERRUPTION_INTERVAL: Duration = Duration::from_millis(200);

/// How long the repo may be out of reach before the job is given up. Until then the job has the database's lock, and this
/// cell begins no other.
const REPO_TIMEOUT: Duration = Duration::from_secs(600);

/// How long pgBackRest may go on where the repository is, when that is another cell's host: its pooler may not have heard
/// yet that the process is gone for which it works.
const ELSEWHERE_TIMEOUT: Duration = WORK_TIMEOUT.saturating_add(Duration::from_secs(2));

/// How long pgBackRest may take to read the repo.
const INFO_TIMEOUT: Duration = Duration::from_secs(60);

/// Finds out how a job ended that an earlier process left running.
pub(crate) async fn outcome(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> JobResult {
    let record = &job.record.clone();
    match record.kind() {
        JobKind::Backup => {
            let read = backup_made(agent, record);
            let made = unless_interrupted(agent, control, read).await??;
            backup::ended(job, made)
        }
        JobKind::Rebuild => Err(restarted(
            "the multipooler restarted while it rebuilt the standby",
            "the restore that was begun is completed by itself; `cellar status` shows when the cell streams",
            "",
        )),
        kind => {
            // The copy of a recovery that did not end is of no use.
            if let Some(restore) = record.parent.filter(|_| kind == JobKind::Recover) {
                let copy = agent.layout.restored(restore);
                stop_and_remove_scratch(&copy, &agent.layout.scratch(record.id)).await;
                remove_directory(&copy).await;
            }
            // Old data that a rollback was recovering stays, and so does data that was being restored in its own place;
            // only the private instance is stopped.
            let in_use = match &record.spec {
                JobSpec::Recover(RecoverParams { kept: Some(kept), .. }) => Some(agent.layout.kept(*kept)),
                JobSpec::Recover(RecoverParams { in_place: true, .. }) => Some(agent.layout.data()),
                _ => None,
            };
            if let Some(data) = in_use {
                stop_private(&data, &agent.layout.scratch(record.id)).await;
            }
            let what = format!("the multipooler restarted during the {kind}");
            Err(restarted(&what, "ask for it again", &read_log(&agent.job_log(&record.id))))
        }
    }
}

fn restarted(message: &str, hint: &str, log: &str) -> JobFailure {
    JobFailure::Failed(JobError {
        code: Code::PoolerRestarted,
        message: message.to_owned(),
        hint: hint.to_owned(),
        tool_output: last_lines(log),
    })
}

/// Waits for what `work` finds out, but no longer than the job may run.
///
/// # Errors
/// [`JobFailure::Interrupted`] when the job must end before. A backup that is in the repo nevertheless is marked there
/// as unproven by the next job that writes to the repo.
async fn unless_interrupted<T>(
    agent: &Agent,
    control: &Control,
    work: impl Future<Output = T>,
) -> Result<T, JobFailure> {
    let mut work = std::pin::pin!(work);
    loop {
        if let Ok(found) = tokio::time::timeout(INTERRUPTION_INTERVAL, &mut work).await {
            return Ok(found);
        }
        // A process that is told to stop leaves the job to the next one.
        let why = control.interrupted(agent).filter(|why| *why != Interruption::Stopping);
        if let Some(why) = why {
            let effect = "the multipooler had restarted, and whether a backup was made could not be found out, because the repo could not be read; if one was made, it counts as not proven";
            return Err(JobFailure::Interrupted { why, effect });
        }
    }
}

/// Waits until the repo is read again.
///
/// # Errors
/// When it was out of reach for too long.
async fn wait_for_repo(record: &JobRecord, why: &str, given_up: Instant) -> Result<(), JobFailure> {
    if Instant::now() >= given_up {
        return Err(JobFailure::Failed(JobError {
            code: Code::Unavailable,
            message: format!(
                "the multipooler restarted during the backup, and whether one was made could not be found out, because the repo cannot be read: {why}"
            ),
            hint: "see that the repo is where it was, then take another backup; if this one is in the repo, it counts as not proven".to_owned(),
            tool_output: String::new(),
        }));
    }
    tracing::warn!(job = %record.id, why, "the repo cannot be read yet");
    tokio::time::sleep(RETRY_INTERVAL).await;
    Ok(())
}

/// The backup that the job made, proven.
async fn backup_made(agent: &Agent, record: &JobRecord) -> Result<BackupResult, JobFailure> {
    let given_up = Instant::now() + REPO_TIMEOUT;
    let ended_elsewhere = Instant::now() + ELSEWHERE_TIMEOUT;
    let log_file = agent.job_log(&record.id);
    let no_backup = |log: &str| {
        Err(restarted(
            "the multipooler restarted while pgBackRest ran, and pgBackRest was ended with it; no backup was made",
            "ask for the backup again",
            log,
        ))
    };
    let origin = match BackupOrigin::read(agent, &record.id) {
        Ok(Some(origin)) => origin,
        Ok(None) => return no_backup(""),
        Err(error) => {
            return Err(restarted(
                &format!(
                    "the multipooler restarted while pgBackRest ran, and what the job had noted of its source cannot be read ({error}): whether there is a backup is not known, and if there is one it is not proven"
                ),
                "look for it with `cellar backups list`, repair the cause, and ask for the backup again",
                &read_log(&log_file),
            ));
        }
    };
    let (card, database) = agent.assignment()?;
    let name = record.id.to_string();
    let config = write_job_or_reading(agent, &name, &database, &card, origin.primary.as_ref())
        .map_err(|error| restarted(&error.to_string(), "", ""))?;
    loop {
        // What was read before pgBackRest had ended elsewhere says nothing of its end.
        let read_at = Instant::now();
        match agent.pgbackrest.info(&config, &database.stanza, INFO_TIMEOUT).await {
            // A repo without the stanza is another one, or not mounted: this job began with the stanza.
            Ok(info) if matches!(info.status, StanzaStatus::Ok | StanzaStatus::NoBackup) => {
                let id = record.id.to_string();
                let made =
                    info.backups.iter().any(|backup| backup.annotations.get(JOB_ANNOTATION) == Some(&id));
                if !made {
                    let is_elsewhere = database.repository.reached_through(&agent.cell).is_some();
                    if is_elsewhere && read_at < ended_elsewhere {
                        tokio::time::sleep(RETRY_INTERVAL).await;
                        continue;
                    }
                    return no_backup(&read_log(&log_file));
                }
                return Ok(verify_backup(agent, &database, &card, &config, &record.id, &origin).await?);
            }
            // Whether the backup exists is known only when the repo can be read.
            Ok(info) => wait_for_repo(record, &info.message, given_up).await?,
            Err(error) => wait_for_repo(record, &error.to_string(), given_up).await?,
        }
    }
}
