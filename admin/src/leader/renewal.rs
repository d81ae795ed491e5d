//! Renewing certificates that have lived two thirds of their time, when this multiadmin may sign.
//!
//! It signs with a certificate and key that the authority has issued to it, never with the authority's own key. A pooler
//! proves its key with a signing request, gets certificates with the names that the topology has for it, and loads them by
//! itself.
//! Renewal keeps keys: `cellar certs rotate` makes new ones.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use cellar_api::v1::{GetSigningRequestRequest, InstallCertificatesRequest};
use cellar_model::{ClusterName, Database, Pooler};
use cellar_system::clock;
use cellar_tls::{Ca, CertificateInfo, KeyFile, LeafRequest, TlsError, issue, sign_request};
use jiff::Timestamp;

use crate::admin::Admin;

/// How often to look for certificates that are due; those of a short lifetime twenty times within it.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// How long renewing one cell's certificates may take.
const RENEW_TIMEOUT: Duration = Duration::from_secs(10);

/// A directory on this host whose certificates are renewed in place.
#[derive(Debug)]
pub struct OwnCertificates {
    /// Where they are.
    pub directory: PathBuf,
    /// File name of their key.
    pub key: String,
    /// Their file names.
    pub certificates: Vec<String>,
}

/// The task that renews certificates.
#[derive(Debug)]
pub struct Renewal {
    /// For the topology and channels to the poolers.
    pub admin: Admin,
    /// The cluster that certificates name.
    pub cluster: ClusterName,
    /// This process's value of `admins/leader`: only the leader renews the poolers' certificates.
    pub identity: String,
    /// Directory of the signing certificate and key. Read each time, because they are renewed too.
    pub signing_dir: PathBuf,
    /// How long renewed certificates are valid.
    pub lifetime: Duration,
    /// Directories on this host whose certificates are renewed in place.
    pub own: Vec<OwnCertificates>,
}

/// Whether a certificate that ends at `expiry` and was made for `lifetime` has lived two thirds of it, and one that
/// ends with its signer would live longer.
fn is_due(expiry: Timestamp, lifetime: Duration, signer_ends: SystemTime, now: SystemTime) -> bool {
    let expiry = SystemTime::from(expiry);
    now + lifetime / 3 >= expiry && signer_ends > expiry
}

impl Renewal {
    /// Renews certificates that are due; never returns.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(MAX_CHECK_INTERVAL.min(self.lifetime / 20)).await;
            let ca = match Ca::load(&self.signing_dir) {
                Ok(ca) => ca,
                Err(error) => {
                    tracing::error!(%error, "certificates cannot be renewed; `cellar up` issues a new signing certificate");
                    continue;
                }
            };
            if let Err(error) = self.renew_own(&ca) {
                tracing::error!(%error, "cannot renew this host's certificates");
            }
            for (pooler, expiry) in self.due(&ca) {
                let (cell, database) = (&pooler.cell, &pooler.database);
                match tokio::time::timeout(RENEW_TIMEOUT, self.renew(&ca, &pooler)).await {
                    Ok(Ok(())) => tracing::info!(%database, %cell, %expiry, "renewed the certificates"),
                    Ok(Err(error)) => {
                        tracing::warn!(%database, %cell, %expiry, error, "cannot renew the certificates");
                    }
                    Err(_) => {
                        tracing::warn!(%database, %cell, %expiry, "cannot renew the certificates: no answer in time");
                    }
                }
            }
        }
    }

    fn due(&self, ca: &Ca) -> Vec<(Pooler, Timestamp)> {
        let view = self.admin.view();
        if view.admin_leader.as_ref() != Some(&self.identity) {
            return Vec::new();
        }
        let ends = view.status.iter().filter_map(|(key, status)| Some((key, status.certificate_expiry?)));
        let due = ends.filter(|(_, expiry)| {
            is_due(*expiry, self.lifetime, ca.info().not_after, SystemTime::from(clock::now()))
        });
        due.filter_map(|(key, expiry)| Some((view.poolers.get(key)?.clone(), expiry))).collect()
    }

    async fn renew(&self, ca: &Ca, pooler: &Pooler) -> Result<(), String> {
        let mut client = self.admin.pooler_client(pooler).map_err(|refusal| refusal.message)?;
        let answer = client.get_signing_request(GetSigningRequestRequest {}).await;
        let proof = answer.map_err(|status| status.message().to_owned())?.into_inner().pem;
        let signed = |request: LeafRequest| {
            sign_request(ca, &request.with_lifetime(self.lifetime), &proof).map_err(|error| error.to_string())
        };
        let (cluster, host) = (&self.cluster, pooler.host.as_str());
        let database = self.admin.view().databases.get(&pooler.database).cloned();
        let name = database.as_ref().map(Database::pgbackrest_name);
        let qualifier = database.as_ref().and_then(Database::qualifier);
        let renewed = InstallCertificatesRequest {
            server: signed(LeafRequest::pgbackrest(name.unwrap_or_default(), host).qualified_by(qualifier))?,
            pooler: signed(
                LeafRequest::pooler(cluster, &pooler.database, &pooler.cell, host)
                    .after_revocations(pooler.revocations),
            )?,
            replication: signed(LeafRequest::replication(cluster, &pooler.cell).qualified_by(qualifier))?,
        };
        client.install_certificates(renewed).await.map(drop).map_err(|status| status.message().to_owned())
    }

    fn renew_own(&self, ca: &Ca) -> Result<(), TlsError> {
        for own in &self.own {
            for file in &own.certificates {
                let path = own.directory.join(file);
                let info = CertificateInfo::from_file(&path)?;
                if SystemTime::from(clock::now()) < info.renew_at() || ca.info().not_after <= info.not_after {
                    continue;
                }
                let key = KeyFile::load_or_create(&own.directory.join(&own.key), None)?;
                issue(ca, &LeafRequest::like(&info).with_lifetime(self.lifetime), &key, &path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_due_after_two_thirds_of_its_lifetime() {
        let minute = Duration::from_secs(60);
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (lifetime, expiry) = (6 * minute, Timestamp::try_from(start + 6 * minute).unwrap());
        let later = start + 60 * minute;
        assert!(!is_due(expiry, lifetime, later, start + 3 * minute));
        assert!(is_due(expiry, lifetime, later, start + 4 * minute));
        assert!(is_due(expiry, lifetime, later, start + 9 * minute));
        // The renewed certificate would not live longer.
        assert!(!is_due(expiry, lifetime, start + 6 * minute, start + 5 * minute));
    }
}
