//! The mirror and the lease keeper, over the store in memory and over an etcd in good health.
#![expect(clippy::unwrap_used, reason = "this is a test")]

#[path = "support/etcd.rs"]
#[expect(dead_code, reason = "shared with tests that break etcd in more ways")]
mod etcd_process;
#[path = "support/records.rs"]
#[expect(dead_code, reason = "shared with tests that write more kinds of records")]
mod records;
#[path = "support/wait.rs"]
mod wait;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cellar_model::{CellName, Key, Keyspace};
use cellar_topology::{
    Entry, Guard, Kv, LeaseId, LeaseKeeper, Listing, MemoryKv, Mirror, Store, StoreError, TxnOutcome, View,
    WatchStream, Write,
};
use etcd_process::Etcd;
use proptest::prelude::*;
use records::{cell, database};
use wait::wait_until;

const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

fn name(n: u32) -> CellName {
    format!("zone{n}").parse().unwrap()
}

async fn put_cell(store: &Store, n: u32, index: u32) {
    let record = cell(name(n).as_str(), index);
    store.transaction().put(&Key::Cell(name(n)), &record).commit().await.unwrap();
}

async fn put_raw(store: &Store, path: String, value: &str) {
    store.kv().txn(vec![], vec![Write::Put { key: path, value: value.into(), lease: None }]).await.unwrap();
}

fn indexes(view: &View) -> Vec<u32> {
    view.cells.values().map(|cell| cell.index).collect()
}

fn memory() -> (MemoryKv, Store) {
    let kv = MemoryKv::default();
    let store = Store::new(Arc::new(kv.clone()), Keyspace::new(&"demo".parse().unwrap()));
    (kv, store)
}

async fn lists_then_follows(store: Store) {
    let keys = store.keys().clone();
    put_cell(&store, 1, 1).await;
    put_raw(&store, keys.path(&Key::Cell(name(2))), "{}").await;
    let mirror = Mirror::start(&store, vec![keys.kind("cells"), keys.kind("databases")]);
    mirror.ready(WAIT_TIMEOUT).await.unwrap();
    assert_eq!(mirror.stale_for(), None);
    assert_eq!(indexes(&mirror.view()), [1]);
    assert_eq!(mirror.view().unreadable.len(), 1);

    put_cell(&store, 2, 2).await;
    mirror
        .wait_for(WAIT_TIMEOUT, |view| indexes(view) == [1, 2] && view.unreadable.is_empty())
        .await
        .unwrap();
    let held = mirror.view().revision(&Key::Cell(name(1)));
    let guarded = store.transaction().expect(&Key::Cell(name(1)), held).delete(&Key::Cell(name(1)));
    assert!(matches!(guarded.commit().await.unwrap(), TxnOutcome::Committed(_)));
    mirror.wait_for(WAIT_TIMEOUT, |view| indexes(view) == [2]).await.unwrap();

    // A transaction is seen as a whole, and keys outside of the prefixes are not seen.
    let app = database("app");
    let transaction = store
        .transaction()
        .put(&Key::Cell(name(3)), &cell("zone3", 3))
        .put(&Key::AdminLeader, &"a".to_owned())
        .delete(&Key::Cell(name(2)));
    transaction.commit().await.unwrap();
    mirror
        .wait_for(WAIT_TIMEOUT, |view| {
            assert!([vec![2], vec![3]].contains(&indexes(view)), "half a transaction: {:?}", indexes(view));
            indexes(view) == [3]
        })
        .await
        .unwrap();
    store.transaction().put(&Key::Database(app.name.clone()), &app).commit().await.unwrap();
    mirror.wait_for(WAIT_TIMEOUT, |view| view.databases.contains_key(&app.name)).await.unwrap();
    assert_eq!(mirror.view().admin_leader, None);

    let never = mirror.wait_for(Duration::from_millis(50), |view| view.cells.is_empty()).await;
    assert!(never.unwrap_err().is_retryable());
}

#[tokio::test]
async fn lists_then_follows_in_memory() {
    lists_then_follows(memory().1).await;
}

#[tokio::test]
async fn lists_then_follows_with_etcd() {
    let etcd = Etcd::start();
    lists_then_follows(Store::new(Arc::new(etcd.kv().await), Keyspace::new(&"demo".parse().unwrap()))).await;
}

#[tokio::test(start_paused = true)]
async fn catches_up_after_a_missed_compaction() {
    let (kv, store) = memory();
    put_cell(&store, 1, 1).await;
    put_cell(&store, 2, 2).await;
    let mirror = Mirror::start(&store, vec![store.keys().all()]);
    mirror.ready(WAIT_TIMEOUT).await.unwrap();
    // No await in between, so the mirror stays disconnected during these writes.
    kv.set_unreachable(true);
    kv.set_unreachable(false);
    put_cell(&store, 3, 3).await;
    store.transaction().delete(&Key::Cell(name(1))).commit().await.unwrap();
    put_cell(&store, 2, 7).await;
    kv.compact();
    mirror.wait_for(WAIT_TIMEOUT, |view| indexes(view) == [7, 3]).await.unwrap();
    wait_until("the watch stands", WAIT_TIMEOUT, || mirror.stale_for().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn staleness_lasts_as_long_as_the_outage() {
    let (kv, store) = memory();
    kv.set_unreachable(true);
    let mirror = Mirror::start(&store, vec![store.keys().all()]);
    assert!(mirror.stale_for().is_some(), "what was never listed is stale");
    assert!(mirror.ready(Duration::from_secs(5)).await.unwrap_err().is_retryable());
    let since = mirror.stale_for().unwrap();
    assert!(since >= Duration::from_secs(5), "{since:?}");

    kv.set_unreachable(false);
    mirror.ready(Duration::from_secs(1)).await.unwrap();
    put_cell(&store, 1, 1).await;
    mirror.wait_for(WAIT_TIMEOUT, |view| indexes(view) == [1]).await.unwrap();

    kv.set_unreachable(true);
    wait_until("it is noticed", Duration::from_secs(1), || mirror.stale_for().is_some()).await;
    assert!(mirror.stale_for().unwrap() < Duration::from_secs(1), "a new outage counts from its own begin");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(mirror.stale_for().unwrap() >= Duration::from_secs(30), "failed attempts do not reset it");
    assert_eq!(indexes(&mirror.view()), [1], "what is known stays");
    kv.set_unreachable(false);
    wait_until("it is over", Duration::from_secs(1), || mirror.stale_for().is_none()).await;
}

/// A store in which everything that a listing showed is outdated and compacted by the time of
/// the watch, for the first few times.
#[derive(Debug)]
struct Hasty {
    kv: MemoryKv,
    left: AtomicUsize,
}

#[async_trait]
impl Kv for Hasty {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.kv.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.kv.list(prefix).await
    }
    async fn txn(&self, guards: Vec<Guard>, writes: Vec<Write>) -> Result<TxnOutcome, StoreError> {
        self.kv.txn(guards, writes).await
    }
    async fn watch(&self, prefix: &str, revision: i64) -> Result<WatchStream, StoreError> {
        let take = |left: usize| left.checked_sub(1);
        if let Ok(left) = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            let index = u32::try_from(left).unwrap();
            for _ in 0..2 {
                let value = serde_json::to_vec(&cell("zone1", index)).unwrap();
                let write = Write::Put { key: format!("{prefix}cells/zone1"), value, lease: None };
                self.kv.txn(vec![], vec![write]).await?;
            }
            self.kv.compact();
        }
        self.kv.watch(prefix, revision).await
    }
    async fn grant(&self, ttl: u32) -> Result<LeaseId, StoreError> {
        self.kv.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<bool, StoreError> {
        self.kv.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.kv.revoke(lease).await
    }
}

#[tokio::test(start_paused = true)]
async fn lists_again_when_the_listing_is_compacted_before_the_watch() {
    let (kv, store) = memory();
    let hasty = Hasty { kv, left: AtomicUsize::new(3) };
    let hasty = Store::new(Arc::new(hasty), store.keys().clone());
    let mirror = Mirror::start(&hasty, vec![store.keys().all()]);
    mirror.ready(WAIT_TIMEOUT).await.unwrap();
    assert_eq!(indexes(&mirror.view()), [1], "what the last of the three wrote");
    put_cell(&store, 1, 9).await;
    mirror.wait_for(WAIT_TIMEOUT, |view| indexes(view) == [9]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_replaced() {
    let (kv, _) = memory();
    kv.set_unreachable(true);
    let keeper = LeaseKeeper::start(Arc::new(kv.clone()), 9);
    let mut leases = keeper.subscribe();
    assert_eq!(keeper.current(), None);
    kv.set_unreachable(false);
    let first = leases.wait_for(Option::is_some).await.unwrap().unwrap();
    // Much longer than the TTL of a lease that is not renewed.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(keeper.current(), Some(first));
    // An outage shorter than what is left of it does not end it, a longer one does.
    for (outage, survives) in [(5, true), (10, false)] {
        kv.set_unreachable(true);
        tokio::time::sleep(Duration::from_secs(outage)).await;
        kv.set_unreachable(false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(keeper.current() == Some(first), survives);
        assert!(kv.keep_alive(keeper.current().unwrap()).await.unwrap());
    }
    // It is not renewed any more after its keeper was dropped.
    let last = keeper.current().unwrap();
    drop(keeper);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!kv.keep_alive(last).await.unwrap());
}

/// What may happen to a store.
#[derive(Debug, Clone)]
enum Step {
    Put { at: usize, value: usize, leased: bool },
    Delete { at: usize },
    Both { put: usize, delete: usize, value: usize },
    Compact,
    Reachable(bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..7usize, 0..5usize, any::<bool>()).prop_map(|(at, value, leased)| Step::Put { at, value, leased }),
        3 => (0..7usize).prop_map(|at| Step::Delete { at }),
        2 => (0..7usize, 1..7usize, 0..5usize)
            .prop_map(|(put, other, value)| Step::Both { put, delete: (put + other) % 7, value }),
        2 => Just(Step::Compact),
        3 => any::<bool>().prop_map(Step::Reachable),
        4 => (0..1500u64).prop_map(Step::Wait),
    ]
}

/// Keys of cells and databases, a key of no record, and one that nobody watches.
fn path(store: &Store, at: usize) -> String {
    let names = ["cells/zone1", "cells/zone2", "cells/zone3", "cells/NONE", "databases/app", "databases/web"];
    names.get(at).map_or("/elsewhere".to_owned(), |name| format!("{}{name}", store.keys().all()))
}

/// Good records, one of another subject, and one that is none.
fn value(at: usize, value: usize) -> Vec<u8> {
    match value {
        0 => b"{".to_vec(),
        1 => serde_json::to_vec(&cell("zone9", 0)).unwrap(),
        n if at < 4 => {
            serde_json::to_vec(&cell(&format!("zone{}", at + 1), u32::try_from(n).unwrap())).unwrap()
        }
        _ => serde_json::to_vec(&database(if at == 4 { "app" } else { "web" })).unwrap(),
    }
}

async fn a_mirror_through(steps: Vec<Step>) {
    let (kv, store) = memory();
    let prefixes = || vec![store.keys().kind("cells"), store.keys().kind("databases")];
    let mirror = Mirror::start(&store, prefixes());
    for step in steps {
        let writes = match step {
            Step::Put { at, value: n, leased } => {
                let lease = if leased { kv.grant(1).await.ok() } else { None };
                vec![Write::Put { key: path(&store, at), value: value(at, n), lease }]
            }
            Step::Delete { at } => vec![Write::Delete { key: path(&store, at) }],
            Step::Both { put, delete, value: n } => vec![
                Write::Put { key: path(&store, put), value: value(put, n), lease: None },
                Write::Delete { key: path(&store, delete) },
            ],
            Step::Compact => {
                kv.compact();
                continue;
            }
            Step::Reachable(reachable) => {
                kv.set_unreachable(!reachable);
                continue;
            }
            Step::Wait(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                continue;
            }
        };
        if let Err(error) = kv.txn(vec![], writes).await {
            assert!(error.is_retryable(), "{error}");
        }
    }
    kv.set_unreachable(false);
    // Let all leases end, so that both views are of the same moment.
    tokio::time::sleep(Duration::from_secs(2)).await;
    wait_until("every watch stands", WAIT_TIMEOUT, || mirror.stale_for().is_none()).await;
    let fresh = Mirror::start(&store, prefixes());
    fresh.ready(WAIT_TIMEOUT).await.unwrap();
    mirror.wait_for(WAIT_TIMEOUT, |view| *view == *fresh.view()).await.unwrap();
    // It still follows changes.
    put_cell(&store, 1, 99).await;
    mirror.wait_for(WAIT_TIMEOUT, |view| indexes(view).contains(&99)).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_changes_the_view_equals_the_store(steps in proptest::collection::vec(step(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(a_mirror_through(steps));
    }
}
