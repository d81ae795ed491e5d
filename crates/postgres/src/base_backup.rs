//! Copying a running primary into the data directory of a new standby, with `pg_basebackup`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cellar_model::{SystemIdentifier, Timeline};

use crate::auto_conf::take_over_settings;
use crate::command::run;
use crate::config_file::replace_file;
use crate::configure::{InstanceConfig, configure};
use crate::control_data::ControlData;
use crate::data_directory::{DataDirectory, inspect};
use crate::draft::Draft;
use crate::error::PostgresError;
use crate::tools::Tools;

/// What a copy must be a copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopySource {
    /// The database's identity.
    pub system_identifier: SystemIdentifier,
    /// The timeline that its primary is on.
    pub timeline: Timeline,
}

fn refused(path: &Path, reason: String) -> PostgresError {
    PostgresError::DataDirectory { path: path.to_path_buf(), reason }
}

/// Refuses a copy of another database, or of a primary on another timeline.
fn check_source(path: &Path, source: CopySource, control: &ControlData) -> Result<(), PostgresError> {
    if control.system_identifier != source.system_identifier {
        let (found, wanted) = (control.system_identifier, source.system_identifier);
        return Err(refused(path, format!("has system identifier {found}, and the database has {wanted}")));
    }
    if control.timeline != source.timeline {
        let (found, wanted) = (control.timeline, source.timeline);
        return Err(refused(
            path,
            format!("is on timeline {found}, and the recorded primary is on {wanted}"),
        ));
    }
    Ok(())
}

/// Refuses a copy whose files lie partly elsewhere: the places are the primary's, and may be in use by it.
fn check_no_links(path: &Path) -> Result<(), PostgresError> {
    let tablespaces = path.join("pg_tblspc");
    let mut entries = fs::read_dir(&tablespaces).map_err(PostgresError::io("read", &tablespaces))?;
    if entries.next().is_some() {
        return Err(refused(path, "has tablespaces, which are restored from a backup only".to_owned()));
    }
    let wal = path.join("pg_wal");
    let found = fs::symlink_metadata(&wal).map_err(PostgresError::io("look at", &wal))?;
    if found.is_dir() { Ok(()) } else { Err(refused(path, "has pg_wal as a link".to_owned())) }
}

async fn fill(
    tools: &Tools,
    draft: &Path,
    config: &InstanceConfig,
    source: CopySource,
    timeout: Duration,
) -> Result<(), PostgresError> {
    let Some(conninfo) = &config.settings.primary_conninfo else {
        let reason = "must be set to copy the primary";
        return Err(PostgresError::InvalidSetting { name: "primary_conninfo".to_owned(), reason });
    };
    let mut command = tools.command("pg_basebackup");
    // The last of a repeated keyword counts: this connection is not the cell's standby.
    command.arg(format!("--dbname={conninfo} application_name='cellar_copy'")).arg("--pgdata").arg(draft);
    // It syncs what it wrote before it ends. The rename says that the copy is whole, so its files must be
    // on disk before that.
    command.args([
        "--format=plain",
        "--wal-method=stream",
        "--checkpoint=fast",
        "--no-manifest",
        "--no-password",
    ]);
    run(command, timeout).await?;
    check_no_links(draft)?;
    replace_file(&draft.join("standby.signal"), "")?;
    // The copy has the primary's own settings; this replaces them as after a restore.
    configure(draft, config)?;
    take_over_settings(draft, b"", None)?;
    match inspect(tools, draft).await? {
        DataDirectory::Valid { control, recovers: true, .. } => check_source(draft, source, &control),
        other => Err(refused(draft, format!("is not a standby's after copying the primary: {other:?}"))),
    }
}

/// Copies the primary that `config` names into `data_directory`, as a standby that is configured and ready to
/// start. At whatever moment this is killed, the directory is afterwards either as before or whole.
///
/// A tablespace would be copied to the path that it has at the primary before it is refused. So this is for a
/// database that was just made.
///
/// # Errors
/// When the directory holds anything, `pg_basebackup` fails or is not done in `timeout`, the copy is not of
/// `source` or has tablespaces, or the disk refuses. What was copied is removed then.
pub async fn base_backup(
    tools: &Tools,
    data_directory: &Path,
    config: &InstanceConfig,
    source: CopySource,
    timeout: Duration,
) -> Result<(), PostgresError> {
    let draft = Draft::begin(tools, data_directory, "copy").await?;
    match fill(tools, draft.path(), config, source, timeout).await {
        Ok(()) => draft.put_in_place().await,
        Err(error) => {
            draft.clear().await;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_data::ControlState;
    use std::os::unix::fs::symlink;

    #[test]
    fn copy_of_another_database_or_timeline_is_refused() {
        let control = ControlData {
            system_identifier: SystemIdentifier::new(7),
            timeline: Timeline::new(1),
            state: ControlState::InProduction,
            data_checksums: true,
            checkpoint: cellar_model::Lsn::new(1),
            redo: cellar_model::Lsn::new(1),
            min_recovery: cellar_model::Lsn::new(0),
            required: crate::RequiredSettings::default(),
            segment_size: cellar_model::SegmentSize::default(),
        };
        let check = |identifier, timeline| {
            let source = CopySource {
                system_identifier: SystemIdentifier::new(identifier),
                timeline: Timeline::new(timeline),
            };
            check_source(Path::new("/c"), source, &control)
        };
        check(7, 1).unwrap();
        assert!(check(8, 1).unwrap_err().to_string().contains("system identifier 7"));
        assert!(check(7, 2).unwrap_err().to_string().contains("timeline 1"));
    }

    #[test]
    fn copy_with_tablespaces_or_a_linked_pg_wal_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["pg_tblspc", "pg_wal"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        check_no_links(dir.path()).unwrap();
        symlink("/elsewhere", dir.path().join("pg_tblspc/16384")).unwrap();
        assert!(check_no_links(dir.path()).unwrap_err().to_string().contains("tablespaces"));
        fs::remove_file(dir.path().join("pg_tblspc/16384")).unwrap();
        fs::remove_dir(dir.path().join("pg_wal")).unwrap();
        symlink("/elsewhere", dir.path().join("pg_wal")).unwrap();
        assert!(check_no_links(dir.path()).unwrap_err().to_string().contains("pg_wal"));
    }
}
