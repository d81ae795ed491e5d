//! The marks of backups: what their proofs wrote, and what is written on those that have none.

use std::path::Path;
use std::time::Duration;

use cellar_model::{BackupLabel, Database, JOB_ANNOTATION, JobId, Mark, PROOF_ANNOTATION};
use cellar_pgbackrest::{BackupInfo, Error, Invocation, StanzaInfo};

use crate::agent::Agent;

/// How long pgBackRest may take to annotate a backup.
const ANNOTATE_TIMEOUT: Duration = Duration::from_secs(60);

fn annotation<'a>(backup: &'a BackupInfo, key: &str) -> Option<&'a str> {
    backup.annotations.get(key).map(String::as_str)
}

/// The mark that a backup has in the repo.
fn written_mark(backup: &BackupInfo) -> Mark {
    Mark::read(annotation(backup, PROOF_ANNOTATION), annotation(backup, JOB_ANNOTATION))
}

/// The mark of a backup: the one in the repo, or else what the record of its job says, if this cell made it and the
/// record is still there.
pub(crate) fn mark_of(agent: &Agent, backup: &BackupInfo) -> Mark {
    match written_mark(backup) {
        Mark::None => {
            let id = annotation(backup, JOB_ANNOTATION).and_then(|id| id.parse::<JobId>().ok());
            let view = agent.mirror.view();
            // One that has not ended says nothing yet.
            let job = id.and_then(|id| view.ended.get(&id));
            job.map_or(Mark::None, |job| {
                let proven = job.backup.as_ref().filter(|_| job.verified);
                Mark::from_job(&backup.label, job.state, proven)
            })
        }
        written => written,
    }
}

/// Writes a mark. The caller has the database's lock, since pgBackRest rewrites `backup.info` for it.
///
/// # Errors
/// When pgBackRest did not write it.
pub(crate) async fn write_mark(
    agent: &Agent,
    database: &Database,
    config: &Path,
    label: &BackupLabel,
    value: &str,
) -> Result<(), Error> {
    let annotate = Invocation::annotate(config, &database.stanza, label, PROOF_ANNOTATION, value);
    agent.pgbackrest.run_checked(&annotate, ANNOTATE_TIMEOUT).await.map(drop)
}

/// Writes the marks that are missing: of backups that are older than the mark, and of backups whose job was closed
/// while pgBackRest still worked. A job's record is forgotten some day; what a backup is worth must not be.
///
/// The caller has the database's lock. A mark that cannot be written now is written by the next backup or expiry.
pub(crate) async fn write_missing_marks(
    agent: &Agent,
    database: &Database,
    config: &Path,
    info: &StanzaInfo,
) {
    for backup in info.backups.iter().filter(|backup| written_mark(backup) == Mark::None) {
        let value = match (mark_of(agent, backup), annotation(backup, JOB_ANNOTATION)) {
            (Mark::Proven, Some(job)) => job,
            (Mark::Unproven, _) => Mark::UNPROVEN,
            _ => continue,
        };
        match write_mark(agent, database, config, &backup.label, value).await {
            Ok(()) => tracing::info!(label = %backup.label, value, "marked a backup by its job's record"),
            Err(error) => tracing::warn!(label = %backup.label, %error, "a backup could not be marked"),
        }
    }
}
