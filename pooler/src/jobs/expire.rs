//! Expiry: what the retention does not keep is taken away, or one backup that was named.
//!
//! It is rehearsed first. What the rehearsal says would go is looked at before anything goes, and what really went is
//! read from the repo afterwards, not from what pgBackRest says of itself.

use cellar_model::{
    BackupLabel, Code, ExpireParams, ExpireResult, JobError, JobOutcome, JobSpec, Refusal, check_expiry,
};
use cellar_pgbackrest::{Expiry, Invocation, parse_expiry};

use crate::agent::Agent;
use crate::jobs::claim::{ClaimedJob, Ending};
use crate::jobs::command::run_logged;
use crate::jobs::control::{Control, interrupted_ending};
use crate::jobs::restore::private_instance::{Broken, say};
use crate::repository::backup_proof::{log_path, read};
use crate::repository::reader::Repo;

/// Runs an expiry to its end.
pub(crate) async fn run(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Ending {
    match attempt(agent, job, control).await {
        Ok(result) => Ending::Succeeded(Some(JobOutcome::Expire(result))),
        Err(Broken::Interrupted(why)) => interrupted_ending(
            why,
            "what had gone by then is gone (`cellar backups list`), and the next expiry removes the files that it leaves",
        ),
        Err(Broken::Failed(error)) => Ending::Failed(error),
    }
}

async fn attempt(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Result<ExpireResult, Broken> {
    let JobSpec::Expire(params) = job.record.spec.clone() else {
        return Err(Refusal::new(Code::InvalidArgument, "the job has no parameters of an expiry").into());
    };
    let (card, database) = agent.place()?;
    let log_file = log_path(agent, &job.record.id);
    say(agent, job, "rehearsing", 0, 0).await;
    let repo = Repo::open(agent, &database, &card).await?;
    let before = repo.labels();
    is_there(&params, &before)?;
    let expire =
        |dry_run| Invocation::expire(&repo.config, &database.stanza, params.backup.as_ref(), dry_run);
    let disks = [database.repo_path.as_str(), card.data_directory.as_str()];
    run_logged(agent, control, &expire(true), &log_file, "rehearsing the expiry", &disks).await?;
    let mut planned = parse_expiry(&read(&log_file), true);
    // pgBackRest also removes what is left of backups that never ended.
    let (going, remnants) = planned.backups.into_iter().partition(|label| before.contains(label));
    planned.backups = going;
    let leader = agent.leader().ok_or_else(|| Refusal::new(Code::NoPrimary, "no primary is recorded"))?;
    let survey = repo.survey(leader.term, None).await?;
    let allowed = check_expiry(&survey, &planned.backups, &params.drilled);
    if params.dry_run {
        planned.warnings.extend(remains(&remnants));
        planned.warnings.extend(
            allowed.unwrap_or_else(|refusal| Some(format!("this is refused as things are: {refusal}"))),
        );
        let kept = before.into_iter().filter(|label| !planned.backups.contains(label)).collect();
        return Ok(result(true, planned, kept));
    }
    let counted = allowed?;
    say(agent, job, "expiring", 0, 0).await;
    run_logged(agent, control, &expire(false), &log_file, "expiring", &disks).await?;
    let kept = Repo::open(agent, &database, &card).await?.labels();
    let mut done = Expiry {
        backups: before.into_iter().filter(|label| !kept.contains(label)).collect(),
        ..parse_expiry(&read(&log_file), false)
    };
    if done.backups != planned.backups {
        done.warnings.push(format!(
            "pgBackRest rehearsed to take away {}, and took away {}",
            listed(&planned.backups),
            listed(&done.backups)
        ));
    }
    done.warnings.extend(remains(&remnants));
    done.warnings.extend(counted);
    Ok(result(false, done, kept))
}

fn remains(remnants: &[BackupLabel]) -> Option<String> {
    (!remnants.is_empty())
        .then(|| format!("with it go files of backups that the repo does not list, which never ended or were half removed: {}", listed(remnants)))
}

fn listed(labels: &[BackupLabel]) -> String {
    if labels.is_empty() {
        return "nothing".to_owned();
    }
    labels.iter().map(BackupLabel::as_str).collect::<Vec<_>>().join(", ")
}

fn is_there(params: &ExpireParams, all: &[BackupLabel]) -> Result<(), JobError> {
    match &params.backup {
        Some(label) if !all.contains(label) => {
            Err(Refusal::new(Code::UnknownBackup, format!("there is no backup {label}"))
                .hint("`cellar backups list` shows them all")
                .into())
        }
        _ => Ok(()),
    }
}

fn result(dry_run: bool, expiry: Expiry, kept: Vec<BackupLabel>) -> ExpireResult {
    ExpireResult { dry_run, backups: expiry.backups, wal: expiry.wal, kept, warnings: expiry.warnings }
}
