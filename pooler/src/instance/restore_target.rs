//! The directory that pgBackRest restores into: what earlier attempts have left there is put in order first.
//!
//! pgBackRest refuses a directory with a `postmaster.pid` (38), whosever it is, and one that holds files unless it is told
//! to keep what is the same (`--delta`; else 40). And it ignores `--delta` where it finds neither `PG_VERSION` nor
//! `backup.manifest`, as after a kill between making the directories and writing the manifest.

use std::fs::read_dir;
use std::io::ErrorKind;
use std::path::Path;

use cellar_postgres::{PostgresError, occupants, running};

use crate::data_layout::own_wal_link;

/// pgBackRest writes it before the first file, and replaces it by its own. Its presence alone counts, and a directory that
/// holds nothing else is an empty one to pgBackRest.
const MANIFEST: &str = "backup.manifest";

/// How a directory came to what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// It holds data of this database, as far as it holds any.
    pub(crate) is_ours: bool,
    /// A restore into it was begun before this one and not finished.
    pub(crate) unfinished: bool,
}

impl Origin {
    /// A directory of Cellar's own that was made for this restore.
    pub(crate) const NEW: Self = Self { is_ours: false, unfinished: false };
}

/// Puts `data` in order for pgBackRest. Returns whether it is to keep the files that are the same already.
///
/// # Errors
/// When the directory cannot be looked at or written.
pub(crate) fn prepare(data: &Path, origin: Origin) -> Result<bool, PostgresError> {
    remove_stale_pid_file(data)?;
    own_wal_link(data).map_err(failed("replace the link pg_wal of", data))?;
    if !origin.is_ours && !origin.unfinished {
        return Ok(false);
    }
    let is_there = |name: &str| data.join(name).try_exists().map_err(failed("look at", data));
    if is_there("PG_VERSION")? || is_there(MANIFEST)? {
        return Ok(true);
    }
    if !origin.unfinished || !has_only_directories(data).map_err(failed("look at", data))? {
        return Ok(false);
    }
    let manifest = data.join(MANIFEST);
    std::fs::write(&manifest, "").map_err(failed("write", &manifest))?;
    Ok(true)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PostgresError + use<> {
    let path = path.to_owned();
    move |source| PostgresError::Io { action, path, source }
}

/// Whether there are directories and links, and no file of anybody: what pgBackRest has made of a directory that was empty
/// before it writes its manifest. A directory that this user may not read, such as `lost+found`, is not of its making.
fn has_only_directories(data: &Path) -> std::io::Result<bool> {
    let mut left = vec![data.to_owned()];
    while let Some(directory) = left.pop() {
        let entries = match read_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(false),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if !kind.is_symlink() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Removes the `postmaster.pid` of a server that was killed. It stays while any process works in the directory.
fn remove_stale_pid_file(data: &Path) -> Result<(), PostgresError> {
    let path = data.join("postmaster.pid");
    if running(data)?.is_none() && occupants(data)?.is_empty() {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("remove", &path)(error)),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Origin = Origin { is_ours: true, unfinished: false };
    const UNFINISHED: Origin = Origin { is_ours: true, unfinished: true };

    fn directory(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in ["base/1", "global", "pg_tblspc"] {
            std::fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink("/nowhere", directory.path().join("pg_wal")).unwrap();
        for name in files {
            std::fs::write(directory.path().join(name), "x").unwrap();
        }
        directory
    }

    #[test]
    fn lock_file_of_a_server_that_died_is_removed() {
        let data = directory(&["PG_VERSION", "postmaster.pid"]);
        std::fs::write(data.path().join("postmaster.pid"), "99999999\n/x\n").unwrap();
        assert!(prepare(data.path(), OURS).unwrap());
        assert!(!data.path().join("postmaster.pid").exists());
        assert!(data.path().join("PG_VERSION").exists());
    }

    #[test]
    fn restore_goes_on_from_wherever_the_last_one_ended() {
        let manifest = |data: &tempfile::TempDir| std::fs::read_to_string(data.path().join(MANIFEST)).ok();
        // Killed while files were copied: into what was empty, and into old data.
        for files in [&["backup.manifest"][..], &["backup.manifest", "PG_VERSION"], &["PG_VERSION"]] {
            assert!(prepare(directory(files).path(), UNFINISHED).unwrap(), "{files:?}");
            assert!(prepare(directory(files).path(), OURS).unwrap(), "{files:?}");
        }
        // Killed when the directories were there, and no file.
        let data = directory(&[]);
        assert!(!prepare(data.path(), OURS).unwrap(), "nobody has begun a restore there");
        assert_eq!(manifest(&data), None);
        assert!(prepare(data.path(), UNFINISHED).unwrap());
        assert_eq!(manifest(&data).as_deref(), Some(""));
        // Also when the restore that goes on was asked for as one into an empty directory.
        assert!(prepare(directory(&["PG_VERSION"]).path(), Origin { is_ours: false, ..UNFINISHED }).unwrap());
    }

    #[test]
    fn files_of_somebody_else_are_not_given_to_pgbackrest() {
        for (files, origin) in
            [(&["global/mine"][..], UNFINISHED), (&["PG_VERSION"], Origin::NEW), (&[], Origin::NEW)]
        {
            let data = directory(files);
            assert!(!prepare(data.path(), origin).unwrap(), "{files:?}");
            assert!(!data.path().join(MANIFEST).exists(), "{files:?}");
        }
    }
}
