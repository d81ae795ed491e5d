//! Certificates of every party of a cluster, and bad ones for each service.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use cellar_model::{CellName, ClusterName, DatabaseName, PgbackrestName};
use cellar_tests::Cluster;
use cellar_tls::{Ca, KeyFile, LeafRequest, OperatorRole, ProbeProtocol, generate_ca, issue};
use tempfile::TempDir;

/// How long a certificate lives that is not valid now.
const HOUR: Duration = Duration::from_secs(3600);

/// The name of every server of a local cluster.
pub(super) const HOST: &str = "localhost";

/// The kind of a bad certificate that was good once.
const REVOKED: &str = "one that is revoked";

/// What listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    EtcdClient,
    EtcdPeer,
    Multiadmin,
    Pooler,
    Postgres,
    Pgbackrest,
}

use Service::{EtcdClient, EtcdPeer, Multiadmin, Pgbackrest, Pooler, Postgres};

impl Service {
    pub(super) fn protocol(self) -> ProbeProtocol {
        match self {
            EtcdClient | Multiadmin | Pooler => ProbeProtocol::Grpc,
            EtcdPeer => ProbeProtocol::Http,
            Postgres => ProbeProtocol::Postgres,
            Pgbackrest => ProbeProtocol::Pgbackrest,
        }
    }

    /// Whose certificate it is made for, while pgBackRest's clients are called so.
    pub(super) fn guest(self, name: PgbackrestName) -> LeafRequest {
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
pub(super) fn parties(name: PgbackrestName) -> Vec<(&'static str, LeafRequest, &'static [Service])> {
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

pub(super) fn cluster_name() -> ClusterName {
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
pub(super) struct KeyPair {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// Makes certificates that nobody should have.
pub(super) struct Issuer {
    directory: TempDir,
    pub(super) ca: Ca,
    pub(super) other: Ca,
}

impl Issuer {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let ca = Ca::load(&cluster.directory().join("ca")).expect("the cluster's authority");
        // Of the same name: it is the key that counts.
        let other = generate_ca(&directory.path().join("other"), &cluster_name()).expect("an authority");
        Self { directory, ca, other }
    }

    pub(super) fn key_pair(&self, ca: &Ca, name: &str, request: &LeafRequest) -> KeyPair {
        let path = self.directory.path().join(name);
        let (certificate, key) = (path.join("client.crt"), path.join("client.key"));
        let pair = KeyFile::load_or_create(&key, None).expect("a key");
        issue(ca, request, &pair, &certificate).expect("a certificate");
        KeyPair { certificate, key }
    }

    /// A certificate that is good for the service until somebody revokes it; the same one each time.
    pub(super) fn revoked(&self, service: Service) -> KeyPair {
        self.key_pair(&self.ca, &format!("{service:?}-revoked"), &service.guest(PgbackrestName::default()))
    }

    /// Certificates that are good for the service in everything but one thing, and what that is.
    ///
    /// A further kind is a further line.
    pub(super) fn bad(&self, service: Service, name: PgbackrestName) -> Vec<(&'static str, Option<KeyPair>)> {
        let right = service.guest(name);
        let now = SystemTime::now();
        let from = |valid_from| LeafRequest { valid_from: Some(valid_from), lifetime: HOUR, ..right.clone() };
        let key_pair = |ca: &Ca, kind: &str, request: &LeafRequest| {
            Some(self.key_pair(ca, &format!("{service:?}-{kind}"), request))
        };
        vec![
            ("no certificate", None),
            (REVOKED, Some(self.revoked(service))),
            ("one of another authority", key_pair(&self.other, "other", &right)),
            ("one that has expired", key_pair(&self.ca, "expired", &from(now - 3 * HOUR))),
            ("one that is not valid yet", key_pair(&self.ca, "early", &from(now + HOUR))),
            (
                "one for servers",
                key_pair(
                    &self.ca,
                    "server",
                    &LeafRequest { client_auth: false, server_auth: true, ..right.clone() },
                ),
            ),
        ]
    }
}
