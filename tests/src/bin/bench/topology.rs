//! A topology of ten thousand poolers in a real etcd, and a multiadmin over it.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_model::{
    Archiver, Cell, CellLayout, CellName, Database, DatabaseName, InstanceState, Key, LagClass, Leader, Lsn,
    Pooler, PoolerStatus, Protocol, Retention, Role, SystemIdentifier, Timeline, Versions, parse_timestamp,
};
use cellar_tests::{Cluster, command_line, kill_hard, rss_kib};
use cellar_topology::{Store, Transaction, TxnOutcome};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::figure::{Limit, Report, note, quantile};

const DATABASES: usize = 100;
const CELLS: usize = 100;
const LISTINGS: usize = 1000;
const CLIENTS: usize = 64;

/// A lock's queue holds 32 jobs behind the one that runs.
const JOBS_PER_DATABASE: usize = 32;

/// etcd takes 128 writes in a transaction.
const BATCH: usize = 100;

pub(crate) fn database_name(n: usize) -> DatabaseName {
    name(&format!("db{n:03}"))
}

pub(crate) fn cell_name(n: usize) -> CellName {
    name(&format!("c{n:03}"))
}

pub(crate) fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    match text.parse() {
        Ok(name) => name,
        Err(error) => panic!("{text}: {error:?}"),
    }
}

pub(crate) fn database(n: usize) -> Database {
    Database {
        name: database_name(n),
        stanza: name(database_name(n).as_str()),
        repository: name(&format!("/backup/{}", database_name(n))),
        retention: Retention { full: 2 },
        bootstrap_cell: cell_name(0),
        // The first ports are the real cluster's.
        port_offset: 0,
        repo_cipher: None,
        pgbackrest_names: Vec::new(),
        minimum_protocol: Protocol::default(),
        cluster_id: None,
        cells: Vec::new(),
        is_qualified: false,
        durability: cellar_model::Durability::default(),
        settings: std::collections::BTreeMap::new(),
        pause: None,
    }
}

pub(crate) fn cell(n: usize) -> Cell {
    Cell {
        name: cell_name(n),
        index: u32::try_from(n + 1).unwrap_or(u32::MAX),
        host: name(&format!("{}.example.org", cell_name(n))),
        directory: format!("/var/lib/cellar/{}", cell_name(n)),
    }
}

pub(crate) fn pooler(database: &Database, cell: &Cell) -> Pooler {
    match CellLayout::new(format!("{}/{}", cell.directory, database.name)).pooler(database, cell, "0.0.0.0") {
        Ok(pooler) => pooler,
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn status(pooler: &Pooler) -> PoolerStatus {
    let is_primary = pooler.cell == cell_name(0);
    let time = parse_timestamp("2026-11-20T12:00:00.000Z").ok();
    PoolerStatus {
        database: pooler.database.clone(),
        cell: pooler.cell.clone(),
        epoch: "01938f6e-7d3a-7c59-9a5e-3b8f2f0d4c11".to_owned(),
        pid: 4711,
        state: InstanceState::Running,
        message: String::new(),
        role: if is_primary { Role::Primary } else { Role::Standby },
        system_identifier: Some(SystemIdentifier::new(7_400_000_000_000_000_001)),
        timeline: Some(Timeline::new(1)),
        streams_from: (!is_primary).then(|| cell_name(0)),
        receive_lag: LagClass::Current,
        replay_lag: LagClass::Current,
        held_lsn: None,
        held_timeline: None,
        replays: std::collections::BTreeMap::new(),
        logical_slots: Vec::new(),
        archiver: Archiver {
            last_archived_wal: Some("000000010000000000000042".to_owned()),
            last_archived_time: time,
            ..Archiver::default()
        },
        versions: Versions {
            notes: Vec::new(),
            protocol: Protocol::OURS,
            postgres: "15.14".to_owned(),
            pgbackrest: "2.45".to_owned(),
            multipooler: "0.1.0".to_owned(),
        },
        certificate_expiry: time,
        tls_server_up: true,
        tls_server_accepts: vec![cellar_model::PgbackrestName::default()],
        incarnation: None,
        unreadable_records: Vec::new(),
        update_time: time,
    }
}

pub(crate) async fn commit(transaction: Transaction<'_>) {
    match transaction.commit().await {
        Ok(TxnOutcome::Committed(_)) => {}
        other => panic!("etcd: {other:?}"),
    }
}

/// Writes everything that the poolers of so many databases in so many cells would have written.
pub(crate) async fn fill(store: &Store, databases: usize, cells: usize) {
    let cells: Vec<Cell> = (0..cells).map(cell).collect();
    for batch in cells.chunks(BATCH) {
        let mut transaction = store.transaction();
        for cell in batch {
            transaction = transaction.put(&Key::Cell(cell.name.clone()), cell);
        }
        commit(transaction).await;
    }
    for n in 0..databases {
        let database = database(n);
        let poolers: Vec<Pooler> = cells.iter().map(|cell| pooler(&database, cell)).collect();
        let leader = Leader {
            cell: cell_name(0),
            term: Timeline::new(1),
            system_identifier: Some(SystemIdentifier::new(7_400_000_000_000_000_001)),
            lsn: Some(Lsn::new(0x4200_0000)),
            leadership: None,
        };
        let head = store
            .transaction()
            .put(&Key::Database(database.name.clone()), &database)
            .put(&Key::Leader(database.name.clone()), &leader);
        commit(head).await;
        for batch in poolers.chunks(BATCH / 2) {
            let mut transaction = store.transaction();
            for pooler in batch {
                let (db, cell) = (pooler.database.clone(), pooler.cell.clone());
                transaction = transaction
                    .put(&Key::Pooler(db.clone(), cell.clone()), pooler)
                    .put(&Key::Status(db, cell), &status(pooler));
            }
            commit(transaction).await;
        }
    }
}

/// The cluster's multiadmin, started again as our child.
struct Admin {
    child: Child,
}

impl Admin {
    fn restart(cluster: &Cluster) -> Self {
        let pid = cluster.pid("pid/multiadmin.pid");
        let words = command_line(pid);
        kill_hard(pid);
        let log = std::fs::File::options().append(true).open(cluster.directory().join("log/multiadmin.log"));
        let Ok(log) = log else { panic!("multiadmin has no log") };
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        match command.current_dir(cluster.directory()).spawn() {
            Ok(child) => Self { child },
            Err(error) => panic!("{}: {error}", words[0]),
        }
    }

    fn rss_mib(&self) -> f64 {
        f64::from(rss_kib(self.child.id().cast_signed())) / 1024.0
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) type Client = MultiAdminClient<Channel>;

pub(crate) async fn page(
    client: &mut Client,
    size: u32,
    token: &str,
) -> Result<v1::ListPoolersResponse, tonic::Status> {
    let request =
        v1::ListPoolersRequest { page_size: size, page_token: token.to_owned(), ..Default::default() };
    Ok(client.list_poolers(request).await?.into_inner())
}

/// How many poolers there are, and how many of them have a status.
pub(crate) async fn count(client: &mut Client) -> Result<(usize, usize), tonic::Status> {
    let (mut all, mut alive, mut token) = (0, 0, String::new());
    loop {
        let page = page(client, 1000, &token).await?;
        all += page.poolers.len();
        alive += page.poolers.iter().filter(|view| view.status.is_some()).count();
        token = page.next_page_token;
        if token.is_empty() {
            return Ok((all, alive));
        }
    }
}

/// Waits until every record is in the answers.
async fn ready(cluster: &Cluster) {
    let wanted = DATABASES * CELLS;
    for _ in 0..6000 {
        // A new connection each time: a client's own backoff is not what is measured.
        let mut client = cluster.client().await;
        if let Ok((all, alive)) = count(&mut client).await
            && all > wanted
            && alive >= wanted
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("multiadmin does not know all poolers");
}

/// Latencies of so many listings, which walk through all pages again and again.
async fn listings(client: &mut Client, size: u32) -> Vec<Duration> {
    let mut token = String::new();
    let mut samples = Vec::with_capacity(LISTINGS);
    while samples.len() < LISTINGS {
        let begun = Instant::now();
        let answer = page(client, size, &token).await;
        samples.push(begun.elapsed());
        match answer {
            Ok(page) => token = page.next_page_token,
            Err(status) => panic!("ListPoolers: {status}"),
        }
    }
    samples
}

fn backup(n: usize) -> v1::BackupRequest {
    v1::BackupRequest {
        database: database_name(n % DATABASES).to_string(),
        cell: cell_name(1 + n / DATABASES).to_string(),
        queue: true,
        request_id: format!("bench-{n}"),
        ..Default::default()
    }
}

/// Jobs recorded per second by many clients at once.
async fn job_rate(cluster: &Cluster) -> f64 {
    let jobs = DATABASES * JOBS_PER_DATABASE;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = cluster.client().await;
        // Connected before the clock runs.
        if let Err(status) = page(&mut client, 1, "").await {
            panic!("ListPoolers: {status}");
        }
        clients.push(client);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let mut work = JoinSet::new();
    let begun = Instant::now();
    for mut client in clients {
        let next = next.clone();
        work.spawn(async move {
            let mut samples = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= jobs {
                    return samples;
                }
                let asked = Instant::now();
                if let Err(status) = client.backup(backup(n)).await {
                    panic!("Backup: {status}");
                }
                samples.push(asked.elapsed());
            }
        });
    }
    let samples: Vec<Duration> = work.join_all().await.concat();
    let took = begun.elapsed();
    assert_eq!(samples.len(), jobs);
    tell("Backup", &samples);
    f64::from(u32::try_from(jobs).unwrap_or(u32::MAX)) / took.as_secs_f64()
}

pub(crate) fn tell(what: &str, samples: &[Duration]) {
    let ms = |share| quantile(samples, share).as_secs_f64() * 1000.0;
    note(&format!("  {what}, ms: p50 {:.2}, p99 {:.2}, max {:.2}", ms(0.5), ms(0.99), ms(1.0)));
}

async fn measure(cluster: &Cluster, report: &mut Report) {
    fill(&cluster.store().await, DATABASES, CELLS).await;
    let begun = Instant::now();
    let admin = Admin::restart(cluster);
    ready(cluster).await;
    report.figure("topology_10k_ready", begun.elapsed().as_secs_f64(), "s", Limit::AtMost(3.0));
    note(&format!("  MiB when ready: {:.1}", admin.rss_mib()));

    let mut client = cluster.client().await;
    let hundreds = listings(&mut client, 100).await;
    tell("ListPoolers by 1000", &listings(&mut client, 1000).await);
    tell("ListPoolers by 100", &hundreds);
    let p99 = quantile(&hundreds, 0.99).as_secs_f64() * 1000.0;
    report.figure("topology_10k_list_p99", p99, "ms", Limit::AtMost(25.0));

    report.figure("topology_10k_job_rate", job_rate(cluster).await, "1/s", Limit::AtLeast(400.0));
    report.figure("topology_10k_rss", admin.rss_mib(), "MiB", Limit::AtMost(150.0));
}

/// Starting, listing, recording jobs and memory at that size.
pub(crate) fn ten_thousand(report: &mut Report) {
    let cluster = Cluster::bootstrapped("zone1");
    // Only etcd and multiadmin matter here; the one real cell would just take part of two cores.
    cluster.kill_cell("zone1");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { panic!("no runtime") };
    runtime.block_on(measure(&cluster, report));
}
