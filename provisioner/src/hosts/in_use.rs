//! Which certificates the hosts of a cluster use, as the operator's machine finds: those that were issued last, or others
//! still; and until when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use cellar_model::{CellName, Key, PoolerStatus, Ports, timestamp_ms};
use cellar_tls::{CertificateInfo, ClientTls, ProbeProtocol, SERVER_CERTIFICATE, probe};
use cellar_topology::Store;

use crate::certificates::sets::ADMIN_CERTIFICATE;
use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::Result;

/// How long one probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A server of a host, and the certificate that was issued for it last.
struct Server {
    what: &'static str,
    host: String,
    port: u16,
    issued: CertificateInfo,
}

/// Whether a server uses the certificate that was issued for it last; else why that is not known or not so.
async fn is_in_use(server: &Server, visitor: &ClientTls) -> std::result::Result<(), String> {
    let Server { what, host, port, issued } = server;
    let failed = |reason: String| format!("its {what} cannot be asked which certificate it uses: {reason}");
    let addresses = cellar_system::addresses_of(host).map_err(|error| failed(error.to_string()))?;
    let Some(address) = addresses.into_iter().next() else { return Err(failed("it has no address".to_owned())) };
    let tls = visitor.rustls_config().map_err(|error| failed(error.to_string()))?;
    let address = SocketAddr::new(address, *port);
    let found = probe(address, host, ProbeProtocol::Grpc, tls, PROBE_TIMEOUT).await;
    let served = found.map_err(|error| failed(error.to_string()))?.served.serial;
    match served == issued.serial {
        true => Ok(()),
        false => Err(format!("its {what} uses the certificate {served} and not {}, the newest", issued.serial)),
    }
}

impl Cluster {
    /// Cells whose hosts do not use what was issued for them last, each with why.
    ///
    /// etcd and multiadmin are asked what they serve. A pooler tells until when the certificates are valid that it, PostgreSQL
    /// and pgBackRest use; each issue ends at another second.
    pub(crate) async fn hosts_behind(&self, store: &Store) -> Result<BTreeMap<CellName, String>> {
        let (etcd, admin) =
            (ClientTls::from_dir(&self.etcd_client_tls())?, ClientTls::from_dir(&self.layout.client())?);
        let mut behind = BTreeMap::new();
        for cell in &self.state.cells {
            let Some(host) = &cell.host else { continue };
            let (name, directories) = (&cell.name, self.for_host(&cell.name));
            let server = |what, port, file: &Path| -> Result<Server> {
                let issued = CertificateInfo::from_file(file)?;
                Ok(Server { what, host: host.host.to_string(), port: self.port(port)?, issued })
            };
            let mut problem = None;
            if host.etcd {
                let file = directories.etcd().join("tls").join(SERVER_CERTIFICATE);
                problem = is_in_use(&server("etcd", Ports::ETCD_CLIENT, &file)?, &etcd).await.err();
            }
            if host.multiadmin && problem.is_none() {
                let file = directories.multiadmin().join(ADMIN_CERTIFICATE);
                problem = is_in_use(&server("multiadmin", Ports::ADMIN_GRPC, &file)?, &admin).await.err();
            }
            if problem.is_none() {
                let key = Key::Status(self.state.database.clone(), name.clone());
                let status = store.get::<PoolerStatus>(&key).await?.map(|found| found.record);
                problem = pooler_problem(status.as_ref(), self.first_end(name));
            }
            behind.extend(problem.map(|problem| (name.clone(), problem)));
        }
        Ok(behind)
    }

    /// When the first of the certificates ends that were issued for a cell.
    fn first_end(&self, cell: &CellName) -> Option<SystemTime> {
        let set = self.cell_set(cell);
        let infos = set.certificates().filter_map(|file| CertificateInfo::from_file(&file).ok());
        infos.map(|info| info.not_after).min()
    }
}

fn pooler_problem(status: Option<&PoolerStatus>, wanted: Option<SystemTime>) -> Option<String> {
    let Some(status) = status else { return Some("its multipooler does not report".to_owned()) };
    let wanted = wanted.and_then(|end| jiff::Timestamp::try_from(end).ok()).map(timestamp_ms);
    (status.certificate_expiry != wanted || wanted.is_none()).then(|| {
        let shown = status.certificate_expiry.map_or_else(|| "an unknown time".to_owned(), |end| end.to_string());
        format!("its multipooler uses certificates that end at {shown}, and not the newest")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooler_is_known_by_the_end_of_its_certificates() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let status = |expiry: &str| -> PoolerStatus {
            let text = serde_json::json!({
                "database": "app", "cell": "zone1", "epoch": "e", "certificateExpiry": expiry,
            });
            serde_json::from_value(text).unwrap()
        };
        let shown = jiff::Timestamp::try_from(end).unwrap().to_string();
        assert_eq!(pooler_problem(Some(&status(&shown)), Some(end)), None);
        let other = Some(end + Duration::from_secs(1));
        assert!(pooler_problem(Some(&status(&shown)), other).unwrap().contains(&shown));
        assert!(pooler_problem(None, other).unwrap().contains("does not report"));
        assert!(pooler_problem(Some(&status(&shown)), None).is_some());
    }
}
