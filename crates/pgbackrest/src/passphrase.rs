//! The passphrase of an encrypted repository, in a file that nobody else may read.

use std::io;
use std::path::{Path, PathBuf};

use cellar_model::{Secret, SecretError};

use crate::private_file::{PrivateFileError, read_private};

/// Why there is no passphrase in a file.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    /// The file cannot be read.
    #[error("the repository's passphrase cannot be read from {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others may read it.
    #[error(
        "the passphrase in {} has mode {mode:04o}, so others may have read it: run `chmod 600` on it if you are sure that nobody did",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// What it holds is no passphrase.
    #[error("the passphrase in {} is refused: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        reason: SecretError,
    },
}

/// Reads a passphrase. A file that is no regular one, such as a pipe from a password manager, is read to its end.
///
/// # Errors
/// When it cannot be read, others than its owner may read it too, or it holds no passphrase.
pub fn read_passphrase(path: &Path) -> Result<Secret, PassphraseError> {
    let text = read_private(path).map_err(|error| match error {
        PrivateFileError::Read { path, source } => PassphraseError::Read { path, source },
        PrivateFileError::Exposed { path, mode } => PassphraseError::Exposed { path, mode },
    })?;
    Secret::passphrase(&text).map_err(|reason| PassphraseError::Refused { path: path.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    const TEXT: &str = "correct horse battery staple";

    fn read(content: &[u8], mode: u32) -> Result<Secret, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pass");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        read_passphrase(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn only_a_file_of_ones_own_is_read_and_no_error_shows_its_content() {
        assert_eq!(read(format!("{TEXT}\n").as_bytes(), 0o600).unwrap().expose(), TEXT);
        assert_eq!(read(TEXT.as_bytes(), 0o400).unwrap().expose(), TEXT);
        for (content, mode, why) in [
            (TEXT.to_owned(), 0o640, "mode 0640"),
            (TEXT.to_owned(), 0o604, "mode 0604"),
            (format!("{TEXT}\n{TEXT}"), 0o600, "line break"),
            ("battery".to_owned(), 0o600, "shorter than 16 bytes"),
            (TEXT.repeat(1000), 0o600, "longer than 512 bytes"),
        ] {
            let error = read(content.as_bytes(), mode).unwrap_err();
            assert!(error.contains(why) && !error.contains("battery"), "{error}");
        }
        let error = read(b"battery \xff\xfe battery battery", 0o600).unwrap_err();
        assert!(error.contains("not UTF-8") && !error.contains("battery"), "{error}");
        assert!(read_passphrase(Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
    }
}
