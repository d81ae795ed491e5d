//! Which certificates open which port of a running cluster: every kind of bad one, every role, at every port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_api::v1::multi_pooler_client::MultiPoolerClient;
use cellar_model::{CellName, ClusterName, DatabaseName, PgbackrestName};
use cellar_tests::{Cluster, Finished, command_line, eventually, listening_of, run};
use cellar_tls::{
    Ca, CertificateInfo, ClientTls, KeyFile, LeafRequest, MtlsListener, OperatorRole, ProbeProtocol,
    ReloadableServerConfig, ServerFiles, generate_ca, issue, probe, unchecked_client,
};
use tempfile::TempDir;
use tokio_stream::StreamExt;

/// Longest that any server may take to answer.
const DEADLINE: Duration = Duration::from_secs(20);

const HOUR: Duration = Duration::from_secs(3600);

const HOST: &str = "localhost";

/// The kind of a bad certificate that was good once.
const REVOKED: &str = "one that is revoked";

/// What listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Service {
    EtcdClient,
    EtcdPeer,
    Multiadmin,
    Pooler,
    Postgres,
    Pgbackrest,
}

use Service::{EtcdClient, EtcdPeer, Multiadmin, Pgbackrest, Pooler, Postgres};

impl Service {
    fn protocol(self) -> ProbeProtocol {
        match self {
            EtcdClient | Multiadmin | Pooler => ProbeProtocol::Grpc,
            EtcdPeer => ProbeProtocol::Http,
            Postgres => ProbeProtocol::Postgres,
            Pgbackrest => ProbeProtocol::Pgbackrest,
        }
    }

    /// Whose certificate it is made for, while pgBackRest's clients are called so.
    fn guest(self, name: PgbackrestName) -> LeafRequest {
        match self {
            EtcdClient | Pooler => LeafRequest::multiadmin(&cluster_name(), HOST),
            EtcdPeer => LeafRequest::etcd_peer(&cluster_name(), HOST),
            Multiadmin => operator(OperatorRole::Viewer),
            Postgres => LeafRequest::replication(&cluster_name(), &cell("zone2")),
            Pgbackrest => LeafRequest::pgbackrest(name, HOST),
        }
    }
}

/// Every party of a cluster, and where it may come in.
fn parties(name: PgbackrestName) -> Vec<(&'static str, LeafRequest, &'static [Service])> {
    let (cluster, database): (ClusterName, DatabaseName) = (cluster_name(), "app".parse().expect("a name"));
    // etcd shakes hands with anybody of the cluster, and asks in each request who it is: see `etcd_permissions`.
    vec![
        ("multiadmin", LeafRequest::multiadmin(&cluster, HOST), &[EtcdClient, Pooler]),
        ("a pooler", LeafRequest::pooler(&cluster, &database, &cell("zone2"), HOST), &[EtcdClient, Pooler]),
        ("an admin", operator(OperatorRole::Admin), &[EtcdClient, Multiadmin]),
        ("an operator", operator(OperatorRole::Operator), &[EtcdClient, Multiadmin]),
        ("a viewer", operator(OperatorRole::Viewer), &[EtcdClient, Multiadmin]),
        ("a standby", LeafRequest::replication(&cluster, &cell("zone2")), &[EtcdClient, Postgres]),
        ("pgBackRest", LeafRequest::pgbackrest(name, HOST), &[EtcdClient, Pgbackrest]),
        ("etcd as a server", LeafRequest::etcd_server(&cluster, HOST), &[EtcdClient]),
        ("etcd as a peer", LeafRequest::etcd_peer(&cluster, HOST), &[EtcdClient, EtcdPeer]),
    ]
}

fn cluster_name() -> ClusterName {
    "demo".parse().expect("a name")
}

fn cell(name: &str) -> CellName {
    name.parse().expect("a name")
}

fn operator(role: OperatorRole) -> LeafRequest {
    LeafRequest::operator(&cluster_name(), role, "ann").expect("a name")
}

/// A certificate and its key in a directory of their own.
#[derive(Debug, Clone)]
struct Card {
    certificate: PathBuf,
    key: PathBuf,
}

/// Makes certificates that nobody should have.
struct Forge {
    directory: TempDir,
    ca: Ca,
    other: Ca,
}

impl Forge {
    fn new(cluster: &Cluster) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let ca = Ca::load(&cluster.directory().join("ca")).expect("the cluster's authority");
        // Of the same name: it is the key that counts.
        let other = generate_ca(&directory.path().join("other"), &cluster_name()).expect("an authority");
        Self { directory, ca, other }
    }

    fn card(&self, ca: &Ca, name: &str, request: &LeafRequest) -> Card {
        let path = self.directory.path().join(name);
        let (certificate, key) = (path.join("client.crt"), path.join("client.key"));
        let pair = KeyFile::load_or_create(&key, None).expect("a key");
        issue(ca, request, &pair, &certificate).expect("a certificate");
        Card { certificate, key }
    }

    /// A certificate that is good for the service until somebody revokes it; the same one each time.
    fn revoked(&self, service: Service) -> Card {
        self.card(&self.ca, &format!("{service:?}-revoked"), &service.guest(PgbackrestName::default()))
    }

    /// Certificates that are good for the service in everything but one thing, and what that is.
    ///
    /// A further kind is a further line.
    fn bad(&self, service: Service, name: PgbackrestName) -> Vec<(&'static str, Option<Card>)> {
        let right = service.guest(name);
        let now = SystemTime::now();
        let from = |valid_from| LeafRequest { valid_from: Some(valid_from), lifetime: HOUR, ..right.clone() };
        let card = |ca: &Ca, kind: &str, request: &LeafRequest| {
            Some(self.card(ca, &format!("{service:?}-{kind}"), request))
        };
        vec![
            ("no certificate", None),
            (REVOKED, Some(self.revoked(service))),
            ("one of another authority", card(&self.other, "other", &right)),
            ("one that has expired", card(&self.ca, "expired", &from(now - 3 * HOUR))),
            ("one that is not valid yet", card(&self.ca, "early", &from(now + HOUR))),
            (
                "one for servers",
                card(
                    &self.ca,
                    "server",
                    &LeafRequest { client_auth: false, server_auth: true, ..right.clone() },
                ),
            ),
        ]
    }
}

/// A port of the cluster.
#[derive(Debug, Clone, Copy)]
struct Door {
    service: Service,
    address: SocketAddr,
}

/// Every port that the cluster's records know of.
fn doors(cluster: &Cluster) -> BTreeMap<SocketAddr, Service> {
    let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let port_of =
        |text: &str| text.rsplit(':').next().and_then(|port| port.trim().parse().ok()).expect("a port");
    let arguments = command_line(cluster.pid("pid/etcd.pid"));
    let etcd = |flag: &str| port_of(arguments.iter().find(|word| word.starts_with(flag)).expect("a flag"));
    let endpoint = std::fs::read_to_string(cluster.directory().join("client/endpoint")).expect("an endpoint");
    let mut doors = BTreeMap::from([
        (local(etcd("--listen-client-urls=")), EtcdClient),
        (local(etcd("--listen-peer-urls=")), EtcdPeer),
        (local(port_of(&endpoint)), Multiadmin),
    ]);
    for card in cluster.poolers().into_iter().filter_map(|view| view.pooler) {
        let port = |port: u32| local(port.try_into().expect("a port"));
        doors.insert(port(card.grpc_port), Pooler);
        doors.insert(port(card.postgres_port), Postgres);
        doors.insert(port(card.pgbackrest_port), Pgbackrest);
    }
    doors
}

/// Whether the service lets the card in, as far as its own protocol goes, or why not.
async fn knock(cluster: &Cluster, door: Door, card: Option<&Card>) -> Result<(), String> {
    let authorities = cluster.directory().join("ca/ca.crt");
    let pair = card.map(|card| (card.certificate.as_path(), card.key.as_path()));
    let tls = unchecked_client(&authorities, pair).expect("a client");
    let probed = probe(door.address, HOST, door.service.protocol(), tls, DEADLINE).await;
    let probed =
        probed.unwrap_or_else(|error| panic!("{door:?}: {error}: {:?}", std::error::Error::source(&error)));
    probed.accepted?;
    let Some(card) = card else { return Ok(()) };
    // The handshake was good; what remains is who may do what.
    match door.service {
        Multiadmin | Pooler => call(door, &authorities, card).await,
        Pgbackrest => list_repo(cluster, door.address.port(), &card.certificate, &card.key, "app"),
        EtcdClient | EtcdPeer | Postgres => Ok(()),
    }
}

fn channel(tls: &ClientTls, port: u16) -> tonic::transport::Channel {
    tls.endpoint(&format!("{HOST}:{port}"), Some(DEADLINE)).expect("an address").connect_lazy()
}

/// What a pooler says to `GetLiveStatus` from whoever has the certificate.
pub(crate) fn ask_pooler(tls: &ClientTls, port: u32) -> Result<(), tonic::Status> {
    let port = port.try_into().expect("a port");
    in_runtime(async {
        let mut client = MultiPoolerClient::new(channel(tls, port));
        client.get_live_status(v1::GetLiveStatusRequest::default()).await.map(drop)
    })
}

/// Which calls of a pooler are denied to whoever has the card.
async fn denied_by_a_pooler(port: u16, authorities: &Path, card: &Card) -> BTreeSet<&'static str> {
    let tls = ClientTls::from_files(authorities, &card.certificate, &card.key).expect("a client");
    let client = MultiPoolerClient::new(channel(&tls, port));
    let [mut a, mut b, mut c, mut d, mut e] = [(); 5].map(|()| client.clone());
    let nothing = v1::InstallCertificatesRequest::default();
    let answers = [
        ("GetLiveStatus", a.get_live_status(v1::GetLiveStatusRequest::default()).await.err()),
        ("ReadBackups", b.read_backups(v1::ReadBackupsRequest::default()).await.err()),
        ("ReadJobLog", c.read_job_log(v1::ReadJobLogRequest::default()).await.err()),
        ("GetSigningRequest", d.get_signing_request(v1::GetSigningRequestRequest::default()).await.err()),
        ("InstallCertificates", e.install_certificates(nothing).await.err()),
    ];
    let denied = |status: &tonic::Status| status.code() == tonic::Code::PermissionDenied;
    answers
        .into_iter()
        .filter(|(_, error)| error.as_ref().is_some_and(denied))
        .map(|(name, _)| name)
        .collect()
}

/// The least that anybody may ask of the service.
async fn call(door: Door, authorities: &Path, card: &Card) -> Result<(), String> {
    let tls = ClientTls::from_files(authorities, &card.certificate, &card.key).expect("a client");
    let channel = channel(&tls, door.address.port());
    let refused = |status: tonic::Status| format!("{:?}: {}", status.code(), status.message());
    if door.service == Multiadmin {
        let asked = MultiAdminClient::new(channel).list_jobs(v1::ListJobsRequest::default()).await;
        return asked.map(drop).map_err(refused);
    }
    let asked = MultiPoolerClient::new(channel).get_live_status(v1::GetLiveStatusRequest::default()).await;
    asked.map(drop).map_err(refused)
}

/// pgBackRest's own client with a certificate, asking a server for something of the repo.
pub(crate) fn repo_command(
    cluster: &Cluster,
    port: u16,
    certificate: &Path,
    key: &Path,
    stanza: &str,
) -> Command {
    let config = cluster.directory().join("zone1/pgbackrest.conf");
    let mut command = Command::new("pgbackrest");
    command
        .args(["--config=/dev/null", "--log-level-file=off", "--log-level-console=off"])
        .arg(format!("--stanza={stanza}"))
        .args(["--log-level-stderr=error", "--io-timeout=2", "--repo1-host-type=tls"])
        .arg(format!("--repo1-host={HOST}"))
        .arg(format!("--repo1-host-port={port}"))
        .arg(format!("--repo1-host-config={}", config.display()))
        .arg(format!("--repo1-path={}", cluster.directory().join("repo").display()))
        .arg(format!("--repo1-host-ca-file={}", cluster.directory().join("ca/ca.crt").display()))
        .arg(format!("--repo1-host-cert-file={}", certificate.display()))
        .arg(format!("--repo1-host-key-file={}", key.display()))
        .env("LC_ALL", "C");
    command
}

/// Whether it may list the repo: the server looks at the name only when it has a command.
pub(crate) fn list_repo(
    cluster: &Cluster,
    port: u16,
    certificate: &Path,
    key: &Path,
    stanza: &str,
) -> Result<(), String> {
    let Finished { code, stdout, stderr } =
        run(repo_command(cluster, port, certificate, key, stanza).arg("repo-ls"));
    if code == 0 && stdout.contains("backup") { Ok(()) } else { Err(format!("exit code {code}: {stderr}")) }
}

/// The one name that a cell's pgBackRest server lets in.
pub(crate) fn accepted_by(cluster: &Cluster, cell: &str) -> PgbackrestName {
    let names = cluster.status(cell).map(|status| status.tls_server_accepts).unwrap_or_default();
    let [name] = names.as_slice() else { panic!("{cell} lets in {names:?}") };
    name.parse().expect("a name")
}

fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

#[test]
fn every_port_opens_to_its_own_guests_only() {
    let cluster = Cluster::up("zone1,zone2");
    let known = doors(&cluster);
    assert_eq!(known.len(), 9, "{known:?}");
    // The servers of pgBackRest may take a moment longer than `up` waits for.
    eventually("every server to listen", || {
        let found = listening_of(cluster.directory());
        for address in &found {
            assert!(address.ip().is_loopback(), "{address} can be reached from elsewhere");
            assert!(known.contains_key(address), "something nobody knows of listens at {address}");
        }
        found.len() == known.len()
    });

    let forge = Forge::new(&cluster);
    for service in [EtcdClient, EtcdPeer, Multiadmin, Pooler, Postgres, Pgbackrest] {
        let info = CertificateInfo::from_file(&forge.revoked(service).certificate).expect("a certificate");
        let _ = cluster.cellar(&["certs", "revoke", &info.serial]);
    }
    let name = accepted_by(&cluster, "zone1");
    eventually("every server to refuse what is revoked", || {
        let refuses = |(address, service): (&SocketAddr, &Service)| {
            let (door, card) = (Door { service: *service, address: *address }, forge.revoked(*service));
            in_runtime(knock(&cluster, door, Some(&card))).is_err()
        };
        known.iter().all(refuses)
    });
    let mut faults = Vec::new();
    let mut tried = 0;
    in_runtime(async {
        for (address, service) in known {
            let door = Door { service, address };
            let bad = forge.bad(service, name).into_iter().map(|(what, card)| (what, card, false));
            let of_parties = parties(name).into_iter().map(|(what, request, welcome)| {
                let card = forge.card(&forge.ca, what, &request);
                (what, Some(card), welcome.contains(&service))
            });
            for (what, card, welcome) in bad.chain(of_parties) {
                tried += 1;
                let answer = knock(&cluster, door, card.as_ref()).await;
                if answer.is_ok() != welcome {
                    faults.push(format!("{what} at {service:?} ({address}): {answer:?}"));
                }
            }
        }
    });
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(tried, 9 * 15);

    // What each may call of a pooler.
    let port = cluster.poolers().into_iter().find_map(|view| view.pooler).expect("a pooler").grpc_port;
    let port = port.try_into().expect("a port");
    let of_multiadmin = ["GetSigningRequest", "InstallCertificates", "ReadBackups", "ReadJobLog"];
    let all: BTreeSet<&str> = of_multiadmin.into_iter().chain(["GetLiveStatus"]).collect();
    let authorities = cluster.directory().join("ca/ca.crt");
    for (what, request, _) in parties(name) {
        let card = forge.card(&forge.ca, what, &request);
        let denied = in_runtime(denied_by_a_pooler(port, &authorities, &card));
        let wanted = match what {
            "multiadmin" => BTreeSet::new(),
            "a pooler" => of_multiadmin.into(),
            _ => all.clone(),
        };
        assert_eq!(denied, wanted, "{what}");
    }
    // And pgBackRest's servers serve one stanza.
    let (address, service) =
        doors(&cluster).into_iter().find(|(_, service)| *service == Pgbackrest).expect("one");
    let card = forge.card(&forge.ca, "pgBackRest", &service.guest(name));
    let list = |stanza: &str| list_repo(&cluster, address.port(), &card.certificate, &card.key, stanza);
    list("app").expect("its own");
    let refused = list("other").expect_err("another's");
    assert!(refused.contains("access denied"), "{refused}");

    for cell in ["zone1", "zone2"] {
        eventually(&format!("{cell} to be well after all that"), || {
            cluster.status(cell).is_some_and(|status| status.message.is_empty())
        });
    }
}

/// A server with that certificate; how many clients it has shaken hands with.
async fn served(
    forge: &Forge,
    ca: &Ca,
    name: &str,
    request: &LeafRequest,
    arguments: &[&str],
    cluster: &Cluster,
) -> (Finished, usize) {
    let card = forge.card(ca, name, request);
    let authorities = ca.dir().join("ca.crt");
    let files = ServerFiles { authorities, certificate: card.certificate, key: card.key };
    let config = ReloadableServerConfig::load(files).expect("a server");
    let listener = MtlsListener::bind(([127, 0, 0, 1], 0).into(), config).await.expect("a port");
    let address = format!("{HOST}:{}", listener.local_addr().expect("a port").port());
    let client = cluster.directory().join("client").display().to_string();
    let mut command = cluster.command(&[arguments, &["--admin", &address, "--client-dir", &client]].concat());
    let asked = tokio::task::spawn_blocking(move || run(&mut command));
    let mut incoming = listener.incoming();
    let mut count = 0;
    tokio::pin!(asked);
    loop {
        tokio::select! {
            finished = &mut asked => return (finished.expect("cellar runs"), count),
            // Hung up on at once: who shook hands has seen enough.
            Some(stream) = incoming.next() => {
                drop(stream.expect("a connection"));
                count += 1;
            }
        }
    }
}

#[test]
fn our_client_talks_to_no_server_but_the_right_one() {
    let cluster = Cluster::bootstrapped("zone1");
    let forge = Forge::new(&cluster);
    let right = LeafRequest::multiadmin(&cluster_name(), HOST);
    let elsewhere = LeafRequest {
        dns_names: ["elsewhere.example".to_owned()].into(),
        ip_addresses: [[192, 0, 2, 1].into()].into(),
        ..right.clone()
    };
    let ask = |ca: &Ca, name: &str, request: &LeafRequest| {
        in_runtime(served(&forge, ca, name, request, &["jobs", "list"], &cluster))
    };
    let (finished, shaken) = ask(&forge.ca, "right", &right);
    assert!(shaken > 0, "the control: {finished:?}");
    for (name, ca, request, why) in [
        ("elsewhere", &forge.ca, &elsewhere, "not valid for name"),
        ("other", &forge.other, &right, "invalid peer certificate"),
    ] {
        let (finished, shaken) = ask(ca, name, request);
        assert_eq!(shaken, 0, "{name}: {finished:?}");
        let said = finished.refused(4);
        assert!(said.contains(why), "{name}: {said}");
    }
}
