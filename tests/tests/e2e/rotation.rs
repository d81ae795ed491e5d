//! New keys, certificates and a new authority under load, and certificates that are revoked.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;

use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_model::{JobId, Key, Keyspace};
use cellar_tests::{Cluster, eventually, kill_hard, patiently};
use cellar_tls::{CertificateInfo, ClientTls};
use cellar_topology::{EtcdKv, Store, StoreError};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::certificates::{accepted_by, ask_pooler, list_repo, repo_command};

/// pgbench on the primary until it is told to end; its report.
struct Load(Option<Child>);

impl Load {
    fn begin(cluster: &Cluster) -> Self {
        let mut command =
            cluster.tool("pgbench", &cluster.primary(), &["-n", "-c", "2", "-T", "600", "-R", "50"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self(Some(child.expect("pgbench")))
    }

    /// Ends it; every statement until then must have succeeded.
    #[track_caller]
    fn end(mut self) {
        let child = self.0.take().expect("it runs");
        let running = i32::try_from(child.id()).expect("a pid");
        let found = std::fs::read_to_string(format!("/proc/{running}/status")).expect("pgbench runs still");
        assert!(!found.contains("State:\tZ"), "pgbench ended by itself");
        // Not SIGINT, which a shell that runs this in the background has made it ignore.
        cellar_tests::signal(running, Signal::SIGTERM);
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        for bad in ["error", "ERROR", "aborted", "FATAL"] {
            assert!(!said.contains(bad), "a statement failed: {said}");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Somebody with the certificate of a cell who reads a large file of the repo, slowly and without a pause.
struct SlowReader {
    child: Child,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl SlowReader {
    fn begin(cluster: &Cluster, port: u16, stolen: &Path) -> Self {
        let large = cluster.directory().join("repo/large");
        // Far more than fits into what lies between the disk and him.
        std::fs::write(&large, vec![b'x'; 256 << 20]).expect("a file");
        let (certificate, key) = (stolen.join("server.crt"), stolen.join("server.key"));
        let mut command = repo_command(cluster, port, &certificate, &key, "app");
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
        first.recv_timeout(std::time::Duration::from_secs(20)).expect("his session");
        Self { child, reader: Some(reader) }
    }

    /// Whether he reads still.
    fn goes_on(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// He has not come to the end of the file, and does not come there.
    #[track_caller]
    fn ends_early(mut self) {
        let status = patiently("his session to end", std::time::Duration::from_secs(20), || {
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

/// Serial numbers by file.
fn serials(cluster: &Cluster) -> BTreeMap<String, String> {
    let listed = cluster.json(&["certs", "list"]);
    let of = |certificate: &Value| {
        let text = |name: &str| certificate[name].as_str().unwrap_or_default().to_owned();
        (text("path"), text("serial"))
    };
    listed["certificates"].as_array().expect("certificates").iter().map(of).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file")
}

/// Each standby has streamed without a break since its connection began.
fn receivers(cluster: &Cluster) -> String {
    cluster.sql(
        &cluster.primary(),
        "SELECT string_agg(application_name || pid, ' ' ORDER BY 1) FROM pg_stat_replication",
    )
}

#[test]
fn keys_certificates_and_the_authority_are_replaced_under_load() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    cluster.load(5);
    let load = Load::begin(&cluster);
    let streams = receivers(&cluster);
    let before = serials(&cluster);
    let key = cluster.directory().join("zone2/tls/server.key");
    let old_key = read(&key);
    let processes = || ["pid/multiadmin.pid", "zone1/pid/multipooler.pid"].map(|file| cluster.pid(file));
    let running = (processes(), cluster.postmaster("zone1"));

    // Leaves: everything is new but the authority, and nothing was started again or noticed it.
    let job = cluster.begin_backup("zone2", "full");
    let _ = cluster.cellar(&["certs", "rotate"]);
    let after = serials(&cluster);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (path, serial) in &after {
        assert_eq!(path.ends_with("ca/ca.crt"), *serial == before[path], "{path}");
    }
    assert_ne!(read(&key), old_key);
    assert_eq!((processes(), cluster.postmaster("zone1")), running);
    assert_eq!(receivers(&cluster), streams, "a standby's connection broke");
    let ended = cluster.ended(&job);
    assert_eq!(ended["state"], "JOB_STATE_SUCCEEDED", "{ended:#}");
    // What needs new connections between all of them works: etcd, cell to cell, the command line.
    let _ = cluster.backup("zone3", "incr");
    assert!(!cluster.directory().join("zone2/tls.previous").exists(), "an old key lies about");

    // The authority, while a backup runs and the load goes on.
    let authority = read(&cluster.directory().join("ca/ca.crt"));
    let given = cluster.directory().join("given");
    let _ = cluster.cellar(&[
        "certs",
        "issue",
        "--role",
        "viewer",
        "--name",
        "ci",
        "--out",
        &given.display().to_string(),
    ]);
    let job = cluster.begin_backup("zone2", "full");
    let _ = cluster.cellar(&["certs", "rotate", "--ca"]);
    let ended = cluster.ended(&job);
    assert_eq!(ended["state"], "JOB_STATE_SUCCEEDED", "{ended:#}");
    let new = read(&cluster.directory().join("ca/ca.crt"));
    assert_ne!(new, authority);
    for file in
        ["zone1/tls/ca.crt", "etcd/tls/ca.crt", "multiadmin/ca.crt", "client/ca.crt", "state/tls/ca.crt"]
    {
        assert_eq!(read(&cluster.directory().join(file)), new, "{file}");
    }
    for gone in ["ca/next", "ca/old.crt", "ca.previous", "ca.next"] {
        assert!(!cluster.directory().join(gone).exists(), "{gone} is left");
    }
    assert_eq!((processes(), cluster.postmaster("zone1")), running);
    assert_eq!(receivers(&cluster), streams, "a standby's connection broke");
    let _ = cluster.backup("zone3", "incr");
    // What the old authority had signed opens nothing any more.
    let endpoint = read(&given.join("endpoint"));
    let given = given.display().to_string();
    let refused = cluster.try_cellar(&["jobs", "list", "--admin", endpoint.trim(), "--client-dir", &given]);
    assert_ne!(refused.code, 0, "{refused:?}");
    load.end();
    // A standby that must connect anew gets in, and so does one that is made anew.
    let _ = cluster.cellar(&["rebuild", "zone3"]);
    cluster.wait_streaming("zone3");
}

#[test]
fn a_new_authority_is_finished_by_the_next_run() {
    let cluster = Cluster::up("zone1,zone2");
    let there = |file: &str| cluster.directory().join(file).exists();
    // Killed as the new authority is trusted, once it signs, and as the old one is trusted no more.
    let stages: [(&str, &dyn Fn() -> bool); 3] = [
        ("trusted", &|| there("ca/next/ca.crt")),
        ("signing", &|| there("ca/old.crt")),
        ("alone", &|| there("ca.previous") && !there("ca/old.crt")),
    ];
    for (until, reached) in stages {
        let authority = read(&cluster.directory().join("ca/ca.crt"));
        let mut rotation = cluster.command(&["certs", "rotate", "--ca"]);
        let mut child = rotation.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("cellar");
        patiently("the rotation to come so far", std::time::Duration::from_secs(60), || {
            let ended = child.try_wait().expect("a child").is_some();
            assert!(!ended, "it ended before the new authority was {until}");
            reached().then_some(())
        });
        child.kill().expect("it runs");
        let _ = child.wait();
        // Whatever stands now works, and `up` changes nothing of it.
        let _ = cluster.cellar(&["up"]);
        let _ = cluster.backup("zone2", "full");
        let _ = cluster.cellar(&["certs", "rotate", "--ca"]);
        assert_ne!(read(&cluster.directory().join("ca/ca.crt")), authority);
        assert!(!["ca/next", "ca/old.crt", "ca.previous", "ca.next"].into_iter().any(there));
        let _ = cluster.backup("zone2", "incr");
    }
}

/// pgBackRest's server lets anybody be connected for ever, and a backup may take hours.
#[test]
fn sessions_neither_keep_new_certificates_out_nor_notice_them() {
    let cluster = Cluster::up("zone1,zone2");
    let cards = cluster.poolers().into_iter().filter_map(|view| view.pooler);
    let port = |port: u32| u16::try_from(port).expect("a port");
    let ports: Vec<u16> = cards.map(|card| port(card.pgbackrest_port)).collect();
    let stranger = |port: &u16| TcpStream::connect(("127.0.0.1", *port)).expect("a connection");
    let mut strangers: Vec<_> = ports.iter().map(stranger).collect();
    let copy = cluster.directory().join("copied");
    std::fs::create_dir(&copy).unwrap();
    for file in ["server.key", "server.crt"] {
        std::fs::copy(cluster.directory().join("zone2/tls").join(file), copy.join(file)).unwrap();
    }
    let mut reader = SlowReader::begin(&cluster, ports[0], &copy);
    let server = cluster.pid("zone1/pid/pgbackrest-server.pid");
    let path = cluster.directory().join("zone1/tls/server.crt").display().to_string();
    for _ in 0..3 {
        let (before, begun) = (serials(&cluster), std::time::Instant::now());
        let _ = cluster.cellar(&["certs", "rotate"]);
        assert!(begun.elapsed().as_secs() < 60, "it waited for sessions");
        assert_ne!(serials(&cluster)[&path], before[&path]);
    }
    assert!(reader.goes_on(), "a session broke off");
    assert_eq!(cluster.pid("zone1/pid/pgbackrest-server.pid"), server, "it was started again");
    for stranger in &mut strangers {
        stranger.set_nonblocking(true).unwrap();
        assert_eq!(stranger.read(&mut [0]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    }
    let _ = cluster.backup("zone2", "full");
}

#[test]
fn what_is_not_taken_up_comes_back() {
    let cluster = Cluster::up("zone1,zone2");
    let tls = cluster.directory().join("zone2/tls");
    let before = serials(&cluster);
    // A set that fits and that PostgreSQL's clients would refuse: another authority's, put in as a rotation does it.
    let (spare, kept) =
        (cluster.directory().join("zone2/tls.spare"), cluster.directory().join("zone2/tls.previous"));
    std::fs::create_dir(&spare).unwrap();
    for entry in std::fs::read_dir(&tls).unwrap().flatten() {
        std::fs::copy(entry.path(), spare.join(entry.file_name())).unwrap();
    }
    std::fs::write(spare.join("server.key"), read(&cluster.directory().join("zone1/tls/server.key")))
        .unwrap();
    let owner = std::fs::metadata(&tls).unwrap();
    let mut ours: Vec<_> = std::fs::read_dir(&spare).unwrap().flatten().map(|entry| entry.path()).collect();
    ours.push(spare.clone());
    for path in ours {
        std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    std::fs::rename(&tls, &kept).unwrap();
    std::fs::rename(&spare, &tls).unwrap();
    eventually("the old set to come back", || {
        cluster.status("zone2").is_some_and(|status| status.message.contains("the old ones are back"))
    });
    assert_eq!(serials(&cluster), before);
    assert_ne!(read(&tls.join("server.key")), read(&cluster.directory().join("zone1/tls/server.key")));
    let _ = cluster.backup("zone2", "full");
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
        tokio::time::timeout(std::time::Duration::from_secs(5), rest).await
    });
    assert!(ended.as_ref().is_ok_and(Result::is_err), "the stream goes on: {ended:?}");
    cellar_tests::signal(frozen, Signal::SIGCONT);
    let _ = cluster.ended(&job);
    patiently("multiadmin to refuse it", std::time::Duration::from_secs(5), || {
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
    list_repo(&cluster, port("zone1"), &copy.join("server.crt"), &copy.join("server.key"), "app")
        .expect("a stolen key opens the repo");
    let thief = SlowReader::begin(&cluster, port("zone1"), &copy);
    let stream = receivers(&cluster);
    let list_key = "/cellar/demo/revocations/list";
    let older = cluster.etcd_get(list_key);
    let standing = runtime.block_on(stand_at_etcd(&cluster, &copy));
    runtime.block_on(write_as_pooler(&standing)).expect("a stolen key opens the cell's records");
    let _ = cluster.cellar(&["certs", "revoke", &serial]);
    let refused = runtime.block_on(write_as_pooler(&standing)).expect_err("a connection that stood");
    assert!(refused.to_string().contains("permission denied"), "{refused}");
    patiently("the revoked connection to be replaced", std::time::Duration::from_secs(20), || {
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
            list_repo(&cluster, port(cell), &copy.join("server.crt"), &copy.join("server.key"), "app");
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
    // An older list, signed by the authority, brings nobody back.
    cluster.etcd_put(list_key, &older);
    for log in ["log/multiadmin.log", "zone1/log/multipooler.log"] {
        eventually("the older list to be seen", || {
            read(&cluster.directory().join(log)).contains("older revocation")
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
    patiently("multiadmin to have read the list", std::time::Duration::from_secs(5), || {
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
        let mut revocation = cluster.command(&["certs", "revoke", &serial]);
        let mut child = revocation.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("cellar");
        patiently("the revocation to come so far", std::time::Duration::from_secs(60), || {
            let ended = child.try_wait().expect("a child").is_some();
            assert!(!ended, "it ended before the certificate was {until}");
            reached().then_some(())
        });
        child.kill().expect("it runs");
        let _ = child.wait();
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
    let refused = list_repo(&cluster, port, &copy.join("server.crt"), &copy.join("server.key"), "app");
    assert!(refused.is_err(), "pgBackRest lets the thief in");
    let cells = ["get", "--prefix", "/cellar/demo/cells/"];
    let refused = cluster.etcdctl_as("copied/pooler.crt", "copied/server.key", &cells);
    assert_ne!(refused.code, 0, "etcd lets the thief in: {refused:?}");
    let _ = cluster.backup("zone2", "full");
    cluster.wait_streaming("zone2");

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

#[test]
fn what_was_interrupted_or_has_expired_is_replaced_by_the_next_rotation() {
    let cluster = Cluster::new();
    let _ = cluster
        .try_cellar(&["up", "--cells", "zone1,zone2", "--port-offset", "auto", "--cert-lifetime", "60s"])
        .ok();
    let there = |file: &str| cluster.directory().join(file).exists();
    let previous = ["zone1/tls.previous", "zone2/tls.previous", "multiadmin.previous", "etcd/tls.previous"];
    // Killed while some have their new set and others have not.
    let mut rotation = cluster.command(&["certs", "rotate"]);
    let mut child = rotation.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("cellar");
    patiently("the first set to be exchanged", std::time::Duration::from_secs(30), || {
        assert!(child.try_wait().expect("a child").is_none(), "it ended before anything was seen");
        previous.into_iter().any(there).then_some(())
    });
    child.kill().expect("it runs");
    let _ = child.wait();
    let _ = cluster.backup("zone2", "full");

    // Nobody renews them, and they end.
    let certificate = cluster.directory().join("multiadmin/multiadmin.crt");
    let pooler = cluster.directory().join("zone2/tls/pooler.crt");
    let ends =
        [certificate, pooler].map(|path| CertificateInfo::from_file(&path).expect("a certificate").not_after);
    patiently("the certificates to end", std::time::Duration::from_secs(90), || {
        // Certificates end with their last second.
        let over = std::time::SystemTime::now() - std::time::Duration::from_secs(2);
        ends.iter().all(|end| *end < over).then_some(())
    });
    let said = cluster.try_cellar(&["backup", "--from", "zone2"]).refused(4);
    assert!(said.contains("expired") && said.contains("certs rotate"), "what to do next is not said: {said}");
    let _ = cluster.cellar(&["certs", "rotate"]);
    assert!(!previous.into_iter().any(there), "old keys lie about");
    cluster.wait_streaming("zone2");
    let _ = cluster.backup("zone2", "full");
}

#[test]
fn certificates_renew_themselves_before_they_end() {
    let cluster = Cluster::new();
    let arguments =
        ["up", "--cells", "zone1,zone2", "--port-offset", "auto", "--cert-lifetime", "60s", "--auto-renew"];
    let _ = cluster.try_cellar(&arguments).ok();
    cluster.load(2);
    let load = Load::begin(&cluster);
    let key = cluster.directory().join("zone2/tls/server.key");
    let (first, kept) = (serials(&cluster), read(&key));
    let lasts = |path: &str| path.ends_with("/ca.crt");
    let begun = std::time::Instant::now();
    patiently("every certificate to be renewed", std::time::Duration::from_secs(90), || {
        // The command line's own are renewed when it talks to somebody.
        let _ = cluster.cellar(&["status"]);
        let now = serials(&cluster);
        now.iter().all(|(path, serial)| lasts(path) || *serial != first[path]).then_some(())
    });
    assert!(begun.elapsed().as_secs() > 10, "they were renewed long before two thirds of their life");
    // The first ones have ended; whatever connects now does so with what was renewed.
    patiently("the first certificates to end", std::time::Duration::from_secs(60), || {
        (begun.elapsed().as_secs() > 60).then_some(())
    });
    let _ = cluster.cellar(&["rebuild", "zone2"]);
    let _ = cluster.backup("zone2", "full");
    cluster.wait_streaming("zone2");
    assert_eq!(read(&key), kept, "a renewal keeps the key");
    assert!(!cluster.directory().join("zone2/tls.previous").exists());
    // A process that starts now finds what is valid.
    kill_hard(cluster.pid("pid/multiadmin.pid"));
    kill_hard(cluster.pid("zone1/pid/multipooler.pid"));
    let _ = cluster.cellar(&["up"]);
    let _ = cluster.backup("zone2", "incr");
    // Revocation goes on to work with a certificate that the delegate has signed, and spares the others.
    let path = cluster.directory().join("zone2/tls/pooler.crt").display().to_string();
    let _ = cluster.cellar(&["certs", "revoke", &serials(&cluster)[&path]]);
    let _ = cluster.cellar(&["rebuild", "zone2"]);
    let _ = cluster.backup("zone2", "incr");
    load.end();
}
