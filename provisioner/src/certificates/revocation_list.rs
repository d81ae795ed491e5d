//! The list of revoked certificates: signed by every trusted authority, and given to everybody who checks it.

use std::collections::BTreeSet;
use std::time::SystemTime;

use cellar_model::{Key, RevocationList};
use cellar_tls::{
    CA_CERTIFICATE, Ca, RevokedSerials, install_revocations, read_revocations, sign_revocations,
};

use crate::certificates::authority::read;
use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::Result;
use crate::file::replace;

impl Cluster {
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
            // With its certificate, so that readers who trust the authority can verify the list.
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
        for set in self.etcd_sets() {
            install_revocations(&set.directory, &lists, self.owner())?;
        }
        Ok(())
    }

    /// Publishes the lists in etcd, where all servers read them.
    pub(crate) async fn publish_revoked(&self) -> Result<()> {
        self.install_etcd_revocations()?;
        // A server that checks lists refuses every certificate of an authority without one, so there is none before it is needed.
        if self.revoked()?.is_empty() {
            return Ok(());
        }
        let pem = read(&self.revocations_file())?.unwrap_or_default();
        let store = self.store().await?;
        store.transaction().put(&Key::Revocations, &RevocationList { pem }).commit().await?;
        Ok(())
    }
}
