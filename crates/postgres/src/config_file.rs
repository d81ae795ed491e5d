//! Reading and replacing a file of a data directory. Its content may be in any encoding.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use cellar_system::AtomicFile;

use crate::error::PostgresError;

/// The content of a file that may be missing.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, PostgresError> {
    match fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(PostgresError::io("read", path)(error)),
    }
}

/// Replaces a file when its content, mode or owner differs: mode 0600, owned by the directory's owner.
pub(crate) fn replace_file(path: &Path, content: impl AsRef<[u8]>) -> Result<bool, PostgresError> {
    let file = AtomicFile::new(path).owner_of_directory();
    file.replace_if_changed(content).map_err(PostgresError::io("write", path))
}
