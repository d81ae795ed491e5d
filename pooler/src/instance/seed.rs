//! Filling a data directory: initdb for the first member, a copy of it for a new one while there is no backup, and a
//! restore for every other.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_model::{BackupLabel, Code, Database, JobError, Pooler, Timeline};
use cellar_pgbackrest::{Error as PgbackrestError, Failure, Invocation, RestoreOptions};
use cellar_postgres::{CopySource, InstanceConfig, PostgresError, base_backup, initdb};

use crate::agent::Agent;
use crate::config_files::{ConfigFileError, write_bootstrap};
use crate::instance::incarnation::record;
use crate::instance::restore_target::{Origin, prepare};
use crate::instance::seeding_marker::{Legacy, begin, exists, mark_restored};
use crate::instance::shared_tablespaces::check_no_shared_tablespaces;
use crate::repository::reader::{Choice, Repo};
use crate::repository::tool_failure::{last_lines, read_log};

/// How long initdb may take. It takes a second; a minute covers the slowest disk.
const INITDB_TIMEOUT: Duration = Duration::from_secs(60);

/// How long copying the primary may take. A database that was just created is copied within two seconds; one whose copy
/// takes longer than this is better restored from the repo, once it has a backup.
const COPY_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a restore may take: three days, as a job. Then it is ended and begun again, in case pgBackRest hangs.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(72 * 3600);

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
    Repo(JobError),
    /// A file or directory could not be written.
    #[error("cannot write {path}: {source}")]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It took longer than any restore may.
    #[error("the restore did not end within {} h and was ended", RESTORE_TIMEOUT.as_secs() / 3600)]
    TooLong,
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
    agent
        .availability
        .kept
        .begin_copy()
        .map_err(|source| SeedError::Disk { path: agent.layout.availability(), source })?;
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
    /// What is wrong with it.
    pub(crate) flaw: Option<String>,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// How long copying took.
    pub(crate) took: Duration,
}

/// How a new member is restored.
#[derive(Debug, Clone)]
pub(crate) struct Seed<'a> {
    /// Keep files that are the same already.
    pub(crate) delta: bool,
    /// Take also a backup that is not sound, when there is no better one.
    pub(crate) any_backup: bool,
    /// The output goes to `jobs/<log_name>.log`.
    pub(crate) log_name: &'a str,
    /// What it takes over from the data that this cell had.
    pub(crate) legacy: Legacy,
    /// The backup that was chosen before the old instance was stopped.
    pub(crate) choice: Option<Choice>,
}

/// Restores the best backup that leads to the primary as a standby.
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
    request: &Seed<'_>,
    interrupted: &dyn Fn() -> bool,
) -> Result<Seeded, SeedError> {
    let Seed { delta, log_name, legacy, .. } = request;
    let data = PathBuf::from(&card.data_directory);
    let disk = |path: &Path| {
        let path = path.to_owned();
        move |source| SeedError::Disk { path, source }
    };
    let check_interrupted = || if interrupted() { Err(SeedError::Interrupted) } else { Ok(()) };
    // Nothing is changed before it is known what to restore, and that it goes nowhere else.
    check_no_shared_tablespaces(agent).map_err(|refusal| SeedError::Repo(refusal.into()))?;
    let Choice { backup, flaw, .. } =
        choose_backup(agent, database, card, request, &check_interrupted).await?;
    // Waiting for the end of a round, or for WAL, may have taken longer than a claim lives.
    check_interrupted()?;
    let marker_failed = |source| SeedError::Disk { path: agent.layout.seeding_marker(), source };
    let unfinished = exists(agent).map_err(marker_failed)?;
    let legacy = begin(agent, legacy.clone()).map_err(marker_failed)?;
    if !data.exists() {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().mode(0o700).create(&data).map_err(disk(&data))?;
    }
    let delta = prepare(&data, Origin { is_ours: *delta, unfinished })?;
    let config = write_bootstrap(agent, database, card)?;
    let set = Some(backup.label.clone());
    let wal_directory = legacy.wal_directory.map(|path| path.display().to_string());
    let options = RestoreOptions { set, standby: true, delta, wal_directory, ..RestoreOptions::default() };
    let begun = Instant::now();
    let mut invocation = Invocation::restore(&config, &database.stanza, &options);
    if flaw.is_some() {
        // Only where that is allowed: a sound backup has no page errors, so pgBackRest may look for them.
        invocation = invocation.allow_page_errors(agent.pgbackrest.version().await?);
    }
    let log = agent.layout.jobs().join(format!("{log_name}.log"));
    let watch = async |_: &_| {
        if begun.elapsed() > RESTORE_TIMEOUT {
            return Err(SeedError::TooLong);
        }
        check_interrupted()
    };
    let ended =
        agent.pgbackrest.run_watched(&invocation, &log, 0, INTERRUPTION_INTERVAL, || None, watch).await?;
    if ended != Some(0) {
        let text = read_log(&log);
        let (failure, output) = (Failure::of_output(ended, &text), last_lines(&text));
        return Err(PgbackrestError::Failed { command: "restore".to_owned(), failure, output }.into());
    }
    mark_restored(agent).map_err(marker_failed)?;
    Ok(Seeded { backup: backup.label, flaw, size_bytes: backup.size_bytes, took: begun.elapsed() })
}

/// The backup that leads to a timeline, as the repo says that was opened, if it was.
async fn choose<'a>(
    agent: &'a Agent,
    database: &'a Database,
    card: &Pooler,
    opened: &mut Option<Repo<'a>>,
    timeline: Timeline,
    any: bool,
) -> Result<Choice, JobError> {
    let repo = match opened {
        Some(repo) => {
            repo.refresh(card).await?;
            repo
        }
        None => opened.insert(Repo::open(agent, database, card).await?),
    };
    repo.seed_for(timeline, any).await
}

/// Why no backup is chosen before the restored data is in use.
fn not_in_use() -> JobError {
    JobError {
        code: Code::WalMissing,
        message: "a restore of the database took effect, and its primary is not recorded yet".to_owned(),
        hint: "look at the restored cell (`cellar status`); if it does not come up, restore the database again with `cellar restore`".to_owned(),
        tool_output: String::new(),
    }
}

/// The backup to restore.
///
/// A primary that has just been promoted may still have to archive its timeline's history. Without it the backups
/// that lead to the timeline are not known, so this waits for it. It also waits for the primary of a restore that has
/// just taken effect: the newest backup leads to the primary from before it.
async fn choose_backup(
    agent: &Agent,
    database: &Database,
    card: &Pooler,
    request: &Seed<'_>,
    check_interrupted: &impl Fn() -> Result<(), SeedError>,
) -> Result<Choice, SeedError> {
    let deadline = Instant::now() + HISTORY_TIMEOUT;
    let mut repo = None;
    loop {
        let leader = agent.leader();
        let term = leader.as_ref().map_or(Timeline::new(1), |leader| leader.term);
        let found = if record(agent).is_in_use(leader.as_ref()) {
            if let Some(choice) = request.choice.as_ref().filter(|choice| choice.stands(term)) {
                return Ok(choice.clone());
            }
            choose(agent, database, card, &mut repo, term, request.any_backup).await
        } else {
            Err(not_in_use())
        };
        match found {
            Ok(found) => return Ok(found),
            Err(error) if error.code == Code::WalMissing && Instant::now() < deadline => {
                check_interrupted()?;
                tokio::time::sleep(INTERRUPTION_INTERVAL).await;
            }
            Err(error) => return Err(SeedError::Repo(error)),
        }
    }
}
