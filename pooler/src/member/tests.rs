//! Two machines with the keys of one cell, over a store in memory.

use std::rc::Rc;
use std::sync::Arc;

use cellar_model::{Keyspace, LOST_TIMEOUT, Leader, Timeline};
use cellar_topology::{Kv, MemoryKv};

use super::*;

/// The uptime of all machines, moved on by the test.
#[derive(Clone, Default)]
struct Uptime(Rc<Cell<Duration>>);

impl clock::Source for Uptime {
    fn unix_time(&self) -> Duration {
        self.0.get()
    }
    fn uptime(&self) -> Duration {
        self.0.get()
    }
    fn random(&self) -> u128 {
        7
    }
}

/// Replaces the clock of this thread until it is dropped.
pub(crate) struct TestClock(Uptime);

impl TestClock {
    pub(crate) fn begin() -> Self {
        let uptime = Uptime::default();
        uptime.0.set(Duration::from_secs(1000));
        clock::set_source(Some(Box::new(uptime.clone())));
        Self(uptime)
    }

    fn pass(&self, time: Duration) {
        self.0.0.set(self.0.0.get() + time);
    }
}

impl Drop for TestClock {
    fn drop(&mut self) {
        clock::set_source(None);
    }
}

fn named<T: std::str::FromStr>(name: &str) -> T {
    name.parse().unwrap_or_else(|_| panic!("a name: {name}"))
}

/// A process of the cell zone1 of the database app, on a machine that remembers `own`.
pub(crate) fn member(kv: &MemoryKv, epoch: &str, own: OwnClaims) -> Member {
    let kv: Arc<dyn Kv> = Arc::new(kv.clone());
    let (database, cell): (DatabaseName, CellName) = (named("app"), named("zone1"));
    let keys = Keyspace::new(&named("demo"));
    let store = Store::new(Arc::clone(&kv), keys.clone());
    Member {
        mirror: Mirror::start(&store, vec![keys.all()]),
        store,
        lease: LeaseKeeper::start(kv, CLAIM_LEASE_SECONDS),
        claim: ClaimOnCell::new(format!("machine of {epoch}"), own),
        epoch: epoch.to_owned(),
        database,
        cell,
    }
}

async fn claim(member: &Member) -> Claimed {
    member.claim_cell(0, async |_| Ok(())).await.unwrap()
}

/// What the machine of a process remembers.
fn memory(member: &Member) -> OwnClaims {
    member.claim.own.borrow().clone()
}

async fn set_reporting(member: &Member, reports: bool) {
    let key = Key::Status(member.database.clone(), member.cell.clone());
    let status = Reporting { epoch: member.epoch.clone() };
    let transaction = member.store.transaction();
    let transaction = if reports { transaction.put(&key, &status) } else { transaction.delete(&key) };
    assert!(matches!(transaction.commit().await, Ok(TxnOutcome::Committed(_))));
}

/// Whether a process can write, as it writes everything: the record of the primary, for instance.
async fn writes(member: &Member) -> bool {
    let leader = Leader {
        cell: named("zone1"),
        term: Timeline::new(1),
        system_identifier: None,
        lsn: None,
        leadership: None,
    };
    let key = Key::Leader(member.database.clone());
    matches!(member.transaction().put(&key, &leader).commit().await, Ok(TxnOutcome::Committed(_)))
}

#[tokio::test]
async fn two_machines_never_write_as_the_same_cell() {
    let (clock, kv) = (TestClock::begin(), MemoryKv::default());
    let old = member(&kv, "old", OwnClaims::default());
    assert_eq!(claim(&old).await, Claimed::Yes, "a new cell");
    set_reporting(&old, true).await;
    let new = member(&kv, "new", OwnClaims::default());
    for _ in 0..10 {
        clock.pass(LEASE / 2);
        assert!(matches!(claim(&new).await, Claimed::NotYet(Some(by)) if by.machine == "machine of old"));
        assert!(writes(&old).await);
    }
    // Its lease has ended: it is cut off, or dead. Its work may go on for a while.
    set_reporting(&old, false).await;
    let begun = clock.0.0.get();
    while claim(&new).await != Claimed::Yes {
        assert!(writes(&old).await);
        clock.pass(Duration::from_secs(1));
    }
    let waited = clock.0.0.get() - begun;
    assert!(waited >= LOST_TIMEOUT - LEASE / 2 && waited <= LOST_TIMEOUT, "{waited:?}");
    assert!(writes(&new).await && !writes(&old).await);
    // It comes back, with and without a restart, and also while the other one is off.
    for reports in [true, false] {
        set_reporting(&new, reports).await;
        clock.pass(Duration::from_secs(3600));
        let again = member(&kv, "old-2", memory(&old));
        for process in [&old, &again] {
            let taken = claim(process).await;
            assert!(matches!(taken, Claimed::TakenOver(by) if by.machine == "machine of new"));
            assert!(!writes(process).await);
        }
    }
    // etcd loses the claim, or is put back to a state from before it.
    let lost = old.store.transaction().delete(&old.claim_key());
    assert!(matches!(lost.commit().await, Ok(TxnOutcome::Committed(_))));
    set_reporting(&new, false).await;
    clock.pass(Duration::from_secs(3600));
    let again = member(&kv, "old-3", memory(&old));
    for process in [&old, &again] {
        assert!(matches!(claim(process).await, Claimed::TakenOver(by) if by.machine == "machine of new"));
    }
    let restarted = member(&kv, "new-2", memory(&new));
    assert_eq!(claim(&restarted).await, Claimed::Yes, "at once");
    assert!(writes(&restarted).await && !writes(&new).await);
}

#[tokio::test]
async fn of_two_machines_that_take_over_at_once_one_has_the_cell() {
    let (clock, kv) = (TestClock::begin(), MemoryKv::default());
    let dead = member(&kv, "dead", OwnClaims::default());
    assert_eq!(claim(&dead).await, Claimed::Yes);
    let (one, other) = (member(&kv, "one", OwnClaims::default()), member(&kv, "other", OwnClaims::default()));
    let begun = clock.0.0.get();
    while clock.0.0.get() - begun < LOST_TIMEOUT {
        let _ = tokio::join!(claim(&one), claim(&other));
        clock.pass(Duration::from_secs(1));
    }
    let both = tokio::join!(claim(&one), claim(&other));
    for _ in 0..3 {
        let winners = [writes(&one).await, writes(&other).await];
        assert_eq!(winners.iter().filter(|wins| **wins).count(), 1, "{both:?}");
        let _ = tokio::join!(claim(&one), claim(&other));
    }
    assert!(!writes(&dead).await);
}

#[tokio::test]
async fn process_that_stood_still_begins_to_wait_anew() {
    let (clock, kv) = (TestClock::begin(), MemoryKv::default());
    let old = member(&kv, "old", OwnClaims::default());
    assert_eq!(claim(&old).await, Claimed::Yes);
    let new = member(&kv, "new", OwnClaims::default());
    assert!(matches!(claim(&new).await, Claimed::NotYet(_)));
    // The other one may have reported, begun work and been cut off again since.
    clock.pass(Duration::from_secs(600));
    assert!(matches!(claim(&new).await, Claimed::NotYet(_)), "nothing was seen for ten minutes");
}

#[tokio::test]
async fn claim_that_was_lost_with_etcds_data_is_written_again() {
    let (_clock, kv) = (TestClock::begin(), MemoryKv::default());
    let process = member(&kv, "e", OwnClaims::default());
    assert_eq!(claim(&process).await, Claimed::Yes);
    let gone = process.store.transaction().delete(&process.claim_key()).commit().await;
    assert!(matches!(gone, Ok(TxnOutcome::Committed(_))));
    assert!(!writes(&process).await);
    assert_eq!(claim(&process).await, Claimed::Yes);
    assert!(writes(&process).await);
}

#[tokio::test]
async fn claim_that_cannot_be_remembered_is_not_written() {
    let (_clock, kv) = (TestClock::begin(), MemoryKv::default());
    let process = member(&kv, "e", OwnClaims::default());
    let full = process.claim_cell(0, async |_| Err(std::io::ErrorKind::StorageFull.into())).await;
    assert!(matches!(full, Err(ClaimError::Memory(_))));
    assert!(process.store.get::<CellClaim>(&process.claim_key()).await.unwrap().is_none());
}
