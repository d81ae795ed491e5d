//! A data directory that is made beside its place and put there by a rename, so that at whatever moment
//! this is killed, the place is afterwards either as before or whole.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;

use crate::durable::sync_directory;
use crate::{PostgresError, Tools};

/// A data directory in the making. What it left is cleared by the next attempt of the same kind.
#[derive(Debug)]
pub(crate) struct Draft {
    data_directory: PathBuf,
    workshop: PathBuf,
    path: PathBuf,
}

fn refuse_unless_vacant(data_directory: &Path) -> Result<(), PostgresError> {
    let reason = match fs::read_dir(data_directory) {
        Ok(mut entries) => match entries.next() {
            None => return Ok(()),
            Some(_) => "is not empty: what is in it would be lost",
        },
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => "is not a directory",
        Err(error) => return Err(PostgresError::io("read", data_directory)(error)),
    };
    Err(PostgresError::DataDirectory { path: data_directory.to_path_buf(), reason: reason.to_owned() })
}

/// An empty workshop. A program whose caller was killed may still be at work in there, so each attempt
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

impl Draft {
    /// A name for a directory beside `data_directory`, whose parent `DATA_DIRECTORY.KIND` is there and empty.
    ///
    /// # Errors
    /// When the data directory holds anything, or the disk refuses.
    pub(crate) fn begin(tools: &Tools, data_directory: &Path, kind: &str) -> Result<Self, PostgresError> {
        refuse_unless_vacant(data_directory)?;
        let mut name = OsString::from(data_directory);
        name.push(format!(".{kind}"));
        let workshop = PathBuf::from(name);
        let path = prepare(tools, &workshop)?;
        Ok(Self { data_directory: data_directory.to_path_buf(), workshop, path })
    }

    /// Where to make it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it in its place. Its files must be synced.
    ///
    /// # Errors
    /// When the place is no longer vacant, or the disk refuses.
    pub(crate) fn put_in_place(self) -> Result<(), PostgresError> {
        sync_directory(&self.path)?;
        refuse_unless_vacant(&self.data_directory)?;
        // Replaces an empty directory and refuses any other, so nothing can be lost to a race either.
        fs::rename(&self.path, &self.data_directory)
            .map_err(PostgresError::io("rename into place", &self.data_directory))?;
        sync_directory(self.data_directory.parent().unwrap_or(Path::new("/")))?;
        self.clear();
        Ok(())
    }

    /// Removes what was made so far.
    pub(crate) fn clear(self) {
        // Another attempt's remains may be in it; what cannot be removed now is removed by the next one.
        let _ = fs::remove_dir_all(&self.workshop);
    }
}
