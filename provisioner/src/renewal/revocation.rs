//! Revoking a certificate: nothing accepts it any more.
//!
//! What is to be done is recorded first, so that a later run can finish it. What uses the certificate gets another one
//! before it is on the list; where no list is read, [names change](crate::renewal::names).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cellar_tls::{
    CA_CERTIFICATE, Ca, CertificateInfo, KnownCertificate, ProbeProtocol, forget_previous,
    known_certificates, parse_serial, previous,
};
use cellar_topology::Store;

use crate::certificates::authority::OLD_AUTHORITY;
use crate::certificates::set::CertificateSet;
use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::Revoking;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::renewal::tls_port::{Expected, TlsPort};

/// How long pgBackRest's servers may take to accept a new name before the old one is removed.
const BOTH_NAMES_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server whose certificate is about to be revoked may take to read its new one: twice what a pooler
/// gives PostgreSQL for it.
const NEW_SET_TIMEOUT: Duration = Duration::from_secs(40);

/// How often a set is replaced whose server puts the old one back. Each time takes as long as that server tries.
const MAX_ROUNDS: u32 = 3;

/// Revokes a certificate: nothing accepts it any more. One that something of the cluster's own uses is replaced first, key and all.
/// One that is not known here only if `unknown` says that it may be so.
///
/// # Errors
/// When it is no serial number, the authority's own, or not known, or etcd cannot be changed; it is recorded then, and the
/// next revocation or `up` tells it.
pub async fn revoke(
    dir: &std::path::Path,
    serial: &str,
    unknown: bool,
    timeout: Duration,
    steps: &Steps,
) -> Result<String> {
    let deadline = Instant::now() + timeout;
    let (mut cluster, _lock) = Cluster::open_locked(dir, timeout, steps).await?;
    cluster.check_is_local("cellar certs revoke")?;
    let serial = cluster.revocable(serial, unknown)?;
    cluster.finish_revocation(deadline, steps).await?;
    if cluster.is_revoked_already(&serial, steps).await? {
        return Ok(serial);
    }
    cluster.begin_revocation(&serial, steps)?;
    cluster.finish_revocation(deadline, steps).await?;
    Ok(serial)
}

impl Cluster {
    /// The serial number that a text is, unless it is that of a certificate that cannot be revoked, or, without `unknown`, of
    /// none that is known here.
    pub(crate) fn revocable(&self, serial: &str, unknown: bool) -> Result<String> {
        let refused = |value: &str, reason: String| ProvisionError::Argument {
            argument: "the serial number",
            value: value.chars().take(80).collect(),
            reason,
        };
        let serial = parse_serial(serial).map_err(|error| refused(serial, error.to_string()))?;
        let ca = Ca::load(&self.layout.ca())?;
        // A list of revoked certificates does not help against a key that signs: who has it signs another one.
        let signers = [self.signing().join(CA_CERTIFICATE), self.next_authority().join(CA_CERTIFICATE)];
        let signs = signers
            .into_iter()
            .chain([self.layout.ca().join(OLD_AUTHORITY)])
            .any(|file| CertificateInfo::from_file(&file).is_ok_and(|info| info.serial == serial));
        if signs || ca.info().serial == serial {
            let reason =
                "it is that of an authority or of the signing pair: `cellar certs rotate --ca` replaces both";
            return Err(refused(&serial, reason.to_owned()));
        }
        let known = self.known_serials()?;
        if !unknown && !known.contains(&serial) {
            let nearest = nearest(&serial, &known).map(|near| format!(" (did you mean {near}?)"));
            return Err(refused(
                &serial,
                format!(
                    "no certificate that is known here has it{}: `cellar certs list` shows them. For one that was lost from here, or that a host has and this directory has not, add --unknown",
                    nearest.unwrap_or_default()
                ),
            ));
        }
        Ok(serial)
    }

    /// The serial numbers of all certificates that are known here, also of those that were replaced, deleted or revoked.
    fn known_serials(&self) -> Result<BTreeSet<String>> {
        let mut known = known_certificates(&self.issued())?;
        known.extend(known_certificates(&self.layout.ca())?);
        for set in self.certificate_sets_on_disk()? {
            known.extend(set.known()?);
        }
        let mut serials: BTreeSet<String> = known.into_iter().map(|one| one.serial).collect();
        serials.extend(self.revoked()?.into_keys());
        serials.extend(self.state.revoking.iter().flat_map(|revoking| revoking.serials.iter().cloned()));
        Ok(serials)
    }

    /// Whether a certificate has been revoked before: then the list is published again.
    pub(crate) async fn is_revoked_already(&self, serial: &str, steps: &Steps) -> Result<bool> {
        if !self.revoked()?.contains_key(serial) {
            return Ok(false);
        }
        steps.step("it is revoked already");
        // To an etcd that was lost since, or has another list.
        self.publish_revoked().await?;
        Ok(true)
    }

    /// Lets the cells reach each other's pgBackRest while some have certificates of the former name, if that is to change.
    pub(crate) async fn accept_both_names(
        &self,
        store: &Store,
        revoking: &Revoking,
        deadline: Instant,
        steps: &Steps,
    ) {
        let Some(former) = revoking.former_name else { return };
        let soon = deadline.min(Instant::now() + BOTH_NAMES_TIMEOUT);
        if let Err(error) = self.accept_names(store, &[self.state.pgbackrest_name, former], soon).await {
            steps.step(&format!("cells may not reach each other's pgBackRest meanwhile: {error}"));
        }
    }

    /// Puts what is to be revoked on the list, and removes the names under which it was let in where no list is read.
    pub(crate) async fn shut_out(&self, revoking: &Revoking, deadline: Instant, steps: &Steps) -> Result<()> {
        let _ = self.sign_revoked(&revoking.serials)?;
        self.publish_revoked().await?;
        let etcd = self.etcd().await?;
        for cell in &self.state.cells {
            self.dismiss_former_users(&etcd, &cell.name).await?;
        }
        if let Some(former) = revoking.former_name {
            let name = self.state.pgbackrest_name;
            // The key that this directory used may be the one that is revoked, and is another one now.
            self.accept_names(&self.store().await?, &[name], deadline).await?;
            steps.step(&format!("pgBackRest's servers accept {name} and no longer {former}"));
        }
        Ok(())
    }

    /// Forgets the keys that were replaced, and the revocation, which has ended.
    pub(crate) fn end_revocation(&mut self, revoking: &Revoking) -> Result<()> {
        for directory in &revoking.replaced {
            forget_previous(directory)?;
        }
        self.state.revoking = None;
        self.state.save(&self.layout)
    }

    /// The serial numbers of a key that was given to a person or program and that nothing of the cluster's own uses; none
    /// for any other certificate.
    pub(crate) fn given_away(&self, serial: &str) -> Result<Option<BTreeSet<String>>> {
        let given = known_certificates(&self.issued())?;
        let Some(key) = given.iter().find(|one| one.serial == serial).map(|one| one.public_key.clone())
        else {
            return Ok(None);
        };
        for set in self.certificate_sets_on_disk()? {
            if set.known()?.iter().any(|one| one.public_key == key) {
                return Ok(None);
            }
        }
        let of_key = given.into_iter().filter(|one| one.public_key == key);
        Ok(Some(of_key.map(|one| one.serial).collect()))
    }

    /// Records what is to be revoked, and the names that change with it.
    pub(crate) fn begin_revocation(&mut self, serial: &str, steps: &Steps) -> Result<()> {
        let sets = self.certificate_sets_on_disk()?;
        let mut known = Vec::new();
        for set in &sets {
            known.extend(set.known()?.into_iter().map(|one| (Some(set), one)));
        }
        // Copies of what was given away, and what is remembered of cells whose directories were deleted.
        known.extend(known_certificates(&self.issued())?.into_iter().map(|one| (None, one)));
        let deleted = known_certificates(&self.layout.ca())?;
        let is_named = |one: &KnownCertificate| one.serial == serial;
        let named = known.iter().find(|(_, one)| is_named(one));
        let compromised = named.and_then(|(set, _)| *set);
        let opens_pgbackrest = match (named, compromised) {
            (_, Some(set)) => set.opens_pgbackrest(),
            (Some(_), None) => false,
            (None, None) => {
                steps.step("nothing here has it: as it may have been a cell's, all cells change their names for pgBackRest");
                true
            }
        };
        let key = named.map(|(_, one)| one).or_else(|| deleted.iter().find(|one| is_named(one)));
        let keys: BTreeSet<String> = key.map(|one| one.public_key.clone()).into_iter().collect();
        let all = known.iter().map(|(_, one)| one).chain(&deleted);
        let of_key = all.filter(|one| keys.contains(&one.public_key)).map(|one| one.serial.clone());
        let serials = of_key.chain([serial.to_owned()]).collect();
        let mut revoking = Revoking { serials, keys, ..Revoking::default() };
        if opens_pgbackrest {
            let former = self.state.pgbackrest_name;
            revoking.former_name = Some(former);
            self.state.pgbackrest_name = former.next();
        }
        let is_its =
            |member: &Member| compromised.is_some_and(|set| set.directory == self.keys_of(member).tls());
        let known = self.state.members();
        if let Some(member) = self.members_on_disk().into_iter().chain(known).find(is_its) {
            self.state.count_revocation(&member.cell);
        }
        self.state.revoking = Some(revoking);
        self.state.save(&self.layout)
    }

    /// Does what is left of a revocation that has begun: nothing if none has.
    pub(crate) async fn finish_revocation(&mut self, deadline: Instant, steps: &Steps) -> Result<()> {
        for _ in 0..MAX_ROUNDS {
            let Some(revoking) = self.state.revoking.clone() else { return Ok(()) };
            self.revoke_everywhere(revoking, deadline, steps).await?;
        }
        match &self.state.revoking {
            None => Ok(()),
            Some(_) => Err(ProvisionError::NoAnswer {
                what: "a server with its new key".to_owned(),
                after: NEW_SET_TIMEOUT,
                reason: "the revoked key came back each time it was replaced; `cellar up` continues"
                    .to_owned(),
                log: self.layout.log(),
                tail: String::new(),
            }),
        }
    }

    /// One round of a revocation. It has ended if no set has the compromised key then: a server that does not take up its
    /// new set puts the old one back.
    async fn revoke_everywhere(
        &mut self,
        mut revoking: Revoking,
        deadline: Instant,
        steps: &Steps,
    ) -> Result<()> {
        let (ca, store) = (Ca::load(&self.layout.ca())?, self.store().await?);
        let ports = self.ports_before(&revoking)?;
        self.accept_both_names(&store, &revoking, deadline, steps).await;
        if let Err(error) = self.rename_users(&store).await {
            steps.step(&format!("a pooler's new name cannot be recorded in etcd: {error}"));
        }

        self.replace_compromised(&mut revoking, &ca, steps)?;
        let (of_replaced, others): (Vec<TlsPort>, Vec<TlsPort>) = ports
            .into_iter()
            .filter(|port| {
                CertificateInfo::from_file(&port.certificate).is_ok_and(|info| info.serial != port.old_serial)
            })
            // pgBackRest's servers are seen to below.
            .partition(|port| port.protocol != ProbeProtocol::Pgbackrest && is_of(port, &revoking.replaced));
        // So that no server is cut off that has new certificates and has not read them yet; but the wait is bounded.
        let soon = deadline.min(Instant::now() + NEW_SET_TIMEOUT);
        let of_replaced_served = self.wait_for_ports(&of_replaced, &ca, Expected::Serves, soon).await;
        self.shut_out(&revoking, deadline, steps).await?;
        of_replaced_served?;
        self.wait_for_ports(&others, &ca, Expected::Serves, deadline).await?;
        for set in self.certificate_sets_on_disk()? {
            if is_compromised(&set, &revoking) {
                steps.step(&format!("{} has the revoked key again", set.what));
                return Ok(());
            }
        }
        self.end_revocation(&revoking)
    }

    /// Every port that speaks TLS, with the certificate that it served before the revocation began: an earlier run may
    /// have replaced it on disk already.
    fn ports_before(&self, revoking: &Revoking) -> Result<Vec<TlsPort>> {
        let mut ports = self.tls_ports()?;
        for port in ports.iter_mut().filter(|port| is_of(port, &revoking.replaced)) {
            let Some(directory) = port.certificate.parent() else { continue };
            let file = previous(directory).join(port.certificate.file_name().unwrap_or_default());
            port.old_serial = CertificateInfo::from_file(&file).map(|info| info.serial).unwrap_or_default();
        }
        Ok(ports)
    }

    /// Gives a new key and new certificates to every set that has a compromised key, and new certificates to those whose
    /// name changes.
    pub(crate) fn replace_compromised(
        &mut self,
        revoking: &mut Revoking,
        ca: &Ca,
        steps: &Steps,
    ) -> Result<()> {
        let trusted = self.trusted()?;
        for set in self.certificate_sets_on_disk()? {
            // Also of one whose key has been replaced since, as a rotation does it.
            self.record_certificates(&set, revoking)?;
            if is_compromised(&set, revoking) {
                steps.step(&format!("{} uses it: replacing its key and certificates first", set.what));
                revoking.keys.extend(set.public_key());
                revoking.replaced.insert(set.directory.clone());
                self.record_certificates(&set, revoking)?;
                set.renew(ca, &trusted)?;
                // Its old key may have been given others until then: nobody else waits for this process.
                self.record_certificates(&set, revoking)?;
            } else if revoking.former_name.is_some()
                && set.opens_pgbackrest()
                // On hosts there is none of a cell that is being removed or added.
                && (self.is_local() || set.directory.exists())
            {
                set.ensure(ca, &trusted)?;
            }
        }
        Ok(())
    }

    /// Records that everything which a set's compromised keys were given is to be revoked.
    fn record_certificates(&mut self, set: &CertificateSet, revoking: &mut Revoking) -> Result<()> {
        let known = set.known()?.into_iter().filter(|one| revoking.keys.contains(&one.public_key));
        revoking.serials.extend(known.map(|one| one.serial));
        self.state.revoking = Some(revoking.clone());
        self.state.save(&self.layout)
    }
}

/// Whether a set's key is one that is revoked. A revocation that an earlier version began is known by serial numbers alone.
pub(crate) fn is_compromised(set: &CertificateSet, revoking: &Revoking) -> bool {
    set.public_key().is_some_and(|key| revoking.keys.contains(&key))
        || set.serials().any(|serial| revoking.serials.contains(&serial))
}

/// How many digits a serial number may have in common with a mistyped one by chance.
const MAX_CHANCE: usize = 7;

/// The known serial number for which another was mistyped, if one has most of its beginning and end.
fn nearest<'a>(serial: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let common = |one: &str| {
        let same = |(a, b): &(u8, u8)| a == b;
        let from_start = one.bytes().zip(serial.bytes()).take_while(same).count();
        let from_end = one.bytes().rev().zip(serial.bytes().rev()).take_while(same).count();
        from_start + from_end
    };
    let best = known.iter().max_by_key(|one| common(one))?;
    (common(best) > MAX_CHANCE).then_some(best.as_str())
}

/// Whether a port's certificate lies in one of these directories.
fn is_of(port: &TlsPort, directories: &BTreeSet<PathBuf>) -> bool {
    directories.iter().any(|directory| port.certificate.starts_with(directory))
}

#[cfg(test)]
mod tests;
