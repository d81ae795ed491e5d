//! Filling a data directory: initdb for the first member, a restore for every other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{Database, Pooler};
use cellar_pgbackrest::{Error as PgbackrestError, Failure, Invocation, RestoreOptions, tool_messages};
use cellar_postgres::{InstanceConfig, PostgresError, initdb, occupants, running};

use crate::agent::Agent;
use crate::config_files::{ConfigFileError, write_bootstrap};
use crate::evidence;

/// initdb takes a second; a minute covers the slowest disk.
const INITDB_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a running restore is looked at.
const LOOK: Duration = Duration::from_millis(200);

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

/// Restores the newest backup as a standby, with output to `jobs/<log_name>.log`. False when it was
/// ended early because `interrupted` said so.
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
) -> Result<bool, SeedError> {
    let data = PathBuf::from(&card.data_directory);
    let disk = |path: &Path| {
        let path = path.to_owned();
        move |source| SeedError::Disk { path, source }
    };
    let marker = agent.seeding_marker();
    std::fs::write(&marker, &agent.epoch).map_err(disk(&marker))?;
    if !data.exists() {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().mode(0o700).create(&data).map_err(disk(&data))?;
    }
    remove_stale_pid_file(&data)?;
    let config = write_bootstrap(agent, database, card)?;
    let options = RestoreOptions { standby: true, delta, ..RestoreOptions::default() };
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
            return Ok(false);
        }
    };
    if code != Some(0) {
        let text =
            std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let failure = Failure::judge(code, &tool_messages(&text));
        let output = evidence::last_lines(&text);
        return Err(PgbackrestError::Failed { command: "restore".to_owned(), failure, output }.into());
    }
    Ok(true)
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
