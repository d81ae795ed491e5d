//! The list of revoked certificates: signed by every trusted authority, and given to everybody who checks it.

use std::collections::BTreeSet;
use std::time::SystemTime;

use cellar_model::{Key, RevocationList};
use cellar_tls::{
    CA_CERTIFICATE, Ca, RevokedSerials, install_revocations, read_revocations, sign_revocations,
};
use cellar_topology::{Store, StoreError, TxnOutcome};

use crate::certificates::authority::read;
use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::Result;
use crate::file::replace;

/// How often publishing is tried while others publish, too.
const MAX_ATTEMPTS: u32 = 5;

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
        let newest = |there: Option<&RevocationList>| {
            let is_adopted = self.adopt_revoked(there)?;
            // A server that checks lists refuses every certificate of an authority without one, so there is none before it is needed.
            if self.revoked()?.is_empty() {
                return Ok(None);
            }
            if is_adopted {
                self.install_etcd_revocations()?;
            }
            read(&self.revocations_file())
        };
        publish(&self.store().await?, newest).await
    }

    /// Takes in what the list in etcd revokes and this directory's does not: the directory may be an older one that was put back.
    /// Whether there was anything.
    fn adopt_revoked(&self, there: Option<&RevocationList>) -> Result<bool> {
        // One that nobody signed whom this cluster trusts says nothing.
        let Some((listed, _)) =
            there.and_then(|list| self.trusted().ok().and_then(|ca| read_revocations(&list.pem, &ca).ok()))
        else {
            return Ok(false);
        };
        let own = self.revoked()?;
        let missing: BTreeSet<String> =
            listed.into_keys().filter(|serial| !own.contains_key(serial)).collect();
        if missing.is_empty() {
            return Ok(false);
        }
        self.sign_revoked(&missing)?;
        Ok(true)
    }
}

/// Puts the list that `newest` gives into etcd, if it gives one; it is told what is there.
///
/// A write whose answer was lost may arrive late, when a newer list is there: so each expects what was there before its list
/// was read. Whoever revokes writes the file first, and etcd afterwards.
async fn publish(
    store: &Store,
    newest: impl Fn(Option<&RevocationList>) -> Result<Option<String>>,
) -> Result<()> {
    let key = Key::Revocations;
    for _ in 0..MAX_ATTEMPTS {
        // Of the key, also when its value cannot be read: then it is replaced.
        let there = store.kv().get(&store.keys().path(&key)).await?;
        let revision = there.as_ref().map_or(0, |entry| entry.revision);
        let there = there.and_then(|entry| serde_json::from_slice(&entry.value).ok());
        let Some(pem) = newest(there.as_ref())? else { return Ok(()) };
        let list = RevocationList { pem };
        let written = store.transaction().expect(&key, revision).put(&key, &list).commit().await?;
        if written != TxnOutcome::Conflict {
            return Ok(());
        }
    }
    Err(StoreError::Retryable("the list of revoked certificates is changed again and again".to_owned())
        .into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cellar_model::Keyspace;
    use cellar_topology::{Kv, MemoryKv, Write};

    use super::*;

    #[tokio::test]
    async fn older_list_that_is_written_late_does_not_replace_a_newer_one() {
        let kv = Arc::new(MemoryKv::default());
        let store = Store::new(Arc::clone(&kv) as Arc<dyn Kv>, Keyspace::new(&"demo".parse().unwrap()));
        let file = std::sync::Mutex::new("older".to_owned());
        let publish_newer = async || {
            let newer = RevocationList { pem: "newer".to_owned() };
            let published = store.transaction().put(&Key::Revocations, &newer).commit().await.unwrap();
            assert!(matches!(published, TxnOutcome::Committed(_)));
        };
        let in_this_moment = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(publish_newer());
        };
        let newer_is_published = |_: Option<&RevocationList>| {
            let read = file.lock().unwrap().clone();
            if read == "older" {
                // Another command revokes between this one's reading of the file and its write.
                "newer".clone_into(&mut file.lock().unwrap());
                std::thread::scope(|scope| scope.spawn(in_this_moment).join().unwrap());
            }
            Ok(Some(read))
        };
        publish(&store, newer_is_published).await.unwrap();
        let listed = store.get::<RevocationList>(&Key::Revocations).await.unwrap().unwrap();
        assert_eq!(listed.record.pem, "newer");

        // What cannot be read is replaced.
        let damaged =
            Write::Put { key: store.keys().path(&Key::Revocations), value: b"{".to_vec(), lease: None };
        kv.txn(vec![], vec![damaged]).await.unwrap();
        publish(&store, |there| Ok(there.is_none().then(|| "newest".to_owned()))).await.unwrap();
        let listed = store.get::<RevocationList>(&Key::Revocations).await.unwrap().unwrap();
        assert_eq!(listed.record.pem, "newest");
    }
}
