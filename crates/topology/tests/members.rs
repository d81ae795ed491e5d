//! What becomes of the store, the mirror and the lease when one or two of three etcd members on different addresses,
//! over TLS, are killed, frozen, late or not who they should be.
#![expect(clippy::unwrap_used, reason = "this is a test")]
#![expect(clippy::print_stdout, reason = "the measured times are worth seeing")]

#[path = "support/etcd.rs"]
#[expect(dead_code, reason = "shared with tests that use etcd otherwise")]
mod etcd_process;
#[path = "support/records.rs"]
#[expect(dead_code, reason = "shared with tests that write more kinds of records")]
mod records;
#[path = "support/wait.rs"]
mod wait;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cellar_model::{Key, Keyspace};
use cellar_topology::{EtcdKv, Kv, LeaseId, LeaseKeeper, Mirror, Store, retry};
use etcd_process::Etcd;
use records::cell;
use tokio::time::Instant;
use wait::wait_until;

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The lease of a pooler.
const TTL: u32 = 10;

/// What one call may take, with room for a loaded machine.
const CALL: Duration = Duration::from_secs(7);

/// How soon a write that is repeated must go through when one member is gone: one call to that member, which may take
/// its whole time, or the election of a leader, and one to another.
const WRITE: Duration = Duration::from_secs(9);

/// How soon the mirror must show such a write: until the silence of a watch is noticed, and a new listing.
const MIRROR: Duration = Duration::from_secs(14);

/// How soon all must go on when a majority is back.
const RETURN: Duration = Duration::from_secs(15);

/// A certificate with the member's own address.
fn own(_: usize, address: &str) -> String {
    address.to_owned()
}

/// What a pooler has of etcd: a store, a mirror and a lease with a key.
struct Client {
    kv: EtcdKv,
    store: Store,
    mirror: Mirror,
    keeper: LeaseKeeper,
    lease: LeaseId,
    leased_at: i64,
    written: AtomicU32,
}

impl Client {
    async fn start(kv: EtcdKv) -> Self {
        let store = Store::new(Arc::new(kv.clone()), Keyspace::new(&"demo".parse().unwrap()));
        let mirror = Mirror::start(&store, vec![store.keys().all()]);
        mirror.ready(WAIT_TIMEOUT).await.unwrap();
        let keeper = LeaseKeeper::start(Arc::new(kv.clone()), TTL);
        let lease = keeper.subscribe().wait_for(Option::is_some).await.unwrap().unwrap();
        let leased = |store: Store| async move {
            store.transaction().put_leased(&Key::AdminLeader, &"me".to_owned(), lease).commit().await
        };
        retry(WAIT_TIMEOUT, || leased(store.clone())).await.unwrap();
        let key = store.keys().path(&Key::AdminLeader);
        let leased_at = kv.get(&key).await.unwrap().unwrap().revision;
        Self { kv, store, mirror, keeper, lease, leased_at, written: AtomicU32::new(0) }
    }

    /// Writes one more cell, again until it is there; returns how long that took.
    async fn write(&self) -> Duration {
        let n = self.written.fetch_add(1, Ordering::Relaxed) + 1;
        let (name, begin) = (format!("zone{n}"), Instant::now());
        let (key, record) = (Key::Cell(name.parse().unwrap()), cell(&name, n));
        retry(WAIT_TIMEOUT, || self.store.transaction().put(&key, &record).commit()).await.unwrap();
        begin.elapsed()
    }

    /// Writes, and waits until the mirror shows it.
    async fn goes_on(&self, what: &str, write: Duration, mirror: Duration) {
        let begin = Instant::now();
        let took = self.write().await;
        assert!(took < write, "{what}: a write took {took:?}");
        let count = self.written.load(Ordering::Relaxed) as usize;
        self.mirror.wait_for(WAIT_TIMEOUT, |view| view.cells.len() == count).await.unwrap();
        let seen = begin.elapsed();
        assert!(seen < mirror, "{what}: the mirror showed it after {seen:?}");
        println!("{what}: written after {took:?}, in the mirror after {seen:?}");
    }

    /// The lease, and with it the key, has never ended.
    async fn has_kept_its_lease(&self) {
        assert_eq!(self.keeper.current(), Some(self.lease));
        assert!(retry(WAIT_TIMEOUT, || self.kv.keep_alive(self.lease)).await.unwrap());
        let key = self.store.keys().path(&Key::AdminLeader);
        let entry = retry(WAIT_TIMEOUT, || self.kv.get(&key)).await.unwrap();
        assert_eq!(entry.map(|entry| entry.revision), Some(self.leased_at));
    }

    /// Longer than the lease lasts, calls of every kind are answered in time.
    async fn works_for_longer_than_the_lease(&self, what: &str) {
        let begin = Instant::now();
        let mut slowest = Duration::ZERO;
        while begin.elapsed() < Duration::from_secs(u64::from(TTL) + 3) {
            let asked = Instant::now();
            self.kv.get("k").await.unwrap();
            slowest = slowest.max(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        println!("{what}: the slowest read took {slowest:?}");
        assert!(slowest < CALL, "{what}: a read took {slowest:?}");
    }

    async fn leader(&self) -> String {
        let endpoints = self.kv.endpoints().await;
        let leads = |status: &cellar_topology::EtcdMemberStatus| status.id == status.leader;
        endpoints.into_iter().find(|one| one.status.as_ref().is_ok_and(leads)).unwrap().url
    }
}

/// The worst member to freeze is the one in use, and then the leader: it takes connections and answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn no_lease_lapses_while_one_member_is_frozen() {
    let etcd = Etcd::three_hosts(own);
    etcd.resume();
    let client = Client::start(etcd.kv().await).await;
    client.goes_on("all well", WRITE, MIRROR).await;
    let leader = client.leader().await;
    let in_use = retry(WAIT_TIMEOUT, || async {
        client.kv.get("k").await?;
        Ok(client.kv.endpoint_in_use())
    });
    let in_use = in_use.await.unwrap().unwrap();
    let not_leading = etcd.endpoints().into_iter().find(|one| *one != leader && *one != in_use).unwrap();
    for (what, frozen) in [("the one in use", in_use), ("the leader", leader), ("another", not_leading)] {
        let what = format!("frozen: {what}");
        let at = etcd.member_at(&frozen);
        etcd.freeze_member(at);
        client.goes_on(&what, WRITE, MIRROR).await;
        client.works_for_longer_than_the_lease(&what).await;
        client.has_kept_its_lease().await;
        let silent = client.kv.endpoints().await.into_iter().find(|one| one.url == frozen).unwrap();
        assert!(silent.status.is_err() && silent.took < CALL, "{silent:?}");
        assert_ne!(client.kv.endpoint_in_use(), Some(frozen), "{what}");
        etcd.thaw_member(at);
        wait_until("the watch stands", WAIT_TIMEOUT, || client.mirror.stale_for().is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_leader_costs_one_election() {
    let etcd = Etcd::three_hosts(own);
    etcd.resume();
    let client = Client::start(etcd.kv().await).await;
    for round in 0..3 {
        let at = etcd.member_at(&client.leader().await);
        etcd.kill_member(at);
        client.goes_on(&format!("leader {round} killed"), WRITE, MIRROR).await;
        etcd.resume();
        wait_until("the watch stands", WAIT_TIMEOUT, || client.mirror.stale_for().is_none()).await;
    }
    client.has_kept_its_lease().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn member_that_starts_late_is_not_waited_for() {
    let etcd = Etcd::three_hosts(own);
    etcd.resume_members(&[0, 1]);
    let begin = Instant::now();
    let client = Client::start(etcd.kv().await).await;
    assert!(begin.elapsed() < CALL, "took {:?}", begin.elapsed());
    client.goes_on("two of three", WRITE, MIRROR).await;
    etcd.resume_members(&[2]);
    client.goes_on("the third came", WRITE, MIRROR).await;
    // It has a vote like the others.
    etcd.kill_member(0);
    client.goes_on("the first went", WRITE, MIRROR).await;
    client.has_kept_its_lease().await;
}

/// Else whoever holds any member's key could pose as all of them.
#[tokio::test(flavor = "multi_thread")]
async fn member_with_a_certificate_of_another_host_is_not_used() {
    let etcd = Etcd::three_hosts(|at, address| if at == 1 { "127.0.0.2" } else { address }.to_owned());
    etcd.resume();
    let endpoints = etcd.endpoints();
    // Its certificate names the first member's address, and a client that trusted the first name for all would take it.
    let first_and_wrong = etcd.kv_of(&endpoints[..2]).await;
    let wrong = etcd.kv_of(&endpoints[1..2]).await;
    let error = wrong.get("k").await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let status = &first_and_wrong.endpoints().await[1].status;
    assert!(status.is_err(), "{status:?}");
    for _ in 0..20 {
        first_and_wrong.get("k").await.unwrap();
        assert_eq!(first_and_wrong.endpoint_in_use().as_ref(), Some(&endpoints[0]));
    }
    etcd.kill_member(0);
    // A majority is there, and the one member left to this client must not be used.
    for _ in 0..3 {
        let begin = Instant::now();
        let error = first_and_wrong.get("k").await.unwrap_err();
        assert!(error.is_retryable() && begin.elapsed() < CALL, "{error} after {:?}", begin.elapsed());
        assert!(error.to_string().contains(&endpoints[1]), "{error}");
    }
    let all = etcd.kv().await;
    retry(WAIT_TIMEOUT, || all.get("k")).await.unwrap();
    assert_eq!(all.endpoint_in_use().as_ref(), Some(&endpoints[2]), "an IPv6 address where there are some");
    etcd.resume();
    retry(RETURN, || first_and_wrong.get("k")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_calls_fail_in_time_and_all_returns_with_it() {
    let etcd = Etcd::three_hosts(own);
    etcd.resume();
    let client = Client::start(etcd.kv().await).await;
    client.goes_on("all well", WRITE, MIRROR).await;
    // The one that stays is the one in use: it goes on answering pings and has no leader.
    let stays = etcd.member_at(&client.kv.endpoint_in_use().unwrap());
    let go: Vec<usize> = (0..3).filter(|at| *at != stays).collect();
    go.iter().for_each(|at| etcd.kill_member(*at));
    let lost = Instant::now();
    for _ in 0..3 {
        let begin = Instant::now();
        let error = client.kv.get("k").await.unwrap_err();
        assert!(error.is_retryable() && begin.elapsed() < CALL, "{error} after {:?}", begin.elapsed());
    }
    wait_until("the loss is noticed", MIRROR.saturating_sub(lost.elapsed()), || {
        client.mirror.stale_for().is_some()
    })
    .await;
    assert_eq!(client.mirror.view().cells.len(), 1, "what is known stays");
    // Longer than the lease: without a leader none ends.
    tokio::time::sleep(Duration::from_secs(u64::from(TTL) + 2).saturating_sub(lost.elapsed())).await;
    etcd.resume_members(&go);
    client.goes_on("a majority is back", RETURN, RETURN).await;
    client.has_kept_its_lease().await;
}

/// Renewed certificates are used by the next call, and what was open goes on.
#[tokio::test(flavor = "multi_thread")]
async fn other_certificates_are_taken_up_with_several_members() {
    let etcd = Etcd::three_hosts(own);
    etcd.resume();
    let client = Client::start(etcd.kv().await).await;
    let before = client.kv.endpoint_in_use();
    assert!(before.is_some());
    client.kv.reconnect(etcd.tls()).await.unwrap();
    assert_eq!(client.kv.endpoint_in_use(), None, "no call goes to the old connection");
    client.goes_on("other certificates", WRITE, MIRROR).await;
    assert!(client.mirror.stale_for().is_none());
    client.has_kept_its_lease().await;
}
