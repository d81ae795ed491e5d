//! Filling a data directory: initdb for the first member, a copy of it for a new one while there is no backup, and a
//! restore for every other.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_model::{BackupLabel, Code, Database, Pooler, SurveyedBackup, Timeline};
use cellar_pgbackrest::{Error as PgbackrestError, Failure, Invocation, RestoreOptions};
use cellar_postgres::{CopySource, InstanceConfig, PostgresError, base_backup, initdb, occupants, running};

use crate::agent::Agent;
use crate::config_files::{ConfigFileError, write_bootstrap};
use crate::data_layout::own_wal_link;
use crate::instance::seeding_marker::{Legacy, begin, mark_restored};
use crate::instance::shared_tablespaces::check_no_shared_tablespaces;
use crate::repository::reader::Repo;
use crate::repository::tool_failure::{last_lines, read_log};

/// How long initdb may take. It takes a second; a minute covers the slowest disk.
const INITDB_TIMEOUT: Duration = Duration::from_secs(60);

/// How long copying the primary may take. A database that was just created is copied within two seconds; one whose copy
/// takes longer than this is better restored from the repo, once it has a backup.
const COPY_TIMEOUT: Duration = Duration::from_secs(300);

/// How often a running restore looks whether it must end early.
const INTERRUPTION_INTERVAL: Duration = Duration::from_millis(200);

/// How long the beginning of the primary's timeline may take to be archived: our settings' `archive_timeout` (60 s), and
/// the time to push it.
const HISTORY_TIMEOUT: Duration = Duration::from_secs(90);

/// Seeding failed. It can be begun again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeedError {
    /// initdb failed.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The restore failed.
    #[error(transparent)]
    Pgbackrest(#[from] PgbackrestError),
    /// The config for it could not be written.
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    /// No backup could be chosen.
    #[error("{}", .0.message)]
    Repo(cellar_model::JobError),
    /// A file or directory could not be written.
    #[error("cannot write {path}: {source}")]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The caller ended it early.
    #[error("the restore was interrupted")]
    Interrupted,
}

/// Creates a new database. The caller has recorded that it may.
pub(crate) async fn create_database(
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
    check_no_shared_tablespaces(agent).map_err(|refusal| SeedError::Repo(refusal.into()))?;
    let begun = Instant::now();
    base_backup(&agent.tools, data_directory, config, source, COPY_TIMEOUT).await?;
    tracing::info!(took = ?begun.elapsed(), "copied the primary");
    Ok(())
}

/// What a restore made.
#[derive(Debug)]
pub(crate) struct Seeded {
    /// The backup that was restored.
    pub(crate) backup: BackupLabel,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// How long copying took.
    pub(crate) took: Duration,
}

/// Restores the newest backup that leads to the primary as a standby, which takes over `legacy`, with output to `jobs/<log_name>.log`.
///
/// The marker is written before pgBackRest writes its first file, and removed when the instance is ready to start. So
/// a restore that was killed is completed, and its files are never mistaken for a member's data.
///
/// # Errors
/// [`SeedError::Interrupted`] when it was ended early because `interrupted` said so; else why it failed.
pub(crate) async fn restore(
    agent: &Agent,
    database: &Database,
    card: &Pooler,
    delta: bool,
    legacy: Legacy,
    log_name: &str,
    interrupted: &dyn Fn() -> bool,
) -> Result<Seeded, SeedError> {
    let data = PathBuf::from(&card.data_directory);
    let disk = |path: &Path| {
        let path = path.to_owned();
        move |source| SeedError::Disk { path, source }
    };
    let check_interrupted = || if interrupted() { Err(SeedError::Interrupted) } else { Ok(()) };
    // Nothing is changed before it is known what to restore, and that it goes nowhere else.
    check_no_shared_tablespaces(agent).map_err(|refusal| SeedError::Repo(refusal.into()))?;
    let backup = choose_backup(agent, database, card, &check_interrupted).await?;
    let marker_failed = |source| SeedError::Disk { path: agent.seeding_marker(), source };
    let legacy = begin(agent, legacy).map_err(marker_failed)?;
    if !data.exists() {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().mode(0o700).create(&data).map_err(disk(&data))?;
    }
    remove_stale_pid_file(&data)?;
    own_wal_link(&data).map_err(disk(&data))?;
    let config = write_bootstrap(agent, database, card)?;
    let set = Some(backup.label.clone());
    let wal_directory = legacy.wal_directory.map(|path| path.display().to_string());
    let options = RestoreOptions { set, standby: true, delta, wal_directory, ..RestoreOptions::default() };
    let begun = Instant::now();
    let invocation = Invocation::restore(&config, &database.stanza, &options);
    let log = agent.layout.jobs().join(format!("{log_name}.log"));
    let watch = async |_: &_| check_interrupted();
    let ended = agent.pgbackrest.run_watched(&invocation, &log, 0, INTERRUPTION_INTERVAL, watch).await?;
    if ended != Some(0) {
        let text = read_log(&log);
        let (failure, output) = (Failure::of_output(ended, &text), last_lines(&text));
        return Err(PgbackrestError::Failed { command: "restore".to_owned(), failure, output }.into());
    }
    mark_restored(agent).map_err(marker_failed)?;
    Ok(Seeded { backup: backup.label, size_bytes: backup.size_bytes, took: begun.elapsed() })
}

/// The backup to restore.
///
/// A primary that has just been promoted may still have to archive its timeline's history. Without it the backups
/// that lead to the timeline are not known, so this waits for it.
async fn choose_backup(
    agent: &Agent,
    database: &Database,
    card: &Pooler,
    check_interrupted: &impl Fn() -> Result<(), SeedError>,
) -> Result<SurveyedBackup, SeedError> {
    let deadline = Instant::now() + HISTORY_TIMEOUT;
    loop {
        let term = agent.leader().map_or(Timeline::new(1), |leader| leader.term);
        let found = async { Repo::open(agent, database, card).await?.newest_for(term).await }.await;
        match found {
            Ok(backup) => return Ok(backup),
            Err(error) if error.code == Code::WalMissing && Instant::now() < deadline => {
                check_interrupted()?;
                tokio::time::sleep(INTERRUPTION_INTERVAL).await;
            }
            Err(error) => return Err(SeedError::Repo(error)),
        }
    }
}

/// Removes the `postmaster.pid` of a server that was killed, because pgBackRest would refuse to restore (38). It stays
/// while any process works in the directory.
fn remove_stale_pid_file(data: &Path) -> Result<(), SeedError> {
    let path = data.join("postmaster.pid");
    if running(data)?.is_none() && occupants(data)?.is_empty() && path.exists() {
        std::fs::remove_file(&path).map_err(|source| SeedError::Disk { path, source })?;
    }
    Ok(())
}
