//! New keys and certificates for everything that runs, without stopping any of it.
//!
//! Servers look at their files every second, take up what is new, and are asked from outside whether they did. The
//! authority itself is replaced in steps of which each leaves a cluster that works, and of which the directory `ca`
//! tells how far they have come: trust both, sign with the new one, trust the new one alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use cellar_tls::{CA_CERTIFICATE, CA_KEY, Ca, exchange, forget_previous, generate_ca, previous};

use crate::certificates::authority::OLD_AUTHORITY;
use crate::certificates::listing::ListedCertificate;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::replace;
use crate::renewal::tls_port::Expected;

impl Cluster {
    /// New keys and certificates everywhere, and proof that they are served.
    pub(crate) async fn renew_leaves(&self, deadline: Instant, steps: &Steps) -> Result<()> {
        let (ca, trusted) = (Ca::load(&self.layout.ca())?, self.trusted()?);
        let (sets, ports) = (self.certificate_sets()?, self.tls_ports()?);
        for set in &sets {
            set.renew(&ca, &trusted)?;
        }
        steps.step(&format!("{} sets of keys and certificates are replaced", sets.len()));
        self.wait_for_ports(&ports, &ca, Expected::Serves, deadline).await?;
        steps.step("every server serves its new certificate");
        for set in &sets {
            forget_previous(&set.directory)?;
        }
        Ok(())
    }

    /// Tells everybody whom to trust. etcd reads that only at its start, so it is started again.
    async fn spread_trust(&self, deadline: Instant, steps: &Steps) -> Result<()> {
        let trusted = self.trusted()?;
        let _ = self.sign_revoked(&BTreeSet::new())?;
        for set in self.certificate_sets()? {
            set.trust(&trusted)?;
        }
        self.install_etcd_revocations()?;
        // An earlier run may have been ended while etcd was stopped.
        let runs = self.processes().iter().any(|process| process.pid.is_some());
        if self.stop_etcd().await? || runs {
            let started = self.start_etcd()?;
            let _ = self.wait_for_etcd(started, deadline).await?;
            steps.step("etcd is started again, which is how it reads whom to trust");
        }
        self.publish_revoked().await
    }

    /// Replaces the authority; goes on from wherever an earlier run was ended.
    pub(crate) async fn renew_authority(&self, deadline: Instant, steps: &Steps) -> Result<()> {
        let directory = self.layout.ca();
        let (next, old) = (self.next_authority(), directory.join(OLD_AUTHORITY));
        // The last step was interrupted: all that is left is to trust the old one no more.
        if !previous(&directory).exists() || old.exists() || next.exists() {
            self.install_new_authority(deadline, steps).await?;
            self.renew_leaves(deadline, steps).await?;
            remove(&old)?;
        }
        let before = previous(&directory);
        let former = before.exists().then(|| Ca::load(&before)).transpose()?;
        self.spread_trust(deadline, steps).await?;
        self.wait_for_ports(&self.tls_ports()?, &Ca::load(&directory)?, Expected::Trusts, deadline).await?;
        if let Some(former) = former {
            self.wait_for_ports(&self.tls_ports()?, &former, Expected::Refuses, deadline).await?;
        }
        forget_previous(&directory)?;
        steps.step("nothing trusts the old authority any more, and its key is removed");
        Ok(())
    }

    /// The first half: a new authority that everybody trusts beside the old one, and that signs from then on.
    async fn install_new_authority(&self, deadline: Instant, steps: &Steps) -> Result<()> {
        let directory = self.layout.ca();
        let (next, old) = (self.next_authority(), directory.join(OLD_AUTHORITY));
        if !old.exists() {
            let new = generate_ca(&next, &self.state.cluster)?;
            self.spread_trust(deadline, steps).await?;
            self.wait_for_ports(&self.tls_ports()?, &new, Expected::Trusts, deadline).await?;
            steps.step("every server trusts the old authority and the new one");
            let present = Ca::load(&directory)?;
            exchange(&directory, None, |to| -> Result<()> {
                for (file, mode) in [(CA_KEY, 0o600), (CA_CERTIFICATE, 0o644)] {
                    copy(&next.join(file), &to.join(file), mode)?;
                }
                replace(&to.join(OLD_AUTHORITY), present.pem(), 0o644, None)
            })?;
            steps.step("the new authority signs");
        }
        self.issue_delegate(&Ca::load(&directory)?)
    }
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let text = std::fs::read_to_string(from).map_err(ProvisionError::io("read", from))?;
    replace(to, &text, mode, None)
}

fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(ProvisionError::io("remove", path))
}

/// New keys and certificates for the cluster in `dir`, and with `authority` a new authority too. Repeating it after it
/// was ended goes on from there.
///
/// # Errors
/// When a server does not take its new certificates up by the deadline; the old ones go on being served then.
pub async fn rotate(
    dir: &Path,
    authority: bool,
    timeout: Duration,
    steps: &Steps,
) -> Result<Vec<ListedCertificate>> {
    let deadline = Instant::now() + timeout;
    let (cluster, _lock) = Cluster::open_locked(dir, timeout, steps).await?;
    let ca = cluster.layout.ca();
    let halfway =
        [cluster.next_authority(), ca.join(OLD_AUTHORITY), previous(&ca)].iter().any(|path| path.exists());
    if authority || halfway {
        if halfway {
            steps.step("the authority is being replaced: going on");
        }
        cluster.renew_authority(deadline, steps).await?;
    } else {
        cluster.renew_leaves(deadline, steps).await?;
    }
    Ok(cluster.certificates())
}
