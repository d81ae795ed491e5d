//! Creating the stanza, also after a process was killed while it created it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{BackupLabel, Database, Pooler};
use cellar_pgbackrest::{Error as PgbackrestError, StanzaInfo, StanzaStatus};
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
            let Some(archive) = half_made(Path::new(&database.repo_path), database.stanza.as_str()) else {
                return Err(error.into());
            };
            let aside = archive.with_extension(format!("half-made-{}", Timestamp::now().as_second()));
            tracing::warn!(from = %archive.display(), to = %aside.display(), "an earlier stanza-create was killed; moving its half aside");
            let failed = |source| StanzaError::Aside { path: archive.clone(), source };
            std::fs::rename(&archive, &aside).map_err(failed)?;
            Ok(agent.pgbackrest.stanza_create(&config, &database.stanza, STANZA_TIMEOUT).await?)
        }
    }
}

/// The archive directory of a stanza whose creation was interrupted; none when the stanza may have backups.
///
/// pgBackRest writes `archive.info` before `backup.info`. When it is killed in between, it (2.45) refuses to create the
/// stanza again, because this looks like a damaged repo. The directory may be moved only if there is no trace of any
/// backup: WAL without a backup restores nothing.
fn half_made(repo: &Path, stanza: &str) -> Option<PathBuf> {
    let (archive, backup) = (repo.join("archive").join(stanza), repo.join("backup").join(stanza));
    let traces = match std::fs::read_dir(&backup) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>().ok()?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        // A directory that cannot be read may have backups.
        Err(_) => return None,
    };
    // pgBackRest first writes to a temporary name, so `backup.info.pgbackrest.tmp` of a killed process is no trace.
    let of_a_backup = |name: &str| {
        ["backup.info", "backup.info.copy", "latest"].contains(&name) || name.parse::<BackupLabel>().is_ok()
    };
    let untouched =
        traces.iter().all(|entry| entry.file_name().to_str().is_some_and(|name| !of_a_backup(name)));
    (untouched && archive.join("archive.info").exists()).then_some(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stanza_without_any_trace_of_a_backup_is_half_made() {
        let repo = tempfile::tempdir().unwrap();
        let (archive, backup) = (repo.path().join("archive/app"), repo.path().join("backup/app"));
        assert_eq!(half_made(repo.path(), "app"), None, "nothing is there");
        std::fs::create_dir_all(&archive).unwrap();
        std::fs::write(archive.join("archive.info"), "x").unwrap();
        assert_eq!(
            half_made(repo.path(), "app"),
            Some(archive.clone()),
            "killed before the backup's directory"
        );
        std::fs::create_dir_all(&backup).unwrap();
        assert_eq!(half_made(repo.path(), "app"), Some(archive.clone()), "killed before backup.info");
        std::fs::write(backup.join("backup.info.pgbackrest.tmp"), "x").unwrap();
        assert_eq!(half_made(repo.path(), "app"), Some(archive.clone()), "killed while it wrote backup.info");
        for trace in ["backup.info", "backup.info.copy", "20260301-101500F"] {
            std::fs::write(backup.join(trace), "x").unwrap();
            assert_eq!(half_made(repo.path(), "app"), None, "{trace}");
            std::fs::remove_file(backup.join(trace)).unwrap();
        }
    }
}
