//! What every store must do: one suite, over the store in memory and over a real etcd.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "this is a test")]

#[path = "support/etcd.rs"]
#[expect(dead_code, reason = "shared with tests that break etcd in more ways")]
mod etcd_process;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cellar_topology::{
    Change, Entry, Guard, Kv, LeaseId, MemoryKv, StoreError, TxnOutcome, WatchStream, Write,
};
use etcd_process::Etcd;
use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout};

/// Long enough for a loaded machine; nothing waits for it when all is well.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);
/// Of leases that are awaited, in seconds: longer than a busy machine stands still between a grant and its use.
const TTL: u32 = 5;

/// A store under test and keys of its own in it.
struct Subject {
    kv: Arc<dyn Kv>,
    prefix: String,
    below: Below,
}

/// What the store stands on.
enum Below {
    Memory(MemoryKv),
    Etcd(Arc<Etcd>),
}

impl Subject {
    fn new(kv: Arc<dyn Kv>, below: Below) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let prefix = format!("/test/{}/", NEXT.fetch_add(1, Ordering::Relaxed));
        Self { kv, prefix, below }
    }

    async fn memory() -> Self {
        let kv = MemoryKv::default();
        Self::new(Arc::new(kv.clone()), Below::Memory(kv))
    }

    async fn shared_etcd() -> Self {
        let etcd = Etcd::shared();
        Self::new(Arc::new(etcd.kv().await), Below::Etcd(etcd))
    }

    /// For tests that compact: the other tests watch from past revisions.
    async fn own_etcd() -> Self {
        let etcd = Arc::new(Etcd::start());
        Self::new(Arc::new(etcd.kv().await), Below::Etcd(etcd))
    }

    async fn compact(&self) {
        match &self.below {
            Below::Memory(kv) => kv.compact(),
            Below::Etcd(etcd) => etcd.compact().await,
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn put(&self, name: &str, value: &str) -> Write {
        Write::Put { key: self.key(name), value: value.into(), lease: None }
    }

    fn leased(&self, name: &str, lease: LeaseId) -> Write {
        Write::Put { key: self.key(name), value: "leased".into(), lease: Some(lease) }
    }

    fn delete(&self, name: &str) -> Write {
        Write::Delete { key: self.key(name) }
    }

    fn guard(&self, name: &str, revision: i64) -> Guard {
        Guard { key: self.key(name), revision }
    }

    /// Writes without guards; returns the revision.
    async fn write(&self, writes: Vec<Write>) -> i64 {
        match self.kv.txn(vec![], writes).await.unwrap() {
            TxnOutcome::Committed(revision) => revision,
            TxnOutcome::Conflict => panic!("a conflict without guards"),
        }
    }

    async fn get(&self, name: &str) -> Option<Entry> {
        self.kv.get(&self.key(name)).await.unwrap()
    }

    async fn revision(&self) -> i64 {
        self.kv.list(&self.prefix).await.unwrap().revision
    }

    /// An open watch below the prefix.
    async fn watch(&self, revision: i64) -> WatchStream {
        let mut watch = self.kv.watch(&self.prefix, revision).await.unwrap();
        assert_eq!(next(&mut watch).await.unwrap(), [], "the first item is an empty batch");
        watch
    }

    fn was_put(&self, name: &str, value: &str, revision: i64) -> Change {
        Change::Put(Entry { key: self.key(name), value: value.into(), revision })
    }

    fn was_deleted(&self, name: &str, revision: i64) -> Change {
        Change::Delete { key: self.key(name), revision }
    }
}

async fn next(watch: &mut WatchStream) -> Result<Vec<Change>, StoreError> {
    timeout(WAIT_TIMEOUT, watch.next()).await.expect("a change in time").expect("an open watch")
}

/// The next `count` changes; how they are cut into batches is the store's business.
async fn changes(watch: &mut WatchStream, count: usize) -> Vec<Change> {
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.extend(next(watch).await.unwrap());
    }
    seen
}

async fn get_and_list(s: Subject) {
    assert_eq!(s.get("a").await, None);
    let first = s.write(vec![s.put("b", "1")]).await;
    let second = s.write(vec![s.put("a", "2")]).await;
    assert!(second > first);
    assert_eq!(s.get("b").await.unwrap(), Entry { key: s.key("b"), value: "1".into(), revision: first });
    let third = s.write(vec![s.put("b", "3")]).await;
    s.write(vec![s.put("c", "4")]).await;
    let last = s.write(vec![s.delete("c")]).await;

    let listing = s.kv.list(&s.prefix).await.unwrap();
    let expected = [
        Entry { key: s.key("a"), value: "2".into(), revision: second },
        Entry { key: s.key("b"), value: "3".into(), revision: third },
    ];
    assert_eq!(listing.entries, expected);
    assert!(listing.revision >= last);
    assert_eq!(s.kv.list(&s.key("nothing/")).await.unwrap().entries, []);
}

async fn prefixes_are_exact(s: Subject) {
    // '/' is 0x2f and '0' is 0x30: `a0` is the first key after all below `a/`.
    let names = ["a", "a/", "a/x", "a/\u{ff}", "a0", "a.", "aa/x"];
    let written = s.write(names.map(|name| s.put(name, "")).into()).await;
    // Tests that share an etcd raise the revision at any time, so that of a listing may be higher than the last write's.
    s.write(vec![s.put("b", "")]).await;
    let listing = s.kv.list(&s.key("a/")).await.unwrap();
    let keys: Vec<&str> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, [s.key("a/"), s.key("a/x"), s.key("a/\u{ff}")]);

    let mut watch = s.kv.watch(&s.key("a/"), written).await.unwrap();
    assert_eq!(changes(&mut watch, 3).await.len(), 3);
    s.write(vec![s.put("a0", "")]).await;
    let revision = s.write(vec![s.put("a/y", "")]).await;
    assert_eq!(changes(&mut watch, 1).await, [s.was_put("a/y", "", revision)]);

    // Without the slash it is one key.
    let listing = s.kv.list(&s.key("a")).await.unwrap();
    let keys: Vec<&str> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, [s.key("a")]);
    let mut watch = s.kv.watch(&s.key("a"), revision + 1).await.unwrap();
    s.write(vec![s.put("a/z", ""), s.put("a0", "")]).await;
    let revision = s.write(vec![s.put("a", "1")]).await;
    assert_eq!(changes(&mut watch, 1).await, [s.was_put("a", "1", revision)]);
}

async fn long_lists_are_whole(s: Subject) {
    // More than two of etcd's pages, exactly one, and one more than one.
    let mut names: Vec<String> = (0..2100).map(|n| format!("{n:04}")).collect();
    for part in names.chunks(100) {
        s.write(part.iter().map(|name| s.put(name, name)).collect()).await;
    }
    // A key after them is not listed.
    s.write(vec![Write::Put {
        key: format!("{}0", s.prefix.trim_end_matches('/')),
        value: vec![],
        lease: None,
    }])
    .await;
    for length in [2100, 1001, 1000, 999] {
        for part in names.split_off(length).chunks(100) {
            s.write(part.iter().map(|name| s.delete(name)).collect()).await;
        }
        let listing = s.kv.list(&s.prefix).await.unwrap();
        let keys: Vec<String> = listing.entries.into_iter().map(|entry| entry.key).collect();
        assert_eq!(keys, names.iter().map(|name| s.key(name)).collect::<Vec<_>>());
    }
}

/// gRPC clients refuse messages above 4 MiB unless told otherwise; a page of runs with long tool
/// outputs is larger, and so is what a watch catches up with.
async fn large_records_fit(s: Subject) {
    const COUNT: usize = 12;
    let value = "x".repeat(1 << 20);
    let before = s.revision().await;
    for n in 0..COUNT {
        s.write(vec![s.put(&format!("{n:02}"), &value)]).await;
    }
    assert_eq!(s.kv.list(&s.prefix).await.unwrap().entries.len(), COUNT);
    let mut watch = s.watch(before + 1).await;
    assert_eq!(changes(&mut watch, COUNT).await.len(), COUNT);
}

async fn guards_decide(s: Subject) {
    let absent = s.guard("k", 0);
    let commit = |guard: Guard, value: &str| s.kv.txn(vec![guard], vec![s.put("k", value)]);
    let TxnOutcome::Committed(first) = commit(absent.clone(), "1").await.unwrap() else { panic!("absent") };
    assert_eq!(commit(absent.clone(), "2").await.unwrap(), TxnOutcome::Conflict);
    assert_eq!(commit(s.guard("k", first - 1), "2").await.unwrap(), TxnOutcome::Conflict);
    assert_eq!(s.get("k").await.unwrap().value, b"1");
    let TxnOutcome::Committed(second) = commit(s.guard("k", first), "3").await.unwrap() else {
        panic!("the right revision")
    };
    assert_eq!(s.get("k").await.unwrap(), Entry { key: s.key("k"), value: "3".into(), revision: second });
    // A key that was removed counts as absent, like one that never existed.
    s.write(vec![s.delete("k")]).await;
    assert_eq!(commit(s.guard("k", second), "4").await.unwrap(), TxnOutcome::Conflict);
    assert!(matches!(commit(absent, "4").await.unwrap(), TxnOutcome::Committed(_)));
}

async fn transactions_are_whole(s: Subject) {
    let start = s.write(vec![s.put("a", "1"), s.put("b", "1")]).await;
    let before = s.revision().await;
    // One guard of two does not hold.
    let guards = vec![s.guard("a", start), s.guard("b", start + 1)];
    let writes = vec![s.put("a", "2"), s.delete("b"), s.put("c", "2")];
    assert_eq!(s.kv.txn(guards, writes.clone()).await.unwrap(), TxnOutcome::Conflict);
    let listing = s.kv.list(&s.prefix).await.unwrap();
    assert!(listing.entries.iter().all(|entry| entry.revision == start));
    assert_eq!(listing.entries.len(), 2);

    let guards = vec![s.guard("a", start), s.guard("b", start), s.guard("c", 0)];
    let TxnOutcome::Committed(done) = s.kv.txn(guards, writes).await.unwrap() else { panic!("all hold") };
    // Everything at one revision, and watches get it in one batch.
    let mut watch = s.watch(before + 1).await;
    let expected = [s.was_put("a", "2", done), s.was_deleted("b", done), s.was_put("c", "2", done)];
    assert_eq!(next(&mut watch).await.unwrap(), expected);
    let revisions: Vec<i64> =
        s.kv.list(&s.prefix).await.unwrap().entries.iter().map(|entry| entry.revision).collect();
    assert_eq!(revisions, [done, done]);
}

/// Runs alone on its store: a neighbour's write would raise the revision too.
async fn only_changes_raise_the_revision(s: Subject) {
    let first = s.write(vec![s.put("a", "1"), s.put("b", "1"), s.put("c", "1")]).await;
    assert_eq!(s.revision().await, first);
    assert_eq!(s.write(vec![]).await, first);
    assert_eq!(s.write(vec![s.delete("nothing"), s.delete("nothing more")]).await, first);
    let conflict = s.kv.txn(vec![s.guard("a", 0)], vec![s.put("a", "2")]).await.unwrap();
    assert_eq!(conflict, TxnOutcome::Conflict);
    let reader = s.kv.txn(vec![s.guard("a", first)], vec![]).await.unwrap();
    assert_eq!(reader, TxnOutcome::Committed(first));
    assert_eq!(s.revision().await, first);
    // The same value again is a change; however many writes, the revision goes up by one.
    assert_eq!(s.write(vec![s.put("a", "1")]).await, first + 1);
    assert_eq!(s.write(vec![s.delete("b"), s.delete("nothing"), s.put("c", "2")]).await, first + 2);
    assert_eq!(s.revision().await, first + 2);
    // A lease is not a key.
    let lease = s.kv.grant(60).await.unwrap();
    assert!(s.kv.keep_alive(lease).await.unwrap());
    s.kv.revoke(lease).await.unwrap();
    assert_eq!(s.revision().await, first + 2);
    // The end of a lease is one change.
    let lease = s.kv.grant(60).await.unwrap();
    assert_eq!(s.write(vec![s.leased("x", lease), s.leased("y", lease)]).await, first + 3);
    s.kv.revoke(lease).await.unwrap();
    assert_eq!(s.revision().await, first + 4);
}

async fn transactions_beyond_etcds_limits_are_refused(s: Subject) {
    let refused = |guards: Vec<Guard>, writes: Vec<Write>| {
        let kv = Arc::clone(&s.kv);
        async move {
            let error = kv.txn(guards, writes).await.unwrap_err();
            assert!(matches!(error, StoreError::Terminal(_)), "{error}");
        }
    };
    refused(vec![], vec![s.put("k", "1"), s.put("k", "2")]).await;
    refused(vec![], vec![s.put("k", "1"), s.delete("k")]).await;
    refused(vec![], vec![s.delete("k"), s.put("k", "1")]).await;
    s.write(vec![s.delete("k"), s.delete("k")]).await;

    let puts = |count: usize| (0..count).map(|n| s.put(&n.to_string(), "")).collect::<Vec<_>>();
    let guards = |count: usize| (0..count).map(|n| s.guard(&format!("g{n}"), 0)).collect::<Vec<_>>();
    refused(vec![], puts(129)).await;
    refused(guards(129), vec![]).await;
    assert_eq!(s.kv.list(&s.prefix).await.unwrap().entries, []);
    assert!(matches!(s.kv.txn(guards(128), puts(128)).await.unwrap(), TxnOutcome::Committed(_)));

    // Both limits: etcd's own, and that of its gRPC server on a request.
    for mebibytes in [2, 3] {
        refused(vec![], vec![s.put("big", &"x".repeat(mebibytes << 20))]).await;
    }
}

async fn concurrent_increments_are_not_lost(s: Subject) {
    const TASKS: usize = 8;
    const EACH: usize = 10;
    let s = Arc::new(s);
    let increment = |s: Arc<Subject>| async move {
        for _ in 0..EACH {
            loop {
                let held = s.get("n").await;
                let value: usize = held
                    .as_ref()
                    .map_or(0, |entry| std::str::from_utf8(&entry.value).unwrap().parse().unwrap());
                let guard = s.guard("n", held.map_or(0, |entry| entry.revision));
                let write = s.put("n", &(value + 1).to_string());
                if matches!(s.kv.txn(vec![guard], vec![write]).await.unwrap(), TxnOutcome::Committed(_)) {
                    break;
                }
            }
        }
    };
    let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(increment(Arc::clone(&s)))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(s.get("n").await.unwrap().value, (TASKS * EACH).to_string().as_bytes());
}

async fn watches_see_the_past_then_the_present(s: Subject) {
    let skipped = s.write(vec![s.put("a", "0")]).await;
    let first = s.write(vec![s.put("a", "1")]).await;
    let second = s.write(vec![s.delete("a")]).await;
    let third = s.write(vec![s.put("a", "2")]).await;
    let mut watch = s.watch(skipped + 1).await;
    let past = [s.was_put("a", "1", first), s.was_deleted("a", second), s.was_put("a", "2", third)];
    assert_eq!(changes(&mut watch, 3).await, past);

    let fourth = s.write(vec![s.put("b", "3")]).await;
    assert_eq!(changes(&mut watch, 1).await, [s.was_put("b", "3", fourth)]);
    let fifth = s.write(vec![s.delete("b"), s.delete("nothing")]).await;
    let sixth = s.write(vec![s.put("c", "4")]).await;
    let present = [s.was_deleted("b", fifth), s.was_put("c", "4", sixth)];
    assert_eq!(changes(&mut watch, 2).await, present);
}

async fn watches_may_begin_in_the_future(s: Subject) {
    let now = s.revision().await;
    let mut watch = s.watch(now + 1).await;
    let first = s.write(vec![s.put("a", "1")]).await;
    assert_eq!(changes(&mut watch, 1).await, [s.was_put("a", "1", first)]);
}

/// Compacts its store.
async fn compacted_revisions_cannot_be_watched(s: Subject) {
    let first = s.write(vec![s.put("a", "1")]).await;
    let mut standing = s.watch(first).await;
    assert_eq!(changes(&mut standing, 1).await.len(), 1);
    // The open watch has read up to here; compaction does not affect it.
    s.kv.txn(vec![], vec![Write::Put { key: "/elsewhere".into(), value: vec![], lease: None }])
        .await
        .unwrap();
    s.write(vec![s.put("a", "2")]).await;
    let kept = s.write(vec![s.put("b", "3")]).await;
    assert_eq!(changes(&mut standing, 2).await.len(), 2);
    s.compact().await;

    for gone in [first, kept - 1] {
        let mut watch = s.watch(gone).await;
        assert!(matches!(next(&mut watch).await, Err(StoreError::Compacted)), "{gone}");
        assert!(timeout(WAIT_TIMEOUT, watch.next()).await.unwrap().is_none(), "an error ends the stream");
    }
    let mut from_here = s.watch(kept).await;
    assert_eq!(changes(&mut from_here, 1).await, [s.was_put("b", "3", kept)]);
    // Present values are kept.
    assert_eq!(s.kv.list(&s.prefix).await.unwrap().entries.len(), 2);
    let last = s.write(vec![s.put("c", "4")]).await;
    for watch in [&mut standing, &mut from_here, &mut s.watch(kept + 1).await] {
        assert_eq!(changes(watch, 1).await, [s.was_put("c", "4", last)]);
    }
}

async fn leases_end(s: Subject) {
    let now = s.revision().await;
    let mut watch = s.watch(now + 1).await;
    let lease = s.kv.grant(TTL).await.unwrap();
    let begin = Instant::now();
    s.write(vec![s.leased("a", lease), s.leased("b", lease), s.leased("freed", lease), s.put("free", "")])
        .await;
    // A put without the lease unbinds the key from it.
    s.write(vec![s.put("freed", "")]).await;
    assert_eq!(changes(&mut watch, 5).await.len(), 5);

    let gone = changes(&mut watch, 2).await;
    assert!(begin.elapsed() >= Duration::from_secs(TTL.into()), "it lives as long as it was granted");
    let revision = gone[0].revision();
    assert_eq!(gone, [s.was_deleted("a", revision), s.was_deleted("b", revision)]);
    let left: Vec<String> =
        s.kv.list(&s.prefix).await.unwrap().entries.into_iter().map(|entry| entry.key).collect();
    assert_eq!(left, [s.key("free"), s.key("freed")]);
    assert!(!s.kv.keep_alive(lease).await.unwrap());
    s.kv.revoke(lease).await.unwrap();
}

async fn leases_are_kept(s: Subject) {
    let lease = s.kv.grant(TTL).await.unwrap();
    let revision = s.write(vec![s.leased("a", lease)]).await;
    let begin = Instant::now();
    while begin.elapsed() < 2 * Duration::from_secs(TTL.into()) {
        assert!(s.kv.keep_alive(lease).await.unwrap());
        // Time must pass: the test is about it.
        sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(s.get("a").await.unwrap().revision, revision);
}

async fn leases_are_revoked(s: Subject) {
    let now = s.revision().await;
    let mut watch = s.watch(now + 1).await;
    let (lease, other) = (s.kv.grant(60).await.unwrap(), s.kv.grant(60).await.unwrap());
    assert_ne!(lease, other);
    s.write(vec![s.leased("a", lease), s.leased("b", other)]).await;
    s.kv.revoke(lease).await.unwrap();
    let seen = changes(&mut watch, 3).await;
    assert_eq!(seen[2], s.was_deleted("a", seen[2].revision()));
    assert_eq!(s.get("a").await, None);
    assert!(s.get("b").await.is_some());
    assert!(!s.kv.keep_alive(lease).await.unwrap());
    assert!(s.kv.keep_alive(other).await.unwrap());
    // Revoking again changes nothing.
    s.kv.revoke(lease).await.unwrap();
}

async fn a_put_with_an_ended_lease_is_refused(s: Subject) {
    let lease = s.kv.grant(60).await.unwrap();
    s.kv.revoke(lease).await.unwrap();
    let error = s.kv.txn(vec![], vec![s.put("a", ""), s.leased("b", lease)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Terminal(_)), "{error}");
    assert_eq!(s.kv.list(&s.prefix).await.unwrap().entries, []);
    // The guards are checked first.
    let outcome = s.kv.txn(vec![s.guard("a", 1)], vec![s.leased("b", lease)]).await.unwrap();
    assert_eq!(outcome, TxnOutcome::Conflict);
}

/// Every test twice. `alone` gets an etcd to itself.
macro_rules! suite {
    (shared: $($shared:ident)* ; alone: $($alone:ident)*) => {
        mod memory {
            $(#[tokio::test] async fn $shared() { super::$shared(super::Subject::memory().await).await; })*
            $(#[tokio::test] async fn $alone() { super::$alone(super::Subject::memory().await).await; })*
        }
        mod etcd {
            $(#[tokio::test] async fn $shared() { super::$shared(super::Subject::shared_etcd().await).await; })*
            $(#[tokio::test] async fn $alone() { super::$alone(super::Subject::own_etcd().await).await; })*
        }
    };
}

suite! {
    shared:
        get_and_list
        prefixes_are_exact
        long_lists_are_whole
        guards_decide
        transactions_are_whole
        transactions_beyond_etcds_limits_are_refused
        concurrent_increments_are_not_lost
        watches_see_the_past_then_the_present
        watches_may_begin_in_the_future
        leases_end
        leases_are_kept
        leases_are_revoked
        a_put_with_an_ended_lease_is_refused;
    alone:
        only_changes_raise_the_revision
        large_records_fit
        compacted_revisions_cannot_be_watched
}
