//! Creating the stanza, also after a process was killed while it created it.

use std::path::PathBuf;
use std::time::Duration;

use cellar_model::{Database, Pooler};
use cellar_pgbackrest::{Error as PgbackrestError, StanzaInfo, StanzaStatus, move_half_made_stanza_aside};
use jiff::Timestamp;

use crate::agent::Agent;
use crate::config_files::{ConfigFileError, write_bootstrap};

/// How long pgBackRest may take to read the repo or to create a stanza in it.
const STANZA_TIMEOUT: Duration = Duration::from_secs(30);

/// The repo could not be read, or the stanza not be created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StanzaError {
    /// The config could not be written.
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    /// pgBackRest failed.
    #[error(transparent)]
    Pgbackrest(#[from] PgbackrestError),
    /// A half-made stanza cannot be moved.
    #[error("cannot move the half-made {path} aside: {source}")]
    Aside {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Reads what the repo has of the database, without waiting for any other host.
pub(crate) async fn read(
    agent: &Agent,
    database: &Database,
    card: &Pooler,
) -> Result<StanzaInfo, StanzaError> {
    let config = write_bootstrap(agent, database, card)?;
    Ok(agent.pgbackrest.info(&config, &database.stanza, STANZA_TIMEOUT).await?)
}

/// Creates the stanza if there is none.
pub(crate) async fn ensure(agent: &Agent, database: &Database, card: &Pooler) -> Result<(), StanzaError> {
    let status = read(agent, database, card).await?.status;
    if !matches!(status, StanzaStatus::MissingStanzaPath | StanzaStatus::MissingStanzaData) {
        return Ok(());
    }
    let config = write_bootstrap(agent, database, card)?;
    let made = agent.pgbackrest.stanza_create(&config, &database.stanza, STANZA_TIMEOUT).await;
    match made {
        Ok(()) => Ok(()),
        Err(error) => {
            let suffix = format!("half-made-{}", Timestamp::now().as_second());
            let moved = move_half_made_stanza_aside(&database.repository, database.stanza.as_str(), &suffix)
                .map_err(|(path, source)| StanzaError::Aside { path, source })?;
            let Some((from, to)) = moved else { return Err(error.into()) };
            tracing::warn!(from = %from.display(), to = %to.display(), "an earlier stanza-create was killed; its half was moved aside");
            Ok(agent.pgbackrest.stanza_create(&config, &database.stanza, STANZA_TIMEOUT).await?)
        }
    }
}
