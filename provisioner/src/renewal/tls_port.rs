//! The ports of a cluster that speak TLS, probed from outside: which certificate each serves and whom it accepts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cellar_model::Ports;
use cellar_tls::{
    CA_CERTIFICATE, Ca, CertificateInfo, ClientTls, KeyFile, LeafRequest, ProbeProtocol, SERVER_CERTIFICATE,
    TlsError, issue, probe,
};

use crate::certificates::sets::{ADMIN_CERTIFICATE, POOLER_CERTIFICATE};
use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::loopback::loopback;
use crate::cluster::loopback::{HOST, LISTEN};
use crate::error::provision_error::{ProvisionError, Result};

/// How long one probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a server is probed.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// How often pgBackRest's server is probed, which reads new certificates between two connections: each probe is one.
const PGBACKREST_PROBE_INTERVAL: Duration = Duration::from_secs(3);

/// Validity of the prober's certificates.
const PROBE_LIFETIME: Duration = Duration::from_secs(3600);

/// A port that speaks TLS.
#[derive(Debug)]
pub(crate) struct TlsPort {
    what: String,
    address: SocketAddr,
    pub(crate) protocol: ProbeProtocol,
    /// The file of the certificate that it should serve.
    pub(crate) certificate: PathBuf,
    /// The serial number that the file had when this value was made. A set that a server does not take up is put back:
    /// then the server serves what is in the file, and it is still not new.
    pub(crate) old_serial: String,
}

/// A client that connects to ports with certificates that one authority has just signed.
struct Prober {
    /// As a standby: accepted by PostgreSQL, and by every server that checks the signature alone.
    standby: ClientTls,
    /// As another cell's pgBackRest.
    pgbackrest: ClientTls,
    /// As another member of etcd.
    peer: ClientTls,
    _files: tempfile::TempDir,
}

/// What a port must do before the next step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Accept the prober.
    Trusts,
    /// Accept the prober and serve the certificate that is in its file.
    Serves,
    /// Refuse the prober.
    Refuses,
}

impl Prober {
    fn new(cluster: &Cluster, ca: &Ca) -> Result<Self> {
        let files =
            tempfile::tempdir().map_err(ProvisionError::io("make a directory in", &std::env::temp_dir()))?;
        let key = KeyFile::load_or_create(&files.path().join("key"), None)?;
        // Which authority has signed the server's own is not the question here, and both may.
        let trusted = files.path().join(CA_CERTIFICATE);
        let text = format!("{}{}", cluster.trusted()?, ca.pem());
        std::fs::write(&trusted, text).map_err(ProvisionError::io("write", &trusted))?;
        let issued = |name: &str, request: LeafRequest| -> Result<ClientTls> {
            let certificate = files.path().join(name);
            issue(ca, &request.with_lifetime(PROBE_LIFETIME), &key, &certificate)?;
            Ok(ClientTls::from_files(&trusted, &certificate, key.path())?)
        };
        let cell = &cluster.state.first_database.bootstrap_cell;
        let standby = issued("standby", LeafRequest::replication(&cluster.state.cluster, cell))?;
        let pgbackrest = issued("pgbackrest", LeafRequest::pgbackrest(cluster.state.pgbackrest_name, HOST))?;
        let peer = issued("peer", LeafRequest::etcd_peer(&cluster.state.cluster, HOST))?;
        Ok(Self { standby, pgbackrest, peer, _files: files })
    }

    /// Whether the port does what is expected; why not. One on which nothing listens does: what listens there later
    /// reads the new files.
    async fn check(&self, port: &TlsPort, expected: Expected) -> std::result::Result<(), String> {
        let tls = match port.protocol {
            ProbeProtocol::Pgbackrest => &self.pgbackrest,
            ProbeProtocol::Http => &self.peer,
            _ => &self.standby,
        };
        let tls = tls.rustls_config().map_err(|error| error.to_string())?;
        let found = match probe(port.address, HOST, port.protocol, tls, PROBE_TIMEOUT).await {
            Ok(found) => found,
            Err(TlsError::Probe { source, .. }) if source.kind() == std::io::ErrorKind::ConnectionRefused => {
                return Ok(());
            }
            Err(error) => return Err(error.to_string()),
        };
        match (expected, found.accepted) {
            (Expected::Refuses, Err(_)) => return Ok(()),
            (Expected::Refuses, Ok(())) => return Err("it still trusts the old authority".to_owned()),
            (_, Err(why)) => return Err(why),
            (_, Ok(())) => {}
        }
        if expected == Expected::Serves {
            let filed =
                CertificateInfo::from_file(&port.certificate).map_err(|error| error.to_string())?.serial;
            let served = found.served.serial;
            if served == port.old_serial {
                return Err(format!("it serves the old certificate {served}"));
            }
            if served != filed {
                return Err(format!("it serves the certificate {served} and not yet {filed}"));
            }
        }
        Ok(())
    }
}

impl Cluster {
    /// Every port of the cluster that speaks TLS.
    pub(crate) fn tls_ports(&self) -> Result<Vec<TlsPort>> {
        let ip = loopback().first().copied().unwrap_or(LISTEN);
        let at = |what: String, port: u16, protocol, certificate: PathBuf| -> Result<TlsPort> {
            let old_serial = CertificateInfo::from_file(&certificate)?.serial;
            Ok(TlsPort { what, address: SocketAddr::new(ip, port), protocol, certificate, old_serial })
        };
        let etcd = self.etcd_tls();
        let mut ports = vec![
            at(
                "etcd".into(),
                self.port(Ports::ETCD_CLIENT)?,
                ProbeProtocol::Grpc,
                etcd.join(SERVER_CERTIFICATE),
            )?,
            at(
                "etcd's peers".into(),
                self.port(Ports::ETCD_PEER)?,
                ProbeProtocol::Http,
                etcd.join("peer.crt"),
            )?,
            at(
                "multiadmin".into(),
                self.port(Ports::ADMIN_GRPC)?,
                ProbeProtocol::Grpc,
                self.layout.multiadmin().join(ADMIN_CERTIFICATE),
            )?,
        ];
        for pooler in self.poolers(&self.state.cells)? {
            let member = Member { cell: pooler.cell.clone(), database: pooler.database.clone() };
            let (name, tls) = (self.state.shown(&member), self.layout_of(&member).tls());
            let of_cell = [
                ("multipooler", pooler.grpc_port, ProbeProtocol::Grpc, POOLER_CERTIFICATE),
                ("PostgreSQL", pooler.postgres_port, ProbeProtocol::Postgres, SERVER_CERTIFICATE),
                ("pgBackRest", pooler.pgbackrest_port, ProbeProtocol::Pgbackrest, SERVER_CERTIFICATE),
            ];
            for (what, port, protocol, file) in of_cell {
                ports.push(at(format!("{what} of cell {name}"), port, protocol, tls.join(file))?);
            }
        }
        Ok(ports)
    }

    /// Waits until every port does what is expected.
    pub(crate) async fn wait_for_ports(
        &self,
        ports: &[TlsPort],
        ca: &Ca,
        expected: Expected,
        deadline: Instant,
    ) -> Result<()> {
        let prober = Prober::new(self, ca)?;
        for port in ports {
            let begun = Instant::now();
            while let Err(why) = prober.check(port, expected).await {
                if Instant::now() >= deadline {
                    let log = self.layout.log();
                    return Err(ProvisionError::NoAnswer {
                        what: format!("{} with the new certificates", port.what),
                        after: begun.elapsed(),
                        reason: why,
                        log,
                        tail: String::new(),
                    });
                }
                let rarely = port.protocol == ProbeProtocol::Pgbackrest;
                tokio::time::sleep(if rarely { PGBACKREST_PROBE_INTERVAL } else { PROBE_INTERVAL }).await;
            }
        }
        Ok(())
    }
}
