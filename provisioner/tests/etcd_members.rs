//! Three real etcd members, started with the command line that hosts use: one is lost and replaced.

#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cellar_provisioner::{
    EtcdHealth, EtcdInitialState, EtcdMemberOptions, EtcdPeer, ProvisionError, etcd_arguments, etcd_health,
    replace_etcd_member,
};
use cellar_tls::{
    ClientTls, KeyFile, LeafRequest, OperatorRole, RevokedSerials, generate_ca, install_revocations, issue,
    sign_revocations,
};
use cellar_topology::{EtcdKv, Kv, Write};

const NAMES: [&str; 3] = ["zone1", "zone2", "zone3"];

/// From an election to a new member that has all the data.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

struct Members {
    directory: tempfile::TempDir,
    /// For clients and for peers.
    ports: [(u16, u16); 3],
    running: [Option<Child>; 3],
}

impl Members {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // All are held until all are known, so they differ.
        let listeners: Vec<TcpListener> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let port = |at: usize| listeners[at].local_addr().unwrap().port();
        let ports = [0, 1, 2].map(|at| (port(2 * at), port(2 * at + 1)));
        let members = Self { directory, ports, running: [None, None, None] };
        let cluster = "demo".parse().unwrap();
        let ca = generate_ca(&members.path("ca"), &cluster).unwrap();
        let certificate = |key: &KeyFile, file: PathBuf, request: &LeafRequest| {
            issue(&ca, request, key, &file).unwrap();
        };
        for name in NAMES {
            let tls = members.path(name).join("tls");
            let key = KeyFile::load_or_create(&tls.join("server.key"), None).unwrap();
            certificate(&key, tls.join("server.crt"), &LeafRequest::etcd_server(&cluster, "localhost"));
            certificate(&key, tls.join("peer.crt"), &LeafRequest::etcd_peer(&cluster, "localhost"));
            ca.install_certificate(&tls, None).unwrap();
            let nothing = sign_revocations(&ca, &RevokedSerials::new()).unwrap();
            install_revocations(&tls, &nothing, None).unwrap();
        }
        let client = members.path("client");
        let key = KeyFile::load_or_create(&client.join("client.key"), None).unwrap();
        let request = LeafRequest::operator(&cluster, OperatorRole::Admin, "provisioner").unwrap();
        certificate(&key, client.join("client.crt"), &request);
        ca.install_certificate(&client, None).unwrap();
        members
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn peer(&self, at: usize) -> EtcdPeer {
        EtcdPeer { name: NAMES[at].to_owned(), peer_url: format!("https://localhost:{}", self.ports[at].1) }
    }

    fn start(&mut self, at: usize, members: &[EtcdPeer], state: EtcdInitialState) {
        let home = self.path(NAMES[at]);
        let listen: [IpAddr; 1] = ["127.0.0.1".parse().unwrap()];
        let arguments = etcd_arguments(&EtcdMemberOptions {
            name: NAMES[at],
            host: "localhost",
            listen: &listen,
            client_port: self.ports[at].0,
            peer_port: self.ports[at].1,
            tls: &home.join("tls"),
            data: &home.join("data"),
            members,
            token: "cellar-demo",
            state,
        });
        let log = std::fs::OpenOptions::new().append(true).create(true).open(home.join("log")).unwrap();
        let spawned = Command::new("etcd")
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.running[at] = Some(spawned.unwrap());
    }

    fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.running[at].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    async fn client(&self, members: &[usize]) -> EtcdKv {
        let endpoints: Vec<String> =
            members.iter().map(|at| format!("https://localhost:{}", self.ports[*at].0)).collect();
        let tls = ClientTls::from_dir(&self.path("client")).unwrap();
        EtcdKv::connect(&endpoints, Some(tls.tonic_config())).await.unwrap()
    }

    async fn wait_for(&self, etcd: &EtcdKv, what: &str, is: impl Fn(&EtcdHealth) -> bool) {
        let end = Instant::now() + WAIT_TIMEOUT;
        loop {
            let endpoints = etcd.endpoints().await;
            let health = etcd_health(&endpoints);
            if is(&health) {
                return;
            }
            let logs = NAMES.map(|name| tail(&self.path(name).join("log")));
            assert!(Instant::now() < end, "{what}: {health:?}\n{}", logs.join("\n"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        (0..3).for_each(|at| self.kill(at));
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().take(5).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_member_is_replaced_and_has_all_the_data() {
    let mut members = Members::new();
    let peers = [0, 1, 2].map(|at| members.peer(at));
    (0..3).for_each(|at| members.start(at, &peers, EtcdInitialState::New));
    let etcd = members.client(&[0, 1, 2]).await;
    members.wait_for(&etcd, "three new members", |health| *health == EtcdHealth::Well).await;
    let put = vec![Write::Put { key: "k".to_owned(), value: b"v".to_vec(), lease: None }];
    etcd.txn(vec![], put).await.unwrap();

    let refused = replace_etcd_member(&etcd, &peers[2], false).await.unwrap_err();
    assert!(matches!(&refused, ProvisionError::MemberStays { name, .. } if name == "zone3"), "{refused}");
    assert_eq!(etcd.members().await.unwrap().len(), 3);

    members.kill(2);
    std::fs::remove_dir_all(members.path("zone3").join("data")).unwrap();
    members.wait_for(&etcd, "one is lost", |health| matches!(health, EtcdHealth::Degraded(_))).await;
    let joining = replace_etcd_member(&etcd, &peers[2], false).await.unwrap();
    let replaced = joining.members.clone();
    assert_eq!(replaced, peers, "as it must be started");
    let ids = |members: Vec<cellar_topology::EtcdMember>| -> Vec<u64> {
        members.into_iter().map(|member| member.id).collect()
    };
    let added = ids(etcd.members().await.unwrap());
    // The command was interrupted before it was started.
    assert_eq!(replace_etcd_member(&etcd, &peers[2], false).await.unwrap(), joining);
    assert_eq!(ids(etcd.members().await.unwrap()), added, "it was not added again");
    assert!(added.contains(&joining.id));

    members.start(2, &replaced, EtcdInitialState::Existing);
    members.wait_for(&etcd, "it is back", |health| *health == EtcdHealth::Well).await;
    // It counts for the majority, and has what was written before it came.
    members.kill(0);
    let with_new = members.client(&[1, 2]).await;
    let end = Instant::now() + WAIT_TIMEOUT;
    let entry = loop {
        match with_new.get("k").await {
            Ok(entry) => break entry,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    };
    assert_eq!(entry.unwrap().value, b"v");
    // Later starts have the same command line: etcd goes by its data.
    members.kill(2);
    members.start(2, &replaced, EtcdInitialState::Existing);
    members.start(0, &peers, EtcdInitialState::New);
    members.wait_for(&etcd, "all start again", |health| *health == EtcdHealth::Well).await;
}
