//! Writing files so that a crash leaves the old or the new content, never a part.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use crate::error::PostgresError;

/// Makes what was created, renamed or removed in a directory survive a power failure.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), PostgresError> {
    File::open(directory).and_then(|open| open.sync_all()).map_err(PostgresError::io("sync", directory))
}

/// Replaces a file when its content differs, mode 0600, owned by the directory's owner. Says
/// whether it did.
pub(crate) fn replace_file(path: &Path, content: &str) -> Result<bool, PostgresError> {
    match fs::read(path) {
        Ok(old) if old == content.as_bytes() => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(PostgresError::io("read", path)(error)),
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let draft = directory.join(name);
    let write = || {
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(content.as_bytes())?;
        let (owner, own) = (fs::metadata(directory)?, file.metadata()?);
        if (owner.uid(), owner.gid()) != (own.uid(), own.gid()) && own.uid() == 0 {
            // The file itself: by its name, the directory's owner could have it mean another one by now.
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(PostgresError::io("write", path))?;
    sync_directory(directory)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn planted_links_are_replaced_and_never_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("cellar.conf"), dir.path().join("other"));
        fs::write(&other, "precious").unwrap();
        symlink(&other, dir.path().join("cellar.conf.tmp")).unwrap();
        symlink(&other, &path).unwrap();
        let before = fs::metadata(&other).unwrap();
        assert!(replace_file(&path, "new").unwrap());
        let (found, after) = (fs::symlink_metadata(&path).unwrap(), fs::metadata(&other).unwrap());
        assert!(found.is_file() && found.mode() & 0o777 == 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!((after.len(), after.uid(), after.mode()), (before.len(), before.uid(), before.mode()));
        assert!(!dir.path().join("cellar.conf.tmp").exists());
    }

    #[test]
    fn a_file_in_somebody_elses_directory_is_theirs() {
        let dir = tempfile::tempdir().unwrap();
        if fs::metadata(dir.path()).unwrap().uid() != 0 {
            return;
        }
        std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
        replace_file(&dir.path().join("x"), "new").unwrap();
        assert_eq!(fs::metadata(dir.path().join("x")).unwrap().uid(), 65534);
    }
}
