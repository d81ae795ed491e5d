//! Certificates that are revoked.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;

use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_model::{JobId, Key, Keyspace};
use cellar_tests::{Cluster, eventually, kill_hard, wait_for};
use cellar_tls::{CertificateInfo, ClientTls};
use cellar_topology::{EtcdKv, Store, StoreError};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::certificates::{accepted_by, ask_pooler, cell_of_server, list_served, repo_command};
use crate::rotation::{kill_when, read, receivers, serials};

/// Somebody with the certificate of a cell who reads a large file of another cell, slowly and without a pause.
pub(crate) struct SlowReader {
    child: Child,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl SlowReader {
    pub(crate) fn begin(cluster: &Cluster, port: u16, stolen: &Path) -> Self {
        let served = cell_of_server(cluster, port);
        let large = served.join("large");
        // Far more than fits into what lies between the disk and him.
        std::fs::write(&large, vec![b'x'; 256 << 20]).expect("a file");
        let (certificate, key) = (stolen.join("server.crt"), stolen.join("server.key"));
        let mut command = repo_command(cluster, port, &certificate, &key, "app", &served);
        let mut child = command
            .args(["repo-get", "large"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbackrest");
        let mut stream = child.stdout.take().expect("a pipe");
        let (begun, first) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut piece = vec![0; 64 << 10];
            while stream.read(&mut piece).is_ok_and(|n| n > 0) {
                let _ = begun.send(());
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        first.recv_timeout(std::time::Duration::from_secs(60)).expect("his session");
        Self { child, reader: Some(reader) }
    }

    /// Whether he reads still.
    pub(crate) fn goes_on(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// He has not come to the end of the file, and does not come there.
    #[track_caller]
    fn ends_early(mut self) {
        let status = wait_for("his session to end", std::time::Duration::from_secs(60), || {
            self.child.try_wait().expect("a child")
        });
        assert!(!status.success(), "he has read it all");
    }
}

impl Drop for SlowReader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// A connection to etcd with a stolen certificate.
async fn stand_at_etcd(cluster: &Cluster, stolen: &Path) -> Store {
    let file = |name: &str| stolen.join(name);
    let tls = ClientTls::from_files(&file("ca.crt"), &file("pooler.crt"), &file("server.key"));
    let tls = tls.expect("a client").tonic_config();
    let kv = EtcdKv::connect(&[cluster.etcd_url()], Some(tls)).await.expect("a connection");
    Store::new(Arc::new(kv), Keyspace::new(&"demo".parse().expect("a name")))
}

/// Writes where only the pooler of zone2 may.
async fn write_as_pooler(store: &Store) -> Result<(), StoreError> {
    let (database, cell) = ("app".parse().expect("a name"), "zone2".parse().expect("a name"));
    let id: JobId = "00000000-0000-0000-0000-000000000007".parse().expect("an id");
    let claim = Key::Claim(database, cell, id);
    store.transaction().delete(&claim).commit().await.map(drop)
}

#[test]
fn a_revoked_certificate_opens_nothing() {
    let cluster = Cluster::up("zone1,zone2");
    let issue = |name: &str| {
        let out = cluster.directory().join(format!("given-{name}"));
        let arguments =
            ["certs", "issue", "--role", "operator", "--name", name, "--out", &out.display().to_string()];
        let issued = cluster.json(&arguments);
        (out, issued["serial"].as_str().expect("a serial").to_owned())
    };
    let (stolen, serial) = issue("stolen");
    let (good, _) = issue("good");
    let list = |directory: &Path| {
        let endpoint = read(&directory.join("endpoint"));
        let client = directory.display().to_string();
        cluster.try_cellar(&["jobs", "list", "--admin", endpoint.trim(), "--client-dir", &client])
    };
    let _ = list(&stolen).ok();
    let started =
        (cluster.pid("pid/multiadmin.pid"), cluster.pid("pid/etcd.pid"), cluster.postmaster("zone1"));
    let colons: String = serial
        .to_uppercase()
        .as_bytes()
        .chunks(2)
        .map(|pair| format!("{}:", String::from_utf8_lossy(pair)))
        .collect();
    // He watches a job that does not end by itself, and sees no more of it.
    let job = cluster.begin_backup("zone2", "full");
    let frozen = cluster.pid("zone2/pid/multipooler.pid");
    cellar_tests::signal(frozen, Signal::SIGSTOP);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut stream = runtime.block_on(async {
        let tls = ClientTls::from_dir(&stolen).expect("a client");
        let endpoint = tls.endpoint(read(&stolen.join("endpoint")).trim(), None).expect("an address");
        let mut client = MultiAdminClient::new(endpoint.connect_lazy());
        let request = v1::GetJobRequest { id: job.clone() };
        client.watch_job(request).await.expect("a stream").into_inner()
    });
    let first = runtime.block_on(stream.message()).expect("the stream stands");
    assert!(first.is_some_and(|job| job.state() != v1::JobState::Succeeded));
    let _ = cluster.cellar(&["certs", "revoke", colons.trim_end_matches(':')]);
    let ended = runtime.block_on(async {
        let rest = async {
            while let Some(_news) = stream.message().await? {}
            Ok::<(), tonic::Status>(())
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), rest).await
    });
    assert!(ended.as_ref().is_ok_and(Result::is_err), "the stream goes on: {ended:?}");
    cellar_tests::signal(frozen, Signal::SIGCONT);
    let _ = cluster.ended(&job);
    wait_for("multiadmin to refuse it", std::time::Duration::from_secs(60), || {
        let said = list(&stolen);
        (said.code == 5 && said.stderr.contains("revoked")).then_some(())
    });
    let _ = list(&good).ok();
    let kept = cluster.directory().join("given-kept");
    std::fs::create_dir(&kept).unwrap();
    for file in ["ca.crt", "client.crt", "client.key", "endpoint"] {
        std::fs::copy(stolen.join(file), kept.join(file)).unwrap();
    }
    // Issued again, it is a new one with a new key.
    let (again, renewed) = issue("stolen");
    assert_ne!(renewed, serial);
    let _ = list(&again).ok();

    // A cell's own: it gets another one first, the connection of the old one is ended, and streaming goes on.
    let copy = cluster.directory().join("copied");
    std::fs::create_dir(&copy).unwrap();
    for file in ["ca.crt", "server.key", "server.crt", "replication.crt", "pooler.crt"] {
        std::fs::copy(cluster.directory().join("zone2/tls").join(file), copy.join(file)).unwrap();
    }
    let path = cluster.directory().join("zone2/tls/replication.crt").display().to_string();
    let serial = serials(&cluster)[&path].clone();
    let cells = ["get", "--prefix", "/cellar/demo/cells/"];
    let at_etcd = || cluster.etcdctl_as("copied/pooler.crt", "copied/server.key", &cells);
    let _ = at_etcd().ok();
    let port = |cell: &str| {
        let card =
            cluster.poolers().into_iter().filter_map(|view| view.pooler).find(|card| card.cell == cell);
        u16::try_from(card.expect("a cell").pgbackrest_port).expect("a port")
    };
    list_served(&cluster, port("zone1"), &copy.join("server.crt"), &copy.join("server.key"), "app")
        .expect("a stolen key opens the server");
    let thief = SlowReader::begin(&cluster, port("zone1"), &copy);
    let stream = receivers(&cluster);
    let list_key = "/cellar/demo/revocations/list";
    let older = cluster.etcd_get(list_key);
    let standing = runtime.block_on(stand_at_etcd(&cluster, &copy));
    runtime.block_on(write_as_pooler(&standing)).expect("a stolen key opens the cell's records");
    let _ = cluster.cellar(&["certs", "revoke", &serial]);
    let refused = runtime.block_on(write_as_pooler(&standing)).expect_err("a connection that stood");
    assert!(refused.to_string().contains("permission denied"), "{refused}");
    wait_for("the revoked connection to be replaced", std::time::Duration::from_secs(60), || {
        let now = receivers(&cluster);
        (!now.is_empty() && now != stream).then_some(())
    });
    cluster.wait_streaming("zone2");
    let primary = cluster.instance("zone1");
    let file = |name: &str| copy.join(name).display().to_string();
    let conninfo = format!(
        "host=localhost port={} user=cellar_replication replication=true sslmode=verify-full sslrootcert={} sslcert={} sslkey={}",
        primary.port,
        file("ca.crt"),
        file("replication.crt"),
        file("server.key")
    );
    let said =
        cellar_tests::run(std::process::Command::new("psql").args(["-XAtqc", "IDENTIFY_SYSTEM", &conninfo]));
    assert!(said.code != 0 && said.stderr.contains("certificate revoked"), "{said:?}");
    // The other certificates of the same key are worth nothing either.
    let refused = at_etcd();
    assert!(refused.code != 0, "{refused:?}");
    for cell in ["zone1", "zone2"] {
        let refused =
            list_served(&cluster, port(cell), &copy.join("server.crt"), &copy.join("server.key"), "app");
        assert!(refused.as_ref().is_err_and(|why| why.contains("access denied")), "{cell}: {refused:?}");
    }
    thief.ends_early();
    assert!(read(&cluster.directory().join("zone1/log/multipooler.log")).contains("sessions end"));
    let _ = cluster.backup("zone2", "full");
    // Nothing was started again.
    assert_eq!(
        (cluster.pid("pid/multiadmin.pid"), cluster.pid("pid/etcd.pid"), cluster.postmaster("zone1")),
        started
    );
    let refused = cluster.try_cellar(&["certs", "revoke", "nonsense"]).refused(2);
    assert!(refused.contains("hexadecimal"), "{refused}");
    let refused = cluster.try_cellar(&["certs", "revoke", "0123456789abcdef"]).refused(2);
    assert!(refused.contains("known here") && refused.contains("--unknown"), "{refused}");
    // An older list, signed by the authority, brings nobody back.
    cluster.etcd_put(list_key, &older);
    for log in ["log/multiadmin.log", "zone1/log/multipooler.log"] {
        eventually("the older list to be seen", || {
            read(&cluster.directory().join(log)).contains("revocation list in etcd is older")
        });
    }
    // The list outlives etcd and its readers: what was known is refused without it, and again after it.
    let pooler =
        ClientTls::from_files(&copy.join("ca.crt"), &copy.join("pooler.crt"), &copy.join("server.key"));
    let pooler = pooler.expect("a client");
    let port = cluster.poolers().into_iter().filter_map(|view| view.pooler).find(|card| card.cell == "zone1");
    let port = port.expect("zone1").grpc_port;
    let refused = |when: &str| {
        let said = ask_pooler(&pooler, port).expect_err(when);
        assert!(said.message().contains("revoked"), "{when}: {said:?}");
    };
    refused("with an older list");
    kill_hard(cluster.pid("pid/etcd.pid"));
    refused("without etcd");
    let said = list(&kept).refused(5);
    assert!(said.contains("revoked"), "multiadmin without etcd: {said}");
    kill_hard(cluster.pid("zone1/pid/multipooler.pid"));
    kill_hard(cluster.pid("pid/multiadmin.pid"));
    let _ = cluster.cellar(&["up"]);
    refused("after a restart");
    wait_for("multiadmin to have read the list", std::time::Duration::from_secs(60), || {
        let said = list(&kept);
        (said.code == 5 && said.stderr.contains("revoked")).then_some(())
    });
    // And a rotation of the authority.
    let _ = cluster.cellar(&["certs", "rotate", "--ca"]);
    let _ = cluster.backup("zone2", "incr");
}

#[test]
fn an_interrupted_revocation_is_finished_by_the_next_up() {
    let cluster = Cluster::up("zone1,zone2");
    let state = || -> Value {
        serde_json::from_str(&read(&cluster.directory().join("state/cluster.json"))).expect("the state")
    };
    let copy = cluster.directory().join("copied");
    std::fs::create_dir(&copy).unwrap();
    let tls = cluster.directory().join("zone2/tls");
    for file in ["ca.crt", "server.key", "server.crt", "pooler.crt"] {
        std::fs::copy(tls.join(file), copy.join(file)).unwrap();
    }
    let path = tls.join("server.crt").display().to_string();
    let (serial, key) = (serials(&cluster)[&path].clone(), read(&tls.join("server.key")));
    // Killed as it is written down, and once the key is a new one.
    let stages: [(&str, &dyn Fn() -> bool); 2] = [
        ("written down", &|| state()["revoking"].is_object()),
        ("replaced", &|| std::fs::read_to_string(tls.join("server.key")).is_ok_and(|now| now != key)),
    ];
    for (until, reached) in stages {
        kill_when(&cluster, &["certs", "revoke", &serial], &format!("the certificate was {until}"), reached);
    }
    let _ = cluster.cellar(&["up"]);
    assert!(state()["revoking"].is_null(), "{:#}", state());
    // Once is enough.
    let name = accepted_by(&cluster, "zone1");
    let again = cluster.try_cellar(&["certs", "revoke", &serial]);
    assert!(again.code == 0 && again.stderr.contains("revoked already"), "{again:?}");
    assert_eq!(accepted_by(&cluster, "zone1"), name);
    let port = cluster.poolers().into_iter().filter_map(|view| view.pooler).find(|card| card.cell == "zone1");
    let port = u16::try_from(port.expect("zone1").pgbackrest_port).expect("a port");
    let refused = list_served(&cluster, port, &copy.join("server.crt"), &copy.join("server.key"), "app");
    assert!(refused.is_err(), "pgBackRest lets the thief in");
    let cells = ["get", "--prefix", "/cellar/demo/cells/"];
    let refused = cluster.etcdctl_as("copied/pooler.crt", "copied/server.key", &cells);
    assert_ne!(refused.code, 0, "etcd lets the thief in: {refused:?}");
    let _ = cluster.backup("zone2", "full");
    cluster.wait_streaming("zone2");

    // An etcd that was put back to before it is told again.
    let key = "/cellar/demo/databases/app";
    let recorded = cluster.etcd_get(key);
    let older = recorded.replace(&format!("\"{name}\""), "\"pgbackrest\"");
    assert_ne!(older, recorded);
    cluster.etcd_put(key, &older);
    for cell in ["zone1", "zone2"] {
        eventually("the servers to go by it", || {
            cluster.status(cell).is_some_and(|status| status.tls_server_accepts == ["pgbackrest"])
        });
    }
    let _ = cluster.cellar(&["up"]);
    assert_eq!(cluster.etcd_get(key), recorded);
    let _ = cluster.backup("zone2", "incr");

    // A cell that hangs keeps nobody else from refusing what is revoked, and follows when it is back.
    let again = cluster.directory().join("again");
    std::fs::create_dir(&again).unwrap();
    for file in ["server.key", "pooler.crt"] {
        std::fs::copy(tls.join(file), again.join(file)).unwrap();
    }
    let at_etcd = || cluster.etcdctl_as("again/pooler.crt", "again/server.key", &cells);
    let _ = at_etcd().ok();
    let frozen = cluster.pid("zone1/pid/multipooler.pid");
    cellar_tests::signal(frozen, Signal::SIGSTOP);
    let path = tls.join("pooler.crt").display().to_string();
    let serial = serials(&cluster)[&path].clone();
    let said = cluster.try_cellar(&["certs", "revoke", &serial, "--timeout", "20s"]);
    assert!(said.code != 0 && said.stderr.contains("of cell zone1"), "{said:?}");
    assert_ne!(at_etcd().code, 0, "what is revoked waits for a cell that hangs");
    cellar_tests::signal(frozen, Signal::SIGCONT);
    let _ = cluster.cellar(&["up"]);
    assert!(state()["revoking"].is_null(), "{:#}", state());
    let _ = cluster.backup("zone2", "incr");
}

/// A renewal gives the key another certificate; whoever has stolen the key has that of before.
#[test]
fn a_stolen_key_is_replaced_also_when_its_certificate_is_renewed() {
    let cluster = Cluster::new();
    let up = ["up", "--cells", "zone1,zone2", "--port-offset", "auto", "--cert-lifetime", "60s"];
    let _ = cluster.try_cellar(&up).ok();
    let file = |name: &str| cluster.directory().join(name);
    let info = |name: &str| CertificateInfo::from_file(&file(name)).expect("a certificate");
    let state = || -> Value { serde_json::from_str(&read(&file("state/cluster.json"))).expect("the state") };
    let keys = || {
        ["client/client.key", "zone1/tls/server.key", "zone2/tls/server.key"].map(|name| read(&file(name)))
    };
    let [client, zone1, zone2] = keys();
    let due = ["client/client.crt", "zone1/tls/server.crt", "zone2/tls/server.crt"].map(info);
    wait_for("the certificates to be due", std::time::Duration::from_secs(60), || {
        due.iter().all(|one| one.renew_at() < std::time::SystemTime::now()).then_some(())
    });
    // Every command renews the operator's own, this one too.
    let [of_client, of_zone1, of_zone2] = due.map(|one| one.serial);
    let _ = cluster.cellar(&["certs", "revoke", &of_client]);
    let now = keys();
    assert_ne!(now[0], client);
    assert_eq!(now[1..], [zone1.clone(), zone2.clone()]);

    // `up` renews what is due before it goes on with what was interrupted.
    kill_when(&cluster, &["certs", "revoke", &of_zone2], "it was written down", &|| {
        state()["revoking"].is_object()
    });
    let _ = cluster.cellar(&["up"]);
    let now = keys();
    assert_ne!(now[2], zone2);
    assert_eq!(now[1], zone1);
    assert!(state()["revoking"].is_null(), "{:#}", state());

    // That has renewed zone1's, too, and so the certificate that it had is not there any more.
    assert_ne!(info("zone1/tls/server.crt").serial, of_zone1);
    let _ = cluster.cellar(&["certs", "revoke", &of_zone1]);
    let now = keys();
    assert_ne!(now[1], zone1);

    // Interrupted once the key is a new one, before its pooler has read it, which then starts again.
    let pooler = cluster.pid("zone2/pid/multipooler.pid");
    cellar_tests::signal(pooler, Signal::SIGSTOP);
    let serial = info("zone2/tls/pooler.crt").serial;
    kill_when(&cluster, &["certs", "revoke", &serial], "the key was replaced", &|| {
        std::fs::read_to_string(file("zone2/tls/server.key")).is_ok_and(|key| key != now[2])
    });
    kill_hard(pooler);
    let _ = cluster.cellar(&["up"]);
    assert!(state()["revoking"].is_null(), "{:#}", state());
    for left in ["zone2/tls.previous", "zone2/tls.next", "client.previous", "state/tls.previous"] {
        assert!(!file(left).exists(), "{left} has a stolen key");
    }
    let again = cluster.try_cellar(&["certs", "revoke", &serial]);
    assert!(again.code == 0 && again.stderr.contains("revoked already"), "{again:?}");
    cluster.wait_streaming("zone2");
    let _ = cluster.backup("zone2", "incr");
}

/// A session with a revoked certificate is ended also when PostgreSQL does not answer as the certificate is revoked.
#[test]
fn revocation_reaches_a_primary_that_hangs_once_it_goes_on() {
    let cluster = Cluster::up("zone1,zone2");
    let copy = cluster.directory().join("copied");
    std::fs::create_dir(&copy).unwrap();
    for file in ["ca.crt", "server.key", "replication.crt"] {
        std::fs::copy(cluster.directory().join("zone2/tls").join(file), copy.join(file)).unwrap();
    }
    let file = |name: &str| copy.join(name).display().to_string();
    let serial = serials(&cluster)
        [&cluster.directory().join("zone2/tls/replication.crt").display().to_string()]
        .clone();
    let conninfo = format!(
        "host=localhost port={} user=cellar_replication application_name=thief sslmode=verify-full sslrootcert={} sslcert={} sslkey={}",
        cluster.instance("zone1").port,
        file("ca.crt"),
        file("replication.crt"),
        file("server.key")
    );
    let mut thief = std::process::Command::new("pg_receivewal")
        .args(["--no-loop", "--no-sync", "-D", &copy.display().to_string(), "-d", &conninfo])
        .stderr(Stdio::null())
        .spawn()
        .expect("pg_receivewal");
    let streams =
        || cluster.sql("zone1", "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'thief'");
    eventually("the thief to stream", || streams() == "1");
    let postmaster = cluster.postmaster("zone1");
    cellar_tests::signal(postmaster, Signal::SIGSTOP);
    let _ = cluster.try_cellar(&["certs", "revoke", &serial, "--timeout", "20s"]);
    let log = cluster.directory().join("zone1/log/multipooler.log");
    eventually("the multipooler to say so", || read(&log).contains("are not refused everywhere"));
    let goes_on = thief.try_wait().expect("a child").is_none();
    cellar_tests::signal(postmaster, Signal::SIGCONT);
    assert!(goes_on, "the session was ended without PostgreSQL");
    let ended = wait_for("the session to end", std::time::Duration::from_secs(60), || {
        thief.try_wait().expect("a child")
    });
    assert!(!ended.success());
    let _ = cluster.cellar(&["up"]);
    cluster.wait_streaming("zone2");
    assert_eq!(streams(), "0");
}
