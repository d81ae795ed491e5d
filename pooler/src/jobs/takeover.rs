//! Finding out how a job ended that an earlier process of this cell left running.
//!
//! pgBackRest was killed together with the process that ran it, unless it had just ended. So the log and the repo
//! decide: a backup that is in the repo and whose source is proven has succeeded.

use std::time::Duration;

use cellar_model::{Code, JOB_ANNOTATION, JobError, JobKind, JobOutcome, JobRecord, JobSpec, RecoverParams};
use cellar_pgbackrest::Error;

use crate::agent::Agent;
use crate::config_files::write_job;
use crate::jobs::context::JobResult;
use crate::jobs::failure::JobFailure;
use crate::jobs::restore::scratch::{remove_directory, stop_and_remove_scratch, stop_private};
use crate::repository::backup_proof::{BackupOrigin, verify_backup};
use crate::repository::tool_failure::{last_lines, read_log};

/// How long to wait before something that could not be read or written is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long pgBackRest may take to read the repo.
const INFO_TIMEOUT: Duration = Duration::from_secs(60);

/// Finds out how a job ended that an earlier process left running.
pub(crate) async fn outcome(agent: &Agent, record: &JobRecord) -> JobResult {
    match record.kind() {
        JobKind::Backup => backup_outcome(agent, record).await,
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

async fn backup_outcome(agent: &Agent, record: &JobRecord) -> JobResult {
    let log_file = agent.job_log(&record.id);
    let no_backup = |log: &str| {
        Err(restarted(
            "the multipooler restarted while pgBackRest ran, and pgBackRest was ended with it; no backup was made",
            "ask for the backup again",
            log,
        ))
    };
    let Some(origin) = BackupOrigin::read(agent, &record.id) else { return no_backup("") };
    let (card, database) = agent.assignment()?;
    let config = write_job(agent, &record.id.to_string(), &database, &card, origin.primary.as_ref())
        .map_err(|error| restarted(&error.to_string(), "", ""))?;
    loop {
        match agent.pgbackrest.info(&config, &database.stanza, INFO_TIMEOUT).await {
            Ok(info) => {
                let id = record.id.to_string();
                let made =
                    info.backups.iter().any(|backup| backup.annotations.get(JOB_ANNOTATION) == Some(&id));
                if !made {
                    return no_backup(&read_log(&log_file));
                }
                let backup = verify_backup(agent, &database, &config, &log_file, &origin).await?;
                return Ok(Some(JobOutcome::Backup(backup)));
            }
            Err(Error::NotInRepository(_)) => return no_backup(&read_log(&log_file)),
            // Whether the backup exists is known only when the repo can be read.
            Err(error) => {
                tracing::warn!(job = %record.id, %error, "the repo cannot be read yet");
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}
