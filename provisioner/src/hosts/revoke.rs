//! `cellar certs rotate` and `revoke` for a cluster on hosts: new keys are issued here and taken to the hosts by people.
//!
//! A certificate is revoked once the hosts use others: until then its key opens what it opened, and what uses it works. A
//! host that is off uses none, so it is not waited for; what it lacks then is told. While hosts are waited for, other
//! commands may change the cluster: the lock is held only while something is changed here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use cellar_model::{CellName, unqualified_name};
use cellar_tls::{Ca, CertificateInfo, SERVER_CERTIFICATE, forget_previous};

use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::Revoking;
use crate::cluster::steps::Steps;
use crate::error::finding::Finding;
use crate::error::provision_error::{ProvisionError, Result};
use crate::hosts::in_use::{Behind, unknown_use};
use crate::hosts::init::{Bundles, bundle_hosts};
use crate::renewal::revocation::is_compromised;

/// How long another `cellar` on the same directory is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// How often the hosts are asked.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How long nothing of a host must have answered before it counts as off: longer than a program takes to be started again,
/// and than the lease of its multipooler's report lasts.
const OFF_AFTER: Duration = Duration::from_secs(30);

/// How often nothing of a host must have answered before it counts as off: one look may be at a bad moment.
const OFF_LOOKS: u32 = 2;

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
    unknown: bool,
    timeout: Duration,
    steps: &Steps,
) -> Result<RevokedOnHosts> {
    let mut wait = Wait::new(Instant::now() + timeout, steps);
    let (mut lacking, mut has_ended) = (Vec::new(), false);
    loop {
        let (mut cluster, lock) = Cluster::open_locked(dir, LOCK_TIMEOUT, steps).await?;
        let serial = cluster.revocable(serial, unknown)?;
        if let Some(serials) = cluster.given_away(&serial)? {
            if !cluster.is_revoked_already(&serial, steps).await? {
                let _ = cluster.sign_revoked(&serials)?;
                cluster.publish_revoked().await?;
            }
            return Ok(RevokedOnHosts { serial, lacking });
        }
        // Before anything is recorded that could not go on.
        cluster.require_settled_restore(steps).await?;
        match &cluster.state.revoking {
            Some(revoking) if !revoking.serials.contains(&serial) => wait.tell(&format!(
                "a revocation that was begun before comes first: {}",
                revoking.serials.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
            )),
            Some(_) => {}
            None if cluster.revoked()?.contains_key(&serial) => {
                // What this run has ended is published, and looked at.
                if !has_ended && cluster.is_revoked_already(&serial, steps).await? {
                    lacking = cluster.lacking_now().await;
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
        if let Some(found) = wait.unless_etcd_is_silent(ended).await? {
            lacking.extend(found);
            has_ended = true;
        }
    }
}

/// How long nothing of a host has answered.
#[derive(Debug, Clone, Copy)]
struct Silence {
    since: Instant,
    last: Instant,
    looks: u32,
}

impl Silence {
    /// With another look now. Two that follow each other at once are one.
    fn again(self, now: Instant) -> Self {
        match now.saturating_duration_since(self.last) >= POLL_INTERVAL {
            true => Self { last: now, looks: self.looks + 1, ..self },
            false => self,
        }
    }
}

/// The wait for hosts to use other certificates.
struct Wait<'a> {
    deadline: Instant,
    steps: &'a Steps,
    /// The hosts of which nothing has answered at the last look.
    silent: BTreeMap<CellName, Silence>,
    /// When the hosts were looked at first.
    first_look: Option<Instant>,
    told: BTreeSet<String>,
}

impl<'a> Wait<'a> {
    fn new(deadline: Instant, steps: &'a Steps) -> Self {
        let (silent, told) = (BTreeMap::new(), BTreeSet::new());
        Self { deadline, steps, silent, first_look: None, told }
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
                self.note_failed_look();
                self.tell(&format!("waiting for etcd: {error}"));
                tokio::time::sleep(POLL_INTERVAL).await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Notes that what a host did meanwhile is not known.
    fn note_failed_look(&mut self) {
        self.silent.clear();
    }

    /// Notes which hosts are silent now.
    fn note(&mut self, behind: &BTreeMap<CellName, Behind>, now: Instant) {
        let _ = self.first_look.get_or_insert(now);
        let is_silent = |cell: &CellName| behind.get(cell).is_some_and(Behind::is_silent);
        self.silent.retain(|cell, _| is_silent(cell));
        for cell in behind.keys().filter(|cell| is_silent(cell)) {
            let first = Silence { since: now, last: now, looks: 1 };
            self.silent
                .entry(cell.clone())
                .and_modify(|silence| *silence = silence.again(now))
                .or_insert(first);
        }
    }

    /// Whether a host counts as off: nothing of it has answered for long enough, or at no time before the deadline.
    fn is_off(&self, cell: &CellName, now: Instant) -> bool {
        self.silent.get(cell).is_some_and(|silence| {
            let is_long = now.saturating_duration_since(silence.since) >= OFF_AFTER;
            let is_always = now >= self.deadline && Some(silence.since) == self.first_look;
            silence.looks >= OFF_LOOKS && (is_long || is_always)
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
        for Finding { message, hint } in self.unissued() {
            wait.tell(&format!("{message}; {}", hint.unwrap_or_default()));
        }
        let (ca, store) = (Ca::load(&self.layout.ca())?, self.store().await?);
        self.accept_both_names(&store, &revoking, wait.deadline, wait.steps).await;
        self.rename_users(&store).await?;
        self.reissue_renamed(&revoking, &ca)?;
        self.replace_compromised(&mut revoking, &ca, wait.steps)?;
        self.renew_bundles(&self.concerned(&revoking)?, wait.steps).await
    }

    /// Issues the bundles of these cells that do not hold what their hosts are to have: what an earlier run has issued may
    /// be on its way.
    async fn renew_bundles(&mut self, cells: &[CellName], steps: &Steps) -> Result<()> {
        let lacking: Vec<CellName> =
            cells.iter().filter(|cell| !self.is_bundle_current(cell)).cloned().collect();
        if !lacking.is_empty() {
            // Hosts may have been waited for meanwhile, and a restore been prepared.
            self.require_settled_restore(steps).await?;
            let _ = self.issue_bundles(&lacking, false)?;
        }
        Ok(())
    }

    /// The cells whose hosts may use what is revoked until they have other certificates: all, when a name changes. None of
    /// those that are being removed or added: nothing is issued for them.
    pub(super) fn concerned(&self, revoking: &Revoking) -> Result<Vec<CellName>> {
        let mut directories = revoking.replaced.clone();
        for set in self.certificate_sets()? {
            // Its key may have been replaced before the revocation began; its host has the old one until it has the bundle.
            let had = set.known()?;
            if had
                .iter()
                .any(|one| revoking.keys.contains(&one.public_key) || revoking.serials.contains(&one.serial))
            {
                directories.insert(set.directory);
            }
        }
        let is_concerned = |cell: &CellName| {
            let own = self.for_host(cell).root().to_owned();
            revoking.former_name.is_some() || directories.iter().any(|directory| directory.starts_with(&own))
        };
        let on_hosts = self.state.cells.iter().filter(|cell| cell.host.is_some()).map(|cell| &cell.name);
        Ok(on_hosts.filter(|cell| is_concerned(cell) && self.has_files_of(cell)).cloned().collect())
    }

    /// The concerned hosts that are not known to use what was issued for them last.
    async fn concerned_behind(&self, revoking: &Revoking) -> Result<BTreeMap<CellName, Behind>> {
        let concerned = self.concerned(revoking)?;
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
        self.renew_bundles(&off.keys().cloned().collect::<Vec<_>>(), steps).await?;
        self.state.not_waited_for.extend(off.keys().cloned());
        self.end_revocation(revoking)?;
        Ok(self.lacking(off))
    }

    /// What hosts lack now; that it is not known, when they cannot be looked at: what was revoked is revoked all the same.
    async fn lacking_now(&self) -> Vec<Finding> {
        let looked = async { self.hosts_behind(&self.store().await?).await };
        looked.await.map_or_else(|error| vec![unknown_use(&error)], |behind| self.lacking(&behind))
    }

    /// What hosts lack that do not use, or cannot be asked whether they use, what was issued for them last.
    fn lacking(&self, behind: &BTreeMap<CellName, Behind>) -> Vec<Finding> {
        let finding = |(cell, behind): (&CellName, &Behind)| Finding {
            message: format!(
                "the host of cell {cell} is not known to use its newest certificates, and is refused where it uses revoked ones; if it is only cut off, its PostgreSQL and what else runs there may go on accepting what is revoked: {behind}"
            ),
            hint: Some(format!("when it is on again: {}", self.installation_of(cell))),
        };
        behind.iter().map(finding).collect()
    }

    /// Issues all certificates of a cell again that is to have another name for pgBackRest: all end at another time then, by
    /// which it is seen that its host uses them.
    pub(super) fn reissue_renamed(&self, revoking: &Revoking, ca: &Ca) -> Result<()> {
        let (trusted, name) = (self.trusted()?, self.state.pgbackrest_name.to_string());
        for set in self.certificate_sets()? {
            let has_name = CertificateInfo::from_file(&set.directory.join(SERVER_CERTIFICATE))
                .is_ok_and(|info| unqualified_name(&info.common_name) == name);
            if set.directory.exists()
                && set.opens_pgbackrest()
                && !has_name
                && !is_compromised(&set, revoking)
            {
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
        Behind { other: texts(other), silent: texts(silent), answers: !other.is_empty() }
    }

    fn zones(all: &[(&str, &Behind)]) -> BTreeMap<CellName, Behind> {
        all.iter().map(|(cell, behind)| (cell.parse().unwrap(), (*behind).clone())).collect()
    }

    #[test]
    fn host_whose_key_was_replaced_before_is_waited_for_when_the_old_one_is_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::on_hosts(dir.path(), &["zone1", "zone2", "zone3"]);
        let zone2: CellName = "zone2".parse().unwrap();
        let file = cluster.for_host(&zone2).multiadmin().join(crate::certificates::sets::ADMIN_CERTIFICATE);
        let old = CertificateInfo::from_file(&file).unwrap().serial;
        let _ = cluster.issue_bundles(std::slice::from_ref(&zone2), true).unwrap();
        let steps = Steps::new(|_, _| {});
        cluster.begin_revocation(&old, &steps).unwrap();
        let mut revoking = cluster.state.revoking.clone().unwrap();
        let ca = Ca::load(&cluster.layout.ca()).unwrap();
        cluster.replace_compromised(&mut revoking, &ca, &steps).unwrap();
        assert!(revoking.replaced.is_empty(), "it has another key already: {revoking:?}");
        assert_eq!(cluster.concerned(&revoking).unwrap(), [zone2]);
    }

    #[tokio::test]
    async fn look_that_fails_after_a_revocation_is_told_and_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        // No etcd answers.
        let cluster = Cluster::on_hosts(dir.path(), &["zone1", "zone2"]);
        let told = cluster.lacking_now().await;
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].message.contains("not known whether the hosts use"), "{told:?}");
        assert!(told[0].hint.as_ref().unwrap().contains("`cellar etcd status`"), "{told:?}");
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
        // Something of it answers, with what is newest, and its multipooler does not run.
        let partly = Behind { answers: true, ..off.clone() };
        assert!(wait.must_wait(&zones(&[("zone2", &partly)]), begun + OFF_AFTER));
        // It has come back meanwhile, and goes again.
        assert!(wait.must_wait(&zones(&[("zone2", &old)]), begun + OFF_AFTER));
        assert!(wait.must_wait(&zones(&[("zone2", &off)]), begun + OFF_AFTER + second));
    }

    #[test]
    fn host_is_off_after_two_looks_and_not_where_one_has_failed() {
        let steps = Steps::new(|_, _| {});
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        let off = behind(&[], &["no report"]);
        let zone2 = zones(&[("zone2", &off)]);
        // The first look is at the deadline, or takes until then; another right after it says no more.
        let mut wait = Wait::new(begun, &steps);
        assert!(wait.must_wait(&zone2, begun));
        assert!(wait.must_wait(&zone2, begun + second / 10));
        assert!(!wait.must_wait(&zone2, begun + second));
        // What was silent before a look that failed may have answered then.
        let mut wait = Wait::new(begun + 10 * OFF_AFTER, &steps);
        assert!(wait.must_wait(&zone2, begun));
        assert!(wait.must_wait(&zone2, begun + OFF_AFTER / 2));
        wait.note_failed_look();
        assert!(wait.must_wait(&zone2, begun + OFF_AFTER));
        assert!(wait.must_wait(&zone2, begun + OFF_AFTER * 3 / 2));
        assert!(!wait.must_wait(&zone2, begun + 2 * OFF_AFTER));
        // Nor is it known then that nothing has answered until the deadline.
        let mut wait = Wait::new(begun + 5 * second, &steps);
        assert!(wait.must_wait(&zone2, begun));
        wait.note_failed_look();
        assert!(wait.must_wait(&zone2, begun + 4 * second));
        assert!(wait.must_wait(&zone2, begun + 6 * second));
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
