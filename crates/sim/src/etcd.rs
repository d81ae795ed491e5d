//! etcd, and the network to it: one store whose answers are late, lost after the commit, or given twice.

mod client;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cellar_topology::{
    Change, Entry, Guard, Kv, StoreError, StoreState, TxnOutcome, WatchStream, Write, below,
};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use client::{Call, Client};

/// After so long our client takes a call for unanswered (`CALL_TIMEOUT` of the etcd client).
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// After so long without a sign of life a watch breaks (the etcd client's keepalive).
const KEEPALIVE: Duration = Duration::from_secs(8);

/// Where a call came from.
pub type HostId = usize;

/// How often what goes wrong: once in so many calls, 0 for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// The request never arrives.
    pub lost_request: u32,
    /// It is done and the caller never hears.
    pub lost_answer: u32,
    /// It is done seconds after the caller has given up.
    pub late_request: u32,
    /// It is done twice, and the caller hears of the second.
    pub doubled: u32,
    /// It takes up to seconds, and is answered.
    pub slow: u32,
}

/// What happens at a moment.
enum Event {
    /// A call arrives. Its answer takes the given time, or never comes.
    Arrives { host: HostId, call: Call, answer: Option<Duration>, twice: bool },
    /// An answer arrives.
    Answered(Box<dyn FnOnce() + Send>),
    /// A batch of changes arrives at a watcher.
    Seen { watcher: u64, item: Result<Vec<Change>, StoreError> },
}

struct Watcher {
    host: HostId,
    prefix: String,
    from: i64,
    sender: mpsc::UnboundedSender<Result<Vec<Change>, StoreError>>,
    /// Nothing overtakes what was sent before.
    last: Duration,
}

struct Shared {
    store: StoreState,
    now: Duration,
    random: fastrand::Rng,
    weather: Weather,
    events: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
    watchers: BTreeMap<u64, Watcher>,
    /// Nobody is answered before: etcd elects a leader, or restarts.
    electing_until: Duration,
    /// Nothing can be written before.
    full_until: Duration,
    /// Hosts whose calls and watches do not get through before.
    cut_until: BTreeMap<HostId, Duration>,
    /// Hosts that may write nothing before.
    denied_until: BTreeMap<HostId, Duration>,
    steps: u64,
    /// What changed since somebody asked.
    changes: Vec<Change>,
}

/// The store of a simulation. Clones share it.
#[derive(Clone)]
pub struct Etcd(Arc<Mutex<Shared>>);

impl Etcd {
    /// An empty store.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Shared {
            store: StoreState::default(),
            now: Duration::ZERO,
            random: fastrand::Rng::with_seed(seed),
            weather: Weather::default(),
            events: BTreeMap::new(),
            sequence: 0,
            watchers: BTreeMap::new(),
            electing_until: Duration::ZERO,
            full_until: Duration::ZERO,
            cut_until: BTreeMap::new(),
            denied_until: BTreeMap::new(),
            steps: 0,
            changes: Vec::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to the store from a host.
    #[must_use]
    pub fn client(&self, host: HostId) -> Arc<dyn Kv> {
        Arc::new(Client { etcd: self.clone(), host })
    }

    /// Sets how often calls go wrong from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Answers nobody until then; leases begin their time again afterwards.
    pub fn elect_until(&self, until: Duration) {
        self.lock().electing_until = until;
    }

    /// Refuses to write until then: its database is full.
    pub fn full_until(&self, until: Duration) {
        self.lock().full_until = until;
    }

    /// Cuts a host off until then.
    pub fn cut(&self, host: HostId, until: Duration) {
        let mut shared = self.lock();
        shared.cut_until.insert(host, until);
        let at = shared.now + KEEPALIVE;
        if until > at {
            let broken: Vec<u64> = shared
                .watchers
                .iter()
                .filter(|(_, watcher)| watcher.host == host)
                .map(|(id, _)| *id)
                .collect();
            for watcher in broken {
                let item = Err(StoreError::Retryable("the watch broke".to_owned()));
                shared.at(at, Event::Seen { watcher, item });
            }
        }
    }

    /// Denies a host all writing until then.
    pub fn deny(&self, host: HostId, until: Duration) {
        self.lock().denied_until.insert(host, until);
    }

    /// Breaks every watch that a host has, as a closed connection does.
    pub fn break_watches(&self, host: HostId) {
        let mut shared = self.lock();
        let (now, of) = (shared.now, |watcher: &&Watcher| watcher.host == host);
        let broken: Vec<u64> = shared.watchers.iter().filter(|(_, w)| of(w)).map(|(id, _)| *id).collect();
        for watcher in broken {
            shared.at(now, Event::Seen { watcher, item: Err(StoreError::Retryable("reset".to_owned())) });
        }
    }

    /// Forgets all history, as a compaction does.
    pub fn compact(&self) {
        self.lock().store.compact();
    }

    /// Ends everything that goes wrong, from now on.
    pub fn calm(&self) {
        let mut shared = self.lock();
        shared.weather = Weather::default();
        (shared.electing_until, shared.full_until) = (Duration::ZERO, Duration::ZERO);
        shared.cut_until.clear();
        shared.denied_until.clear();
    }

    /// Writes without any network. Returns the revision.
    ///
    /// # Panics
    /// When the store refuses it.
    pub fn put(&self, key: &str, value: Vec<u8>) -> i64 {
        let mut shared = self.lock();
        let write = Write::Put { key: key.to_owned(), value, lease: None };
        match shared.store.txn(&[], vec![write]) {
            Ok((TxnOutcome::Committed(revision), changes)) => {
                shared.publish(&changes);
                revision
            }
            Ok((TxnOutcome::Conflict, _)) => unreachable!("it has no guard"),
            Err(error) => panic!("{error}"),
        }
    }

    /// All entries, without any network.
    #[must_use]
    pub fn entries(&self, prefix: &str) -> Vec<Entry> {
        self.lock().store.list(prefix).entries
    }

    /// What changed since this was asked last.
    #[must_use]
    pub fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.lock().changes)
    }

    /// Events so far: calls that arrived, answers, and batches that were seen.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// A number for what has been decided, and one for all calls and answers until now.
    #[must_use]
    pub fn state(&self) -> (u64, u64) {
        let shared = self.lock();
        (shared.random.get_seed(), shared.sequence)
    }

    /// Lets everything happen up to a moment.
    pub fn advance(&self, now: Duration) {
        loop {
            let mut shared = self.lock();
            let due = shared.events.first_key_value().is_some_and(|((at, _), _)| *at <= now);
            let Some(((at, _), event)) = due.then(|| shared.events.pop_first()).flatten() else {
                shared.expire(now);
                shared.now = now;
                return;
            };
            shared.expire(at);
            shared.now = at;
            shared.steps += 1;
            match event {
                Event::Arrives { host, call, answer, twice } => {
                    shared.arrives(host, call, answer, twice, self);
                }
                Event::Answered(answer) => {
                    drop(shared);
                    answer();
                }
                Event::Seen { watcher, item } => {
                    let failed = item.is_err();
                    if let Some(to) = shared.watchers.get(&watcher) {
                        let gone = to.sender.send(item).is_err();
                        if gone || failed {
                            shared.watchers.remove(&watcher);
                        }
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("steps", &self.steps()).finish_non_exhaustive()
    }
}

fn full() -> StoreError {
    StoreError::Full("etcdserver: mvcc: database space exceeded".to_owned())
}

fn retryable<T>(text: &str) -> Result<T, StoreError> {
    Err(StoreError::Retryable(text.to_owned()))
}

impl Shared {
    fn at(&mut self, at: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    fn once_in(&mut self, times: u32) -> bool {
        times > 0 && self.random.u32(0..times) == 0
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.random.u64(from..=to))
    }

    fn is_cut(&self, host: HostId) -> bool {
        self.cut_until.get(&host).is_some_and(|until| *until > self.now)
    }

    fn expire(&mut self, now: Duration) {
        if self.electing_until > self.now {
            // Leases do not end while nobody leads, and begin their time again under the next leader.
            if self.electing_until <= now {
                self.store.extend_leases(self.electing_until);
            } else {
                return;
            }
        }
        for changes in self.store.expire(now) {
            self.publish(&changes);
        }
    }

    fn publish(&mut self, changes: &[Change]) {
        self.changes.extend(changes.iter().cloned());
        let ids: Vec<u64> = self.watchers.keys().copied().collect();
        for id in ids {
            let delay =
                if self.once_in(self.weather.slow) { self.millis(100, 3000) } else { self.millis(1, 8) };
            let now = self.now;
            let cut = |watcher: &Watcher| self.cut_until.get(&watcher.host).copied().unwrap_or_default();
            let Some(watcher) = self.watchers.get(&id) else { continue };
            let seen = below(changes, &watcher.prefix, watcher.from);
            if seen.is_empty() {
                continue;
            }
            let at = (now.max(cut(watcher)) + delay).max(watcher.last);
            if let Some(watcher) = self.watchers.get_mut(&id) {
                watcher.last = at;
            }
            self.at(at, Event::Seen { watcher: id, item: Ok(seen) });
        }
    }

    /// Sends a call on its way, and decides its fate.
    fn send(&mut self, host: HostId, call: Call) {
        let weather = self.weather;
        let way = self.millis(1, 4);
        let back = self.millis(1, 4);
        if self.is_cut(host) || self.once_in(weather.lost_request) {
            let after = if self.random.bool() { way } else { CALL_TIMEOUT };
            let at = self.now + after;
            return self.at(at, call.fails("no answer"));
        }
        if self.once_in(weather.late_request) {
            let (late, at) = (self.millis(500, 9000), self.now + CALL_TIMEOUT);
            let (silent, failing) = call.split();
            self.at(at, failing);
            let arrives = self.now + late;
            return self.at(arrives, Event::Arrives { host, call: silent, answer: None, twice: false });
        }
        if self.once_in(weather.lost_answer) {
            let after = if self.random.bool() { way + back } else { CALL_TIMEOUT };
            let at = self.now + after;
            let (silent, failing) = call.split();
            self.at(at, failing);
            let arrives = self.now + way;
            return self.at(arrives, Event::Arrives { host, call: silent, answer: None, twice: false });
        }
        let slow = if self.once_in(weather.slow) { self.millis(50, 2000) } else { Duration::ZERO };
        let twice = self.once_in(weather.doubled);
        let at = self.now + way + slow;
        self.at(at, Event::Arrives { host, call, answer: Some(back), twice });
    }

    fn arrives(&mut self, host: HostId, call: Call, answer: Option<Duration>, twice: bool, etcd: &Etcd) {
        let electing = self.electing_until > self.now;
        if electing {
            // Some are done all the same, and all are answered alike.
            let done = self.random.bool();
            let (silent, failing) = call.split();
            let at = self.now + self.millis(100, 4000);
            self.at(at, failing);
            if done {
                let at = self.electing_until;
                self.at(at, Event::Arrives { host, call: silent, answer: None, twice: false });
            }
            return;
        }
        let at = self.now + answer.unwrap_or_default();
        let answered: Box<dyn FnOnce() + Send> = match call {
            Call::Get(key, reply) => {
                let entry = self.store.get(&key);
                Box::new(move || drop(reply.send(Ok(entry))))
            }
            Call::List(prefix, reply) => {
                let listing = self.store.list(&prefix);
                Box::new(move || drop(reply.send(Ok(listing))))
            }
            Call::Txn(guards, writes, reply) => {
                let mut result = self.write(host, &guards, writes.clone());
                if twice {
                    result = self.write(host, &guards, writes);
                }
                Box::new(move || drop(reply.send(result)))
            }
            Call::Watch(prefix, revision, reply) => {
                let result = self.watch(host, &prefix, revision, etcd);
                Box::new(move || drop(reply.send(Ok(result))))
            }
            Call::Grant(ttl, reply) => {
                // As etcd, which keeps leases alive when it is full and grants none.
                let result = match self.full_until > self.now {
                    true => Err(full()),
                    false => Ok(self.store.grant(Duration::from_secs(u64::from(ttl)), self.now)),
                };
                Box::new(move || drop(reply.send(result)))
            }
            Call::KeepAlive(lease, reply) => {
                let lives = self.store.keep_alive(lease, self.now);
                Box::new(move || drop(reply.send(Ok(lives))))
            }
            Call::Revoke(lease, reply) => {
                let changes = self.store.revoke(lease);
                self.publish(&changes);
                Box::new(move || drop(reply.send(Ok(()))))
            }
        };
        if answer.is_some() {
            self.at(at, Event::Answered(answered));
        }
    }

    fn write(
        &mut self,
        host: HostId,
        guards: &[Guard],
        writes: Vec<Write>,
    ) -> Result<TxnOutcome, StoreError> {
        if self.denied_until.get(&host).is_some_and(|until| *until > self.now) {
            return Err(StoreError::Terminal("etcdserver: permission denied".to_owned()));
        }
        let puts = writes.iter().any(|write| matches!(write, Write::Put { .. }));
        if puts && self.full_until > self.now {
            return Err(full());
        }
        let (outcome, changes) = self.store.txn(guards, writes)?;
        self.publish(&changes);
        Ok(outcome)
    }

    fn watch(&mut self, host: HostId, prefix: &str, revision: i64, etcd: &Etcd) -> WatchStream {
        let (sender, receiver) = mpsc::unbounded_channel();
        // Nobody can have dropped the receiver yet.
        let _ = sender.send(Ok(Vec::new()));
        match self.store.since(prefix, revision) {
            None => drop(sender.send(Err(StoreError::Compacted))),
            Some(past) => {
                if !past.is_empty() {
                    let _ = sender.send(Ok(past));
                }
                self.sequence += 1;
                let from = revision.max(self.store.revision() + 1);
                let watcher = Watcher { host, prefix: prefix.to_owned(), from, sender, last: self.now };
                self.watchers.insert(self.sequence, watcher);
            }
        }
        // Keeps the store alive for as long as somebody watches it.
        let etcd = etcd.clone();
        stream::unfold((receiver, etcd), |(mut receiver, etcd)| async move {
            receiver.recv().await.map(|item| (item, (receiver, etcd)))
        })
        .boxed()
    }
}
