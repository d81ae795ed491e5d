//! A whole cluster, what befalls it, and what its operator does, all from one seed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use cellar_api::v1;
use cellar_model::{
    CellLayout, CellName, Database, DatabaseName, JobId, JobKind, Key, Keyspace, Leader, Retention,
    SystemIdentifier, Timeline,
};
use cellar_topology::Change;
use tokio::sync::mpsc;

use crate::admin::{self, Ask};
use crate::etcd::{Etcd, Weather};
use crate::host::Host;
use crate::invariants::Invariants;
use crate::newer::NewerRelease;
use crate::outside::{Data, Mark, Outside};
use crate::pooler::{self, PoolerSetup};
use crate::random::Chance;
use crate::transcript::Transcript;
use crate::vouching::Vouching;

/// How far everything is moved on at once: one of these, in milliseconds, by chance. Short ones let timers and messages
/// meet in every order, long ones let time pass quickly.
pub const TICKS: [u64; 4] = [2, 10, 40, 100];

/// The longest time between two things that befall the cluster, and between two requests of its operator.
const MAX_EVENT_PAUSE: Duration = Duration::from_secs(6);
const MAX_REQUEST_PAUSE: Duration = Duration::from_secs(5);

/// How long things go wrong in one episode.
const STORM: Duration = Duration::from_secs(120);

/// How long it may take afterwards until all is at rest. The longest waits are those for a lost cell and for the
/// deadline of a step.
const MAX_CALM: Duration = Duration::from_secs(900);

/// multiadmins and cells of the cluster.
const ADMINS: usize = 2;
const CELLS: usize = 3;

/// A violation, and how to see it again.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The seed.
    pub seed: u64,
    /// Simulated time.
    pub at: Duration,
    /// Steps until then.
    pub steps: u64,
    /// What must not be.
    pub what: String,
}

/// The simulation of one seed.
#[derive(Debug)]
pub struct World {
    seed: u64,
    now: Rc<Cell<Duration>>,
    chance: Chance,
    etcd: Etcd,
    outside: Rc<RefCell<Outside>>,
    admins: Vec<Host>,
    inboxes: Vec<Option<mpsc::UnboundedSender<Ask>>>,
    poolers: Vec<Host>,
    restart: Vec<Duration>,
    keys: Keyspace,
    database: DatabaseName,
    cells: Vec<CellName>,
    invariants: Invariants,
    newer: NewerRelease,
    vouching: Vouching,
    stormy: bool,
    transcript: Transcript,
}

/// A simulation of one seed.
pub trait Simulated {
    /// Events so far.
    fn steps(&self) -> u64;

    /// What has happened so far.
    fn transcript(&self) -> &Transcript;

    /// One storm and the calm after it.
    ///
    /// # Errors
    /// What must not be, at its first sight.
    fn episode(&mut self) -> Result<(), Finding>;
}

/// A name that is known to be one.
#[must_use]
pub fn parsed<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| unreachable!("a name: {text}"))
}

/// Has etcd hold a database, its cells and their members, of which the first one leads.
pub(crate) fn put_topology(
    etcd: &Etcd,
    keys: &Keyspace,
    database: &DatabaseName,
    cells: &[CellName],
    durability: &str,
) {
    fn put<R: serde::Serialize>(etcd: &Etcd, keys: &Keyspace, key: &Key, record: &R) {
        let value = serde_json::to_vec(record).unwrap_or_else(|error| unreachable!("a record: {error}"));
        etcd.put(&keys.path(key), value);
    }
    let record: Database = serde_json::from_value(serde_json::json!({
        "name": database, "stanza": "app", "repoPath": "/repo", "retention": Retention { full: 2 },
        "bootstrapCell": "zone1", "portOffset": 0, "durability": durability,
    }))
    .unwrap_or_else(|error| unreachable!("a database: {error}"));
    put(etcd, keys, &Key::Database(database.clone()), &record);
    for (index, name) in cells.iter().enumerate() {
        let cell: cellar_model::Cell = serde_json::from_value(serde_json::json!({
            "name": name, "index": index, "host": "localhost", "directory": format!("/c/{name}"),
        }))
        .unwrap_or_else(|error| unreachable!("a cell: {error}"));
        let pooler = CellLayout::new(&cell.directory).pooler(&record, &cell, "127.0.0.1");
        let pooler = pooler.unwrap_or_else(|error| unreachable!("a pooler: {error}"));
        put(etcd, keys, &Key::Cell(name.clone()), &cell);
        put(etcd, keys, &Key::Pooler(database.clone(), name.clone()), &pooler);
    }
    let leader = Leader {
        cell: cells[0].clone(),
        term: Timeline::new(1),
        system_identifier: Some(SystemIdentifier::new(7)),
        lsn: None,
        leadership: None,
    };
    put(etcd, keys, &Key::Leader(database.clone()), &leader);
}

impl World {
    /// The world of a seed, with a primary, two standbys and a full backup of none yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let chance = Chance::new(seed);
        let now = Rc::new(Cell::new(Duration::ZERO));
        let etcd = Etcd::new(seed ^ 0x5eed);
        let keys = Keyspace::new(&parsed("sim"));
        let database: DatabaseName = parsed("app");
        let cells: Vec<CellName> = (1..=CELLS).map(|n| parsed(&format!("zone{n}"))).collect();
        let first = Mark { number: 1, job: None };
        let outside = Outside {
            cells: (0..CELLS)
                .map(|n| crate::outside::Cell {
                    data: Some(Data { mark: first, timeline: 1, rows: 1, recovers: n > 0 }),
                    runs: true,
                    ..crate::outside::Cell::default()
                })
                .collect(),
            ..Outside::default()
        };
        let host = || Host::new(Rc::clone(&now), chance.clone());
        let world = Self {
            seed,
            admins: (0..ADMINS).map(|_| host()).collect(),
            inboxes: vec![None; ADMINS],
            poolers: (0..CELLS).map(|_| host()).collect(),
            restart: vec![Duration::ZERO; ADMINS + CELLS],
            now,
            chance,
            etcd,
            outside: Rc::new(RefCell::new(outside)),
            invariants: Invariants::new(keys.clone(), database.clone()),
            newer: NewerRelease::new(keys.clone(), database.clone()),
            vouching: Vouching::new(database.clone()),
            keys,
            database,
            cells,
            stormy: false,
            transcript: Transcript::default(),
        };
        put_topology(&world.etcd, &world.keys, &world.database, &world.cells, "DURABILITY_ASYNC");
        world
    }

    fn finding(&self, what: String) -> Finding {
        Finding { seed: self.seed, at: self.now.get(), steps: self.steps(), what }
    }

    fn begin_weather(&mut self) {
        let often = |chance: &Chance| [0, 0, 20, 50, 200][chance.below(5)];
        let chance = &self.chance;
        let weather = Weather {
            lost_request: often(chance),
            lost_answer: often(chance),
            late_request: often(chance),
            doubled: often(chance),
            slow: often(chance),
        };
        self.etcd.set_weather(weather);
    }

    /// Something happens.
    fn befall(&mut self) {
        let now = self.now.get();
        let secs =
            |from: u64, to: u64| self.chance.between(Duration::from_secs(from), Duration::from_secs(to));
        let target = self.chance.below(ADMINS + CELLS);
        match self.chance.below(16) {
            14 => {
                // The primary's host is the one that matters most.
                let cell = self.leader().filter(|_| self.chance.once_in(2));
                let cell = cell.unwrap_or_else(|| self.chance.below(CELLS));
                self.switch_off(cell, now + secs(5, 90));
            }
            0 | 1 => {
                let back = now + secs(1, 40);
                self.kill(target, back);
            }
            2 | 3 => {
                let until = now + secs(1, 60);
                self.host(target).freeze(until);
            }
            4 => self.etcd.elect_until(now + secs(1, 6)),
            5 => self.etcd.cut(target, now + secs(1, 30)),
            6 => self.etcd.full_until(now + secs(1, 20)),
            7 => self.etcd.deny(target, now + secs(1, 10)),
            8 => self.etcd.break_watches(target),
            9 => self.etcd.compact(),
            10 => {
                let off = self.chance.between(Duration::ZERO, Duration::from_secs(600)).as_millis() as i64
                    - 300_000;
                self.host(target).set_clock_offset(off);
            }
            11 | 12 => self.newer.add_field(&self.etcd, &self.chance),
            13 => self.newer.use_job(&self.etcd),
            _ => self.begin_weather(),
        }
    }

    fn host(&mut self, which: usize) -> &mut Host {
        if which < ADMINS { &mut self.admins[which] } else { &mut self.poolers[which - ADMINS] }
    }

    fn kill(&mut self, which: usize, back: Duration) {
        self.host(which).kill();
        self.restart[which] = back;
        if which >= ADMINS {
            self.outside.borrow_mut().abort_all_of(which - ADMINS);
        } else {
            self.inboxes[which] = None;
        }
    }

    /// The index of the recorded primary's cell.
    fn leader(&self) -> Option<usize> {
        let leader = self.invariants.view().leaders.get(&self.database)?;
        self.cells.iter().position(|cell| *cell == leader.cell)
    }

    /// A whole host loses its power: PostgreSQL too.
    fn switch_off(&mut self, cell: usize, back: Duration) {
        self.kill(ADMINS + cell, back);
        self.outside.borrow_mut().cells[cell].runs = false;
    }

    /// The request id of a restore or a rollback whose operator says that the primary is dead, and empty without such a
    /// word. It is mostly given when it is true, and sometimes of a primary that reports.
    fn vouch(&mut self) -> String {
        let Some(cell) = self.leader() else { return String::new() };
        let is_dead = !self.poolers[cell].is_running() && !self.outside.borrow().cells[cell].runs;
        if self.chance.once_in(if is_dead { 4 } else { 8 }) == is_dead {
            return String::new();
        }
        // Sometimes the word is kept, and sometimes somebody else switches the host on again.
        if is_dead && self.chance.once_in(2) {
            self.restart[ADMINS + cell] = self.restart[ADMINS + cell].max(self.now.get() + STORM);
        }
        self.vouching.vouch(cell, is_dead)
    }

    /// The operator asks for something.
    fn operate(&mut self) {
        let cell = self.chance.pick(&self.cells).to_string();
        let queue = self.chance.once_in(2);
        let view = self.invariants.view();
        let open: Vec<JobId> = view
            .jobs
            .values()
            .filter(|record| !view.state(record).is_terminal())
            .map(|record| record.id)
            .collect();
        let restores: Vec<JobId> = view
            .jobs
            .values()
            .filter(|record| record.kind() == JobKind::Restore)
            .map(|record| record.id)
            .collect();
        let database = String::new();
        let ask = match self.chance.below(20) {
            0..=4 => {
                Ask::Backup(v1::BackupRequest { cell, queue, allow_primary: true, ..Default::default() })
            }
            5 => Ask::Rebuild(v1::RebuildStandbyRequest { cell, queue, ..Default::default() }),
            6..=8 => {
                let onto = if self.chance.once_in(2) { cell } else { String::new() };
                let target = Some(v1::RestoreTarget {
                    target: Some(v1::restore_target::Target::Latest(v1::LatestTarget {})),
                });
                let request_id = self.vouch();
                Ask::Restore(v1::RestoreDatabaseRequest {
                    database,
                    target,
                    onto,
                    queue,
                    primary_is_dead: !request_id.is_empty(),
                    request_id,
                    ..Default::default()
                })
            }
            9..=11 if !restores.is_empty() => {
                let id = self.chance.pick(&restores).to_string();
                let request = v1::RestoreJobRequest { id, queue, ..Default::default() };
                if self.chance.once_in(3) {
                    Ask::Confirm(request)
                } else {
                    let request_id = self.vouch();
                    let primary_is_dead = !request_id.is_empty();
                    Ask::Rollback(v1::RestoreJobRequest { primary_is_dead, request_id, ..request })
                }
            }
            12..=14 if !open.is_empty() => Ask::Cancel(self.chance.pick(&open).to_string()),
            15 => Ask::Expire(v1::ExpireBackupsRequest { queue, ..Default::default() }),
            16 => Ask::Verify(v1::VerifyBackupsRequest::default()),
            17 => Ask::Check(v1::CheckArchiveRequest::default()),
            18 => Ask::Drill(v1::DrillRestoreRequest::default()),
            _ => return,
        };
        let to = self.chance.below(ADMINS);
        if let Some(inbox) = &self.inboxes[to] {
            let _ = inbox.send(ask);
        }
    }

    fn start_what_is_down(&mut self) {
        let now = self.now.get();
        for which in 0..ADMINS + CELLS {
            let due = !self.stormy || self.restart[which] <= now;
            if !due || self.host(which).is_running() {
                continue;
            }
            let kv = self.etcd.client(which);
            if which < ADMINS {
                let (sender, inbox) = mpsc::unbounded_channel();
                self.inboxes[which] = Some(sender);
                let keys = self.keys.clone();
                self.admins[which].start(move || admin::run(keys, kv, inbox));
            } else {
                let index = which - ADMINS;
                self.vouching.switch_on(index, self.invariants.view());
                let setup = PoolerSetup {
                    database: self.database.clone(),
                    cell: self.cells[index].clone(),
                    index,
                    cells: self.cells.clone(),
                    keys: self.keys.clone(),
                    outside: Rc::clone(&self.outside),
                    chance: self.chance.clone(),
                };
                self.poolers[index].start(move || pooler::run(setup, kv));
            }
        }
    }

    fn tick(&mut self) -> Result<(), Finding> {
        self.start_what_is_down();
        let length = Duration::from_millis(*self.chance.pick(&TICKS));
        let now = self.now.get() + length;
        self.now.set(now);
        self.etcd.advance(now);
        // Seen before any process can follow them.
        let mut wrong = Vec::new();
        for change in self.etcd.take_changes() {
            let value = match &change {
                Change::Put(entry) => Some(&entry.value),
                Change::Delete { .. } => None,
            };
            self.transcript.note(&(change.key(), change.revision(), value));
            wrong.extend(self.newer.see(&change));
            wrong.extend(self.invariants.see(&change, &self.outside.borrow(), &self.vouching));
        }
        self.outside.borrow_mut().advance(now);
        // None is always the first to see what has changed.
        let first = self.chance.below(ADMINS + CELLS);
        for n in 0..ADMINS + CELLS {
            self.host((first + n) % (ADMINS + CELLS)).tick(length);
        }
        // Who has asked chance for how much, and who has called, shows what has not come to the store.
        self.transcript.note(&(self.chance.state(), self.etcd.state()));
        self.transcript.end_tick(now);
        wrong.append(&mut self.outside.borrow_mut().violations);
        wrong.extend(self.invariants.look_at_primaries(&self.outside.borrow(), &self.vouching));
        if !self.stormy {
            let well: Vec<CellName> = self.cells.clone();
            let runs: Vec<bool> =
                self.poolers.iter().map(|host| host.is_running() && !host.is_frozen()).collect();
            let works =
                |cell: &CellName| well.iter().position(|other| other == cell).is_some_and(|n| runs[n]);
            wrong.extend(self.invariants.look(now, works));
        }
        match wrong.into_iter().next() {
            Some(what) => Err(self.finding(what)),
            None => Ok(()),
        }
    }
}

impl Simulated for World {
    fn steps(&self) -> u64 {
        self.etcd.steps()
    }

    fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    fn episode(&mut self) -> Result<(), Finding> {
        self.stormy = true;
        self.begin_weather();
        let end = self.now.get() + STORM;
        let pause = |world: &Self, longest| world.now.get() + world.chance.between(Duration::ZERO, longest);
        let (mut event, mut request) = (pause(self, MAX_EVENT_PAUSE), pause(self, MAX_REQUEST_PAUSE));
        while self.now.get() < end {
            if self.now.get() >= event {
                self.befall();
                event = pause(self, MAX_EVENT_PAUSE);
            }
            if self.now.get() >= request {
                self.operate();
                request = pause(self, MAX_REQUEST_PAUSE);
            }
            self.tick()?;
        }
        self.stormy = false;
        self.newer.end_jobs(&self.etcd);
        self.etcd.calm();
        let latest = self.now.get() + MAX_CALM;
        let mut settled = Duration::ZERO;
        loop {
            let before = self.now.get();
            self.tick()?;
            if self.invariants.unrest(&self.outside.borrow()).is_empty() {
                settled += self.now.get() - before;
            } else {
                settled = Duration::ZERO;
            }
            if settled > Duration::from_secs(5) {
                return Ok(());
            }
            if self.now.get() > latest {
                let mut unrest = self.invariants.unrest(&self.outside.borrow());
                let more = unrest.len().saturating_sub(3);
                unrest.truncate(3);
                if more > 0 {
                    unrest.push(format!("{more} more"));
                }
                let unrest = unrest.join("; ");
                return Err(
                    self.finding(format!("not at rest {} s after the storm: {unrest}", MAX_CALM.as_secs()))
                );
            }
        }
    }
}
