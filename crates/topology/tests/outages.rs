//! What becomes of the store, the mirror and the lease when a real etcd is killed, frozen, absent
//! or without a majority.
#![expect(clippy::unwrap_used, reason = "this is a test")]

#[path = "support/etcd.rs"]
#[expect(dead_code, reason = "shared with tests that use etcd otherwise")]
mod etcd_process;
#[path = "support/records.rs"]
#[expect(dead_code, reason = "shared with tests that write more kinds of records")]
mod records;
#[path = "support/wait.rs"]
mod wait;

use std::sync::Arc;
use std::time::Duration;

use cellar_model::{Key, Keyspace};
use cellar_topology::{EtcdKv, Kv, LeaseKeeper, Mirror, Store, StoreError, Write, retry};
use etcd_process::Etcd;
use futures_util::StreamExt;
use records::cell;
use tokio::time::{Instant, timeout};
use wait::wait_until;

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// What one call may take, with room for a loaded machine.
const CALL: Duration = Duration::from_secs(7);
/// How soon silence is noticed: keepalive after 5 s, and 3 s for its answer, with room.
const SILENCE: Duration = Duration::from_secs(12);

fn key(n: u32) -> Key {
    Key::Cell(format!("zone{n}").parse().unwrap())
}

fn store(kv: EtcdKv) -> Store {
    Store::new(Arc::new(kv), Keyspace::new(&"demo".parse().unwrap()))
}

async fn put(store: &Store, n: u32) {
    let record = cell(&format!("zone{n}"), n);
    // Idempotent, so it may be repeated without a guard.
    retry(WAIT_TIMEOUT, || store.transaction().put(&key(n), &record).commit()).await.unwrap();
}

async fn fails_in_time(kv: &EtcdKv) {
    let begin = Instant::now();
    let error = kv.get("k").await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(begin.elapsed() < CALL, "took {:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_and_restart_loses_nothing() {
    const TTL: u32 = 4;
    let etcd = Etcd::start();
    let kv = etcd.kv().await;
    let store = store(kv.clone());
    let mirror = Mirror::start(&store, vec![store.keys().all()]);
    mirror.ready(WAIT_TIMEOUT).await.unwrap();
    let keeper = LeaseKeeper::start(Arc::new(kv.clone()), TTL);
    let lease = keeper.subscribe().wait_for(Option::is_some).await.unwrap().unwrap();
    store.transaction().put_leased(&Key::AdminLeader, &"me".to_owned(), lease).commit().await.unwrap();
    put(&store, 1).await;
    mirror.wait_for(WAIT_TIMEOUT, |view| view.cells.len() == 1 && view.admin_leader.is_some()).await.unwrap();

    etcd.kill();
    wait_until("the loss is noticed", Duration::from_secs(2), || mirror.stale_for().is_some()).await;
    fails_in_time(&kv).await;
    assert_eq!(mirror.view().cells.len(), 1, "what is known stays");
    etcd.resume();
    put(&store, 2).await;
    mirror.wait_for(WAIT_TIMEOUT, |view| view.cells.len() == 2).await.unwrap();
    wait_until("the watch stands", WAIT_TIMEOUT, || mirror.stale_for().is_none()).await;

    // etcd started the lease's TTL again; after more than the TTL only renewal has kept it alive.
    let gone =
        mirror.wait_for(Duration::from_secs(u64::from(TTL) + 2), |view| view.admin_leader.is_none()).await;
    assert!(gone.is_err(), "the leased key went");
    assert_eq!(keeper.current(), Some(lease));
    assert!(kv.keep_alive(lease).await.unwrap());
    assert!(kv.get(&store.keys().path(&Key::AdminLeader)).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_etcd_is_noticed() {
    let etcd = Etcd::start();
    let kv = etcd.kv().await;
    let store = store(kv.clone());
    put(&store, 1).await;
    let mirror = Mirror::start(&store, vec![store.keys().all()]);
    mirror.ready(WAIT_TIMEOUT).await.unwrap();
    etcd.freeze();
    let frozen = Instant::now();
    fails_in_time(&kv).await;
    wait_until("the silence is noticed", SILENCE.saturating_sub(frozen.elapsed()), || {
        mirror.stale_for().is_some()
    })
    .await;
    println!("silence noticed after {:?}", frozen.elapsed());
    fails_in_time(&kv).await;
    assert_eq!(mirror.view().cells.len(), 1);

    etcd.thaw();
    let thawed = Instant::now();
    put(&store, 2).await;
    println!("a write went through after {:?}", thawed.elapsed());
    mirror.wait_for(WAIT_TIMEOUT, |view| view.cells.len() == 2).await.unwrap();
    wait_until("the watch stands", WAIT_TIMEOUT, || mirror.stale_for().is_none()).await;
    println!("in step again after {:?}", thawed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_start_before_etcd() {
    let etcd = Etcd::stopped();
    let begin = Instant::now();
    let kv = etcd.kv().await;
    assert!(begin.elapsed() < Duration::from_secs(1), "connect waits for nobody");
    fails_in_time(&kv).await;
    let calls = [kv.grant(5).await.err(), kv.list("a/").await.err(), kv.watch("a/", 1).await.err()];
    for error in calls {
        assert!(error.unwrap().is_retryable());
    }
    let begin = Instant::now();
    let tried: Result<_, _> = retry(Duration::from_secs(1), || kv.get("k")).await;
    assert!(tried.unwrap_err().is_retryable());
    assert!(begin.elapsed() < Duration::from_secs(2));

    let store = store(kv.clone());
    let mirror = Mirror::start(&store, vec![store.keys().all()]);
    let keeper = LeaseKeeper::start(Arc::new(kv), 5);
    assert!(mirror.ready(Duration::from_secs(1)).await.is_err());
    assert_eq!(keeper.current(), None);
    etcd.resume();
    put(&store, 1).await;
    mirror.wait_for(WAIT_TIMEOUT, |view| view.cells.len() == 1).await.unwrap();
    mirror.ready(WAIT_TIMEOUT).await.unwrap();
    timeout(WAIT_TIMEOUT, keeper.subscribe().wait_for(Option::is_some)).await.unwrap().unwrap();
}

/// The member that is left answers pings, and would keep its watches open in silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_majority_ends_its_watches() {
    let etcd = Etcd::three();
    let kv = EtcdKv::connect(&etcd.endpoints()[..1], None).await.unwrap();
    let mut watch = kv.watch("a/", 1).await.unwrap();
    assert_eq!(timeout(WAIT_TIMEOUT, watch.next()).await.unwrap().unwrap().unwrap(), []);
    etcd.kill_member(1);
    etcd.kill_member(2);
    let item = timeout(WAIT_TIMEOUT, watch.next()).await.expect("the watch is silent").unwrap();
    assert!(item.unwrap_err().is_retryable());
    fails_in_time(&kv).await;
    etcd.resume();
    retry(WAIT_TIMEOUT, || kv.get("k")).await.unwrap();
}

/// One of three members goes: calls go on with the others.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_members_may_fail() {
    let etcd = Etcd::three();
    let store = store(etcd.kv().await);
    let mirror = Mirror::start(&store, vec![store.keys().all()]);
    mirror.ready(WAIT_TIMEOUT).await.unwrap();
    for at in 0..3 {
        etcd.kill_member(at);
        let n = u32::try_from(at).unwrap() + 1;
        put(&store, n).await;
        mirror
            .wait_for(WAIT_TIMEOUT, |view| view.cells.contains_key(&format!("zone{n}").parse().unwrap()))
            .await
            .unwrap();
        etcd.resume();
    }
}

#[tokio::test]
async fn endpoints_must_be_urls() {
    for endpoints in [vec![], vec!["http://".to_owned()], vec!["http://a b".to_owned()]] {
        let error = EtcdKv::connect(&endpoints, None).await.unwrap_err();
        assert!(matches!(error, StoreError::Terminal(_)), "{endpoints:?}: {error}");
    }
}

/// The alarm is what an operator must end, so it is told; and a full database is not an etcd that will answer soon.
#[tokio::test(flavor = "multi_thread")]
async fn full_database_is_told_by_its_alarm_and_an_error_of_its_own() {
    let etcd = Etcd::with_quota(1 << 20);
    let kv = etcd.kv().await;
    assert_eq!(kv.alarms().await.unwrap(), Vec::<String>::new());
    let value = vec![b'x'; 100 << 10];
    let put = |n: u32| vec![Write::Put { key: format!("k{n}"), value: value.clone(), lease: None }];
    let mut refused = None;
    for n in 0..100 {
        if let Err(error) = kv.txn(vec![], put(n)).await {
            refused = Some(error);
            break;
        }
    }
    let error = refused.expect("the quota is reached");
    assert!(matches!(error, StoreError::Full(_)) && !error.is_retryable(), "{error}");
    assert_eq!(kv.alarms().await.unwrap(), ["NOSPACE"]);
    assert!(kv.get("k0").await.unwrap().is_some(), "reading goes on");
}
