//! Filling a data directory: initdb for the first member, a copy of it for a new one while there is no backup,
//! and a restore for every other.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_model::{BackupLabel, Code, Database, Pooler, SurveyedBackup, Timeline};
use cellar_pgbackrest::{Error as PgbackrestError, Failure, Invocation, RestoreOptions, tool_messages};
use cellar_postgres::{CopySource, InstanceConfig, PostgresError, base_backup, initdb, occupants, running};
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::config_files::{ConfigFileError, write_bootstrap};
use crate::instance::incarnation::{self, Mark};
use crate::repository::backup_proof;
use crate::repository::reader::Repo;

/// initdb takes a second; a minute covers the slowest disk.
const INITDB_TIMEOUT: Duration = Duration::from_secs(60);

/// Copying a database that was just made takes a second or two. What takes longer than this is better restored from
/// the repo once it has a backup.
const COPY_TIMEOUT: Duration = Duration::from_secs(300);

/// How often a running restore is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How long the beginning of the primary's timeline may take to come into the archive: our settings' `archive_timeout`,
/// and the time to push it.
const HISTORY: Duration = Duration::from_secs(90);

/// How long pgBackRest may take to end after SIGTERM; it takes milliseconds.
const GRACE: Duration = Duration::from_secs(10);

/// Seeding did not end well. It can be begun again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeedError {
    /// initdb failed.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The restore failed.
    #[error(transparent)]
    Pgbackrest(#[from] PgbackrestError),
    /// No config for it.
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    /// No backup to begin with.
    #[error("{}", .0.message)]
    Repo(cellar_model::JobError),
    /// The disk refuses.
    #[error("cannot write {path}: {source}")]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Makes a new database. The caller has recorded that it may.
pub(crate) async fn make_database(
    agent: &Agent,
    data_directory: &Path,
    config: &InstanceConfig,
) -> Result<(), SeedError> {
    initdb(&agent.tools, data_directory, config, INITDB_TIMEOUT).await?;
    Ok(())
}

/// Copies the primary. No marker is needed: the copy is made beside the data directory and renamed when it is whole.
pub(crate) async fn copy_primary(
    agent: &Agent,
    data_directory: &Path,
    config: &InstanceConfig,
    source: CopySource,
) -> Result<(), SeedError> {
    let begun = Instant::now();
    base_backup(&agent.tools, data_directory, config, source, COPY_TIMEOUT).await?;
    tracing::info!(took = ?begun.elapsed(), "copied the primary");
    Ok(())
}

/// The marker's content.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Seeding {
    /// For which incarnation.
    mark: Mark,
    /// Whether pgBackRest has ended well. Before that what looks like a whole data directory may be the old one,
    /// which it had not begun to overwrite.
    restored: bool,
}

fn note(agent: &Agent, seeding: Seeding) -> Result<(), SeedError> {
    let marker = agent.seeding_marker();
    let draft = marker.with_extension("draft");
    let text = serde_json::to_vec(&seeding).map_err(std::io::Error::other);
    let written = text
        .and_then(|text| std::fs::write(&draft, text))
        .and_then(|()| incarnation::rename(&draft, &marker));
    written.map_err(|source| SeedError::Disk { path: marker, source })
}

fn noted(agent: &Agent) -> Option<Seeding> {
    serde_json::from_slice(&std::fs::read(agent.seeding_marker()).ok()?).ok()
}

/// Marks a restore into the data directory as begun, and for which incarnation it is.
pub(crate) fn begin(agent: &Agent) -> Result<(), SeedError> {
    note(agent, Seeding { mark: Mark::of(&incarnation::record(agent)), restored: false })
}

/// The incarnation for which the restore was begun; the present one when the marker does not say.
pub(crate) fn begun_for(agent: &Agent) -> Mark {
    noted(agent).map_or_else(|| Mark::of(&incarnation::record(agent)), |seeding| seeding.mark)
}

/// Whether the restore that was begun has ended well.
pub(crate) fn is_restored(agent: &Agent) -> bool {
    noted(agent).is_some_and(|seeding| seeding.restored)
}

/// What a restore made.
#[derive(Debug)]
pub(crate) struct Seeded {
    /// The backup.
    pub(crate) backup: BackupLabel,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// How long copying took.
    pub(crate) took: Duration,
}

/// Restores the newest backup that leads to the primary as a standby, with output to
/// `jobs/<log_name>.log`. None when it was ended early because `interrupted` said so.
///
/// The marker is there before pgBackRest writes its first file and goes when the instance is ready
/// to start, so that a restore that was killed is completed and never mistaken for somebody's data.
pub(crate) async fn restore(
    agent: &Agent,
    database: &Database,
    card: &Pooler,
    delta: bool,
    log_name: &str,
    interrupted: &dyn Fn() -> bool,
) -> Result<Option<Seeded>, SeedError> {
    let data = PathBuf::from(&card.data_directory);
    let disk = |path: &Path| {
        let path = path.to_owned();
        move |source| SeedError::Disk { path, source }
    };
    // Nothing is touched before it is known what to restore.
    let Some(backup) = backup(agent, database, card, interrupted).await? else { return Ok(None) };
    begin(agent)?;
    if !data.exists() {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().mode(0o700).create(&data).map_err(disk(&data))?;
    }
    remove_stale_pid_file(&data)?;
    let config = write_bootstrap(agent, database, card)?;
    let set = Some(backup.label.clone());
    let options = RestoreOptions { set, standby: true, delta, ..RestoreOptions::default() };
    let begun = Instant::now();
    let invocation = Invocation::restore(&config, &database.stanza, &options);
    let log = agent.layout.jobs().join(format!("{log_name}.log"));
    let mut running = agent.pgbackrest.spawn_logged(&invocation, &log).await?;
    let code = loop {
        tokio::select! {
            code = running.wait() => break code?,
            () = tokio::time::sleep(LOOK) => {}
        }
        if interrupted() {
            running.terminate(GRACE).await?;
            return Ok(None);
        }
    };
    if code != Some(0) {
        let text =
            std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let failure = Failure::judge(code, &tool_messages(&text));
        let output = backup_proof::last_lines(&text);
        return Err(PgbackrestError::Failed { command: "restore".to_owned(), failure, output }.into());
    }
    note(agent, Seeding { mark: begun_for(agent), restored: true })?;
    Ok(Some(Seeded { backup: backup.label, size_bytes: backup.size_bytes, took: begun.elapsed() }))
}

/// The backup to restore. A primary that has just been promoted may still have to archive its timeline's
/// history, without which nobody can tell which backups lead there.
async fn backup(
    agent: &Agent,
    database: &Database,
    card: &Pooler,
    interrupted: &dyn Fn() -> bool,
) -> Result<Option<SurveyedBackup>, SeedError> {
    let deadline = Instant::now() + HISTORY;
    loop {
        let term = agent.leader().map_or(Timeline::new(1), |leader| leader.term);
        let found = async { Repo::open(agent, database, card).await?.newest_for(term).await }.await;
        match found {
            Ok(backup) => return Ok(Some(backup)),
            Err(error) if error.code == Code::WalMissing && Instant::now() < deadline => {
                if interrupted() {
                    return Ok(None);
                }
                tokio::time::sleep(LOOK).await;
            }
            Err(error) => return Err(SeedError::Repo(error)),
        }
    }
}

/// A server that was killed leaves `postmaster.pid`, on which pgBackRest refuses to restore (38). It
/// goes only when nobody at all works in the directory.
fn remove_stale_pid_file(data: &Path) -> Result<(), SeedError> {
    let path = data.join("postmaster.pid");
    if running(data)?.is_none() && occupants(data)?.is_empty() && path.exists() {
        std::fs::remove_file(&path).map_err(|source| SeedError::Disk { path, source })?;
    }
    Ok(())
}
