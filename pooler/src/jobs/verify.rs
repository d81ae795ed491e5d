//! Reading a whole repo: every file by its checksum, and the WAL by its gaps.

use cellar_model::{Code, JobError, JobOutcome, Refusal, VerifyResult, faults, windows};
use cellar_pgbackrest::{Invocation, parse_verification};

use crate::agent::Agent;
use crate::jobs::claim::{ClaimedJob, Ending};
use crate::jobs::command::run_logged;
use crate::jobs::control::{Control, interrupted_ending};
use crate::jobs::restore::private_instance::{Broken, say};
use crate::repository::backup_proof::{last_lines, log_path, read};
use crate::repository::reader::Repo;

/// Runs a verification to its end.
pub(crate) async fn run(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Ending {
    match attempt(agent, job, control).await {
        Ok((result, errors)) => {
            let outcome = JobOutcome::Verify(result);
            if errors.is_empty() {
                return Ending::Succeeded(Some(outcome));
            }
            job.keep(outcome);
            Ending::Failed(
                Refusal::new(Code::RepoDamaged, errors.join("; "))
                    .hint("take a full backup now (`cellar backup --type full --from` a standby): from its end on everything can be restored again; the damaged ones go with `cellar expire --backup`")
                    .into(),
            )
        }
        Err(Broken::Interrupted(why)) => interrupted_ending(why, "nothing was changed"),
        Err(Broken::Failed(error)) => Ending::Failed(error),
    }
}

/// What was read, and what is wrong with it.
async fn attempt(
    agent: &Agent,
    job: &mut ClaimedJob,
    control: &Control,
) -> Result<(VerifyResult, Vec<String>), Broken> {
    let (card, database) = agent.place()?;
    let leader = agent.leader().ok_or_else(|| Refusal::new(Code::NoPrimary, "no primary is recorded"))?;
    let log_file = log_path(agent, &job.record.id);
    say(agent, job, "reading the repo", 0, 0).await;
    let repo = Repo::open(agent, &database, &card).await?;
    let before = repo.labels();
    let invocation = Invocation::verify(&repo.config, &database.stanza);
    let disks = [database.repo_path.as_str()];
    run_logged(agent, control, &invocation, &log_file, "reading the repo", &disks).await?;
    let text = read(&log_file);
    let mut report = parse_verification(&text);
    // A backup that is being made, or never ended, has files and no record yet.
    report.backups.retain(|backup| before.iter().any(|label| label.as_str() == backup.name));
    let Some(ok) = report.ok else {
        return Err(JobError {
            code: Code::PgbackrestFailed,
            message: "pgbackrest verify ended well and reported nothing".to_owned(),
            hint: "look at the job's log (`cellar jobs logs`)".to_owned(),
            tool_output: last_lines(&text),
        }
        .into());
    };
    say(agent, job, "looking for gaps in the WAL", 0, 0).await;
    let repo = Repo::open(agent, &database, &card).await?;
    let after = repo.labels();
    if let Some(gone) = before.iter().find(|label| !after.contains(label)) {
        return Err(Refusal::new(Code::Busy, format!("backup {gone} expired while the repo was read"))
            .hint("ask again: what is gone cannot be told from what is missing")
            .into());
    }
    let survey = repo.survey(leader.term, None).await?;
    let found = faults(&report.backups, &report.archives, &survey);
    let mut errors = found.errors;
    if !ok && errors.is_empty() {
        errors.push("pgBackRest reports an error, and names nothing".to_owned());
    }
    let result = VerifyResult {
        backups: report.backups,
        archives: report.archives,
        damaged: report.damaged,
        windows: windows(&survey),
        warnings: found.warnings,
    };
    Ok((result, errors))
}
