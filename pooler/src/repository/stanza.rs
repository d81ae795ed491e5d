//! Creating the stanza, also after a process was killed while it created it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{Database, Pooler};
use cellar_pgbackrest::{
    Error as PgbackrestError, StanzaInfo, StanzaStatus, is_half_made, move_half_made_stanza_aside,
};
use cellar_system::AtomicFile;
use jiff::Timestamp;

use crate::agent::Agent;
use crate::config_files::{ConfigFileError, write_bootstrap};
use crate::repository::tool_failure::{hint_at_home, may_be_unreached};

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
    /// There was one.
    #[error(
        "the repository has no stanza {stanza}, although this database has had one: it is not mounted, or was lost or replaced. No WAL is archived meanwhile. Mount it{place}; or begin a new repository with a full backup of the primary: `cellar backup --from {cell} --allow-primary --type full`"
    )]
    Lost {
        /// Its name.
        stanza: String,
        /// The primary's cell.
        cell: String,
        /// Where to mount it, when that is not here.
        place: String,
    },
    /// The marker cannot be written.
    #[error("cannot write {path}: {source}")]
    Marker {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The repository is another host's, which may not be reached.
    #[error("{source}; {hint}")]
    Far {
        /// What pgBackRest says.
        source: Box<PgbackrestError>,
        /// What to do.
        hint: String,
    },
    /// A half-made stanza is on another host, where this process cannot move it.
    #[error(
        "an earlier creation of stanza {stanza} was interrupted, and pgBackRest does not complete it: on the host of cell {home} rename {path}, in which is no backup; then it is created again ({source})"
    )]
    HalfMade {
        /// The stanza.
        stanza: String,
        /// The cell whose host has the repository.
        home: String,
        /// The directory to rename.
        path: String,
        /// What pgBackRest says.
        source: Box<PgbackrestError>,
    },
    /// A half-made stanza is in a store, where nothing can be renamed.
    #[error(
        "an earlier creation of stanza {stanza} was interrupted, and pgBackRest does not complete it: delete what is below {path} in {store}, in which is no backup; then it is created again ({source})"
    )]
    HalfMadeInStore {
        /// The stanza.
        stanza: String,
        /// The URL of the store.
        store: String,
        /// The path whose objects are to be deleted.
        path: String,
        /// What pgBackRest says.
        source: Box<PgbackrestError>,
    },
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
    let read = agent.pgbackrest.info(&config, &database.stanza, STANZA_TIMEOUT).await;
    read.map_err(|error| failed(agent, database, error))
}

/// A failure of pgBackRest, with what to do when it may be that of the host of the repository.
fn failed(agent: &Agent, database: &Database, source: PgbackrestError) -> StanzaError {
    let hint = hint_at_home(&database.repository, &agent.cell).filter(|_| may_be_unreached(&source));
    match hint {
        Some(hint) => StanzaError::Far { source: Box::new(source), hint },
        None => source.into(),
    }
}

/// Remembers that the stanza is, or was, in the repository.
pub(crate) fn remember(agent: &Agent) -> Result<(), StanzaError> {
    let path = agent.layout.stanza_marker();
    if path.exists() {
        return Ok(());
    }
    AtomicFile::new(&path).create("").map(drop).map_err(|source| StanzaError::Marker { path, source })
}

/// Creates the stanza of a new database. One that was there and is gone is not created by itself: in a directory whose
/// file system is not mounted, what is archived from then on would be missing in the repository.
pub(crate) async fn ensure_first(
    agent: &Agent,
    database: &Database,
    card: &Pooler,
) -> Result<(), StanzaError> {
    if !agent.layout.stanza_marker().exists() {
        let _ = ensure(agent, database, card).await?;
        return remember(agent);
    }
    match read(agent, database, card).await?.status {
        StanzaStatus::MissingStanzaPath | StanzaStatus::MissingStanzaData => {
            let home = database.repository.reached_through(&agent.cell);
            let place = home.map(|home| format!(" on the host of cell {home}")).unwrap_or_default();
            let (stanza, cell) = (database.stanza.to_string(), agent.cell.to_string());
            Err(StanzaError::Lost { stanza, cell, place })
        }
        _ => Ok(()),
    }
}

/// Creates the stanza if there is none. Returns whether this cell has known one before, which is gone then.
pub(crate) async fn ensure(agent: &Agent, database: &Database, card: &Pooler) -> Result<bool, StanzaError> {
    let had_one = agent.layout.stanza_marker().exists();
    let status = read(agent, database, card).await?.status;
    if !matches!(status, StanzaStatus::MissingStanzaPath | StanzaStatus::MissingStanzaData) {
        return Ok(false);
    }
    let config = write_bootstrap(agent, database, card)?;
    let made = agent.pgbackrest.stanza_create(&config, &database.stanza, STANZA_TIMEOUT).await;
    match made {
        Ok(()) => Ok(had_one),
        Err(error) => {
            let suffix = format!("half-made-{}", Timestamp::now().as_second());
            let (repository, stanza) = (&database.repository, database.stanza.as_str());
            let moved = move_half_made_stanza_aside(repository, &agent.cell, stanza, &suffix)
                .map_err(|(path, source)| StanzaError::Aside { path, source })?;
            let Some((from, to)) = moved else {
                return Err(match half_made_far_away(agent, database, &config).await {
                    Some(half) => half_made(database, half, error),
                    None => failed(agent, database, error),
                });
            };
            tracing::warn!(from = %from.display(), to = %to.display(), "an earlier stanza-create was killed; its half was moved aside");
            agent.pgbackrest.stanza_create(&config, &database.stanza, STANZA_TIMEOUT).await?;
            Ok(had_one)
        }
    }
}

/// Where the half of a stanza is whose creation was interrupted, when this process cannot move it.
enum Half {
    /// On the host of this cell, in this directory.
    At(String, String),
    /// In a store, below this path.
    InStore(String),
}

fn half_made(database: &Database, half: Half, source: PgbackrestError) -> StanzaError {
    let (stanza, source) = (database.stanza.to_string(), Box::new(source));
    match half {
        Half::At(home, path) => StanzaError::HalfMade { stanza, home, path, source },
        Half::InStore(path) => {
            StanzaError::HalfMadeInStore { stanza, store: database.repository.to_string(), path, source }
        }
    }
}

/// The half of a stanza whose creation was interrupted; none when there is none, this host has the repository itself, or it
/// cannot be read.
async fn half_made_far_away(agent: &Agent, database: &Database, config: &Path) -> Option<Half> {
    let stanza = &database.stanza;
    let repository = &database.repository;
    let half = match (repository.store(), repository.reached_through(&agent.cell)) {
        (Some(store), _) => Half::InStore(format!("{}/archive/{stanza}", store.path().as_str())),
        (None, home) => {
            let home = home?;
            let directory = repository.directory_in(home)?.join("archive").join(stanza.as_str());
            Half::At(home.to_string(), directory.display().to_string())
        }
    };
    let names = async |kind: &str| {
        let path = format!("{kind}/{stanza}");
        let listed = agent.pgbackrest.repo_list(config, stanza, &path, STANZA_TIMEOUT).await.ok()?;
        Some(listed.into_iter().map(|entry| entry.path).collect::<Vec<String>>())
    };
    let (archive, backup) = (names("archive").await?, names("backup").await?);
    is_half_made(&archive, &backup).then_some(half)
}
