//! Proving where a finished pgBackRest backup came from.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{
    BackupResult, BackupSource, Code, Database, JobError, JobId, Lsn, Mark, Pooler, Proof, prove,
};
use cellar_pgbackrest::{DetailLog, Error, PrimarySource};
use cellar_system::AtomicFile;
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::repository::marks::{mark_of, write_mark};
use crate::repository::tool_failure::{last_lines, read_log, repository_error};

/// How long pgBackRest may take to read what it has written.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// What is to be copied, as known before the backup begins. It is written beside the log, so that a restarted pooler
/// can still verify the backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BackupOrigin {
    /// What the instance answered about itself; the counts are filled in at the end.
    pub(crate) claimed: BackupSource,
    /// The primary, when a standby is backed up.
    pub(crate) primary: Option<Pooler>,
}

impl BackupOrigin {
    fn path(agent: &Agent, id: &JobId) -> PathBuf {
        agent.layout.jobs().join(format!("{id}.source.json"))
    }

    /// Writes it beside the job's log.
    pub(crate) fn write(&self, agent: &Agent, id: &JobId) -> std::io::Result<()> {
        let text = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        AtomicFile::new(&Self::path(agent, id)).replace(text)
    }

    /// Reads what an earlier process wrote; none when the job had not come that far.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(crate) fn read(agent: &Agent, id: &JobId) -> std::io::Result<Option<Self>> {
        match std::fs::read(Self::path(agent, id)) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(std::io::Error::from),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A parser for the log of a backup of this origin. pgBackRest runs in this cell, or in the one whose host has the repository.
pub(crate) fn log_parser(
    agent: &Agent,
    database: &Database,
    card: &Pooler,
    origin: &BackupOrigin,
) -> DetailLog {
    let home = database.repository.reached_through(&agent.cell);
    let primary = origin.primary.as_ref().map(|primary| PrimarySource {
        host: (Some(&primary.cell) != home).then(|| primary.host.to_string()),
        data_directory: primary.data_directory.clone(),
    });
    let log = DetailLog::new(&origin.claimed.data_directory, primary);
    if home.is_some() { log.of_host(&card.host) } else { log }
}

/// Lets the parser read a log; also its last lines. That of a backup of millions of files has gigabytes, and the thread of
/// the caller also renews the lease, so another one reads.
async fn parse_log(path: PathBuf, mut log: DetailLog) -> (DetailLog, String) {
    let unread = log.clone();
    let parsed = tokio::task::spawn_blocking(move || {
        let text = read_log(&path);
        text.lines().for_each(|line| log.line(line));
        (log, last_lines(&text))
    });
    parsed.await.unwrap_or_else(|_| (unread, String::new()))
}

/// Reads the log and the repo, proves where the finished backup came from, and marks it in the repo as proven by the job
/// `id`.
///
/// # Errors
/// When the source is not proven, or pgBackRest cannot load what it has written: the backup is then annotated so in the
/// repo. Or when the log or the repo cannot be read, or the mark not be written: the backup then has no mark, and does
/// not count as proven.
pub(crate) async fn verify_backup(
    agent: &Agent,
    database: &Database,
    card: &Pooler,
    config: &Path,
    id: &JobId,
    origin: &BackupOrigin,
) -> Result<BackupResult, JobError> {
    let parser = log_parser(agent, database, card, origin);
    let (log, said) = parse_log(agent.job_log(id), parser).await;
    let internal = |message: String| JobError {
        code: Code::Internal,
        message,
        hint: "look at the job's log (`cellar jobs logs`)".to_owned(),
        tool_output: said.clone(),
    };
    let Some(label) = log.label().cloned() else {
        let why = match database.repository.home() {
            // Of one that ended when nobody took what it said any more.
            Some(home) if *home != agent.cell => {
                format!(
                    "a backup was made on the host of cell {home}, but not all that pgbackrest said of it came here: it counts as not proven"
                )
            }
            _ => "pgbackrest ended well, but its log names no backup".to_owned(),
        };
        return Err(internal(why));
    };
    let (tool, stanza) = (&agent.pgbackrest, &database.stanza);
    let (info, record, manifest, unloadable) = tokio::join!(
        tool.info(config, stanza, READ_TIMEOUT),
        tool.backup_record(config, stanza, &label, READ_TIMEOUT),
        tool.manifest_count(config, stanza, &label, READ_TIMEOUT),
        tool.unloadable(config, stanza, &label, READ_TIMEOUT),
    );
    let doing = "reading the finished backup";
    let failed = |error: Error| repository_error(doing, &error, &database.repository, &agent.cell);
    let (info, record, manifest) =
        (info.map_err(failed)?, record.map_err(failed)?, manifest.map_err(failed)?);
    let unloadable = unloadable.map_err(failed)?;
    let Some(backup) = info.backup(&label) else {
        return Err(internal(format!("backup {label} is not in the repo")));
    };
    let copied = log.copied();
    let verdict = prove(&Proof {
        copied,
        option_backup_standby: record.option_backup_standby,
        standby: origin.primary.is_some(),
        expected_files: Some(manifest.copied(log.stored_empty())),
    });
    // An incremental backup takes files from earlier backups, so those must be proven too.
    let unproven = backup
        .references
        .iter()
        .chain(&backup.prior)
        .find(|label| info.backup(label).is_none_or(|earlier| mark_of(agent, earlier) != Mark::Proven));
    let came_from = format!("it is not proven that it came from {}", origin.claimed.cell);
    let verdict = match (verdict, unproven, unloadable) {
        (Err(why), ..) => Err(format!("{came_from}: {why}")),
        (Ok(()), Some(label), _) => Err(format!("{came_from}: it builds on {label}, which is not proven")),
        (Ok(()), None, Some(why)) => Err(format!(
            "pgBackRest cannot load its manifest, so nothing can be restored from it or build on it: {why}"
        )),
        (Ok(()), None, None) => Ok(()),
    };
    if let Err(why) = verdict {
        if let Err(error) = write_mark(agent, database, config, &label, Mark::UNPROVEN).await {
            tracing::warn!(%label, %error, "the unproven backup could not be annotated");
        }
        return Err(JobError {
            code: Code::ProofFailed,
            message: format!("backup {label} was made, but {why}"),
            hint: "do not rely on it: it is annotated cellar-proof=unproven. Look at the job's log for what was copied from where; a name with a line break makes a manifest that cannot be loaded".to_owned(),
            tool_output: said.clone(),
        });
    }
    // From here on it counts as proven, for as long as it is in the repo.
    write_mark(agent, database, config, &label, &id.to_string()).await.map_err(|error| JobError {
        code: Code::ProofFailed,
        message: format!("backup {label} is proven, but it could not be marked so in the repo, and so does not count as proven: {error}"),
        hint: "see why the repo cannot be written, then take another backup".to_owned(),
        tool_output: said.clone(),
    })?;
    let nowhere = Lsn::new(0);
    Ok(BackupResult {
        label,
        backup_type: backup.backup_type,
        prior: backup.prior.clone(),
        start_lsn: backup.lsn_start.unwrap_or(nowhere),
        stop_lsn: backup.lsn_stop.unwrap_or(nowhere),
        wal_start: backup.archive_start.clone().unwrap_or_default(),
        wal_stop: backup.archive_stop.clone().unwrap_or_default(),
        size_bytes: backup.size.unwrap_or(0),
        repo_bytes: backup.repo_size_delta.or(backup.repo_size).unwrap_or(0),
        source: BackupSource {
            files_from_source: copied.local_inside,
            files_from_primary: copied.from_primary_required,
            verified: true,
            ..origin.claimed.clone()
        },
        page_errors: backup.error == Some(true),
        warnings: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A runtime of one thread that another task also needs, as the pooler's lease does.
    #[tokio::test(flavor = "current_thread")]
    async fn other_tasks_go_on_while_a_long_log_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let line = "2026-11-21 03:06:56.000 P01 DETAIL: backup file /data/base/1/1 (8KB, 0.10%) checksum 0\n";
        std::fs::write(&path, line.repeat(50_000) + "the end\n").unwrap();
        let others = std::rc::Rc::new(std::cell::Cell::new(0));
        let seen = std::rc::Rc::clone(&others);
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async move {
                tokio::task::spawn_local(async move {
                    loop {
                        others.set(others.get() + 1);
                        tokio::task::yield_now().await;
                    }
                });
                let (_, said) = parse_log(path, DetailLog::new("/data", None)).await;
                assert_eq!(said, "the end");
                assert!(seen.get() > 10, "the other task ran {} times", seen.get());
            })
            .await;
    }
}
