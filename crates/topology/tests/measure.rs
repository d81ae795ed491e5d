//! Numbers, not judgements:
//! `cargo test --release -p cellar-topology --test measure -- --ignored --nocapture --test-threads 1`
#![expect(clippy::unwrap_used, reason = "this is a test")]

#[path = "support/etcd.rs"]
#[expect(dead_code, reason = "shared with tests that break etcd")]
mod etcd_process;
#[path = "support/records.rs"]
#[expect(dead_code, reason = "shared with tests that write more kinds of records")]
mod records;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cellar_model::{Key, Keyspace};
use cellar_topology::{Kv, Mirror, Store, TxnOutcome, Write};
use etcd_process::Etcd;

const POOLERS: usize = 10_000;

/// Resident memory in bytes.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u32 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    f64::from(pages) * 4096.0
}

async fn fill(store: &Store) -> usize {
    let mut bytes = 0;
    let records: Vec<_> =
        (0..POOLERS).map(|n| records::pooler(&format!("db{}", n / 3), &format!("zone{}", n % 3))).collect();
    for part in records.chunks(100) {
        let mut transaction = store.transaction();
        for record in part {
            bytes += serde_json::to_vec(record).unwrap().len();
            let key = Key::Pooler(record.database.clone(), record.cell.clone());
            transaction = transaction.put(&key, record);
        }
        assert!(matches!(transaction.commit().await.unwrap(), TxnOutcome::Committed(_)));
    }
    bytes / POOLERS
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn ten_thousand_poolers() {
    let etcd = Etcd::start();
    let kv = Arc::new(etcd.kv().await);
    let store = Store::new(kv, Keyspace::new(&"demo".parse().unwrap()));
    let begin = Instant::now();
    let size = fill(&store).await;
    println!("{POOLERS} poolers of {size} bytes written by 100 in {:?}", begin.elapsed());
    let prefix = store.keys().kind("poolers");
    for _ in 0..3 {
        let begin = Instant::now();
        assert_eq!(store.list(&prefix).await.unwrap().entries.len(), POOLERS);
        let listed = begin.elapsed();
        let begin = Instant::now();
        let mirror = Mirror::start(&store, vec![prefix.clone()]);
        mirror.ready(Duration::from_secs(60)).await.unwrap();
        println!("listed in {listed:?}; listed and in a view in {:?}", begin.elapsed());
    }
    // The first few bring the allocator's caches to their size.
    let mut mirrors = Vec::new();
    let mut base = 0.0;
    for n in 0..13 {
        if n == 3 {
            base = resident();
        }
        let mirror = Mirror::start(&store, vec![prefix.clone()]);
        mirror.ready(Duration::from_secs(60)).await.unwrap();
        assert_eq!(mirror.view().poolers.len(), POOLERS);
        mirrors.push(mirror);
    }
    println!("{:.0} bytes of a view per pooler", (resident() - base) / 10.0 / POOLERS as f64);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn transactions_a_second() {
    const EACH: usize = 100;
    let etcd = Etcd::start();
    let kv = etcd.kv().await;
    for tasks in [1, 64] {
        let begin = Instant::now();
        let task = |task: usize| {
            let kv = kv.clone();
            tokio::spawn(async move {
                let mut slowest = Duration::ZERO;
                for n in 0..EACH {
                    let begin = Instant::now();
                    let write =
                        Write::Put { key: format!("/t/{task}/{n}"), value: vec![b'x'; 500], lease: None };
                    kv.txn(vec![], vec![write]).await.unwrap();
                    slowest = slowest.max(begin.elapsed());
                }
                slowest
            })
        };
        let running: Vec<_> = (0..tasks).map(task).collect();
        let mut slowest = Duration::ZERO;
        for task in running {
            slowest = slowest.max(task.await.unwrap());
        }
        let rate = (tasks * EACH) as f64 / begin.elapsed().as_secs_f64();
        println!("{tasks} tasks: {rate:.0} transactions a second, the slowest took {slowest:?}");
    }
}
