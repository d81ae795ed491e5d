//! Making the data directory of a new database.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;

use crate::command::run;
use crate::configure::{InstanceConfig, configure};
use crate::durable::sync_directory;
use crate::error::PostgresError;
use crate::roles::SUPERUSER;
use crate::tools::Tools;

/// Where the work is done: beside the data directory, so that a rename puts it in place.
fn workshop(data_directory: &Path) -> PathBuf {
    let mut name = OsString::from(data_directory);
    name.push(".initdb");
    PathBuf::from(name)
}

fn refuse_unless_vacant(data_directory: &Path) -> Result<(), PostgresError> {
    let reason = match fs::read_dir(data_directory) {
        Ok(mut entries) => match entries.next() {
            None => return Ok(()),
            Some(_) => "is not empty: initdb would lose what is in it",
        },
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => "is not a directory",
        Err(error) => return Err(PostgresError::io("read", data_directory)(error)),
    };
    Err(PostgresError::DataDirectory { path: data_directory.to_path_buf(), reason: reason.to_owned() })
}

/// An empty workshop. An initdb whose caller was killed may still be at work in there, so each attempt
/// has a name of its own: sharing one could put two half directories into one.
fn prepare(tools: &Tools, workshop: &Path) -> Result<PathBuf, PostgresError> {
    if let Err(error) = fs::remove_dir_all(workshop)
        && !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty)
    {
        return Err(PostgresError::io("remove", workshop)(error));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(workshop)
        .and_then(|()| match tools.run_as {
            // By handle: whoever owns the directory around it could have put a link there.
            Some((uid, gid)) => {
                let flags = OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY;
                let open = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(workshop)?;
                fchown(&open, Some(uid), Some(gid))
            }
            None => Ok(()),
        })
        .map_err(PostgresError::io("create", workshop))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Ok(workshop.join(format!("{}-{now}", std::process::id())))
}

/// Makes a new database in `data_directory`, configured and ready to start. At whatever moment this is
/// killed, the directory is afterwards either as before or whole.
///
/// Deciding that there is no database yet is the caller's: one that has a backup, or another
/// member, must never come here.
///
/// # Errors
/// When the directory holds anything, initdb fails or is not done in `timeout`, or the disk refuses.
pub async fn initdb(
    tools: &Tools,
    data_directory: &Path,
    config: &InstanceConfig,
    timeout: Duration,
) -> Result<(), PostgresError> {
    refuse_unless_vacant(data_directory)?;
    let workshop = workshop(data_directory);
    let draft = prepare(tools, &workshop)?;
    let mut command = tools.command("initdb");
    // initdb syncs what it made. Doing that apart gained nothing (0.81 s; with --no-sync 0.70 s and
    // then --sync-only 0.14 s), and a sync of the whole file system would wait for everybody's writes.
    command.arg("--pgdata").arg(&draft).args([
        "--data-checksums",
        &format!("--username={SUPERUSER}"),
        "--auth=peer",
        "--encoding=UTF8",
        // Byte order: the same in every version of the C library, so an upgrade breaks no index.
        "--locale=C.UTF-8",
        "--no-instructions",
    ]);
    run(command, timeout).await?;
    configure(&draft, config)?;
    sync_directory(&draft)?;
    refuse_unless_vacant(data_directory)?;
    // Replaces an empty directory and refuses any other, so nothing can be lost to a race either.
    fs::rename(&draft, data_directory).map_err(PostgresError::io("rename into place", data_directory))?;
    sync_directory(data_directory.parent().unwrap_or(Path::new("/")))?;
    // Another attempt's remains may be in it; the next one clears them.
    let _ = fs::remove_dir_all(&workshop);
    Ok(())
}
