//! The repo's backups as messages.

use std::time::Duration;

use cellar_api::v1::{Backup, BackupType, ListBackupsResponse};
use cellar_api::wkt;
use cellar_model::{BackupLabel, Code, Refusal};
use cellar_pgbackrest::BackupInfo;

use crate::agent::Agent;
use crate::config_files::write_bootstrap;
use crate::repository::reader::check_has_stanza;
use crate::repository::tool_failure::{hint_at_home, may_be_unreached};

/// How long pgBackRest may take to read the repo.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads all backups of the repo, or the one with the label `only`, of which more is read.
///
/// # Errors
/// When pgBackRest cannot read the repo.
pub(crate) async fn backups(
    agent: &Agent,
    only: Option<&BackupLabel>,
) -> Result<ListBackupsResponse, Refusal> {
    let failed = |what: &dyn std::fmt::Display| {
        Refusal::new(Code::PgbackrestFailed, format!("reading the repo from cell {}: {what}", agent.cell))
            .about("cell", &agent.cell)
    };
    let (card, database) = agent.assignment()?;
    let config = write_bootstrap(agent, &database, &card).map_err(|error| failed(&error))?;
    let info = agent.pgbackrest.info(&config, &database.stanza, READ_TIMEOUT).await.map_err(|error| {
        let at_home = hint_at_home(&database.repository, &agent.cell);
        let hint = at_home.filter(|_| may_be_unreached(&error));
        failed(&error).hint(hint.unwrap_or_else(|| error.hint().to_owned()))
    })?;
    check_has_stanza(&info, &database, &agent.cell)?;
    let mut backups: Vec<Backup> = info
        .backups
        .iter()
        .filter(|backup| only.is_none_or(|label| backup.label == *label))
        .map(message)
        .collect();
    if let (Some(label), Some(backup)) = (only, backups.first_mut()) {
        let record = agent.pgbackrest.backup_record(&config, &database.stanza, label, READ_TIMEOUT).await;
        backup.from_standby = record.ok().map(|record| record.option_backup_standby);
    }
    Ok(ListBackupsResponse { backups, read_by: agent.cell.to_string() })
}

fn message(backup: &BackupInfo) -> Backup {
    let time = |seconds: Option<i64>| seconds.map(|seconds| wkt::Timestamp { seconds, nanos: 0 });
    Backup {
        label: backup.label.to_string(),
        r#type: match backup.backup_type {
            cellar_model::BackupType::Full => BackupType::Full,
            cellar_model::BackupType::Diff => BackupType::Diff,
            cellar_model::BackupType::Incr => BackupType::Incr,
        }
        .into(),
        prior: backup.prior.as_ref().map(ToString::to_string),
        start_time: time(backup.started),
        stop_time: time(backup.stopped),
        start_lsn: backup.lsn_start.map(|lsn| lsn.to_string()).unwrap_or_default(),
        stop_lsn: backup.lsn_stop.map(|lsn| lsn.to_string()).unwrap_or_default(),
        wal_start: backup.archive_start.clone().unwrap_or_default(),
        wal_stop: backup.archive_stop.clone().unwrap_or_default(),
        size_bytes: backup.size.unwrap_or(0),
        repo_bytes: backup.repo_size_delta.or(backup.repo_size).unwrap_or(0),
        error: backup.error.unwrap_or(false),
        annotations: backup.annotations.clone(),
        ..Backup::default()
    }
}
