//! The `multiadmin` daemon.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use cellar_admin::{Admin, AuditLog, Leading, dial_with_tls, serve};
use cellar_daemon::{OsUser, PidFile, become_user, init_logging, shutdown_requested};
use cellar_model::{ClusterName, Keyspace};
use cellar_tls::{
    ClientTls, Guard, MtlsListener, ReloadableServerConfig, Reloaded, Revoked, ServerFiles,
    install_ring_provider,
};
use cellar_topology::{EtcdKv, Store};
use clap::Parser;

/// How long the port stays closed for the sake of an etcd that may be about to answer. After that
/// callers learn from this process what is the matter.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// How often renewed certificates are looked for: three small files are read.
const RELOAD: Duration = Duration::from_secs(60);

/// The control plane's API: validates requests, records jobs, answers from etcd.
#[derive(Debug, Parser)]
#[command(name = "multiadmin", version)]
struct Arguments {
    /// The cluster, which names the keys in etcd.
    #[arg(long)]
    cluster: ClusterName,
    /// etcd's endpoints, such as https://localhost:12379.
    #[arg(long, required = true, value_delimiter = ',')]
    etcd: Vec<String>,
    /// Directory with ca.crt, multiadmin.crt and multiadmin.key.
    #[arg(long)]
    tls_dir: PathBuf,
    /// Where the gRPC API listens.
    #[arg(long)]
    listen: SocketAddr,
    /// File that names this process and is locked while it lives.
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
    let Arguments { cluster, etcd, tls_dir, listen, audit_log, .. } = arguments;
    let audit = AuditLog::open(&audit_log)?;
    let config =
        ReloadableServerConfig::load(ServerFiles::in_dir(&tls_dir, "multiadmin.crt", "multiadmin.key"))?;
    let etcd_tls = ClientTls::from_files(
        &tls_dir.join("ca.crt"),
        &tls_dir.join("multiadmin.crt"),
        &tls_dir.join("multiadmin.key"),
    )?;
    let etcd_tls =
        etcd.first().and_then(|url| host_of(url)).map_or(etcd_tls.clone(), |host| etcd_tls.domain_name(host));
    let kv = EtcdKv::connect(&etcd, Some(etcd_tls.tonic_config())).await?;
    let store = Store::new(Arc::new(kv), Keyspace::new(&cluster));
    let admin = Admin::start(store, dial_with_tls(tls_dir), audit);
    let leading = Leading::start(&admin, identity());
    if !admin.ready(START_PATIENCE).await {
        tracing::warn!("etcd does not answer; serving UNAVAILABLE until it does");
    }
    let listener = MtlsListener::bind(listen, config.clone()).await?;
    tracing::info!(%cluster, listen = %listener.local_addr()?, "multiadmin serves");
    let reloading = tokio::spawn(reload(config));
    let shutdown = async {
        if let Err(error) = shutdown_requested().await {
            tracing::error!(%error, "cannot listen for signals");
        }
        tracing::info!("multiadmin shuts down");
    };
    let guard = Guard::new(cluster, Revoked::default(), cellar_api::status_of);
    let served = serve(admin, listener.incoming(), guard, shutdown).await;
    reloading.abort();
    leading.resign().await;
    served.context("multiadmin ended")
}

/// The host in an endpoint's URL, which its certificate must answer for.
fn host_of(url: &str) -> Option<String> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next()?;
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    (!host.is_empty()).then(|| host.to_owned())
}

/// A name for this process that no other ever has.
fn identity() -> String {
    format!("{}/{}", std::process::id(), uuid::Uuid::now_v7())
}

async fn reload(config: ReloadableServerConfig) {
    loop {
        tokio::time::sleep(RELOAD).await;
        match config.reload() {
            Ok(Reloaded::Unchanged) => {}
            Ok(Reloaded::Swapped(info)) => {
                tracing::info!(serial = info.serial, "serving a renewed certificate");
            }
            Err(error) => tracing::warn!(%error, "keeping the present certificate"),
        }
    }
}
