//! When a backup ended by the clock of the primary.

use std::path::Path;
use std::time::Duration;

use cellar_model::{BackupLabel, Database};
use cellar_pgbackrest::{Error, StanzaInfo};
use cellar_postgres::{backup_history_name, backup_stop_time};
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use crate::agent::Agent;
use crate::repository::reader::size_of_backup;

/// How long pgBackRest may take to read one small file of the repo.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// pgBackRest waits for the last segment of a backup; the file about the backup is archived next.
const ARCHIVE_TIMEOUT: Duration = Duration::from_secs(3);
const ARCHIVE_INTERVAL: Duration = Duration::from_millis(200);

/// Reads it from the file about the backup that the primary has archived. None when it cannot be read in time: the time that
/// pgBackRest has written is then all there is, by the clock of the host that took the backup.
pub(crate) async fn ended_by_primary(
    agent: &Agent,
    database: &Database,
    config: &Path,
    info: &StanzaInfo,
    label: &BackupLabel,
) -> Option<Timestamp> {
    let backup = info.backup(label)?;
    let (first, start) = (backup.archive_start.as_deref()?, backup.lsn_start?);
    let size = size_of_backup(backup).or_else(|| agent.segment_size.get().map(|(_, size)| size))?;
    // The newest database of the stanza comes last.
    let archive = &info.archives.last()?.id;
    let name = backup_history_name(size, size.parse_file_name(first)?, start);
    let path = format!("archive/{}/{archive}/{}/{name}", database.stanza, name.get(..16)?);
    let deadline = Instant::now() + ARCHIVE_TIMEOUT;
    loop {
        match agent.pgbackrest.repo_get(config, &database.stanza, &path, READ_TIMEOUT).await {
            Ok(file) => return backup_stop_time(&file),
            Err(Error::NotInRepository(_)) if Instant::now() < deadline => sleep(ARCHIVE_INTERVAL).await,
            Err(error) => {
                tracing::warn!(%label, path, %error, "when the backup ended by the primary's clock is not known");
                return None;
            }
        }
    }
}
