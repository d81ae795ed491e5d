//! `cellar certs rotate` and `revoke` for a cluster on hosts: new keys are issued here and taken to the hosts by people.
//!
//! A certificate is revoked once the hosts use others: until then its key opens what it opened, and what uses it works. A
//! host that is off uses none, so it is not waited for; what it lacks then is told. While hosts are waited for, other
//! commands may change the cluster: the lock is held only while something is changed here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use cellar_model::CellName;
use cellar_tls::{Ca, CertificateInfo, SERVER_CERTIFICATE, forget_previous};

use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::Revoking;
use crate::cluster::steps::Steps;
use crate::error::finding::Finding;
use crate::error::provision_error::{ProvisionError, Result};
use crate::hosts::in_use::Behind;
use crate::hosts::init::{Bundles, bundle_hosts};
use crate::renewal::revocation::is_compromised;

/// How long another `cellar` on the same directory is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// How often the hosts are asked.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How long nothing of a host must have answered before it counts as off: longer than a program takes to be started again,
/// and than the lease of its multipooler's report lasts.
const OFF_AFTER: Duration = Duration::from_secs(30);

/// How long the end of a revocation may take, whatever is left of the command's time: it must not stop half way.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// A certificate that was revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedOnHosts {
    /// Its serial number.
    pub serial: String,
    /// Hosts that do not use their new certificates, each with what to do.
    pub lacking: Vec<Finding>,
}

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
/// first; it is revoked when those are installed on all hosts that answer, which is waited for. Repeating it goes on. One
/// that was given to a person or program is revoked at once.
///
/// # Errors
/// When hosts that answer do not use their new certificates by the deadline: then nothing is revoked yet.
pub async fn revoke_on_hosts(
    dir: &Path,
    serial: &str,
    timeout: Duration,
    steps: &Steps,
) -> Result<RevokedOnHosts> {
    let mut wait = Wait::new(Instant::now() + timeout, steps);
    let mut lacking = Vec::new();
    loop {
        let (mut cluster, lock) = Cluster::open_locked(dir, LOCK_TIMEOUT, steps).await?;
        let serial = cluster.revocable(serial)?;
        if let Some(serials) = cluster.given_away(&serial)? {
            if !cluster.is_revoked_already(&serial, steps).await? {
                let _ = cluster.sign_revoked(&serials)?;
                cluster.publish_revoked().await?;
            }
            return Ok(RevokedOnHosts { serial, lacking });
        }
        match &cluster.state.revoking {
            Some(revoking) if !revoking.serials.contains(&serial) => wait.tell(&format!(
                "a revocation that was begun before comes first: {}",
                revoking.serials.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
            )),
            Some(_) => {}
            None if cluster.revoked()?.contains_key(&serial) => {
                if lacking.is_empty() && cluster.is_revoked_already(&serial, steps).await? {
                    lacking = cluster.lacking(&cluster.hosts_behind(&cluster.store().await?).await?);
                }
                return Ok(RevokedOnHosts { serial, lacking });
            }
            None => cluster.begin_revocation(&serial, steps)?,
        }
        let prepared = cluster.prepare_revocation(&mut wait).await;
        if wait.unless_etcd_is_silent(prepared).await?.is_none() {
            continue;
        }
        drop(lock);
        wait.until_used(dir).await?;
        let (mut cluster, _lock) = Cluster::open_locked(dir, LOCK_TIMEOUT, steps).await?;
        // Another command may have changed something meanwhile, or have finished it.
        let Some(revoking) = cluster.state.revoking.clone() else { continue };
        let looked = cluster.concerned_behind(&revoking).await;
        let Some(behind) = wait.unless_etcd_is_silent(looked).await? else { continue };
        if wait.must_wait(&behind, Instant::now()) {
            continue;
        }
        let ended = cluster.end_on_hosts(&revoking, &behind, steps).await;
        lacking.extend(wait.unless_etcd_is_silent(ended).await?.unwrap_or_default());
    }
}

/// The wait for hosts to use other certificates.
struct Wait<'a> {
    deadline: Instant,
    steps: &'a Steps,
    /// Since when nothing of a host has answered.
    silent_since: BTreeMap<CellName, Instant>,
    /// When the hosts were looked at first.
    first_look: Option<Instant>,
    told: BTreeSet<String>,
}

impl<'a> Wait<'a> {
    fn new(deadline: Instant, steps: &'a Steps) -> Self {
        let (silent_since, told) = (BTreeMap::new(), BTreeSet::new());
        Self { deadline, steps, silent_since, first_look: None, told }
    }

    fn tell(&mut self, text: &str) {
        if self.told.insert(text.to_owned()) {
            self.steps.step(text);
        }
    }

    /// The value; none after an error that is because etcd does not answer, which may pass before the deadline.
    async fn unless_etcd_is_silent<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(ProvisionError::Store(error)) if error.is_retryable() && Instant::now() < self.deadline => {
                self.tell(&format!("waiting for etcd: {error}"));
                tokio::time::sleep(POLL_INTERVAL).await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Notes which hosts are silent now.
    fn note(&mut self, behind: &BTreeMap<CellName, Behind>, now: Instant) {
        let _ = self.first_look.get_or_insert(now);
        let is_silent = |cell: &CellName| behind.get(cell).is_some_and(Behind::is_silent);
        self.silent_since.retain(|cell, _| is_silent(cell));
        for cell in behind.keys().filter(|cell| is_silent(cell)) {
            self.silent_since.entry(cell.clone()).or_insert(now);
        }
    }

    /// Whether a host counts as off: nothing of it has answered for long enough, or at no time before the deadline.
    fn is_off(&self, cell: &CellName, now: Instant) -> bool {
        self.silent_since.get(cell).is_some_and(|since| {
            now.saturating_duration_since(*since) >= OFF_AFTER
                || now >= self.deadline && Some(*since) == self.first_look
        })
    }

    /// Whether one of these hosts is to be waited for.
    fn must_wait(&mut self, behind: &BTreeMap<CellName, Behind>, now: Instant) -> bool {
        self.note(behind, now);
        behind.keys().any(|cell| !self.is_off(cell, now))
    }

    /// Waits until all hosts that are concerned and not off use what was issued for them.
    async fn until_used(&mut self, dir: &Path) -> Result<()> {
        loop {
            let cluster = Cluster::open(dir)?;
            let Some(revoking) = cluster.state.revoking.clone() else { return Ok(()) };
            let looked = cluster.concerned_behind(&revoking).await;
            let Some(behind) = self.unless_etcd_is_silent(looked).await? else { continue };
            if !self.must_wait(&behind, Instant::now()) {
                return Ok(());
            }
            for cell in behind.keys() {
                self.tell(&format!("to be installed: {}", cluster.installation_of(cell)));
            }
            let waits: Vec<String> =
                behind.iter().map(|(cell, behind)| format!("cell {cell}: {behind}")).collect();
            let waits = waits.join("; ");
            if Instant::now() >= self.deadline {
                return Err(ProvisionError::HostsBehind { reason: waits });
            }
            self.tell(&format!("waiting: {waits}"));
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

impl Cluster {
    /// Issues what hosts need in the place of what is to be revoked. Repeating it changes nothing.
    async fn prepare_revocation(&mut self, wait: &mut Wait<'_>) -> Result<()> {
        let Some(mut revoking) = self.state.revoking.clone() else { return Ok(()) };
        let (ca, store) = (Ca::load(&self.layout.ca())?, self.store().await?);
        self.accept_both_names(&store, &revoking, wait.deadline, wait.steps).await;
        self.rename_users(&store).await?;
        self.reissue_renamed(&revoking, &ca)?;
        self.replace_compromised(&mut revoking, &ca, wait.steps)?;
        self.renew_bundles(&self.concerned(&revoking))
    }

    /// Issues the bundles of these cells that do not hold what their hosts are to have: what an earlier run has issued may
    /// be on its way.
    fn renew_bundles(&mut self, cells: &[CellName]) -> Result<()> {
        let lacking: Vec<CellName> =
            cells.iter().filter(|cell| !self.is_bundle_current(cell)).cloned().collect();
        if !lacking.is_empty() {
            let _ = self.issue_bundles(&lacking, false)?;
        }
        Ok(())
    }

    /// The cells whose hosts get other certificates: all, when a name changes.
    fn concerned(&self, revoking: &Revoking) -> Vec<CellName> {
        let is_concerned = |cell: &CellName| {
            let own = self.for_host(cell).root().to_owned();
            revoking.former_name.is_some()
                || revoking.replaced.iter().any(|directory| directory.starts_with(&own))
        };
        let on_hosts = self.state.cells.iter().filter(|cell| cell.host.is_some()).map(|cell| &cell.name);
        on_hosts.filter(|cell| is_concerned(cell)).cloned().collect()
    }

    /// The concerned hosts that are not known to use what was issued for them last.
    async fn concerned_behind(&self, revoking: &Revoking) -> Result<BTreeMap<CellName, Behind>> {
        let concerned = self.concerned(revoking);
        if concerned.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut behind = self.hosts_behind(&self.store().await?).await?;
        behind.retain(|cell, _| concerned.contains(cell));
        Ok(behind)
    }

    /// Revokes, now that all hosts but these, which are off, use other certificates; what those lack.
    async fn end_on_hosts(
        &mut self,
        revoking: &Revoking,
        off: &BTreeMap<CellName, Behind>,
        steps: &Steps,
    ) -> Result<Vec<Finding>> {
        self.shut_out(revoking, Instant::now() + END_TIMEOUT, steps).await?;
        // With the list on which it is now.
        self.renew_bundles(&off.keys().cloned().collect::<Vec<_>>())?;
        self.state.not_waited_for.extend(off.keys().cloned());
        self.end_revocation(revoking)?;
        Ok(self.lacking(off))
    }

    /// What hosts lack that do not use, or cannot be asked whether they use, what was issued for them last.
    fn lacking(&self, behind: &BTreeMap<CellName, Behind>) -> Vec<Finding> {
        let finding = |(cell, behind): (&CellName, &Behind)| Finding {
            message: format!(
                "the host of cell {cell} is not known to use its newest certificates, and is refused where it uses revoked ones: {behind}"
            ),
            hint: Some(format!("when it is on again: {}", self.installation_of(cell))),
        };
        behind.iter().map(finding).collect()
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(other: &[&str], silent: &[&str]) -> Behind {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Behind { other: texts(other), silent: texts(silent) }
    }

    fn zones(all: &[(&str, &Behind)]) -> BTreeMap<CellName, Behind> {
        all.iter().map(|(cell, behind)| (cell.parse().unwrap(), (*behind).clone())).collect()
    }

    #[test]
    fn host_that_is_off_is_not_waited_for_and_one_that_answers_is() {
        let steps = Steps::new(|_, _| {});
        let begun = Instant::now();
        let (off, old) = (behind(&[], &["no report"]), behind(&["an old one"], &["no report"]));
        let mut wait = Wait::new(begun + 10 * OFF_AFTER, &steps);
        let second = Duration::from_secs(1);
        assert!(!wait.must_wait(&zones(&[]), begun));
        assert!(wait.must_wait(&zones(&[("zone2", &off)]), begun), "it may be starting");
        assert!(wait.must_wait(&zones(&[("zone2", &off)]), begun + OFF_AFTER - second));
        assert!(!wait.must_wait(&zones(&[("zone2", &off)]), begun + OFF_AFTER));
        assert!(wait.must_wait(&zones(&[("zone1", &old), ("zone2", &off)]), begun + OFF_AFTER));
        // It has come back meanwhile, and goes again.
        assert!(wait.must_wait(&zones(&[("zone2", &old)]), begun + OFF_AFTER));
        assert!(wait.must_wait(&zones(&[("zone2", &off)]), begun + OFF_AFTER + second));
    }

    #[test]
    fn host_that_was_silent_all_the_time_is_off_at_the_deadline() {
        let steps = Steps::new(|_, _| {});
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        let off = behind(&[], &["no report"]);
        let mut wait = Wait::new(begun + 5 * second, &steps);
        assert!(wait.must_wait(&zones(&[("zone2", &off)]), begun));
        assert!(wait.must_wait(&zones(&[("zone2", &off), ("zone3", &off)]), begun + 4 * second));
        assert!(wait.must_wait(&zones(&[("zone2", &off), ("zone3", &off)]), begun + 5 * second));
        assert!(!wait.must_wait(&zones(&[("zone2", &off)]), begun + 5 * second));
    }
}
