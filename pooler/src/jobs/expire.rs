//! An expiry: backups and WAL that the retention does not keep are deleted, or one backup that was named.
//!
//! A dry run comes first, and what it would delete is checked before anything is deleted. What was deleted is read
//! from the repo afterwards, not from pgBackRest's own report.

use cellar_model::{
    BackupLabel, Code, ExpireParams, ExpireResult, JobError, JobOutcome, JobSpec, Refusal, check_expiry,
};
use cellar_pgbackrest::{Expiry, Invocation, parse_expiry};

use crate::jobs::context::{JobContext, JobResult};
use crate::jobs::failure::JobFailure;
use crate::repository::reader::Repo;

/// Runs an expiry to its end.
pub(crate) async fn run(context: &mut JobContext<'_>) -> JobResult {
    let expiry = expire(context).await?;
    Ok(Some(JobOutcome::Expire(expiry)))
}

async fn expire(context: &mut JobContext<'_>) -> Result<ExpireResult, JobFailure> {
    let JobSpec::Expire(params) = context.job.record.spec.clone() else {
        return Err(Refusal::new(Code::InvalidArgument, "the job has no parameters of an expiry").into());
    };
    let agent = context.agent;
    context.if_interrupted(
        "what had gone by then is gone (`cellar backups list`), and the next expiry removes the files that it leaves",
    );
    let (card, database) = agent.assignment()?;
    context.progress("dry run").await;
    let repo = Repo::open(agent, &database, &card).await?;
    let before = repo.labels();
    check_exists(&params, &before)?;
    let expire =
        |dry_run| Invocation::expire(&repo.config, &database.stanza, params.backup.as_ref(), dry_run);
    let (repository, data) = (&database.repository, card.data_directory.as_str());
    context.run_maintenance(&expire(true), "the dry run of the expiry", repository, data).await?;
    let mut planned = parse_expiry(&context.log_text(), true);
    // pgBackRest also removes the files of backups that never ended.
    let (listed, remnants) = planned.backups.into_iter().partition(|label| before.contains(label));
    planned.backups = listed;
    let leader = agent.leader().ok_or_else(|| Refusal::new(Code::NoPrimary, "no primary is recorded"))?;
    let survey = repo.survey(leader.term, None).await?;
    let allowed = check_expiry(&survey, &planned.backups, &params.drilled);
    if params.dry_run {
        planned.warnings.extend(warning_of_remnants(&remnants));
        planned.warnings.extend(
            allowed.unwrap_or_else(|refusal| Some(format!("this is refused as things are: {refusal}"))),
        );
        let kept = before.into_iter().filter(|label| !planned.backups.contains(label)).collect();
        return Ok(result(true, planned, kept));
    }
    let warning = allowed?;
    context.progress("expiring").await;
    context.run_maintenance(&expire(false), "expiring", repository, data).await?;
    let kept = Repo::open(agent, &database, &card).await?.labels();
    let mut done = Expiry {
        backups: before.into_iter().filter(|label| !kept.contains(label)).collect(),
        ..parse_expiry(&context.log_text(), false)
    };
    if done.backups != planned.backups {
        done.warnings.push(format!(
            "the dry run would have deleted {}, and the expiry deleted {}",
            list(&planned.backups),
            list(&done.backups)
        ));
    }
    done.warnings.extend(warning_of_remnants(&remnants));
    done.warnings.extend(warning);
    Ok(result(false, done, kept))
}

fn warning_of_remnants(remnants: &[BackupLabel]) -> Option<String> {
    (!remnants.is_empty())
        .then(|| format!("with it go files of backups that the repo does not list, which never ended or were half removed: {}", list(remnants)))
}

fn list(labels: &[BackupLabel]) -> String {
    if labels.is_empty() {
        return "nothing".to_owned();
    }
    labels.iter().map(BackupLabel::as_str).collect::<Vec<_>>().join(", ")
}

fn check_exists(params: &ExpireParams, all: &[BackupLabel]) -> Result<(), JobError> {
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
