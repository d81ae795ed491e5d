//! New keys and certificates for everything that runs, without stopping any of it.
//!
//! Servers look at their files every second, take up what is new, and are asked from outside whether they did. The
//! authority itself is replaced in steps of which each leaves a cluster that works, and of which the directory `ca`
//! tells how far they have come: trust both, sign with the new one, trust the new one alone.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cellar_model::Ports;
use cellar_tls::{
    CA_CERTIFICATE, CA_KEY, Ca, CertificateInfo, ClientTls, KeyFile, LeafRequest, ProbeProtocol,
    SERVER_CERTIFICATE, TlsError, exchange, forget_previous, generate_ca, issue, previous, probe,
};

use crate::certificates::authority::OLD_AUTHORITY;
use crate::certificates::renew::{ADMIN_CERTIFICATE, POOLER_CERTIFICATE};
use crate::error::{ProvisionError, Result};
use crate::file::replace;
use crate::local::cluster::{Cluster, HOST, LISTEN};
use crate::local::steps::Steps;

/// How long one question to a server may take.
const LOOK: Duration = Duration::from_secs(5);

/// How often a server is asked.
const POLL: Duration = Duration::from_millis(200);

/// How often pgBackRest is, whose server reads new certificates between two connections: each question is one.
const RARE_POLL: Duration = Duration::from_secs(3);

/// How long a caller's certificate that is made only to ask lives.
const PROBE_LIFETIME: Duration = Duration::from_secs(3600);

/// A port that speaks TLS.
#[derive(Debug)]
pub(crate) struct Door {
    what: String,
    address: SocketAddr,
    pub(crate) protocol: ProbeProtocol,
    /// The file of the certificate that it should serve.
    pub(crate) certificate: PathBuf,
    /// The serial number that was in it as the door was looked up. A set that is not taken up comes back, and then
    /// what is served is what is in the file, and still not new.
    pub(crate) before: String,
}

/// Somebody who knocks at doors, with certificates that one authority has signed a moment ago.
struct Visitor {
    /// As a standby: let in by PostgreSQL, and by everybody who looks at the signature alone.
    standby: ClientTls,
    /// As another cell's pgBackRest.
    pgbackrest: ClientTls,
    /// As another member of etcd.
    peer: ClientTls,
    _files: tempfile::TempDir,
}

/// What a door must do before the next step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Let the visitor in.
    Trusts,
    /// Let the visitor in and serve the certificate that is in its file.
    Serves,
    /// Let the visitor in no more.
    Refuses,
}

impl Visitor {
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
        let cell = &cluster.state.bootstrap_cell;
        let standby = issued("standby", LeafRequest::replication(&cluster.state.cluster, cell))?;
        let pgbackrest = issued("pgbackrest", LeafRequest::pgbackrest(cluster.state.pgbackrest_name, HOST))?;
        let peer = issued("peer", LeafRequest::etcd_peer(&cluster.state.cluster, HOST))?;
        Ok(Self { standby, pgbackrest, peer, _files: files })
    }

    /// Whether the door is as it should be; why not. One behind which nobody listens is: whoever comes to listen
    /// there reads the new files.
    async fn finds(&self, door: &Door, until: Until) -> std::result::Result<(), String> {
        let tls = match door.protocol {
            ProbeProtocol::Pgbackrest => &self.pgbackrest,
            ProbeProtocol::Http => &self.peer,
            _ => &self.standby,
        };
        let tls = tls.rustls_config().map_err(|error| error.to_string())?;
        let found = match probe(door.address, HOST, door.protocol, tls, LOOK).await {
            Ok(found) => found,
            Err(TlsError::Probe { source, .. }) if source.kind() == std::io::ErrorKind::ConnectionRefused => {
                return Ok(());
            }
            Err(error) => return Err(error.to_string()),
        };
        match (until, found.accepted) {
            (Until::Refuses, Err(_)) => return Ok(()),
            (Until::Refuses, Ok(())) => return Err("it still trusts the old authority".to_owned()),
            (_, Err(why)) => return Err(why),
            (_, Ok(())) => {}
        }
        if until == Until::Serves {
            let filed =
                CertificateInfo::from_file(&door.certificate).map_err(|error| error.to_string())?.serial;
            let served = found.served.serial;
            if served == door.before {
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
    pub(crate) fn doors(&self) -> Result<Vec<Door>> {
        let bad = |_| ProvisionError::Argument {
            argument: "an address",
            value: LISTEN.to_owned(),
            reason: "it is no IP address".to_owned(),
        };
        let ip = LISTEN.parse().map_err(bad)?;
        let door = |what: String, port: u16, protocol, certificate: PathBuf| -> Result<Door> {
            let before = CertificateInfo::from_file(&certificate)?.serial;
            Ok(Door { what, address: SocketAddr::new(ip, port), protocol, certificate, before })
        };
        let etcd = self.etcd_tls();
        let mut doors = vec![
            door(
                "etcd".into(),
                self.port(Ports::ETCD_CLIENT)?,
                ProbeProtocol::Grpc,
                etcd.join(SERVER_CERTIFICATE),
            )?,
            door(
                "etcd's peers".into(),
                self.port(Ports::ETCD_PEER)?,
                ProbeProtocol::Http,
                etcd.join("peer.crt"),
            )?,
            door(
                "multiadmin".into(),
                self.port(Ports::ADMIN_GRPC)?,
                ProbeProtocol::Grpc,
                self.layout.multiadmin().join(ADMIN_CERTIFICATE),
            )?,
        ];
        for cell in &self.state.cells {
            let (card, tls) = (self.pooler(cell)?, self.layout.cell(&cell.name).tls());
            let name = &cell.name;
            let ports = [
                ("multipooler", card.grpc_port, ProbeProtocol::Grpc, POOLER_CERTIFICATE),
                ("PostgreSQL", card.postgres_port, ProbeProtocol::Postgres, SERVER_CERTIFICATE),
                ("pgBackRest", card.pgbackrest_port, ProbeProtocol::Pgbackrest, SERVER_CERTIFICATE),
            ];
            for (what, port, protocol, file) in ports {
                doors.push(door(format!("{what} of cell {name}"), port, protocol, tls.join(file))?);
            }
        }
        Ok(doors)
    }

    /// Waits until every door is as it should be.
    pub(crate) async fn wait_for(
        &self,
        doors: &[Door],
        ca: &Ca,
        until: Until,
        deadline: Instant,
    ) -> Result<()> {
        let visitor = Visitor::new(self, ca)?;
        for door in doors {
            let begun = Instant::now();
            while let Err(why) = visitor.finds(door, until).await {
                if Instant::now() >= deadline {
                    let log = self.layout.log();
                    return Err(ProvisionError::NoAnswer {
                        what: format!("{} with the new certificates", door.what),
                        after: begun.elapsed(),
                        reason: why,
                        log,
                        tail: String::new(),
                    });
                }
                let rarely = door.protocol == ProbeProtocol::Pgbackrest;
                tokio::time::sleep(if rarely { RARE_POLL } else { POLL }).await;
            }
        }
        Ok(())
    }

    /// New keys and certificates everywhere, and proof that they are served.
    pub(crate) async fn renew_leaves(&self, deadline: Instant, steps: &Steps) -> Result<()> {
        let (ca, trusted) = (Ca::load(&self.layout.ca())?, self.trusted()?);
        let (sets, doors) = (self.certificate_sets()?, self.doors()?);
        for set in &sets {
            set.renew(&ca, &trusted)?;
        }
        steps.step(&format!("{} sets of keys and certificates are replaced", sets.len()));
        self.wait_for(&doors, &ca, Until::Serves, deadline).await?;
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
        if self.stop_etcd().await? {
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
            self.sign_with_the_new(deadline, steps).await?;
            self.renew_leaves(deadline, steps).await?;
            remove(&old)?;
        }
        let before = previous(&directory);
        let former = before.exists().then(|| Ca::load(&before)).transpose()?;
        self.spread_trust(deadline, steps).await?;
        self.wait_for(&self.doors()?, &Ca::load(&directory)?, Until::Trusts, deadline).await?;
        if let Some(former) = former {
            self.wait_for(&self.doors()?, &former, Until::Refuses, deadline).await?;
        }
        forget_previous(&directory)?;
        steps.step("nobody trusts the old authority any more, and its key is gone");
        Ok(())
    }

    /// The first half: a new authority that everybody trusts beside the old one, and that signs from then on.
    async fn sign_with_the_new(&self, deadline: Instant, steps: &Steps) -> Result<()> {
        let directory = self.layout.ca();
        let (next, old) = (self.next_authority(), directory.join(OLD_AUTHORITY));
        if !old.exists() {
            let new = generate_ca(&next, &self.state.cluster)?;
            self.spread_trust(deadline, steps).await?;
            self.wait_for(&self.doors()?, &new, Until::Trusts, deadline).await?;
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

fn copy(from: &std::path::Path, to: &std::path::Path, mode: u32) -> Result<()> {
    let text = std::fs::read_to_string(from).map_err(ProvisionError::io("read", from))?;
    replace(to, &text, mode, None)
}

fn remove(path: &std::path::Path) -> Result<()> {
    std::fs::remove_file(path).map_err(ProvisionError::io("remove", path))
}

/// New keys and certificates for the cluster in `dir`, and with `authority` a new authority too. Repeating it after it
/// was ended goes on from there.
///
/// # Errors
/// When a server does not take its new certificates up by the deadline; the old ones go on being served then.
pub async fn rotate(
    dir: &std::path::Path,
    authority: bool,
    timeout: Duration,
    steps: &Steps,
) -> Result<Vec<crate::certificates::renew::ListedCertificate>> {
    let deadline = Instant::now() + timeout;
    let (cluster, _lock) = Cluster::locked(dir, timeout, steps).await?;
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
