//! Private keys on disk.

use std::fmt;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};

use cellar_system::Owner;

use crate::certificate::key_text;
use crate::error::{Result, TlsError};
use crate::file::{self, Content, KEY_MODE};

/// A private key in its file: what certificates are issued for.
///
/// A cell has exactly one, shared by the certificates of its pgBackRest server,
/// its pooler and its replication client.
pub struct KeyFile {
    path: PathBuf,
    owner: Option<Owner>,
    pair: KeyPair,
}

impl fmt::Debug for KeyFile {
    /// Shows where the key is, never what it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile")
            .field("path", &self.path)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

impl KeyFile {
    /// Loads the key at `path`, or makes one (ECDSA P-256, PKCS#8, mode 0600).
    ///
    /// A missing directory is made with mode 0700. An existing key is never
    /// replaced by another one; when its mode is not 0600 or it is not
    /// `owner`'s, the same key is written again as it should be.
    ///
    /// # Errors
    /// When the file cannot be read or written, is a symlink, or holds
    /// something else than such a key.
    pub fn load_or_create(path: &Path, owner: Option<Owner>) -> Result<Self> {
        if !file::exists(path)? {
            if let Some(directory) = path.parent() {
                file::create_private_directory(directory, owner)?;
            }
            let pair = generate()?;
            if file::create(path, &pair.serialize_pem(), KEY_MODE, owner)? {
                return Ok(Self { path: path.to_owned(), owner, pair });
            }
            // Another process made one in the meantime: that one counts.
        }
        let content = file::read_own(path)?;
        let pair = parse(path, &content)?;
        if !content.is_as(KEY_MODE, owner) {
            if !content.is_sole_link() {
                return Err(TlsError::bad_file(
                    path,
                    "another hard link to it exists, so it is not handed over",
                ));
            }
            tracing::warn!(path = %path.display(), mode = format!("{:04o}", content.mode()), "correcting the key's mode or owner");
            file::replace(path, &content.text, KEY_MODE, owner)?;
        }
        Ok(Self { path: path.to_owned(), owner, pair })
    }

    /// Where the key is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose files the key and its certificates are; `None` for the writing process's own.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// A signing request (PKCS#10, PEM) that proves possession of the key and has no other content.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn signing_request(&self) -> Result<String> {
        let failed =
            |error: rcgen::Error| TlsError::Generate { what: "a signing request", reason: error.to_string() };
        let request = CertificateParams::default().serialize_request(&self.pair).map_err(failed)?;
        request.pem().map_err(failed)
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }
}

/// The public half of the key in a file, as in [`CertificateInfo::public_key`](crate::CertificateInfo). Changes nothing.
///
/// # Errors
/// When there is no key that can be read.
pub fn public_key(path: &Path) -> Result<String> {
    Ok(key_text(parse(path, &file::read_own(path)?)?.der_bytes()))
}

pub(crate) fn generate() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|e| TlsError::Generate { what: "a key", reason: e.to_string() })
}

pub(crate) fn parse(path: &Path, content: &Content) -> Result<KeyPair> {
    // The parser's own message is left out: nothing derived from a key's bytes gets near a log.
    KeyPair::from_pem(&content.text)
        .map_err(|_| TlsError::bad_file(path, "it holds no private key in PEM (PKCS#8) that can be read"))
}

/// Refuses a key that others than its owner may read.
pub(crate) fn check_private(path: &Path, content: &Content) -> Result<()> {
    if content.mode() & 0o077 != 0 {
        return Err(TlsError::ExposedKey { path: path.to_owned(), mode: content.mode() });
    }
    Ok(())
}
