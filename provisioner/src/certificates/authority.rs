//! The authorities of a local cluster: the one that signs, the one that is on its way in or out, and what they revoke.
//!
//! The directory `ca` says all of it. `ca.crt` and `ca.key` sign. While the authority is being replaced there is
//! first `next/`, which is trusted already and signs nothing, and then `old.crt`, which is trusted still.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use cellar_model::{Key, RevocationList};
use cellar_tls::{
    CA_CERTIFICATE, Ca, REVOCATIONS, RevokedSerials, generate_delegate, install_revocations, previous,
    read_revocations, sign_revocations,
};

use crate::error::{ProvisionError, Result};
use crate::file::{make_directory, replace};
use crate::local::cluster::Cluster;

/// Where the authority that is on its way out has its certificate.
pub(crate) const OLD_AUTHORITY: &str = "old.crt";

fn read(path: &std::path::Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ProvisionError::io("read", path)(error)),
    }
}

impl Cluster {
    /// The authority that is on its way in.
    pub(crate) fn next_authority(&self) -> PathBuf {
        self.layout.ca().join("next")
    }

    /// Where the revocation lists are.
    fn revocations_file(&self) -> PathBuf {
        self.layout.ca().join(REVOCATIONS)
    }

    /// The certificates of everybody whom this cluster trusts to sign, in PEM.
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

    /// Every authority that is trusted and can sign here, the one that signs certificates first.
    fn signers(&self) -> Result<Vec<Ca>> {
        let ca = self.layout.ca();
        let mut signers = vec![Ca::load(&ca)?];
        if self.next_authority().join(CA_CERTIFICATE).exists() {
            signers.push(Ca::load(&self.next_authority())?);
        }
        if ca.join(OLD_AUTHORITY).exists() && previous(&ca).exists() {
            signers.push(Ca::load(&previous(&ca))?);
        }
        Ok(signers)
    }

    /// Where the pair lies with which multiadmin renews certificates.
    pub(crate) fn signing(&self) -> PathBuf {
        self.layout.root().join("signing")
    }

    /// Makes that pair, if multiadmin is to have one.
    pub(crate) fn issue_delegate(&self, ca: &Ca) -> Result<()> {
        if !self.state.renews {
            return Ok(());
        }
        let (directory, owner) = (self.signing(), self.owner());
        make_directory(&directory, 0o700, owner)?;
        generate_delegate(ca, &directory, &self.state.cluster, owner)?;
        Ok(())
    }

    /// What is revoked.
    pub(crate) fn revoked(&self) -> Result<RevokedSerials> {
        match read(&self.revocations_file())? {
            Some(text) => Ok(read_revocations(&text, &self.trusted()?)?.0),
            None => Ok(RevokedSerials::new()),
        }
    }

    /// Signs what is revoked, and `more`, with every authority that is trusted now, and keeps it.
    ///
    /// A reader that checks lists wants one of each authority, and etcd reads only the first one: so each has
    /// all serial numbers.
    pub(crate) fn sign_revoked(&self, more: &BTreeSet<String>) -> Result<String> {
        let mut revoked = self.revoked()?;
        for serial in more {
            revoked.entry(serial.clone()).or_insert_with(SystemTime::now);
        }
        let mut lists = String::new();
        for signer in self.signers()? {
            lists.push_str(&sign_revocations(&signer, &revoked)?);
        }
        if self.state.renews && self.signing().join(CA_CERTIFICATE).exists() {
            // Its certificate comes along, so that readers who trust the authority can follow.
            let delegate = Ca::load(&self.signing())?;
            lists.push_str(&sign_revocations(&delegate, &revoked)?);
            lists.push_str(delegate.pem());
        }
        replace(&self.revocations_file(), &lists, 0o644, None)?;
        Ok(lists)
    }

    /// Puts the lists where etcd reads them at every handshake.
    pub(crate) fn install_etcd_revocations(&self) -> Result<()> {
        let lists = match read(&self.revocations_file())? {
            Some(lists) => lists,
            None => self.sign_revoked(&BTreeSet::new())?,
        };
        install_revocations(&self.etcd_tls(), &lists, self.owner())?;
        Ok(())
    }

    /// Hands the lists to everybody.
    pub(crate) async fn publish_revoked(&self) -> Result<()> {
        self.install_etcd_revocations()?;
        // Servers that check lists refuse whomever they have no list for, so there is none before it is needed.
        if self.revoked()?.is_empty() {
            return Ok(());
        }
        let pem = read(&self.revocations_file())?.unwrap_or_default();
        let store = self.store().await?;
        store.transaction().put(&Key::Revocations, &RevocationList { pem }).commit().await?;
        Ok(())
    }
}
