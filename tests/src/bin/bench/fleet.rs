//! Three hundred databases of three members each, over a real etcd of three members: the poolers' own code that claims and
//! ends jobs, with nothing to do in a job.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cellar_api::v1;
use cellar_model::{
    CLAIM_LEASE_SECONDS, CellName, DatabaseName, JobId, Key, Keyspace, OwnClaims, PoolerStatus,
};
use cellar_pooler::{ClaimOnCell, Claimed, ClaimedJob, Control, Ending, JobRunner, Member, run_lanes};
use cellar_tests::{HostsCluster, command_line, kill_hard};
use cellar_topology::{LeaseKeeper, Mirror, Scope, Store};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use crate::figure::{Limit, Report, note, quantile};
use crate::topology::{
    cell, cell_name, commit, count, database, database_name, fill, name, pooler, status, tell,
};

const DATABASES: usize = 300;
const CELLS: usize = 3;
const JOBS: usize = 1000;
const CLIENTS: usize = 16;

/// How often etcd's leader is killed while jobs are created.
const KILLS: usize = 3;

/// Poolers that share a connection to etcd: there are more than one machine needs sockets for.
const POOLERS_A_CONNECTION: usize = 30;

/// Changes of a status that are timed.
const CHANGES: usize = 300;

/// A job of the fleet has nothing to do, for so long.
const WORK: Duration = Duration::from_millis(100);

/// Everything of one part of the benchmark, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(600);

struct NothingToDo;

impl JobRunner for NothingToDo {
    async fn run(&self, _: &mut ClaimedJob, _: &Control) -> Ending {
        tokio::time::sleep(WORK).await;
        Ending::Succeeded(None)
    }

    async fn take_over(&self, _: &mut ClaimedJob, _: &Control) -> Ending {
        Ending::Succeeded(None)
    }

    async fn begin(&self) {}

    async fn idle(&self) {}
}

/// The keys that the code for jobs looks at, of one pooler.
fn prefixes(keys: &Keyspace, database: &DatabaseName, cell: &CellName) -> Vec<String> {
    let of_jobs = |prefix: &String| ["/jobs/", "/runs/", "/claims/"].iter().any(|kind| prefix.contains(kind));
    let watched = keys.watched_by_pooler(database, cell).into_iter().filter(of_jobs);
    watched.chain([keys.path(&Key::Lock(database.clone()))]).collect()
}

fn status_of(at: usize, of: usize) -> PoolerStatus {
    status(&pooler(&database(at), &cell(of)))
}

/// Starts a pooler, which reports its status bound to its lease.
async fn start(store: &Store, at: (usize, usize)) -> Rc<Member> {
    let (database, cell) = (database_name(at.0), cell_name(at.1));
    let member = Rc::new(Member {
        epoch: cellar_system::clock::new_id().to_string(),
        mirror: Mirror::start_with(
            store,
            prefixes(store.keys(), &database, &cell),
            Scope::OpenJobsOf(cell.clone()),
        ),
        lease: LeaseKeeper::start(Arc::clone(store.kv()), CLAIM_LEASE_SECONDS),
        claim: ClaimOnCell::new(cell.to_string(), OwnClaims::default()),
        store: store.clone(),
        database,
        cell,
    });
    while member.mirror.ready(TIMEOUT).await.is_err() {}
    while !matches!(member.claim_cell(0, async |_| Ok(())).await, Ok(Claimed::Yes)) {
        tokio::time::sleep(WORK).await;
    }
    report(&member, &status_of(at.0, at.1)).await;
    member
}

/// Writes a status.
async fn report(member: &Member, status: &PoolerStatus) {
    let mut lease = member.lease.subscribe();
    let Ok(held) = lease.wait_for(Option::is_some).await.map(|held| *held) else { panic!("no lease") };
    let Some(held) = held else { panic!("no lease") };
    let key = Key::Status(member.database.clone(), member.cell.clone());
    commit(member.store.transaction().put_leased(&key, status, held)).await;
}

/// multiadmin of the first host is started again; until it knows all poolers.
async fn ready(cluster: &Arc<HostsCluster>) -> Duration {
    let is_admin =
        |pid: &i32| command_line(*pid).first().is_some_and(|program| program.ends_with("multiadmin"));
    let Some(pid) = cluster.hosts.processes("db1").into_iter().find(is_admin) else {
        panic!("no multiadmin")
    };
    kill_hard(pid);
    let begun = Instant::now();
    blocking(cluster, |cluster| drop(cluster.on("db1", &["start"]).ok())).await;
    loop {
        // A new connection each time: a client's own backoff is not what is measured.
        let answer = count(&mut cluster.client("db1")).await;
        if answer.is_ok_and(|(_, alive)| alive >= DATABASES * CELLS) {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < TIMEOUT, "multiadmin does not know all poolers");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How long it takes from the write of a status until somebody who watches all has it.
async fn changes(store: &Store, members: &[Rc<Member>]) -> Vec<Duration> {
    let watcher = Mirror::start(store, vec![store.keys().kind("status")]);
    if let Err(error) = watcher.ready(TIMEOUT).await {
        panic!("etcd: {error}");
    }
    let mut samples = Vec::new();
    for n in 0..CHANGES {
        let at = n * members.len() / CHANGES;
        let member = &members[at];
        let message = format!("change {n}");
        let status = PoolerStatus { message: message.clone(), ..status_of(at / CELLS, at % CELLS) };
        let key = (member.database.clone(), member.cell.clone());
        let begun = Instant::now();
        let write = report(member, &status);
        let seen = watcher
            .wait_for(TIMEOUT, |view| view.status.get(&key).is_some_and(|status| status.message == message));
        let ((), seen) = tokio::join!(write, seen);
        assert!(seen.is_ok(), "the watcher does not see {message}");
        samples.push(begun.elapsed());
    }
    samples
}

/// Kills the member of etcd that leads, and starts it again.
fn kill_leader(cluster: &HostsCluster) {
    let hosts = cluster.database_hosts();
    let leads = |host: &&String| {
        let told = cluster.etcdctl(&[host], &["endpoint", "status", "--write-out=json"]).stdout;
        let status: Value = serde_json::from_str(&told).unwrap_or_default();
        let status = &status[0]["Status"];
        status["leader"].is_u64() && status["leader"] == status["header"]["member_id"]
    };
    let is_etcd = |pid: &i32| command_line(*pid).first().is_some_and(|program| program.ends_with("etcd"));
    let begun = Instant::now();
    let leader = loop {
        if let Some(host) = hosts.iter().find(leads) {
            break host;
        }
        assert!(begun.elapsed() < TIMEOUT, "etcd has no leader");
    };
    let Some(pid) = cluster.hosts.processes(leader).into_iter().find(is_etcd) else { panic!("no etcd") };
    kill_hard(pid);
    note(&format!("  etcd's leader on {leader} was killed"));
    let _ = cluster.on(leader, &["start"]).ok();
}

/// Requests a backup until some multiadmin has accepted it; the job.
async fn request(cluster: &HostsCluster, n: usize) -> JobId {
    let request = v1::BackupRequest {
        database: database_name(n % DATABASES).to_string(),
        cell: cell_name(1 + n / DATABASES % (CELLS - 1)).to_string(),
        queue: true,
        request_id: format!("fleet-{n}"),
        ..Default::default()
    };
    let begun = Instant::now();
    for host in cluster.database_hosts().iter().cycle() {
        match cluster.client(host).backup(request.clone()).await {
            Ok(job) => return name(&job.into_inner().id),
            Err(status) => assert!(begun.elapsed() < TIMEOUT, "Backup: {status}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("no hosts")
}

/// How a job stands, by whichever multiadmin answers.
async fn state(cluster: &HostsCluster, id: &JobId) -> Option<v1::JobState> {
    for host in cluster.database_hosts() {
        let asked = cluster.client(&host).get_job(v1::GetJobRequest { id: id.to_string() }).await;
        if let Ok(job) = asked {
            return Some(job.into_inner().state());
        }
    }
    None
}

/// Creates jobs while etcd's leader is killed, and waits until all have ended. Gives how many did not succeed.
async fn jobs(cluster: &Arc<HostsCluster>) -> usize {
    let begun = Instant::now();
    let (next, created) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (cluster, next, created) = (Arc::clone(cluster), Rc::clone(&next), Rc::clone(&created));
        clients.spawn_local(async move {
            loop {
                let n = next.replace(next.get() + 1);
                if n >= JOBS {
                    return;
                }
                let id = request(&cluster, n).await;
                created.borrow_mut().push(id);
            }
        });
    }
    for kill in 1..=KILLS {
        while created.borrow().len() < kill * JOBS / (KILLS + 1) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        blocking(cluster, kill_leader).await;
    }
    let _ = clients.join_all().await;
    note(&format!("  {JOBS} jobs were created in {:.1} s", begun.elapsed().as_secs_f64()));
    let mut open = created.take();
    let mut failed = 0;
    while !open.is_empty() {
        assert!(begun.elapsed() < TIMEOUT, "jobs that do not end: {open:?}");
        let mut rest = Vec::new();
        for id in open {
            match state(cluster, &id).await {
                Some(v1::JobState::Succeeded) => {}
                Some(v1::JobState::Failed | v1::JobState::Canceled) => failed += 1,
                _ => rest.push(id),
            }
        }
        open = rest;
    }
    note(&format!("  all had ended after {:.1} s", begun.elapsed().as_secs_f64()));
    failed
}

/// Work that blocks, beside the poolers, which go on.
async fn blocking<T: Send + 'static>(
    cluster: &Arc<HostsCluster>,
    work: impl FnOnce(&HostsCluster) -> T + Send + 'static,
) -> T {
    let cluster = Arc::clone(cluster);
    match tokio::task::spawn_blocking(move || work(&cluster)).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn measure(cluster: &Arc<HostsCluster>, report: &mut Report) {
    let store = cluster.store().await;
    fill(&store, DATABASES, CELLS).await;
    let mut members = Vec::new();
    let mut shared = store.clone();
    let (_stop, stopping) = watch::channel(false);
    for n in 0..DATABASES * CELLS {
        if n % POOLERS_A_CONNECTION == 0 {
            shared = cluster.store().await;
        }
        let member = start(&shared, (n / CELLS, n % CELLS)).await;
        tokio::task::spawn_local(run_lanes(Rc::clone(&member), Rc::new(NothingToDo), stopping.clone()));
        members.push(member);
    }
    note(&format!("  {} poolers have started", members.len()));
    report.figure("fleet_ready", ready(cluster).await.as_secs_f64(), "s", Limit::AtMost(2.0));
    let changes = changes(&store, &members).await;
    tell("a change of a status", &changes);
    let p99 = quantile(&changes, 0.99).as_secs_f64() * 1000.0;
    report.figure("fleet_status_p99", p99, "ms", Limit::AtMost(300.0));
    let failed = jobs(cluster).await;
    #[expect(clippy::cast_precision_loss, reason = "a thousand at most")]
    report.figure("fleet_jobs_lost", failed as f64, "jobs", Limit::AtMost(0.0));
}

/// multiadmin's start, a status on its way, and jobs while etcd loses its leader, at that size.
pub(crate) fn fleet(report: &mut Report) {
    let Some(cluster) = HostsCluster::well(3).map(Arc::new) else { panic!("hosts take root") };
    cluster.hosts.inside("operator", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { panic!("no runtime") };
        runtime.block_on(LocalSet::new().run_until(measure(&cluster, report)));
    });
}
