//! Assembling the agent, running its loops, and stopping it.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use cellar_model::{CLAIM_LEASE_SECONDS, CellLayout, Key, Keyspace};
use cellar_pgbackrest::Pgbackrest;
use cellar_postgres::Tools;
use cellar_system::{OsUser, Watchdog, limit_logs, logs_in, shutdown_requested, tell_stopping, tell_waiting};
use cellar_tls::{ClientTls, Revoked};
use cellar_topology::{EtcdKv, Kv, LeaseKeeper, Mirror, Scope, Store};
use tokio::sync::{Notify, watch};

use crate::agent::Agent;
use crate::arguments::Arguments;
use crate::availability::Availability;
use crate::availability::kept::KeptFile;
use crate::instance::{archiving, cell_claim, failover, supervisor};
use crate::instance_lock::InstanceLock;
use crate::jobs::worker;
use crate::member::{ClaimOnCell, Member};
use crate::pooling::Pooling;
use crate::record_fault::unreadable;
use crate::services::{certificates, health, lost_sessions, pgbackrest_server, pgbouncer, reporter, server};
use crate::slot_sync::SlotSync;

/// How long a running job may take to end cleanly when the agent is told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// How often to look again whether etcd has this cluster's records, while it has another one's.
const FOREIGN_RECORDS_INTERVAL: Duration = Duration::from_secs(10);

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot begin: a program or certificate is missing, or a port is taken.
pub async fn run(arguments: Arguments, user: OsUser) -> anyhow::Result<()> {
    let layout = CellLayout::new(&arguments.directory);
    let tls = layout.tls();
    let tools = Tools::find(None)?;
    let pgbackrest = Pgbackrest { data_directory: Some(layout.data()), ..Pgbackrest::default() };
    let identity = |certificate: &str| {
        ClientTls::from_files(&tls.join("ca.crt"), &tls.join(certificate), &tls.join("server.key"))
    };
    // Before anything is loaded: what is replaced from now on is seen by the watch.
    let stamps = certificates::stamps(&layout);
    let client = identity("pooler.crt").context("the pooler's certificate cannot be used")?;
    let etcd = EtcdKv::connect(&arguments.etcd, Some(client.tonic_config())).await?;
    let kv: Arc<dyn Kv> = Arc::new(etcd.clone());
    let keys = Keyspace::new(&arguments.cluster);
    let prefixes = keys.watched_by_pooler(&arguments.database, &arguments.cell);
    let store = Store::new(Arc::clone(&kv), keys);
    let scope = Scope::OpenJobsOf(arguments.cell.clone());
    let mirror = Mirror::start_with(&store, prefixes, scope);
    let own_claims = cell_claim::remembered(&layout)?;
    private_directory(&layout.state(), OTHERS_WRITE)?;
    let kept = KeptFile::open(&layout.availability()).context("what this member promised cannot be read")?;
    let member = Rc::new(Member {
        database: arguments.database.clone(),
        cell: arguments.cell.clone(),
        epoch: epoch(),
        store,
        mirror,
        lease: LeaseKeeper::start(kv, CLAIM_LEASE_SECONDS),
        claim: ClaimOnCell::new(cell_claim::this_machine(), own_claims),
    });
    let agent = Rc::new(Agent {
        cluster: arguments.cluster.clone(),
        cluster_id: arguments.cluster_id,
        member,
        layout,
        user,
        tools,
        pgbackrest,
        etcd,
        client: RefCell::new(client),
        facts: RefCell::default(),
        look: RefCell::default(),
        report: RefCell::default(),
        reported: Notify::new(),
        nudge: Notify::new(),
        config_changed: Notify::new(),
        server_files: RefCell::default(),
        reload_waits: Cell::new(false),
        segment_size: Cell::new(None),
        grpc_tls: RefCell::default(),
        health_tls: RefCell::default(),
        revoked: Revoked::default(),
        listening: RefCell::default(),
        instance_lock: InstanceLock::default(),
        etcd_tls: arguments.etcd_tls_dir.clone(),
        availability: Availability::new(kept),
        slot_sync: SlotSync::default(),
        pooling: Pooling::default(),
    });
    tracing::info!(database = %agent.database, cell = %agent.cell, epoch = %agent.epoch, "multipooler starts");
    prepare(&agent).await?;
    // Also while etcd is waited for: it may answer to the new certificates only.
    let certificates = tokio::task::spawn_local(certificates::watch(Rc::clone(&agent), stamps));
    let directory = agent.layout.log();
    let logs = tokio::task::spawn_local(limit_logs(move || logs_in(&directory)));
    let waits = async {
        until_ready(&agent).await;
        cell_claim::until_claimed(&agent).await;
    };
    tokio::select! {
        () = waits => {}
        // Clients that an earlier process held must not wait until etcd answers.
        never = pgbouncer::release_left(&agent) => match never {},
    }
    if let Ok((card, _)) = agent.assignment() {
        agent.refresh_listening(&card).await;
    }
    let (stop, stopping) = watch::channel(false);
    let mut jobs = tokio::task::spawn_local(worker::work(Rc::clone(&agent), stopping));
    let watchdog = Watchdog::from_environment();
    let loops = [
        tokio::task::spawn_local(reporter::report(Rc::clone(&agent), watchdog.watch())),
        tokio::task::spawn_local(supervisor::supervise(Rc::clone(&agent), watchdog.watch())),
        tokio::task::spawn_local(pgbackrest_server::supervise(Rc::clone(&agent))),
        tokio::task::spawn_local(server::serve(Rc::clone(&agent))),
        tokio::task::spawn_local(health::serve(Rc::clone(&agent))),
        tokio::task::spawn_local(archiving::correct_notes(Rc::clone(&agent))),
        tokio::task::spawn_local(lost_sessions::end(Rc::clone(&agent))),
        tokio::task::spawn_local(failover::run(Rc::clone(&agent))),
        tokio::task::spawn_local(pgbouncer::supervise(Rc::clone(&agent))),
    ];
    let [reporter, supervisor, tls_server, server, health, notes, sessions, availability, pool] = loops;
    let taken_over = tokio::select! {
        signal = shutdown_requested() => {
            signal.context("cannot listen for signals")?;
            None
        }
        by = cell_claim::until_taken_over(&agent) => Some(by),
        // These never return. When one panics the agent ends, because it must not run without one of them.
        ended = reporter => anyhow::bail!("the reporter ended: {ended:?}"),
        ended = supervisor => anyhow::bail!("the supervisor ended: {ended:?}"),
        ended = tls_server => anyhow::bail!("the TLS server's supervisor ended: {ended:?}"),
        ended = server => anyhow::bail!("the gRPC server ended: {ended:?}"),
        ended = health => anyhow::bail!("the health endpoints ended: {ended:?}"),
        ended = notes => anyhow::bail!("the look at what is archived ended: {ended:?}"),
        ended = sessions => anyhow::bail!("the look at pgBackRest's sessions ended: {ended:?}"),
        ended = availability => anyhow::bail!("the look at the leader ended: {ended:?}"),
        ended = pool => anyhow::bail!("PgBouncer's supervisor ended: {ended:?}"),
        ended = certificates => anyhow::bail!("the certificate watcher ended: {ended:?}"),
        ended = logs => anyhow::bail!("the look at the logs' sizes ended: {ended:?}"),
        ended = &mut jobs => anyhow::bail!("the worker ended: {ended:?}"),
    };
    if taken_over.is_some() {
        tracing::warn!("multipooler stops, and so does PostgreSQL if it is a primary");
    } else {
        tracing::info!("multipooler stops; PostgreSQL goes on");
    }
    tell_stopping();
    stop.send_replace(true);
    let _ = tokio::time::timeout(STOP_TIMEOUT, jobs).await;
    if taken_over.is_some() {
        cell_claim::give_up(&agent).await;
    }
    if let Some(lease) = agent.lease.current() {
        // So that the cell is shown as down now and not when the lease expires.
        let _ = agent.store.kv().revoke(lease).await;
    }
    match taken_over {
        Some(by) => anyhow::bail!(cell_claim::taken_over(&agent.cell, &by)),
        None => Ok(()),
    }
}

/// An id for this run of the process.
fn epoch() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Permission bits of users other than the owner: all of them.
const OTHERS: u32 = 0o077;

/// Permission bits of users other than the owner: those to write.
const OTHERS_WRITE: u32 = 0o022;

/// Creates a directory, or checks that an existing one belongs to this user and has none of the `forbidden` permissions:
/// its files decide what PostgreSQL and pgBackRest do.
fn private_directory(directory: &Path, forbidden: u32) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let shown = directory.display();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot create {shown}"))?;
    let found = std::fs::metadata(directory).with_context(|| format!("cannot look at {shown}"))?;
    let (owner, us) = (found.uid(), nix::unistd::geteuid().as_raw());
    anyhow::ensure!(owner == us, "{shown} belongs to the user with id {owner}, not to us ({us}): chown it");
    let mode = found.mode() & 0o7777;
    let wanted = mode & !forbidden;
    anyhow::ensure!(
        mode & forbidden == 0,
        "others may use {shown} (mode {mode:04o}): chmod {wanted:04o} {shown}"
    );
    Ok(())
}

async fn prepare(agent: &Agent) -> anyhow::Result<()> {
    let layout = &agent.layout;
    let state = layout.state();
    for directory in [layout.log(), layout.spool(), layout.lock(), layout.jobs(), layout.pid(), state] {
        private_directory(&directory, OTHERS_WRITE)?;
    }
    // A user who can enter this directory can connect to PostgreSQL's socket.
    private_directory(&layout.sockets(), OTHERS)?;
    let version = agent.pgbackrest.version().await?;
    agent.update_report(|report| report.pgbackrest_version = Some(version));
    Ok(())
}

/// Waits until the topology is known and has this pooler in it. etcd may start later than this process.
async fn until_ready(agent: &Agent) {
    let me = (agent.database.clone(), agent.cell.clone());
    let known = |view: &cellar_topology::View| {
        view.poolers.contains_key(&me) && view.databases.contains_key(&agent.database)
    };
    while agent.mirror.ready(Duration::from_secs(10)).await.is_err()
        || agent.mirror.wait_for(Duration::from_secs(10), known).await.is_err()
    {
        let needed = [Key::Database(me.0.clone()), Key::Pooler(me.0.clone(), me.1.clone())];
        if let Some(fault) = unreadable(&agent.mirror.view(), agent.store.keys(), &needed) {
            tracing::error!("{fault}");
            tell_waiting(&fault);
        } else {
            tracing::info!("waiting for etcd, or for this pooler's record in it");
            tell_waiting("waits for etcd, or for this pooler's record in it");
        }
    }
    // Before the first write: also its cell's name may be there.
    while let Err(refusal) = agent.check_cluster() {
        tracing::error!(code = refusal.code.as_str(), "{}", refusal.message);
        tell_waiting(&refusal.message);
        tokio::time::sleep(FOREIGN_RECORDS_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_that_others_may_use_is_refused_with_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let sockets = dir.path().join("pg_sockets");
        let with =
            |mode: u32| std::fs::set_permissions(&sockets, std::fs::Permissions::from_mode(mode)).unwrap();
        private_directory(&sockets, OTHERS).unwrap();
        assert_eq!(std::fs::metadata(&sockets).unwrap().permissions().mode() & 0o777, 0o700);
        for mode in [0o777, 0o770, 0o755, 0o701] {
            with(mode);
            let error = private_directory(&sockets, OTHERS).unwrap_err().to_string();
            assert!(error.contains("chmod 0700"), "{error}");
        }
        with(0o750);
        private_directory(&sockets, OTHERS_WRITE).unwrap();
        with(0o770);
        assert!(private_directory(&sockets, OTHERS_WRITE).is_err());
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(private_directory(&dir.path().join("file"), OTHERS).is_err());
    }

    #[test]
    fn another_users_directory_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(65534), None).unwrap();
        assert!(private_directory(dir.path(), OTHERS).unwrap_err().to_string().contains("65534"));
    }
}
