//! Revoking a certificate: nothing accepts it any more.
//!
//! What is to be done is recorded first, so that a later run can finish it. What uses the certificate gets another one
//! before it is on the list; where no list is read, [names change](crate::renewal::names).

use std::time::{Duration, Instant};

use cellar_model::CellName;
use cellar_tls::{CA_CERTIFICATE, Ca, CertificateInfo, ProbeProtocol, forget_previous, parse_serial};

use crate::certificates::authority::OLD_AUTHORITY;
use crate::certificates::set::CertificateSet;
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

/// Revokes a certificate: nothing accepts it any more. One that something of the cluster's own uses is replaced first, key and all.
///
/// # Errors
/// When it is no serial number or the authority's own, or etcd cannot be changed; it is recorded then, and the next
/// revocation or `up` tells it.
pub async fn revoke(dir: &std::path::Path, serial: &str, timeout: Duration, steps: &Steps) -> Result<String> {
    let deadline = Instant::now() + timeout;
    let serial = parse_serial(serial).map_err(|error| ProvisionError::Argument {
        argument: "the serial number",
        value: serial.chars().take(80).collect(),
        reason: error.to_string(),
    })?;
    let (mut cluster, _lock) = Cluster::open_locked(dir, timeout, steps).await?;
    let ca = Ca::load(&cluster.layout.ca())?;
    // A list of revoked certificates does not help against a key that signs: who has it signs another one.
    let directory = cluster.layout.ca();
    let signers = [cluster.signing().join(CA_CERTIFICATE), cluster.next_authority().join(CA_CERTIFICATE)];
    let signs = signers
        .into_iter()
        .chain([directory.join(OLD_AUTHORITY)])
        .any(|file| CertificateInfo::from_file(&file).is_ok_and(|info| info.serial == serial));
    if signs || ca.info().serial == serial {
        return Err(ProvisionError::Argument {
            argument: "the serial number",
            value: serial,
            reason:
                "it is that of an authority or of the signing pair: `cellar certs rotate --ca` replaces both"
                    .to_owned(),
        });
    }
    cluster.finish_revocation(deadline, steps).await?;
    if cluster.revoked()?.contains_key(&serial) {
        steps.step("it is revoked already");
        // To an etcd that was lost since, or has another list.
        cluster.publish_revoked().await?;
        return Ok(serial);
    }
    cluster.begin_revocation(&serial, steps)?;
    cluster.finish_revocation(deadline, steps).await?;
    Ok(serial)
}

impl Cluster {
    /// Records what is to be revoked, and the names that change with it.
    fn begin_revocation(&mut self, serial: &str, steps: &Steps) -> Result<()> {
        let sets = self.certificate_sets_on_disk()?;
        let compromised = sets.iter().find(|set| set.serials().any(|of| of == serial));
        let opens_pgbackrest = match compromised {
            Some(set) => set.opens_pgbackrest(),
            None if self.issued().join(format!("{serial}.crt")).exists() => false,
            None => {
                steps.step("nothing here has it: as it may have been a cell's, all cells change their names for pgBackRest");
                true
            }
        };
        let mut revoking = Revoking { serials: [serial.to_owned()].into(), former_name: None };
        // They share one key.
        revoking.serials.extend(compromised.into_iter().flat_map(CertificateSet::serials));
        if opens_pgbackrest {
            let former = self.state.pgbackrest_name;
            revoking.former_name = Some(former);
            self.state.pgbackrest_name = former.next();
        }
        let is_its =
            |cell: &CellName| compromised.is_some_and(|set| set.directory == self.layout.cell(cell).tls());
        if let Some(cell) = self.cells_on_disk().into_iter().find(is_its) {
            self.state.count_revocation(&cell);
        }
        self.state.revoking = Some(revoking);
        self.state.save(&self.layout)
    }

    /// Does what is left of a revocation that has begun: nothing if none has.
    pub(crate) async fn finish_revocation(&mut self, deadline: Instant, steps: &Steps) -> Result<()> {
        let Some(mut revoking) = self.state.revoking.clone() else { return Ok(()) };
        let (ca, trusted, store) = (Ca::load(&self.layout.ca())?, self.trusted()?, self.store().await?);
        let ports = self.tls_ports()?;
        if let Some(former) = revoking.former_name {
            // Both names, so that cells reach each other meanwhile.
            let soon = deadline.min(Instant::now() + BOTH_NAMES_TIMEOUT);
            if let Err(error) = self.accept_names(&store, &[self.state.pgbackrest_name, former], soon).await {
                steps.step(&format!("cells may not reach each other's pgBackRest for some seconds: {error}"));
            }
        }
        if let Err(error) = self.rename_poolers(&store).await {
            steps.step(&format!("a pooler's new name cannot be recorded in etcd: {error}"));
        }

        let mut replaced = Vec::new();
        for set in self.certificate_sets_on_disk()? {
            if set.serials().any(|serial| revoking.serials.contains(&serial)) {
                steps.step(&format!("{} uses it: replacing its key and certificates first", set.what));
                // The key may have been given others since.
                revoking.serials.extend(set.serials());
                self.state.revoking = Some(revoking.clone());
                self.state.save(&self.layout)?;
                set.renew(&ca, &trusted)?;
                replaced.push(set);
            } else if revoking.former_name.is_some() && set.opens_pgbackrest() {
                set.ensure(&ca, &trusted)?;
            }
        }
        let (of_replaced, others): (Vec<TlsPort>, Vec<TlsPort>) = ports
            .into_iter()
            .filter(|port| {
                CertificateInfo::from_file(&port.certificate).is_ok_and(|info| info.serial != port.old_serial)
            })
            // pgBackRest's servers are seen to below.
            .partition(|port| {
                port.protocol != ProbeProtocol::Pgbackrest
                    && replaced.iter().any(|set| port.certificate.starts_with(&set.directory))
            });
        // So that no server is cut off that has new certificates and has not read them yet; but the wait is bounded.
        let soon = deadline.min(Instant::now() + NEW_SET_TIMEOUT);
        let of_replaced_served = self.wait_for_ports(&of_replaced, &ca, Expected::Serves, soon).await;
        let _ = self.sign_revoked(&revoking.serials)?;
        self.publish_revoked().await?;
        for cell in &self.state.cells {
            self.dismiss_former_poolers(&cell.name).await?;
        }
        if let Some(former) = revoking.former_name {
            let name = self.state.pgbackrest_name;
            self.accept_names(&store, &[name], deadline).await?;
            steps.step(&format!("pgBackRest's servers accept {name} and no longer {former}"));
        }
        of_replaced_served?;
        self.wait_for_ports(&others, &ca, Expected::Serves, deadline).await?;
        for set in replaced {
            forget_previous(&set.directory)?;
        }
        self.state.revoking = None;
        self.state.save(&self.layout)
    }
}
