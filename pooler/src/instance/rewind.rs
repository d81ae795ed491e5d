//! Rewinding the data of a former primary, so that it can follow the leader: see [`crate::instance::way_back`].
//!
//! It is a rebuild that keeps what is the same already. So it begins and ends as one: another copy number and the marker of a
//! restore before anything is written, which keep the data from being counted on and from being started, and the same last step.
//! When it fails, or is killed at whatever moment, the marker is there, and the data is completed from the repository.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_model::{Database, Lsn, Pooler};
use cellar_postgres::{
    DataDirectory, PostgresError, PrimaryConninfo, configure, finish_rewind, has_label, inspect,
    prepare_rewind, rewind,
};

use crate::agent::Agent;
use crate::config_files::{ConfigFileError, archive_reader, instance_config};
use crate::data_layout::{tablespaces, wal_directory};
use crate::instance::round::RoundError;
use crate::instance::seed::SeedError;
use crate::instance::seeding_marker;
use crate::instance::shared_tablespaces::check_no_shared_tablespaces;
use crate::instance::way_back::{Found, Rebuild, way_back};
use crate::wal_files::own_lineage;

/// How long it may take. It reads the WAL since before the fork, and all that was changed in it from the leader.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// How long the leader's first checkpoint since its promotion is waited for.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it is tried meanwhile.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// As much WAL as there may be: the recovery with which `pg_rewind` begins ends with checkpoints, and each gives segments that it does
/// not need new names, and writes into them.
const ALL_WAL: &str = "1024TB";

/// How often a running one looks whether it must end early.
const INTERRUPTION_INTERVAL: Duration = Duration::from_millis(200);

/// Why it was not rewound. What follows is a restore.
#[derive(Debug, thiserror::Error)]
enum RewindError {
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    #[error("cannot read or write {0}: {1}")]
    Disk(PathBuf, std::io::Error),
    #[error("{0}")]
    Refused(String),
    #[error("pg_rewind found nothing to take back")]
    NothingToDo,
    #[error("a job asks for the instance")]
    Interrupted,
}

fn disk(path: &Path) -> impl FnOnce(std::io::Error) -> RewindError + use<> {
    let path = path.to_owned();
    move |source| RewindError::Disk(path, source)
}

/// Something of the data that `pg_rewind` would not do right.
fn oddity(agent: &Agent, data: &Path) -> Option<String> {
    if has_label(data) {
        return Some("the data begins with a copy that was never whole".to_owned());
    }
    if wal_directory(data).is_some() {
        return Some("pg_wal is a link".to_owned());
    }
    if !tablespaces(data).is_empty() {
        return Some("the database has a tablespace".to_owned());
    }
    check_no_shared_tablespaces(agent).err().map(|refusal| refusal.message)
}

/// Where the data is to be rewound to.
///
/// # Errors
/// Why it is to be made again instead, or that it cannot be looked at.
async fn find_way_back(agent: &Agent, data: &Path) -> Result<Result<Lsn, Rebuild>, PostgresError> {
    let found = inspect(&agent.tools, data).await?;
    let own_line = match &found {
        DataDirectory::Valid { control, .. } => own_lineage(data, control.timeline),
        _ => None,
    };
    let oddity = oddity(agent, data);
    let record = agent.governing();
    let leaders_line = agent.availability.leaders_line.borrow().clone();
    Ok(way_back(&Found {
        cell: &agent.cell,
        data: &found,
        own_line: own_line.as_ref(),
        kept: &agent.availability.kept.get(),
        oddity: oddity.as_deref(),
        record: record.as_ref(),
        identity: agent.leader().and_then(|leader| leader.system_identifier),
        leaders_line: leaders_line.as_ref(),
        leader_commits: agent.availability.leader_commits.get(),
    }))
}

/// Rewinds the data, which nobody counts on, if that is sure to be right. Whether it did; if not it is to be restored. No server of
/// the data may be there any more.
///
/// # Errors
/// [`SeedError::Interrupted`] when a job asks for the instance.
pub(super) async fn rewind_or_not(
    agent: &Agent,
    card: &Pooler,
    database: &Database,
    begun: &dyn Fn(),
) -> Result<bool, RoundError> {
    let data = Path::new(&card.data_directory);
    let at = match find_way_back(agent, data).await? {
        Ok(at) => at,
        Err(why) => {
            tracing::info!(%why, "this member is made again and not rewound");
            return Ok(false);
        }
    };
    begun();
    let since = Instant::now();
    tracing::warn!(%at, "the data of this former primary is rewound");
    match try_rewind(agent, card, database).await {
        Ok(()) => {
            tracing::info!(took = ?since.elapsed(), "this member's data was rewound");
            Ok(true)
        }
        Err(RewindError::Interrupted) => Err(SeedError::Interrupted.into()),
        Err(error) => {
            tracing::warn!(%error, "the data could not be rewound: it is made again");
            Ok(false)
        }
    }
}

async fn try_rewind(agent: &Agent, card: &Pooler, database: &Database) -> Result<(), RewindError> {
    let data = Path::new(&card.data_directory);
    let refused = |why: &str| RewindError::Refused(why.to_owned());
    let record = agent.governing().ok_or_else(|| refused("nobody leads any more"))?;
    let leader = agent.card_of(&record.cell).ok_or_else(|| refused("the leader's address is not known"))?;
    let marker = agent.layout.seeding_marker();
    let legacy = seeding_marker::inheritance(agent).map_err(disk(&marker))?;
    // From here on it is another copy, and half of one. The order counts.
    seeding_marker::begin(agent, legacy).map_err(disk(&marker))?;
    let kept = &agent.availability.kept;
    kept.begin_rewind(record.held).map_err(disk(&agent.layout.availability()))?;
    let mut config = instance_config(agent, database, card, agent.leader().as_ref())?;
    // What is missing all the same.
    config.settings.restore_command = Some(archive_reader(agent, database, card));
    config.settings.given.insert("wal_keep_size".to_owned(), ALL_WAL.to_owned());
    configure(data, &config)?;
    prepare_rewind(data)?;
    let tls = PathBuf::from(&card.tls_directory);
    let source = PrimaryConninfo {
        host: &leader.host,
        port: leader.postgres_port,
        tls_directory: &tls,
        application_name: "cellar_rewind",
        syncs_slots: true,
    };
    let source = source.render()?;
    let deadline = Instant::now() + CHECKPOINT_TIMEOUT;
    while !unless_held(agent, rewind(&agent.tools, data, &source, TIMEOUT)).await?? {
        if Instant::now() >= deadline {
            return Err(RewindError::NothingToDo);
        }
        unless_held(agent, tokio::time::sleep(CHECKPOINT_INTERVAL)).await?;
    }
    let line = agent.availability.leaders_line.borrow().clone();
    let DataDirectory::Valid { control, .. } = inspect(&agent.tools, data).await? else {
        return Err(refused("the data is not whole afterwards"));
    };
    if line.is_none_or(|line| line.timeline() != control.timeline) {
        return Err(refused("the leader is on another timeline by now"));
    }
    finish_rewind(data)?;
    seeding_marker::mark_restored(agent).map_err(disk(&marker))
}

/// What comes of it, unless a job asks for the instance before. It is dropped then.
async fn unless_held<T>(agent: &Agent, work: impl Future<Output = T>) -> Result<T, RewindError> {
    let is_asked_for = async {
        while !agent.instance_lock.is_held() {
            tokio::time::sleep(INTERRUPTION_INTERVAL).await;
        }
    };
    tokio::select! {
        done = work => Ok(done),
        () = is_asked_for => Err(RewindError::Interrupted),
    }
}
