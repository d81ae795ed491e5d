//! A data directory that is made beside its place and moved there by a rename. So whenever the process is killed, the
//! place is either as before or has a whole data directory.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cellar_system::{is_mount_point, rename, sync_directory};
use nix::fcntl::OFlag;

use crate::error::PostgresError;
use crate::tools::Tools;

/// A data directory that is being made. What a killed attempt left is removed by the next attempt of the same kind.
#[derive(Debug)]
pub(crate) struct Draft {
    data_directory: PathBuf,
    parent: PathBuf,
    path: PathBuf,
}

fn refuse_unless_vacant(data_directory: &Path) -> Result<(), PostgresError> {
    let reason = if data_directory.is_symlink() {
        "is a symbolic link, which a new data directory cannot replace: make the directory above it a link instead"
    } else if is_mount_point(data_directory) {
        "is a mount point, which a new data directory cannot replace: mount the file system at the directory above it"
    } else {
        return refuse_unless_empty(data_directory);
    };
    Err(PostgresError::DataDirectory { path: data_directory.to_path_buf(), reason: reason.to_owned() })
}

fn refuse_unless_empty(data_directory: &Path) -> Result<(), PostgresError> {
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

/// Creates an empty parent for the attempts, and returns a name in it for this one. A program whose caller was killed may
/// still write there, so each attempt has a name of its own: two attempts in one directory would mix their files.
fn prepare(run_as: Option<(u32, u32)>, parent: &Path) -> Result<PathBuf, PostgresError> {
    if let Err(error) = fs::remove_dir_all(parent)
        && !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty)
    {
        return Err(PostgresError::io("remove", parent)(error));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .and_then(|()| match run_as {
            // By handle: the owner of the directory around it could have put a link there.
            Some((uid, gid)) => {
                let flags = OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY;
                let open = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(parent)?;
                fchown(&open, Some(uid), Some(gid))
            }
            None => Ok(()),
        })
        .map_err(PostgresError::io("create", parent))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Ok(parent.join(format!("{}-{now}", std::process::id())))
}

/// Works on a directory in a thread of its own: deleting many files takes long, and other work of the caller's thread,
/// such as keeping a lease, must go on.
async fn in_background<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce(&Path) -> Result<T, PostgresError> + Send + 'static,
) -> Result<T, PostgresError> {
    let about = path.clone();
    match tokio::task::spawn_blocking(move || work(&path)).await {
        Ok(done) => done,
        Err(panicked) => Err(PostgresError::io("work on", &about)(std::io::Error::other(panicked))),
    }
}

impl Draft {
    /// A name for a directory beside `data_directory`, whose parent `DATA_DIRECTORY.KIND` is there and empty.
    ///
    /// # Errors
    /// When the data directory holds anything, or the disk refuses.
    pub(crate) async fn begin(
        tools: &Tools,
        data_directory: &Path,
        kind: &str,
    ) -> Result<Self, PostgresError> {
        refuse_unless_vacant(data_directory)?;
        let mut name = OsString::from(data_directory);
        name.push(format!(".{kind}"));
        let parent = PathBuf::from(name);
        let run_as = tools.run_as;
        let path = in_background(parent.clone(), move |parent| prepare(run_as, parent)).await?;
        Ok(Self { data_directory: data_directory.to_path_buf(), parent, path })
    }

    /// Where to make it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it in its place. Its files must be synced.
    ///
    /// # Errors
    /// When the place is no longer vacant, or the disk refuses.
    pub(crate) async fn put_in_place(self) -> Result<(), PostgresError> {
        sync_directory(&self.path).map_err(PostgresError::io("sync", &self.path))?;
        refuse_unless_vacant(&self.data_directory)?;
        // Replaces an empty directory and refuses any other, so nothing can be lost to a race either.
        rename(&self.path, &self.data_directory)
            .map_err(PostgresError::io("rename into place", &self.data_directory))?;
        self.clear().await;
        Ok(())
    }

    /// Removes what was made so far.
    pub(crate) async fn clear(self) {
        // Another attempt's remains may be in it; what cannot be removed now is removed by the next one.
        let removed = in_background(self.parent, |parent| {
            fs::remove_dir_all(parent).map_err(PostgresError::io("remove", parent))
        });
        let _ = removed.await;
    }
}
