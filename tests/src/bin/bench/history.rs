//! What the daemons' memory owes to the history of jobs.

use std::thread::sleep;
use std::time::Duration;

use cellar_model::{JobId, JobRecord, Key, Run};
use cellar_tests::{Cluster, kill_hard, rss_kib};
use cellar_topology::{Store, Versioned};

use crate::figure::{Limit, Report, note};
use crate::topology::{commit, name};

const CELLS: [&str; 2] = ["zone1", "zone2"];

/// What multiadmin keeps of a database's jobs that have ended.
const JOBS: u32 = 500;

/// etcd takes 128 writes in a transaction.
const BATCH: u32 = 50;

/// Until a daemon has read the topology and given back what it needed for that.
const IDLE: Duration = Duration::from_secs(20);

/// Resident memory of multiadmin and of the larger multipooler, in MiB.
fn memory(cluster: &Cluster) -> (f64, f64) {
    sleep(IDLE);
    let rss = |file: &str| f64::from(rss_kib(cluster.pid(file))) / 1024.0;
    let poolers = CELLS.map(|cell| rss(&format!("{cell}/pid/multipooler.pid")));
    (rss("pid/multiadmin.pid"), poolers[0].max(poolers[1]))
}

fn restart(cluster: &Cluster) {
    for file in ["pid/multiadmin.pid", "zone1/pid/multipooler.pid", "zone2/pid/multipooler.pid"] {
        kill_hard(cluster.pid(file));
    }
    cluster.cellar(&["up"]);
}

async fn read<R: serde::de::DeserializeOwned>(store: &Store, key: &Key) -> R {
    match store.get(key).await {
        Ok(Some(Versioned { record, .. })) => record,
        other => panic!("{key:?}: {:?}", other.map(|found| found.is_some())),
    }
}

/// Writes jobs that ended like a plan that was made, half of them in each cell.
async fn fill(cluster: &Cluster, database: &str, plan: &JobId) {
    let store = cluster.store().await;
    let database = name(database);
    let record: JobRecord = read(&store, &Key::Job(database, *plan)).await;
    let key = Key::Run(record.database.clone(), record.cell.clone(), *plan);
    let run: Run = read(&store, &key).await;
    for batch in (0..JOBS).collect::<Vec<_>>().chunks(usize::try_from(BATCH).unwrap_or(1)) {
        let mut transaction = store.transaction();
        for n in batch {
            let cell = name(CELLS[usize::try_from(*n).unwrap_or_default() % 2]);
            let id = JobId::new(cellar_system::clock::new_id());
            let record = JobRecord { id, cell, ..record.clone() };
            let run = Run { id, cell: record.cell.clone(), ..run.clone() };
            transaction = transaction
                .put(&Key::Job(record.database.clone(), id), &record)
                .put(&Key::Run(record.database.clone(), record.cell.clone(), id), &run);
        }
        commit(transaction).await;
    }
}

/// The daemons with 500 ended jobs against none: those that saw them end, and those that started later.
pub(crate) fn memory_at_500_jobs(report: &mut Report) {
    let cluster = Cluster::bootstrapped(&CELLS.join(","));
    let plan = cluster.json(&["restore", "--latest", "--plan"]);
    let text = |field: &str| plan[field].as_str().unwrap_or_default().to_owned();
    let (database, plan): (String, JobId) = (text("database"), name(&text("id")));
    restart(&cluster);
    let none = memory(&cluster);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { panic!("no runtime") };
    runtime.block_on(fill(&cluster, &database, &plan));
    let seen = memory(&cluster);
    restart(&cluster);
    let later = memory(&cluster);
    for (what, (admin, pooler)) in [("none", none), ("seen", seen), ("started later", later)] {
        note(&format!("  {what}: multiadmin {admin:.2} MiB, multipooler {pooler:.2} MiB"));
    }
    let ratio = |of: fn(&(f64, f64)) -> f64| of(&seen).max(of(&later)) / of(&none);
    report.figure("memory_at_500_jobs_multipooler", ratio(|memory| memory.1), "of none", Limit::AtMost(1.1));
    report.figure("memory_at_500_jobs_multiadmin", ratio(|memory| memory.0), "of none", Limit::AtMost(1.1));
}
