//! An expiry: backups and WAL that the retention does not keep are deleted, or one backup that was named.
//!
//! The retention counts sound full backups only, so pgBackRest is told to keep as many more as do not count. A dry run
//! comes first, and what it would delete is checked before anything is deleted. What was deleted is read from the repo
//! afterwards, not from pgBackRest's own report.

use cellar_model::{
    BackupLabel, Code, ExpireParams, ExpireResult, Held, JobError, JobOutcome, JobSpec, Refusal,
    SurveyedBackup, check_expiry, check_in_use, fulls_to_keep, going_with, wal_gone,
};
use cellar_pgbackrest::{Behaviour, Expiry, Invocation, parse_expiry};

use crate::agent::Agent;
use crate::instance::incarnation::record;
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
    context.unless_interrupted(repo.write_missing_marks()).await?;
    let before = repo.labels();
    check_exists(&params, &before)?;
    let leader = agent.leader().ok_or_else(|| Refusal::new(Code::NoPrimary, "no primary is recorded"))?;
    check_in_use(Some(&record(agent)), Some(&leader), &agent.database)?;
    let mut survey = repo.survey(leader.term, None).await?;
    note_needs(agent, &params, &mut survey.backups);
    if let Some(label) = &params.backup {
        let going = going_with(label, &survey.backups);
        let kept: Vec<BackupLabel> = before.iter().filter(|label| !going.contains(label)).cloned().collect();
        match check_expiry(&survey, &going) {
            // pgBackRest refuses to say what would go when no full backup stays.
            Err(refusal) if params.dry_run && !kept.iter().any(BackupLabel::is_full) => {
                let planned =
                    Expiry { backups: going, warnings: vec![as_things_are(&refusal)], ..Expiry::default() };
                return Ok(result(true, planned, kept));
            }
            Err(refusal) if !params.dry_run => return Err(refusal.into()),
            _ => {}
        }
    }
    let retention = database.retention.full;
    let (keep, uncounted) = fulls_to_keep(&survey.backups, retention);
    let keep = (params.backup.is_none() && retention > 0).then_some(keep);
    let version = agent.pgbackrest.version().await?;
    let expire = |dry_run| {
        let (config, stanza) = (&repo.config, &database.stanza);
        Invocation::expire(config, stanza, params.backup.as_ref(), keep, dry_run).allow_page_errors(version)
    };
    let (repository, data) = (&database.repository, card.data_directory.as_str());
    context.run_maintenance(&expire(true), "the dry run of the expiry", repository, data).await?;
    let mut planned = parse_expiry(&context.log_text(), true);
    // pgBackRest also removes the files of backups that never ended.
    let (listed, remnants) = planned.backups.into_iter().partition(|label| before.contains(label));
    planned.backups = listed;
    let allowed = check_expiry(&survey, &planned.backups);
    let uncounted = keep.and_then(|_| warning_of_uncounted(&uncounted, retention));
    if params.dry_run {
        planned.warnings.extend(uncounted);
        planned.warnings.extend(warning_of_remnants(&remnants));
        if !version.has(Behaviour::ExpireLogsEveryTimeline) && survey.archive.segments.len() > 1 {
            planned.warnings.push(format!(
                "pgBackRest {version} says of one timeline only which WAL would be deleted; that of others may be, too"
            ));
        }
        planned.warnings.extend(allowed.unwrap_or_else(|refusal| Some(as_things_are(&refusal))));
        let kept = before.into_iter().filter(|label| !planned.backups.contains(label)).collect();
        return Ok(result(true, planned, kept));
    }
    let warning = allowed?;
    context.progress("expiring").await;
    let expired = context.run_maintenance(&expire(false), "expiring", repository, data).await;
    // Whatever fails from here on, the job says what is gone.
    let said = parse_expiry(&context.log_text(), false);
    if let Some(said) = as_said(said, &before) {
        context.job.keep_outcome(JobOutcome::Expire(said));
    }
    expired?;
    let after = Repo::open(agent, &database, &card).await?;
    let kept = after.labels();
    let mut done = Expiry {
        backups: before.into_iter().filter(|label| !kept.contains(label)).collect(),
        ..parse_expiry(&context.log_text(), false)
    };
    if let Some(id) = repo.archive_id() {
        // Of the archive that is read anyway, what is gone is known; of those of older instances, what the log says.
        done.wal.retain(|range| range.archive != id);
        done.wal.extend(wal_gone(id, &survey.archive, &after.survey(leader.term, None).await?.archive));
    }
    if done.backups != planned.backups {
        done.warnings.push(format!(
            "the dry run would have deleted {}, and the expiry deleted {}",
            list(&planned.backups),
            list(&done.backups)
        ));
    }
    done.warnings.extend(uncounted);
    done.warnings.extend(warning_of_remnants(&remnants));
    done.warnings.extend(warning);
    Ok(result(false, done, kept))
}

/// What a dry run says of an expiry that would be refused.
fn as_things_are(refusal: &Refusal) -> String {
    format!("this is refused as things are: {refusal}")
}

/// The result of an expiry after which the repo could not be read: what pgBackRest said. None when nothing is gone.
fn as_said(mut said: Expiry, before: &[BackupLabel]) -> Option<ExpireResult> {
    if said.backups.is_empty() && said.wal.is_empty() {
        return None;
    }
    said.backups.retain(|label| before.contains(label));
    let kept = before.iter().filter(|label| !said.backups.contains(label)).cloned().collect();
    said.warnings.push(
        "this is what pgBackRest said that it deletes; the repo could not be read afterwards (`cellar backups list` shows what it has)"
            .to_owned(),
    );
    Some(result(false, said, kept))
}

/// Notes who needs a backup: what multiadmin knew when the expiry was asked for, and whether a restore is open now.
fn note_needs(agent: &Agent, params: &ExpireParams, backups: &mut [SurveyedBackup]) {
    let incarnation = agent.mirror.view().incarnation(&agent.database);
    let open = incarnation.job.filter(|_| incarnation.kept_in.is_some());
    for backup in backups {
        let drill = params.drilled.iter().find(|drill| drill.backup == backup.label);
        let drill = drill.map(|drill| Held::Drill(drill.job));
        // A dry run shows what would be deleted once the restore is confirmed.
        backup.held = drill.or(open.filter(|_| !params.dry_run).map(Held::OpenRestore));
    }
}

fn warning_of_uncounted(labels: &[BackupLabel], retention: u32) -> Option<String> {
    (!labels.is_empty()).then(|| {
        format!(
            "the retention of {retention} counts full backups that are proven and have no page errors, and so not {} (`cellar expire --backup` deletes one)",
            list(labels)
        )
    })
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
    ExpireResult {
        dry_run,
        backups: expiry.backups,
        wal: expiry.wal,
        kept,
        warnings: expiry.warnings,
        ..ExpireResult::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_deleted_is_told_when_the_repo_cannot_be_read_afterwards() {
        let label = |text: &str| text.parse::<BackupLabel>().unwrap();
        let before = [label("20260101-000000F"), label("20260102-000000F")];
        assert_eq!(as_said(Expiry::default(), &before), None);
        let remnant = label("20250101-000000F");
        let said = Expiry { backups: vec![remnant, before[0].clone()], ..Expiry::default() };
        let told = as_said(said, &before).unwrap();
        assert_eq!((told.backups.as_slice(), told.kept.as_slice()), (&before[..1], &before[1..]));
        assert!(!told.dry_run && told.warnings.len() == 1, "{told:?}");
    }
}
