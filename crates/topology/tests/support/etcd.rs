//! A real etcd for tests: started on free ports, killed when dropped.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use cellar_tls::{CertificateInfo, ClientTls, KeyFile, LeafRequest, OperatorRole, generate_ca, issue};
use cellar_topology::{EtcdKv, EtcdTls};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long etcd may take to elect itself; milliseconds on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The members of one etcd cluster, mostly one.
pub(crate) struct Etcd {
    members: Vec<Member>,
    /// What a client presents and trusts, where TLS is used.
    tls: Option<(ClientTls, tempfile::TempDir)>,
}

/// Whether all threads of a process are stopped.
fn is_stopped(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // One that has ended meanwhile has no state any more.
    let mut states =
        tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    states.all(|status| status.contains("State:\tT"))
}

struct Member {
    arguments: Vec<String>,
    endpoint: String,
    /// Where it answers to `GET /health` without TLS.
    health_port: u16,
    directory: tempfile::TempDir,
    process: Mutex<Option<Child>>,
}

/// Ports that were free a moment ago, on every address. All are held until all are known, so they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let bind = || TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("0.0.0.0:0"));
    let listeners: [TcpListener; N] = std::array::from_fn(|_| bind().unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

impl Etcd {
    /// The etcd that tests share, except those that stop or compact it. It ends with the last test that uses it.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Etcd>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let etcd = Arc::new(Self::start());
            *shared = Arc::downgrade(&etcd);
            etcd
        })
    }

    /// A new, empty etcd that answers.
    pub(crate) fn start() -> Self {
        let etcd = Self::stopped();
        etcd.resume();
        etcd
    }

    /// A new etcd whose database may have so many bytes.
    pub(crate) fn with_quota(bytes: u32) -> Self {
        let mut etcd = Self::stopped();
        etcd.members[0].arguments.push(format!("--quota-backend-bytes={bytes}"));
        etcd.resume();
        etcd
    }

    /// An etcd with its ports chosen that is not running yet.
    pub(crate) fn stopped() -> Self {
        Self { members: Self::members(free_ports::<2>()), tls: None }
    }

    /// An etcd of three members.
    pub(crate) fn three() -> Self {
        let etcd = Self { members: Self::members(free_ports::<6>()), tls: None };
        etcd.resume();
        etcd
    }

    /// Three members over TLS that do not run yet, with the election timeouts of members on several hosts. Clients reach
    /// each by an address of its own, and its certificate names what `named` makes of that and nothing else.
    pub(crate) fn three_hosts(named: impl Fn(usize, &str) -> String) -> Self {
        let v6 = TcpListener::bind("[::1]:0").is_ok();
        let addresses = ["127.0.0.2", "127.0.0.3", if v6 { "::1" } else { "127.0.0.4" }];
        let mut etcd = Self { members: Self::members(free_ports::<6>()), tls: None };
        let directory = tempfile::tempdir().unwrap();
        let cluster = "demo".parse().unwrap();
        let ca = generate_ca(&directory.path().join("ca"), &cluster).unwrap();
        let path = |name: &str| -> PathBuf { directory.path().join(name) };
        let certificate = |name: &str, request: &LeafRequest| -> CertificateInfo {
            let key = KeyFile::load_or_create(&path(&format!("{name}.key")), None).unwrap();
            issue(&ca, request, &key, &path(&format!("{name}.crt"))).unwrap().info().clone()
        };
        certificate("client", &LeafRequest::operator(&cluster, OperatorRole::Admin, "test").unwrap());
        certificate("peer", &LeafRequest::etcd_peer(&cluster, "localhost"));
        let health_ports = free_ports::<3>();
        for (at, member) in etcd.members.iter_mut().enumerate() {
            let address: IpAddr = addresses[at].parse().unwrap();
            let port = member.health_port;
            member.health_port = health_ports[at];
            member.endpoint = format!("https://{}", std::net::SocketAddr::new(address, port));
            let name = named(at, addresses[at]);
            let request = LeafRequest {
                dns_names: BTreeSet::new(),
                ip_addresses: BTreeSet::new(),
                ..LeafRequest::etcd_server(&cluster, "localhost")
            };
            certificate(&format!("server{at}"), &request.with_host(&name));
            for argument in &mut member.arguments {
                let (flag, value) = argument.split_once('=').unwrap();
                *argument = match flag {
                    "--listen-client-urls" | "--advertise-client-urls" => {
                        format!("{flag}={}", member.endpoint)
                    }
                    "--initial-advertise-peer-urls" | "--initial-cluster" => {
                        format!("{flag}={}", value.replace("http://127.0.0.1", "https://localhost"))
                    }
                    "--listen-peer-urls" => format!("{flag}={}", value.replace("http:", "https:")),
                    _ => continue,
                };
            }
            let file = |name: &str| path(name).display().to_string();
            let flags = [
                ("listen-metrics-urls", format!("http://127.0.0.1:{}", member.health_port)),
                ("cert-file", file(&format!("server{at}.crt"))),
                ("key-file", file(&format!("server{at}.key"))),
                ("trusted-ca-file", file("ca/ca.crt")),
                ("client-cert-auth", "true".to_owned()),
                ("peer-cert-file", file("peer.crt")),
                ("peer-key-file", file("peer.key")),
                ("peer-trusted-ca-file", file("ca/ca.crt")),
                ("peer-client-cert-auth", "true".to_owned()),
                ("peer-cert-allowed-cn", "etcd-peer".to_owned()),
                ("pre-vote", "true".to_owned()),
                ("heartbeat-interval", "150".to_owned()),
                ("election-timeout", "1500".to_owned()),
            ];
            member.arguments.extend(flags.map(|(name, value)| format!("--{name}={value}")));
        }
        let client = ClientTls::from_files(&path("ca/ca.crt"), &path("client.crt"), &path("client.key"));
        etcd.tls = Some((client.unwrap(), directory));
        etcd
    }

    fn members<const N: usize>(ports: [u16; N]) -> Vec<Member> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let peers: Vec<String> =
            ports.chunks(2).map(|pair| format!("m{}={}", pair[1], url(pair[1]))).collect();
        let member = |pair: &[u16]| {
            let directory = tempfile::tempdir().unwrap();
            let arguments = [
                ("name", format!("m{}", pair[1])),
                ("data-dir", directory.path().join("data").display().to_string()),
                ("listen-client-urls", url(pair[0])),
                ("advertise-client-urls", url(pair[0])),
                ("listen-peer-urls", url(pair[1])),
                ("initial-advertise-peer-urls", url(pair[1])),
                ("initial-cluster", peers.join(",")),
                ("log-level", "warn".to_owned()),
            ];
            Member {
                arguments: arguments.map(|(name, value)| format!("--{name}={value}")).to_vec(),
                endpoint: url(pair[0]),
                health_port: pair[0],
                directory,
                process: Mutex::new(None),
            }
        };
        ports.chunks(2).map(member).collect()
    }

    /// Starts the members that do not run, on their old data, and waits until all answer.
    pub(crate) fn resume(&self) {
        for member in &self.members {
            member.spawn();
        }
        for member in &self.members {
            member.wait_until_healthy();
        }
    }

    /// Starts these members, on their old data if they have some, and waits until they answer.
    pub(crate) fn resume_members(&self, members: &[usize]) {
        members.iter().for_each(|at| self.members[*at].spawn());
        members.iter().for_each(|at| self.members[*at].wait_until_healthy());
    }

    /// Kills all members (SIGKILL).
    pub(crate) fn kill(&self) {
        for at in 0..self.members.len() {
            self.kill_member(at);
        }
    }

    /// Kills one member (SIGKILL).
    pub(crate) fn kill_member(&self, at: usize) {
        self.members[at].kill();
    }

    /// Stops all members (SIGSTOP): connections stay open and nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Stops one member (SIGSTOP).
    pub(crate) fn freeze_member(&self, at: usize) {
        self.members[at].signal(Signal::SIGSTOP);
    }

    /// Continues one member (SIGCONT).
    pub(crate) fn thaw_member(&self, at: usize) {
        self.members[at].signal(Signal::SIGCONT);
    }

    /// Continues all members (SIGCONT).
    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        for member in &self.members {
            member.signal(signal);
        }
    }

    /// The member at an endpoint.
    pub(crate) fn member_at(&self, endpoint: &str) -> usize {
        self.members.iter().position(|member| member.endpoint == endpoint).unwrap()
    }

    /// Where clients reach its members.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint.clone()).collect()
    }

    /// The store under test.
    pub(crate) async fn kv(&self) -> EtcdKv {
        self.kv_of(&self.endpoints()).await
    }

    /// A store under test that knows some of the members only.
    pub(crate) async fn kv_of(&self, endpoints: &[String]) -> EtcdKv {
        // What it insists on by itself is that a certificate names the host of its endpoint.
        let tls = self.tls.as_ref().map(|_| self.tls());
        EtcdKv::connect(endpoints, tls).await.unwrap()
    }

    /// What a client presents and trusts.
    pub(crate) fn tls(&self) -> EtcdTls {
        self.tls.as_ref().unwrap().0.tonic_config()
    }

    /// A client of its own, beside the store under test.
    pub(crate) async fn client(&self) -> etcd_client::Client {
        etcd_client::Client::connect(self.endpoints(), None).await.unwrap()
    }

    /// Compacts all history before the present revision.
    pub(crate) async fn compact(&self) {
        let mut client = self.client().await;
        let revision = client.get("x", None).await.unwrap().header().unwrap().revision();
        let options = etcd_client::CompactionOptions::new().with_physical();
        client.compact(revision, Some(options)).await.unwrap();
    }
}

impl Member {
    fn process(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        let pid = self.process().as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
        // On a busy machine it takes a while until its threads stop, and until then they answer.
        let deadline = Instant::now() + START_TIMEOUT;
        while signal == Signal::SIGSTOP && !is_stopped(pid) {
            assert!(Instant::now() < deadline, "etcd does not stop");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn spawn(&self) {
        let mut process = self.process();
        if process.is_some() {
            return;
        }
        let log = std::fs::OpenOptions::new().append(true).create(true).open(self.log()).unwrap();
        // etcd would read ETCD_* variables of the environment.
        let spawned = Command::new("etcd")
            .args(&self.arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        *process = Some(spawned.unwrap_or_else(|error| {
            panic!("these tests need etcd ({error}): install the Debian package etcd-server")
        }));
    }

    fn wait_until_healthy(&self) {
        let end = Instant::now() + START_TIMEOUT;
        while !self.healthy() {
            if let Some(status) = self.process().as_mut().unwrap().try_wait().unwrap() {
                panic!("etcd ended with {status}:\n{}", self.log_text());
            }
            assert!(
                Instant::now() < end,
                "etcd did not come up within {START_TIMEOUT:?}:\n{}",
                self.log_text()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn healthy(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.health_port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.contains(r#""health":"true""#))
    }

    fn kill(&self) {
        if let Some(mut child) = self.process().take() {
            // SIGKILL ends a stopped process too.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log(&self) -> impl AsRef<Path> + use<> {
        self.directory.path().join("etcd.log")
    }

    fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
