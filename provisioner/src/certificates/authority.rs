//! The authorities of a local cluster: the one that signs, and while it is being replaced the new or the old one.
//!
//! The directory `ca` holds all of it. `ca.crt` and `ca.key` sign. While the authority is being replaced there is
//! first `next/`, which is trusted already and signs nothing, and then `old.crt`, which is still trusted.

use std::fs;
use std::path::{Path, PathBuf};

use cellar_tls::{CA_CERTIFICATE, CA_KEY, Ca, generate_ca, generate_delegate, leftovers};

use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::make_directory;

/// File name of the certificate of the authority that is being replaced.
pub(crate) const OLD_AUTHORITY: &str = "old.crt";

/// A file's text; `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ProvisionError::io("read", path)(error)),
    }
}

impl Cluster {
    /// The cluster's authority, made if there is none.
    pub(crate) fn authority(&self) -> Result<Ca> {
        Ok(generate_ca(&self.layout.ca(), &self.state.cluster)?)
    }

    /// The certificates of all trusted authorities, in PEM.
    pub(crate) fn trusted(&self) -> Result<String> {
        let ca = self.layout.ca();
        let files =
            [ca.join(CA_CERTIFICATE), self.next_authority().join(CA_CERTIFICATE), ca.join(OLD_AUTHORITY)];
        let mut trusted = String::new();
        for file in files {
            trusted.push_str(&read(&file)?.unwrap_or_default());
        }
        Ok(trusted)
    }

    /// Where the authority is that was replaced, until nobody trusts it. A run that was ended right after it exchanged the
    /// two left it under the name of the next set.
    pub(crate) fn former_authority(&self) -> Result<Option<PathBuf>> {
        let ca = self.layout.ca();
        let [previous, coming] = leftovers(&ca);
        if previous.exists() {
            return Ok(Some(previous));
        }
        let certificate = |directory: &Path| read(&directory.join(CA_CERTIFICATE));
        let (found, signs, next) =
            (certificate(&coming)?, certificate(&ca)?, certificate(&self.next_authority())?);
        // Without its key it is what is left of one that was being removed.
        let is_whole = found.is_some() && coming.join(CA_KEY).exists();
        Ok((is_whole && found != signs && found != next).then_some(coming))
    }

    /// Every authority that is trusted and can sign here, the one that signs certificates first.
    pub(crate) fn signers(&self) -> Result<Vec<Ca>> {
        let ca = self.layout.ca();
        let mut signers = vec![Ca::load(&ca)?];
        if self.next_authority().join(CA_CERTIFICATE).exists() {
            signers.push(Ca::load(&self.next_authority())?);
        }
        if let (true, Some(former)) = (ca.join(OLD_AUTHORITY).exists(), self.former_authority()?) {
            signers.push(Ca::load(&former)?);
        }
        Ok(signers)
    }

    /// Makes the pair with which multiadmin renews certificates, if it is to have one.
    pub(crate) fn issue_delegate(&self, ca: &Ca) -> Result<()> {
        if !self.state.renews {
            return Ok(());
        }
        let (directory, owner) = (self.signing(), self.owner());
        make_directory(&directory, 0o700, owner)?;
        generate_delegate(ca, &directory, &self.state.cluster, owner)?;
        Ok(())
    }
}
