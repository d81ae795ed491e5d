//! Which backup a drill restores, and how far it is recovered.

use cellar_model::{Code, DrillParams, JobError, Lineage, Refusal, SurveyedBackup, best_on};

use crate::agent::Agent;
use crate::jobs::restore::wal_end::WalEnd;
use crate::repository::reader::{FORK_HINT, Repo};

/// The backup that a drill restores, and how far it is recovered.
pub(super) struct Choice {
    /// The backup.
    pub(super) backup: SurveyedBackup,
    /// The timelines that recovery follows.
    pub(super) lineage: Lineage,
    /// How far the WAL reaches; none when the archive has none of this lineage.
    pub(super) end: Option<WalEnd>,
}

/// Chooses the backup that was named, or else the best that leads to the primary.
///
/// # Errors
/// When there is no such backup, or WAL is missing without which it cannot become consistent.
pub(super) async fn choose(repo: &Repo<'_>, agent: &Agent, params: &DrillParams) -> Result<Choice, JobError> {
    let leader = agent.leader().ok_or_else(|| Refusal::new(Code::NoPrimary, "no primary is recorded"))?;
    let survey = repo.survey(leader.term, None).await?;
    let current = survey.lineage(leader.term)?;
    let backup = match &params.backup {
        Some(label) => survey.backups.iter().find(|backup| backup.label == *label).ok_or_else(|| {
            Refusal::new(Code::UnknownBackup, format!("there is no backup {label}"))
                .hint("`cellar backups list` shows them all")
                .about("backup", label)
        })?,
        None => best_on(&survey.backups, &current).ok_or_else(|| {
            Refusal::new(Code::UnknownBackup, "there is no backup yet").hint("take one: `cellar backup`")
        })?,
    };
    let on_it = current.contains(backup.timeline, backup.stop_lsn);
    let lineage = if on_it { current } else { survey.lineage(backup.timeline)? };
    let missing = |first: u64, last: u64| lineage.missing(first, last, &survey.archive);
    if let Some(gap) = missing(backup.first_segment, backup.last_segment).first {
        let message = format!(
            "backup {} needs WAL segment {} to become consistent, and the archive does not have it",
            backup.label,
            survey.archive.size.file_name(gap)
        );
        return Err(Refusal::new(Code::WalMissing, message)
            .hint("drill another backup, and take a new one")
            .into());
    }
    if let Some(fork) = lineage.fork_without_file(backup.first_segment, &survey.archive) {
        let refusal = fork.refusal(survey.archive.size);
        return Err(refusal.hint(FORK_HINT).into());
    }
    let end = lineage.newest(&survey.archive).map(WalEnd::Within);
    Ok(Choice { backup: backup.clone(), lineage, end })
}
