//! `cellar certs rotate` and `revoke` for a cluster on hosts: new keys are issued here and taken to the hosts by people.
//!
//! A certificate is revoked once the hosts use others: until then its key opens what it opened, and what uses it works.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use cellar_model::CellName;
use cellar_tls::{Ca, CertificateInfo, SERVER_CERTIFICATE, forget_previous};

use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::Revoking;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::hosts::init::{Bundles, bundle_hosts};
use crate::renewal::revocation::{BOTH_NAMES_TIMEOUT, is_compromised};

/// How long another `cellar` on the same directory is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// How often the hosts are asked.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Issues bundles with new keys for the hosts of these cells; for all, and new keys for this directory's own use too, when
/// none is named.
///
/// # Errors
/// When the directory has no cluster on hosts, or a cell is not in it.
pub async fn rotate_hosts(dir: &Path, cells: &[CellName], steps: &Steps) -> Result<Bundles> {
    let issued = bundle_hosts(dir, cells, true, steps).await?;
    if cells.is_empty() {
        let (cluster, _lock) = Cluster::open_locked(dir, LOCK_TIMEOUT, steps).await?;
        let (ca, trusted) = (Ca::load(&cluster.layout.ca())?, cluster.trusted()?);
        for set in [cluster.provisioner_set()?, cluster.client_set()?] {
            set.renew(&ca, &trusted)?;
            forget_previous(&set.directory)?;
        }
    }
    Ok(issued)
}

/// Revokes a certificate of a cluster on hosts. What uses it, and with a cell's certificate every cell, gets a new bundle
/// first; it is revoked when those are installed, which is waited for. Repeating it goes on.
///
/// # Errors
/// When hosts do not use their new certificates by the deadline: then nothing is revoked yet.
pub async fn revoke_on_hosts(dir: &Path, serial: &str, timeout: Duration, steps: &Steps) -> Result<String> {
    let deadline = Instant::now() + timeout;
    let (mut cluster, _lock) = Cluster::open_locked(dir, timeout, steps).await?;
    let serial = cluster.revocable(serial)?;
    cluster.finish_on_hosts(deadline, steps).await?;
    if cluster.revoked()?.contains_key(&serial) {
        steps.step("it is revoked");
        cluster.publish_revoked().await?;
        return Ok(serial);
    }
    cluster.begin_revocation(&serial, steps)?;
    cluster.finish_on_hosts(deadline, steps).await?;
    Ok(serial)
}

impl Cluster {
    /// Does what is left of a revocation that has begun: nothing if none has.
    async fn finish_on_hosts(&mut self, deadline: Instant, steps: &Steps) -> Result<()> {
        let Some(mut revoking) = self.state.revoking.clone() else { return Ok(()) };
        let (ca, store) = (Ca::load(&self.layout.ca())?, self.store().await?);
        let name = self.state.pgbackrest_name;
        if let Some(former) = revoking.former_name {
            // Both names until the last host has its certificates of the new one.
            let soon = deadline.min(Instant::now() + BOTH_NAMES_TIMEOUT);
            if let Err(error) = self.accept_names(&store, &[name, former], soon).await {
                steps.step(&format!("cells may not reach each other's pgBackRest meanwhile: {error}"));
            }
        }
        self.rename_users(&store).await?;
        self.reissue_renamed(&revoking, &ca)?;
        self.replace_compromised(&mut revoking, &ca, steps)?;
        self.wait_for_hosts(&revoking, deadline, steps).await?;

        let _ = self.sign_revoked(&revoking.serials)?;
        // The key that this directory used may be the one, and is another one now.
        let store = self.store().await?;
        self.publish_revoked().await?;
        for cell in &self.state.cells {
            self.dismiss_former_users(&cell.name).await?;
        }
        if let Some(former) = revoking.former_name {
            self.accept_names(&store, &[name], deadline).await?;
            steps.step(&format!("pgBackRest's servers accept {name} and no longer {former}"));
        }
        for directory in &revoking.replaced {
            forget_previous(directory)?;
        }
        self.state.revoking = None;
        self.state.save(&self.layout)
    }

    /// Issues all certificates of a cell again that is to have another name for pgBackRest: all end at another time then, by
    /// which it is seen that its host uses them.
    fn reissue_renamed(&self, revoking: &Revoking, ca: &Ca) -> Result<()> {
        let (trusted, name) = (self.trusted()?, self.state.pgbackrest_name.to_string());
        for set in self.certificate_sets()? {
            let has_name = CertificateInfo::from_file(&set.directory.join(SERVER_CERTIFICATE))
                .is_ok_and(|info| info.common_name == name);
            if set.opens_pgbackrest() && !has_name && !is_compromised(&set, revoking) {
                set.reissue(ca, &trusted)?;
            }
        }
        Ok(())
    }

    /// Issues bundles for the hosts that need other certificates, and waits until they use them.
    async fn wait_for_hosts(&mut self, revoking: &Revoking, deadline: Instant, steps: &Steps) -> Result<()> {
        let mut issued = BTreeSet::new();
        let mut told = String::new();
        loop {
            let store = self.store().await?;
            let mut behind = self.hosts_behind(&store).await?;
            if revoking.former_name.is_none() {
                let is_concerned = |cell: &CellName| {
                    let own = self.for_host(cell).root().to_owned();
                    revoking.replaced.iter().any(|directory| directory.starts_with(&own))
                };
                behind.retain(|cell, _| is_concerned(cell));
            }
            if behind.is_empty() {
                return Ok(());
            }
            let new: Vec<CellName> = behind.keys().filter(|cell| !issued.contains(*cell)).cloned().collect();
            if !new.is_empty() {
                // What an earlier run has issued may be on its way.
                let lacking: Vec<CellName> =
                    new.iter().filter(|cell| !self.is_bundle_current(cell)).cloned().collect();
                if !lacking.is_empty() {
                    let _ = self.issue_bundles(&lacking, false)?;
                }
                for cell in &new {
                    let (bundle, host) = (self.bundle_path(cell), self.host_of(cell));
                    steps.step(&format!(
                        "to be installed: scp {} root@{host}: and there `cellar host install {cell}.bundle`",
                        bundle.display()
                    ));
                }
                issued.extend(new);
            }
            let waits: Vec<String> = behind.iter().map(|(cell, why)| format!("cell {cell}: {why}")).collect();
            let waits = waits.join("; ");
            if Instant::now() >= deadline {
                return Err(ProvisionError::HostsBehind { reason: waits });
            }
            if waits != told {
                steps.step(&format!("waiting: {waits}"));
                told = waits;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}
