//! Files that nobody else may read.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// Bytes that are read at most: more than any file of secrets.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Why a file was not read. Says nothing of its content.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// It cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others may read it.
    #[error(
        "{} has mode {mode:04o}, so others may have read it: run `chmod 600` on it if you are sure that nobody did",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// Reads a text. A file that is no regular one, such as a pipe from a password manager, is read to its end.
pub(crate) fn read_private(path: &Path) -> Result<String, PrivateFileError> {
    let failed = |source| PrivateFileError::Read { path: path.to_owned(), source };
    let mut text = Vec::new();
    let file =
        OpenOptions::new().read(true).custom_flags(OFlag::O_NOCTTY.bits()).open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    let mode = found.mode() & 0o7777;
    if found.is_file() && mode & 0o077 != 0 {
        return Err(PrivateFileError::Exposed { path: path.to_owned(), mode });
    }
    file.take(MAX_FILE_BYTES).read_to_end(&mut text).map_err(failed)?;
    // The parser's own error would quote the bytes.
    String::from_utf8(text)
        .map_err(|_| failed(io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text")))
}
