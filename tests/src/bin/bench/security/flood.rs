//! Thousands of idle connections and hundreds of failing handshakes a second, and a client who wants an answer.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_tests::{Cluster, open_files, peak_rss_kib, wait_for};
use cellar_tls::{
    CA_CERTIFICATE, CLIENT_CERTIFICATE, CLIENT_KEY, ClientTls, ConnectionLimits, generate_ca,
    unchecked_client,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::Channel;

use super::{certify, must, runtime};
use crate::figure::{Limit, Report, note, quantile};
use crate::topology::name;

const FLOOD: Duration = Duration::from_secs(20);

/// Connections that do nothing, all together.
const IDLE: usize = 2000;

/// Those of them that have shown a good certificate: so many, with as many connections each as the limit admits.
const CERTIFICATES: usize = 3;

/// Tried beyond the limit of a certificate, in vain.
const BEYOND: usize = 4;

/// Whoever is hung up on comes back after this long.
const RETURN: Duration = Duration::from_secs(5);

/// Handshakes that fail, a second.
const FAILING: u64 = 200;

/// GetJobs a second on an open connection, and on new ones.
const CALLS: u64 = 50;
const NEW_CONNECTIONS: u64 = 10;

/// Longest wait for anything here.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Descriptors that a process usually has: what multiadmin has to get on with.
const USUAL_FILES: u64 = 1024;

/// Descriptors that this process needs.
const OWN_FILES: u64 = 4096;

type Client = MultiAdminClient<Channel>;

/// Sets the limit of this process and those it starts from now on.
fn limit_files(soft: u64) {
    let (_, hard) = must("the limit of files", getrlimit(Resource::RLIMIT_NOFILE));
    assert!(hard >= soft, "this needs {soft} open files; the hard limit is {hard} (see `ulimit -Hn`)");
    must("a limit of files", setrlimit(Resource::RLIMIT_NOFILE, soft, hard));
}

/// So many times a second.
fn every(rate: u64) -> tokio::time::Interval {
    interval(Duration::from_secs(1) / u32::try_from(rate).unwrap_or(1))
}

async fn get_job(client: &mut Client, job: &str) -> Result<(), tonic::Status> {
    client.get_job(v1::GetJobRequest { id: job.to_owned() }).await.map(drop)
}

async fn connect(tls: &ClientTls, address: SocketAddr) -> Client {
    let endpoint = must("an endpoint", tls.endpoint(&address.to_string(), Some(TEST_TIMEOUT)));
    MultiAdminClient::new(must("a connection with a good certificate", endpoint.connect().await))
}

/// Opens connections with one certificate until no more is admitted; those that are.
async fn admitted(tls: &ClientTls, address: SocketAddr, job: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    let limit = ConnectionLimits::default().per_certificate;
    for _ in 0..limit + BEYOND {
        let endpoint = must("an endpoint", tls.endpoint(&address.to_string(), Some(TEST_TIMEOUT)));
        // With TLS 1.3 a client learns by its first call that it is not let in.
        let Ok(channel) = endpoint.connect().await else { continue };
        let mut client = MultiAdminClient::new(channel);
        if get_job(&mut client, job).await.is_ok() {
            clients.push(client);
        }
    }
    assert_eq!(clients.len(), limit, "connections admitted with one certificate");
    clients
}

/// What the silent ones count.
#[derive(Default)]
struct Silence {
    open: AtomicUsize,
    opened: AtomicUsize,
}

/// Connects and says nothing, and does so again whenever it is hung up on.
async fn stay_silent(address: SocketAddr, silence: Arc<Silence>) {
    loop {
        if let Ok(mut socket) = TcpStream::connect(address).await {
            silence.open.fetch_add(1, Ordering::Relaxed);
            silence.opened.fetch_add(1, Ordering::Relaxed);
            let _ = socket.read(&mut [0]).await;
            silence.open.fetch_sub(1, Ordering::Relaxed);
        }
        sleep(RETURN).await;
    }
}

/// The handshakes that fail.
struct Failing {
    address: SocketAddr,
    /// With a certificate of another authority.
    stranger: TlsConnector,
    /// How many have ended, which must be by failing.
    failed: [AtomicUsize; Self::KINDS.len()],
}

impl Failing {
    const KINDS: [&str; 4] = ["another authority", "garbage", "closed at once", "closed in the middle"];

    fn new(address: SocketAddr, stranger: ClientConfig) -> Self {
        Self { address, stranger: TlsConnector::from(Arc::new(stranger)), failed: Default::default() }
    }

    async fn fail(&self, kind: usize) -> std::io::Result<()> {
        let mut socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        match kind {
            0 => {
                let name = must("a name", ServerName::try_from("localhost"));
                let mut stream = self.stranger.connect(name, socket).await?;
                // The server speaks first to whom it lets in.
                let said = stream.read(&mut [0]).await?;
                assert_eq!(said, 0, "multiadmin let in a certificate of another authority");
            }
            1 => {
                socket.write_all(&[b'?'; 200]).await?;
                while socket.read(&mut [0; 64]).await? > 0 {}
            }
            2 => {}
            // A record of a handshake that is longer than what follows.
            _ => socket.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await?,
        }
        Ok(())
    }

    async fn go_on(self: Arc<Self>) {
        let mut tick = every(FAILING);
        let mut work = JoinSet::new();
        for n in 0.. {
            tick.tick().await;
            let kind = n % Self::KINDS.len();
            let this = self.clone();
            work.spawn(async move {
                if timeout(TEST_TIMEOUT, this.fail(kind)).await.is_ok() {
                    this.failed[kind].fetch_add(1, Ordering::Relaxed);
                }
            });
            while let Some(done) = work.try_join_next() {
                must("a handshake that fails", done);
            }
        }
    }
}

/// Latencies of calls that begin at a steady pace, from when each was due.
async fn paced(rate: u64, mut call: impl AsyncFnMut()) -> Vec<Duration> {
    let mut tick = every(rate);
    let end = Instant::now() + FLOOD;
    let mut samples = Vec::new();
    loop {
        let due = tick.tick().await;
        if due >= end {
            return samples;
        }
        call().await;
        samples.push(due.elapsed());
    }
}

fn tell(what: &str, samples: &[Duration]) -> f64 {
    let ms = |share| quantile(samples, share).as_secs_f64() * 1000.0;
    let (p50, p99, max) = (ms(0.5), ms(0.99), ms(1.0));
    note(&format!("  GetJob {what}, {}, ms: p50 {p50:.2}, p99 {p99:.2}, max {max:.2}", samples.len()));
    p99
}

/// The good client's calls: on one connection that was open before, and on a new one each.
async fn good_client(
    tls: &ClientTls,
    address: SocketAddr,
    job: &str,
    mut client: Client,
) -> [Vec<Duration>; 2] {
    let open = paced(CALLS, async || must("GetJob", get_job(&mut client, job).await));
    let new = paced(NEW_CONNECTIONS, async || {
        must("GetJob on a new connection", get_job(&mut connect(tls, address).await, job).await);
    });
    tokio::join!(open, new).into()
}

/// The certificate of an authority that is not the cluster's, shown to the cluster's servers.
fn stranger(cluster: &Cluster, directory: &Path) -> ClientConfig {
    let ca = must("an authority", generate_ca(&directory.join("ca"), &name("demo")));
    certify(&ca, directory, "stranger");
    let (certificate, key) = (directory.join(CLIENT_CERTIFICATE), directory.join(CLIENT_KEY));
    let authorities = cluster.directory().join("client").join(CA_CERTIFICATE);
    must("a stranger", unchecked_client(&authorities, Some((&certificate, &key))))
}

/// A job of the cluster's.
async fn some_job(client: &mut Client) -> String {
    let jobs = must("ListJobs", client.list_jobs(v1::ListJobsRequest::default()).await).into_inner().jobs;
    match jobs.into_iter().next() {
        Some(job) => job.id,
        None => panic!("the new cluster has no job"),
    }
}

/// A good client's p99 in a flood, and multiadmin's memory.
pub(crate) fn flood(report: &mut Report) {
    limit_files(USUAL_FILES);
    let cluster = Cluster::bootstrapped("zone1");
    limit_files(OWN_FILES);
    let admin = cluster.pid("pid/multiadmin.pid");
    let directory = must("a directory", tempfile::tempdir());
    let tls = must("a client", ClientTls::from_dir(&cluster.directory().join("client")));
    let endpoint = std::fs::read_to_string(cluster.directory().join("client/endpoint"));
    let endpoint = must("an endpoint", endpoint);
    let address = must("an address", std::net::ToSocketAddrs::to_socket_addrs(endpoint.trim())).next();
    let Some(address) = address else { panic!("{endpoint} is nowhere") };

    // The crowd has a thread of its own, so that the good client never waits for it in this process.
    let (crowd, good) =
        (runtime(1), must("a runtime", tokio::runtime::Builder::new_current_thread().enable_all().build()));
    let (client, job) = good.block_on(async {
        let mut client = connect(&tls, address).await;
        let job = some_job(&mut client).await;
        (client, job)
    });
    let mut proven = Vec::new();
    for n in 0..CERTIFICATES {
        let own = directory.path().join(n.to_string());
        let (name, out) = (format!("idle{n}"), own.display().to_string());
        let _ = cluster.cellar(&["certs", "issue", "--role", "viewer", "--name", &name, "--out", &out]);
        let tls = must("an idle client", ClientTls::from_dir(&own));
        proven.extend(crowd.block_on(admitted(&tls, address, &job)));
    }
    let silence = Arc::new(Silence::default());
    let silent = IDLE - proven.len();
    for _ in 0..silent {
        crowd.spawn(stay_silent(address, silence.clone()));
    }
    wait_for("the silent ones to have connected", TEST_TIMEOUT, || {
        (silence.opened.load(Ordering::Relaxed) >= silent).then_some(())
    });
    let failing = Arc::new(Failing::new(address, stranger(&cluster, &directory.path().join("stranger"))));
    let flooding = crowd.spawn(failing.clone().go_on());
    let files = crowd.spawn(async move {
        let (mut most, mut tick) = (0, every(10));
        let end = Instant::now() + FLOOD;
        while Instant::now() < end {
            tick.tick().await;
            most = most.max(open_files(admin));
        }
        most
    });
    let [open, new] = good.block_on(good_client(&tls, address, &job, client));
    assert!(!flooding.is_finished(), "the failing handshakes came to an end");

    let failed = Failing::KINDS.iter().zip(&failing.failed);
    let failed: Vec<String> =
        failed.map(|(kind, count)| format!("{} {kind}", count.load(Ordering::Relaxed))).collect();
    note(&format!("  failed handshakes: {}", failed.join(", ")));
    let (held, opened) = (silence.open.load(Ordering::Relaxed), silence.opened.load(Ordering::Relaxed));
    note(&format!(
        "  idle: {} with {CERTIFICATES} good certificates ({BEYOND} more of each refused), {silent} silent, who \
         connected {opened} times as multiadmin hung up on them; {held} of these open at the end",
        proven.len()
    ));
    let files = must("multiadmin's files", crowd.block_on(files));
    note(&format!("  multiadmin's open files: at most {files} of {USUAL_FILES}"));
    let p99 = tell("on an open connection", &open).max(tell("on new connections", &new));
    report.figure("flood_p99", p99, "ms", Limit::AtMost(50.0));
    report.figure("flood_rss", f64::from(peak_rss_kib(admin)) / 1024.0, "MiB", Limit::AtMost(100.0));
}
