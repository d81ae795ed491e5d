//! The daemon itself, over a real etcd with mutual TLS.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{database, reason, wait_for};
use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_model::{ClusterName, Key, Keyspace};
use cellar_system::{OsUser, running_pid};
use cellar_tls::{ClientTls, KeyFile, LeafRequest, OperatorRole, generate_ca, install_ring_provider, issue};
use cellar_topology::{EtcdKv, Store};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// A process that ends with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Directories {
    dir: tempfile::TempDir,
    etcd_port: u16,
    admin_port: u16,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Directories {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let directories = Self { dir, etcd_port: free_port(), admin_port: free_port() };
        let cluster: ClusterName = "demo".parse().unwrap();
        let ca = generate_ca(&directories.path("ca"), &cluster).unwrap();
        let tls = directories.path("tls");
        for (name, request) in [
            ("multiadmin", LeafRequest::multiadmin(&cluster, "localhost")),
            ("client", LeafRequest::operator(&cluster, OperatorRole::Admin, "ann").unwrap()),
            ("etcd", LeafRequest::etcd_server(&cluster, "localhost")),
        ] {
            let key = KeyFile::load_or_create(&tls.join(format!("{name}.key")), None).unwrap();
            issue(&ca, &request, &key, &tls.join(format!("{name}.crt"))).unwrap();
        }
        std::fs::copy(directories.path("ca").join("ca.crt"), tls.join("ca.crt")).unwrap();
        // Started as root, multiadmin becomes this user.
        let user = OsUser::resolve(None).unwrap();
        let mut paths: Vec<PathBuf> = vec![tls.clone(), directories.dir.path().to_owned()];
        paths.extend(std::fs::read_dir(&tls).unwrap().map(|entry| entry.unwrap().path()));
        for path in paths {
            chown(path, Some(user.uid), Some(user.gid)).unwrap();
        }
        directories
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn etcd(&self) -> Daemon {
        let url = format!("https://localhost:{}", self.etcd_port);
        let listen = format!("https://127.0.0.1:{}", self.etcd_port);
        let tls = self.path("tls");
        let file = |name: &str| tls.join(name).to_string_lossy().into_owned();
        let child = Command::new("etcd")
            .args(["--data-dir", &self.path("data").to_string_lossy()])
            .args(["--listen-client-urls", &listen, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", "http://127.0.0.1:0", "--unsafe-no-fsync"])
            .args(["--client-cert-auth", "--trusted-ca-file", &file("ca.crt")])
            .args(["--cert-file", &file("etcd.crt"), "--key-file", &file("etcd.key")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd (Debian package etcd-server) is installed");
        Daemon(child)
    }

    fn multiadmin(&self) -> Daemon {
        let child = Command::new(env!("CARGO_BIN_EXE_multiadmin"))
            .args(["--cluster", "demo", "--etcd", &format!("https://localhost:{}", self.etcd_port)])
            .args(["--tls-dir", &self.path("tls").to_string_lossy()])
            .args(["--listen", &format!("127.0.0.1:{}", self.admin_port)])
            .args(["--pid-file", &self.path("multiadmin.pid").to_string_lossy()])
            .args(["--audit-log", &self.path("audit.log").to_string_lossy()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Daemon(child)
    }

    async fn channel(&self) -> Channel {
        let tls = ClientTls::from_dir(&self.path("tls")).unwrap();
        let endpoint = tls.endpoint(&format!("127.0.0.1:{}", self.admin_port), None).unwrap();
        wait_for("multiadmin listens", || async { endpoint.connect().await.is_ok() }).await;
        endpoint.connect_lazy()
    }

    async fn store(&self) -> Store {
        let tls = self.path("tls");
        let file = |name: &str| -> PathBuf { Path::new(&tls).join(name) };
        let tls = ClientTls::from_files(&file("ca.crt"), &file("client.crt"), &file("client.key")).unwrap();
        let endpoint = format!("https://localhost:{}", self.etcd_port);
        let kv = EtcdKv::connect(&[endpoint], Some(tls.tonic_config())).await.unwrap();
        Store::new(Arc::new(kv), Keyspace::new(&"demo".parse().unwrap()))
    }
}

async fn is(channel: &Channel, status: ServingStatus) -> bool {
    let answer = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await;
    answer.is_ok_and(|answer| answer.into_inner().status() == status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn multiadmin_survives_an_etcd_outage_and_ends_on_sigterm() {
    install_ring_provider();
    let directories = Directories::new();
    let mut multiadmin = directories.multiadmin();
    // Without etcd it answers UNAVAILABLE rather than nothing.
    let channel = directories.channel().await;
    wait_for("not serving", || is(&channel, ServingStatus::NotServing)).await;
    let mut client = MultiAdminClient::new(channel.clone());
    let mut request = tonic::Request::new(v1::ListCellsRequest {});
    request.set_timeout(Duration::from_millis(500));
    assert_eq!(reason(client.list_cells(request).await), "UNAVAILABLE");

    let etcd = directories.etcd();
    wait_for("serving", || is(&channel, ServingStatus::Serving)).await;
    let store = directories.store().await;
    let db = Key::Database(crate::support::db());
    wait_for("a record is written", || async {
        store.transaction().put(&db, &database("app")).commit().await.is_ok()
    })
    .await;
    wait_for("the record is seen", || async {
        let mut client = MultiAdminClient::new(channel.clone());
        client.get_database(v1::GetDatabaseRequest::default()).await.is_ok()
    })
    .await;
    let new = v1::AddCellRequest {
        name: "zone1".into(),
        host: "localhost".into(),
        directory: "/c/zone1".into(),
        listen: String::new(),
    };
    assert_eq!(client.add_cell(new).await.unwrap().into_inner().index, 0);

    drop(etcd);
    wait_for("the loss is noticed", || is(&channel, ServingStatus::NotServing)).await;
    let _etcd = directories.etcd();
    wait_for("serving again", || is(&channel, ServingStatus::Serving)).await;
    assert_eq!(client.list_cells(v1::ListCellsRequest {}).await.unwrap().into_inner().cells.len(), 1);
    wait_for("this multiadmin is the leader", || async {
        store.get::<String>(&Key::AdminLeader).await.unwrap().is_some()
    })
    .await;

    let pid = running_pid(&directories.path("multiadmin.pid")).unwrap();
    assert_eq!(pid, multiadmin.0.id());
    let begin = Instant::now();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGTERM).unwrap();
    wait_for("multiadmin has ended", || {
        let ended = multiadmin.0.try_wait().unwrap();
        async move { ended.is_some_and(|status| status.success()) }
    })
    .await;
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(store.get::<String>(&Key::AdminLeader).await.unwrap(), None, "leadership is given up at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn multiadmin_does_not_start_without_its_audit_log() {
    let directories = Directories::new();
    std::os::unix::fs::symlink(directories.path("elsewhere"), directories.path("audit.log")).unwrap();
    let mut multiadmin = directories.multiadmin();
    wait_for("multiadmin has ended", || {
        let ended = multiadmin.0.try_wait().unwrap();
        async move { ended.is_some_and(|status| !status.success()) }
    })
    .await;
    assert!(!directories.path("elsewhere").exists());
}
