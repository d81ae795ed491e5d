//! The `multiadmin` daemon.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use cellar_admin::{
    Admin, AuditLog, Failover, Leading, OwnCertificates, Renewal, Scheduler, dial_with_tls, serve,
};
use cellar_model::{ClusterName, Keyspace};
use cellar_system::{
    OsUser, PidFile, Watchdog, become_user, init_logging, limit_logs, shutdown_requested, tell_ready,
    tell_stopping, tell_waiting,
};
use cellar_tls::{
    CA_CERTIFICATE, ClientTls, Guard, LEAF_LIFETIME, MtlsListener, ReloadableServerConfig, Reloaded, Revoked,
    SERVER_CERTIFICATE, SERVER_KEY, ServerFiles, Stamps, TlsError, install_ring_provider, read_revocations,
};
use cellar_topology::{EtcdKv, Store};
use clap::Parser;

/// How long to wait for etcd before the port opens. After that, requests are answered with
/// UNAVAILABLE and the reason.
const ETCD_START_TIMEOUT: Duration = Duration::from_secs(5);

/// How often to look for renewed certificates and new revocations.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// The files of multiadmin's TLS directory.
const TLS_FILES: [&str; 3] = [CA_CERTIFICATE, "multiadmin.crt", "multiadmin.key"];

/// The logs beside the audit log that are begun again when they have grown: those of the cluster's own processes.
const LOGS: [&str; 3] = ["multiadmin.log", "etcd.log", "haproxy.log"];

/// The control plane's API: validates requests, records jobs, answers from etcd.
#[derive(Debug, Parser)]
#[command(name = "multiadmin", version)]
struct Arguments {
    /// The cluster, which names the keys in etcd.
    #[arg(long)]
    cluster: ClusterName,
    /// Which cluster of that name it is: with another one's records in etcd nothing is done.
    #[arg(long, value_name = "UUID", env = "CELLAR_CLUSTER_ID")]
    cluster_id: Option<uuid::Uuid>,
    /// etcd's endpoints, such as https://localhost:12379: those of all members, separated by commas.
    #[arg(long, required = true, value_delimiter = ',')]
    etcd: Vec<String>,
    /// Directory with ca.crt, multiadmin.crt and multiadmin.key.
    #[arg(long)]
    tls_dir: PathBuf,
    /// Where the gRPC API listens; may be given several times.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// Directory with ca.crt and ca.key of a signer that the cluster's authority has certified. With it, certificates
    /// are renewed after two thirds of their lifetime; without it, renew them with `cellar certs rotate`.
    #[arg(long)]
    signing_dir: Option<PathBuf>,
    /// How long renewed certificates are valid, seconds.
    #[arg(long, default_value_t = LEAF_LIFETIME.as_secs(), requires = "signing_dir")]
    cert_lifetime: u64,
    /// The TLS directory of an etcd member on this host, whose certificates are renewed as well.
    #[arg(long, requires = "signing_dir")]
    etcd_tls_dir: Option<PathBuf>,
    /// File with this process's id, locked while the process runs.
    #[arg(long)]
    pid_file: PathBuf,
    /// File that gets a line of JSON for every call that changes something; without it nothing is served.
    #[arg(long)]
    audit_log: PathBuf,
    /// OS user to become when started as root (default: postgres).
    #[arg(long)]
    os_user: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // Before the runtime: changing the user is for processes with one thread.
    become_user(&OsUser::resolve(arguments.os_user.as_deref())?)?;
    init_logging();
    let _pid_file = PidFile::acquire(&arguments.pid_file)?;
    install_ring_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("multiadmin")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        cluster,
        cluster_id,
        etcd,
        tls_dir,
        listen,
        audit_log,
        signing_dir,
        cert_lifetime,
        etcd_tls_dir,
        ..
    } = arguments;
    let audit = AuditLog::open(&audit_log)?;
    // Before etcd is waited for: also one that does not come writes a log.
    let logs = tokio::spawn(limit_logs(move || LOGS.map(|name| audit_log.with_file_name(name)).to_vec()));
    // Before they are read: files that are replaced while etcd is waited for are read again.
    let stamps = Stamps::of(TLS_FILES.iter().map(|file| tls_dir.join(file)).collect());
    let config =
        ReloadableServerConfig::load(ServerFiles::in_dir(&tls_dir, "multiadmin.crt", "multiadmin.key"))?;
    let kv = EtcdKv::connect(&etcd, Some(etcd_tls(&tls_dir)?.tonic_config())).await?;
    let store = Store::new(Arc::new(kv.clone()), Keyspace::new(&cluster));
    let admin = Admin::start(store, dial_with_tls(tls_dir.clone()), audit)
        .watched_by(Watchdog::from_environment())
        .of_cluster(cluster_id);
    let identity = identity();
    let leading = Leading::start(&admin, identity.clone());
    if !admin.ready(ETCD_START_TIMEOUT).await {
        tracing::warn!("etcd does not answer; requests get UNAVAILABLE until it does");
    }
    let revoked = Revoked::default();
    let listener = MtlsListener::bind_all(&listen, config.clone()).await?.ending_revoked(revoked.clone());
    tracing::info!(%cluster, listen = %listener.local_addr()?, "multiadmin serves");
    let certificates = Certificates {
        admin: admin.clone(),
        config,
        etcd: kv,
        tls_dir: tls_dir.clone(),
        revoked: revoked.clone(),
        stamps,
    };
    let scheduler = Scheduler::new(admin.clone(), identity.clone());
    let mut background_tasks = vec![
        logs,
        tokio::spawn(certificates.watch()),
        tokio::spawn(scheduler.run()),
        tokio::spawn(Failover::new(admin.clone()).run()),
        tokio::spawn(tell_when_ready(admin.clone())),
    ];
    if let Some(signing_dir) = signing_dir {
        let mut own = vec![OwnCertificates {
            directory: tls_dir.clone(),
            key: TLS_FILES[2].to_owned(),
            certificates: vec![TLS_FILES[1].to_owned()],
        }];
        own.extend(etcd_tls_dir.map(|directory| OwnCertificates {
            directory,
            key: SERVER_KEY.to_owned(),
            certificates: vec![SERVER_CERTIFICATE.to_owned(), "peer.crt".to_owned()],
        }));
        let lifetime = Duration::from_secs(cert_lifetime);
        let renewal =
            Renewal { admin: admin.clone(), cluster: cluster.clone(), identity, signing_dir, lifetime, own };
        background_tasks.push(tokio::spawn(renewal.run()));
    }
    let shutdown = async {
        if let Err(error) = shutdown_requested().await {
            tracing::error!(%error, "cannot listen for signals");
        }
        tracing::info!("multiadmin shuts down");
        tell_stopping();
    };
    let guard = Guard::new(cluster, revoked, cellar_api::status_of);
    let served = serve(admin, listener.incoming(), guard, shutdown).await;
    background_tasks.iter().for_each(tokio::task::JoinHandle::abort);
    leading.resign().await;
    served.context("multiadmin ended")
}

/// Tells the service manager that requests are answered, once they are: until etcd has answered they are refused.
async fn tell_when_ready(admin: Admin) {
    while !admin.ready(ETCD_START_TIMEOUT).await {
        tell_waiting("waits for etcd; requests are refused until it answers");
    }
    tell_ready();
}

/// A unique name for this process.
fn identity() -> String {
    format!("{}/{}", std::process::id(), uuid::Uuid::now_v7())
}

/// The TLS configuration of multiadmin's etcd client, which expects of each member its own host's name.
fn etcd_tls(directory: &Path) -> Result<ClientTls, TlsError> {
    let [ca, certificate, key] = TLS_FILES.map(|file| directory.join(file));
    ClientTls::from_files(&ca, &certificate, &key)
}

/// Everything that uses multiadmin's certificates or the list of revoked ones.
struct Certificates {
    admin: Admin,
    config: ReloadableServerConfig,
    etcd: EtcdKv,
    tls_dir: PathBuf,
    revoked: Revoked,
    /// The files as they were before they were read first.
    stamps: Stamps,
}

impl Certificates {
    /// Reloads certificates and revocations when they change; never returns.
    async fn watch(mut self) {
        let mut seen = None;
        let mut warned = None;
        loop {
            let replaced = self.stamps.changed();
            if replaced && let Err(error) = self.reload().await {
                tracing::error!(%error, "cannot reload certificates; the present one stays in use");
            }
            self.update_revocations(&mut seen, replaced);
            let info = self.config.info();
            let due = info.warning(SystemTime::now());
            if due.is_some() && due != warned {
                tracing::warn!(
                    serial = info.serial,
                    days = due,
                    "the certificate expires soon: renew it (`cellar certs rotate`, on hosts `cellar cluster bundle`)"
                );
            }
            warned = due;
            tokio::time::sleep(RELOAD_INTERVAL).await;
        }
    }

    async fn reload(&self) -> anyhow::Result<()> {
        let client = etcd_tls(&self.tls_dir)?;
        if let Reloaded::Swapped(info) = self.config.reload()? {
            tracing::info!(serial = info.serial, "serving a renewed certificate");
        }
        self.etcd.reconnect(client.tonic_config()).await?;
        self.admin.redial();
        Ok(())
    }

    fn update_revocations(&self, seen: &mut Option<String>, again: bool) {
        let Some(pem) = self.admin.revocations() else { return };
        if !again && seen.as_ref() == Some(&pem) {
            return;
        }
        let read = std::fs::read_to_string(self.tls_dir.join(CA_CERTIFICATE))
            .map_err(anyhow::Error::from)
            .and_then(|trusted| Ok(read_revocations(&pem, &trusted)?));
        match read {
            Ok((serials, _)) => {
                let count = serials.len();
                if self.revoked.take(serials.into_keys().collect()) {
                    tracing::info!(count, "loaded a new revocation list");
                } else {
                    tracing::error!(
                        count,
                        "the revocation list in etcd is older than the one in use, which stays in use"
                    );
                }
            }
            Err(error) => {
                tracing::error!(%error, "the revocation list cannot be verified; the one before stays in use");
            }
        }
        *seen = Some(pem);
    }
}
