//! Jobs that an earlier process of this cell left in the middle: ended, truthfully.
//!
//! pgBackRest died with the process that ran it, unless it had just come to its
//! end. So the log and the repo are asked: a backup that is there and whose
//! source is proven has succeeded, whoever was alive to see it.

use std::time::Duration;

use cellar_model::{Code, JOB_ANNOTATION, JobError, JobKind, JobOutcome, JobRecord, JobSpec, RecoverParams};
use cellar_pgbackrest::Error;

use crate::agent::Agent;
use crate::config_files::write_job;
use crate::instance::incarnation::{Kind, siblings};
use crate::jobs::claim::Ending;
use crate::jobs::drill;
use crate::jobs::restore::private_instance::{clear, remove};
use crate::repository::backup_proof::{Source, judge, last_lines, log_path, read};

/// Pause before what could not be read or written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long pgBackRest may take to read the repo.
const INFO_TIMEOUT: Duration = Duration::from_secs(60);

/// How a job ended that an earlier process left behind.
pub(crate) async fn ending(agent: &Agent, record: &JobRecord) -> Ending {
    match record.kind() {
        JobKind::Backup => backup_ending(agent, record).await,
        JobKind::Rebuild => Ending::Failed(lost(
            "the multipooler restarted while it rebuilt the standby",
            "the restore that was begun is completed by itself; `cellar status` shows when the cell streams",
            "",
        )),
        kind => {
            // Its copy was never anybody's data.
            if let Some(copy) = record.parent.filter(|_| kind == JobKind::Recover) {
                let copy = agent.layout.restored(copy);
                clear(&copy, &agent.layout.scratch(record.id)).await;
                remove(&copy);
            }
            if let JobSpec::Recover(RecoverParams { kept: Some(kept), .. }) = record.spec {
                clear(&agent.layout.kept(kept), &agent.layout.scratch(record.id)).await;
            }
            let what = format!("the multipooler restarted during the {kind}");
            Ending::Failed(lost(&what, "ask for it again", &read(&log_path(agent, &record.id))))
        }
    }
}

fn lost(message: &str, hint: &str, log: &str) -> JobError {
    JobError {
        code: Code::PoolerRestarted,
        message: message.to_owned(),
        hint: hint.to_owned(),
        tool_output: last_lines(log),
    }
}

async fn backup_ending(agent: &Agent, record: &JobRecord) -> Ending {
    let log_file = log_path(agent, &record.id);
    let nothing = |log: &str| {
        Ending::Failed(lost(
            "the multipooler restarted while pgBackRest ran, and pgBackRest was ended with it; no backup was made",
            "ask for the backup again",
            log,
        ))
    };
    let Some(source) = Source::recall(agent, &record.id) else { return nothing("") };
    let (card, database) = match agent.place() {
        Ok(place) => place,
        Err(refusal) => return Ending::Failed(refusal.into()),
    };
    let config = match write_job(agent, &record.id.to_string(), &database, &card, source.primary.as_ref()) {
        Ok(config) => config,
        Err(error) => return Ending::Failed(lost(&error.to_string(), "", "")),
    };
    loop {
        match agent.pgbackrest.info(&config, &database.stanza, INFO_TIMEOUT).await {
            Ok(info) => {
                let id = record.id.to_string();
                let made =
                    info.backups.iter().any(|backup| backup.annotations.get(JOB_ANNOTATION) == Some(&id));
                if !made {
                    return nothing(&read(&log_file));
                }
                return match judge(agent, &database, &config, &log_file, &source).await {
                    Ok(result) => Ending::Succeeded(Some(JobOutcome::Backup(result))),
                    Err(error) => Ending::Failed(error),
                };
            }
            Err(Error::NotInRepository(_)) => return nothing(&read(&log_file)),
            // Not known is not false: the repo must be read to say what is true.
            Err(error) => {
                tracing::warn!(job = %record.id, %error, "the repo cannot be read yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Removes what jobs of an earlier process left behind: drills, private directories, and copies.
pub(crate) async fn sweep(agent: &Agent) {
    drill::sweep(agent).await;
    remove(&agent.layout.root().join("tmp"));
    sweep_copies(agent).await;
}

/// Removes the copies of restores that ended without effect.
pub(crate) async fn sweep_copies(agent: &Agent) {
    // The copy that is the true one, or is about to be, stays; so does that of a restore which still runs.
    let incarnation = crate::instance::incarnation::record(agent);
    for (path, kind, job) in siblings(&agent.layout) {
        let needed = incarnation.job == Some(job) || incarnation.fence == Some(job);
        if kind == Kind::Restored && !needed && agent.mirror.view().has_ended(&job) {
            tracing::info!(path = %path.display(), "removing the copy of a restore that took no effect");
            clear(&path, &path.join("scratch")).await;
            remove(&path);
        }
    }
}
