//! A directory with one key and the certificates for it: made, kept up to date, and replaced in one step.

use std::path::{Path, PathBuf};

use cellar_model::{PgbackrestName, unqualified_name};
use cellar_system::Owner;
use cellar_tls::{
    CA_CERTIFICATE, Ca, CertificateInfo, Identity, KeyFile, KnownCertificate, LeafRequest, exchange,
    install_authorities, issue, known_certificates, public_key, remember_certificates,
};

use crate::error::provision_error::{ProvisionError, Result};
use crate::file::make_directory;

/// A directory with one key, the certificates that are issued for it, and the authorities that its owner trusts.
#[derive(Debug, Clone)]
pub(crate) struct CertificateSet {
    /// Whose it is, for messages.
    pub(crate) what: String,
    pub(crate) directory: PathBuf,
    pub(crate) key: &'static str,
    pub(crate) owner: Option<Owner>,
    pub(crate) leaves: Vec<(&'static str, LeafRequest)>,
}

impl CertificateSet {
    /// Issues what is missing, stale, or not of this authority. What it replaces is remembered as the key's.
    pub(crate) fn ensure(&self, ca: &Ca, trusted: &str) -> Result<()> {
        make_directory(&self.directory, 0o700, self.owner)?;
        remember_certificates(&self.directory, &self.directory, self.owner)?;
        Ok(self.fill(&self.directory, ca, trusted)?)
    }

    /// Issues all certificates again, for the same key. Interrupted, the next [`ensure`](Self::ensure) issues what is missing.
    pub(crate) fn reissue(&self, ca: &Ca, trusted: &str) -> Result<()> {
        remember_certificates(&self.directory, &self.directory, self.owner)?;
        for file in self.certificates() {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ProvisionError::io("remove", &file)(error));
                }
                _ => {}
            }
        }
        self.ensure(ca, trusted)
    }

    /// Replaces key and certificates by new ones, in one step.
    pub(crate) fn renew(&self, ca: &Ca, trusted: &str) -> Result<()> {
        make_directory(&self.directory, 0o700, self.owner)?;
        exchange(&self.directory, self.owner, |next| -> Result<()> {
            self.fill(next, ca, trusted)?;
            // A program that reads them from now on must be able to use them.
            for (file, _) in &self.leaves {
                Identity::load(&next.join(CA_CERTIFICATE), &next.join(file), &next.join(self.key))?;
            }
            Ok(())
        })
    }

    fn fill(&self, directory: &Path, ca: &Ca, trusted: &str) -> cellar_tls::Result<()> {
        install_authorities(directory, trusted, self.owner)?;
        let key = KeyFile::load_or_create(&directory.join(self.key), self.owner)?;
        for (file, request) in &self.leaves {
            issue(ca, request, &key, &directory.join(file))?;
        }
        Ok(())
    }

    /// Installs the trusted authorities, and changes nothing else.
    pub(crate) fn trust(&self, trusted: &str) -> Result<()> {
        install_authorities(&self.directory, trusted, self.owner)?;
        Ok(())
    }

    /// The certificates in it.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = PathBuf> {
        self.leaves.iter().map(|(file, _)| self.directory.join(file))
    }

    /// The serial numbers of those that can be read.
    pub(crate) fn serials(&self) -> impl Iterator<Item = String> {
        self.certificates().filter_map(|path| Some(CertificateInfo::from_file(&path).ok()?.serial))
    }

    /// What its keys have been given, also what was replaced since.
    pub(crate) fn known(&self) -> Result<Vec<KnownCertificate>> {
        Ok(known_certificates(&self.directory)?)
    }

    /// The public half of its key; none when there is no key that can be read.
    pub(crate) fn public_key(&self) -> Option<String> {
        public_key(&self.directory.join(self.key)).ok()
    }

    /// Whether pgBackRest's servers let its owner in.
    pub(crate) fn opens_pgbackrest(&self) -> bool {
        self.leaves
            .iter()
            .any(|(_, request)| unqualified_name(&request.common_name).parse::<PgbackrestName>().is_ok())
    }
}
