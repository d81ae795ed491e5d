//! A verification: the whole repo is read, every file checked by its checksum, and the WAL searched for gaps.

use std::time::{Duration, Instant};

use cellar_model::{
    Code, JobError, JobOutcome, Pooler, Refusal, Survey, Timeline, VerifyResult, backlog, faults, windows,
};
use cellar_pgbackrest::{Invocation, parse_verification};

use crate::jobs::context::{JobContext, JobResult};
use crate::jobs::failure::JobFailure;
use crate::jobs::written::written;
use crate::repository::reader::Repo;
use crate::repository::tool_failure::last_lines;

/// For how long nothing may come into an archive that is behind the primary until that is an error: pushing one segment
/// takes seconds at most.
const ARCHIVE_STANDSTILL: Duration = Duration::from_secs(10);

/// How often it is looked at meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs a verification to its end. A damaged repo is a failure that has a result.
pub(crate) async fn run(context: &mut JobContext<'_>) -> JobResult {
    let Verdict { result, errors, is_behind } = verify(context).await?;
    let outcome = JobOutcome::Verify(result);
    if errors.is_empty() {
        return Ok(Some(outcome));
    }
    context.job.keep_outcome(outcome);
    let refusal = Refusal::new(Code::RepoDamaged, errors.join("; "));
    if is_behind {
        // No backup can be taken either.
        return Err(refusal
            .hint("see why the primary's archiving fails (`cellar status`, and the log/postgres.log of its cell); then ask again")
            .into());
    }
    Err(refusal
        .hint("take a full backup now (`cellar backup --type full --from` a standby): from its end on everything can be restored again; the damaged ones go with `cellar expire --backup`")
        .into())
}

/// What the repo has, and what is wrong with it.
struct Verdict {
    result: VerifyResult,
    /// One sentence a fault.
    errors: Vec<String>,
    /// Whether the archive is behind the primary.
    is_behind: bool,
}

async fn verify(context: &mut JobContext<'_>) -> Result<Verdict, JobFailure> {
    let agent = context.agent;
    let (card, database) = agent.assignment()?;
    let leader = agent.leader().ok_or_else(|| Refusal::new(Code::NoPrimary, "no primary is recorded"))?;
    context.progress("reading the repo").await;
    let repo = Repo::open(agent, &database, &card).await?;
    let before = repo.labels();
    let invocation = Invocation::verify(&repo.config, &database.stanza);
    let doing = "reading the repo";
    context.run_maintenance(&invocation, doing, &database.repository, &card.data_directory).await?;
    let log = context.log_text();
    let mut report = parse_verification(&log);
    // A backup that is being made, or that never ended, has files and no record.
    report.backups.retain(|backup| before.iter().any(|label| label.as_str() == backup.name));
    let Some(ok) = report.ok else {
        return Err(JobFailure::Failed(JobError {
            code: Code::PgbackrestFailed,
            message: "pgbackrest verify ended well and reported nothing".to_owned(),
            hint: "look at the job's log (`cellar jobs logs`)".to_owned(),
            tool_output: last_lines(&log),
        }));
    };
    context.progress("looking for gaps in the WAL").await;
    let repo = Repo::open(agent, &database, &card).await?;
    let after = repo.labels();
    if let Some(expired) = before.iter().find(|label| !after.contains(label)) {
        return Err(Refusal::new(Code::Busy, format!("backup {expired} expired while the repo was read"))
            .hint("ask again: files that expired meanwhile cannot be told from files that are missing")
            .into());
    }
    let survey = survey(context, &repo, &card, leader.term).await?;
    let listed = repo.listed_backups().await?;
    let found = faults(&listed, &report.backups, &report.archives, &survey);
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
        ..VerifyResult::default()
    };
    Ok(Verdict { result, errors, is_behind: backlog(&survey).is_some() })
}

/// Reads what the repo has, and asks the primary how far it has written. An archive that is behind is looked at again, as
/// long as something comes: after a quiet time several segments may be on their way.
async fn survey(
    context: &JobContext<'_>,
    repo: &Repo<'_>,
    card: &Pooler,
    timeline: Timeline,
) -> Result<Survey, JobFailure> {
    let agent = context.agent;
    let present = written(agent, card).await;
    let mut survey = repo.survey(timeline, present.lsn.filter(|_| present.by_primary)).await?;
    let mut moved = Instant::now();
    while let Some(behind) = backlog(&survey) {
        if moved.elapsed() > ARCHIVE_STANDSTILL {
            break;
        }
        context.pause(LOOK_INTERVAL).await?;
        let again = repo.survey(timeline, survey.write_lsn).await?;
        if backlog(&again).is_none_or(|now| now.first != behind.first) {
            moved = Instant::now();
        }
        survey = again;
    }
    Ok(survey)
}
