//! A database with quorum commit, and what befalls it, all from one seed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use cellar_model::{CellName, DatabaseName, Keyspace};
use cellar_topology::Change;
use tokio::sync::mpsc;

use crate::etcd::{Etcd, Weather};
use crate::host::Host;
use crate::random::Chance;
use crate::replication::admin;
use crate::replication::invariants::Invariants;
use crate::replication::member::{self, MemberSetup};
use crate::replication::network::Network;
use crate::replication::postgres::Servers;
use crate::transcript::Transcript;
use crate::world::{Finding, Simulated, TICKS, parsed, put_topology};

/// The longest time between two things that befall the cluster.
const MAX_EVENT_PAUSE: Duration = Duration::from_secs(8);

/// How long things go wrong in one episode.
const STORM: Duration = Duration::from_secs(90);

/// How long it may take afterwards until a primary acknowledges, all follow it, and all are in the cohort. The longest waits
/// are those after failovers that did not hold.
const MAX_CALM: Duration = Duration::from_secs(600);

/// A multiadmin at each of the first sites.
const ADMINS: usize = 2;

/// How soon after a moment that matters somebody is struck, at the latest.
const MAX_STRIKE_DELAY: Duration = Duration::from_millis(400);

/// The simulation of one seed.
#[derive(Debug)]
pub struct Replication {
    seed: u64,
    now: Rc<Cell<Duration>>,
    chance: Chance,
    etcd: Etcd,
    network: Network,
    servers: Rc<RefCell<Servers>>,
    admins: Vec<Host>,
    inboxes: Vec<Option<mpsc::UnboundedSender<String>>>,
    members: Vec<Host>,
    restart: Vec<Duration>,
    keys: Keyspace,
    database: DatabaseName,
    cells: Vec<CellName>,
    invariants: Invariants,
    /// Of each cell, whether it was a primary, and whether its data was being restored.
    were: Vec<(bool, bool)>,
    /// Which cells are struck soon, and when.
    strikes: Vec<(Duration, usize)>,
    stormy: bool,
    transcript: Transcript,
}

impl Replication {
    /// The world of a seed: a primary and two standbys, sometimes four, before quorum commit begins.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let chance = Chance::new(seed);
        let count = if chance.once_in(4) { 5 } else { 3 };
        let now = Rc::new(Cell::new(Duration::ZERO));
        let network = Network::new(seed ^ 0x7e7);
        let keys = Keyspace::new(&parsed("sim"));
        let database: DatabaseName = parsed("app");
        let cells: Vec<CellName> = (1..=count).map(|n| parsed(&format!("zone{n}"))).collect();
        let host = || Host::new(Rc::clone(&now), chance.clone());
        let world = Self {
            seed,
            servers: Rc::new(RefCell::new(Servers::new(cells.clone(), chance.clone(), network.clone()))),
            admins: (0..ADMINS).map(|_| host()).collect(),
            inboxes: vec![None; ADMINS],
            members: (0..count).map(|_| host()).collect(),
            restart: vec![Duration::ZERO; ADMINS + count],
            etcd: Etcd::new(seed ^ 0x5eed),
            invariants: Invariants::new(keys.clone(), database.clone(), count),
            now,
            chance,
            network,
            keys,
            database,
            cells,
            were: vec![(false, false); count],
            strikes: Vec::new(),
            stormy: false,
            transcript: Transcript::default(),
        };
        put_topology(&world.etcd, &world.keys, &world.database, &world.cells, "DURABILITY_QUORUM");
        world
    }

    fn finding(&self, what: String) -> Finding {
        Finding { seed: self.seed, at: self.now.get(), steps: self.steps(), what }
    }

    fn begin_weather(&self) {
        let often = || [0, 0, 20, 50, 200][self.chance.below(5)];
        let weather = Weather {
            lost_request: often(),
            lost_answer: often(),
            late_request: often(),
            doubled: often(),
            slow: often(),
        };
        self.etcd.set_weather(weather);
        self.network.set_weather(often(), often());
    }

    /// The index of the recorded leader's cell.
    fn leader(&self) -> Option<usize> {
        let leader = &self.invariants.record()?.cell;
        self.cells.iter().position(|cell| cell == leader)
    }

    /// A cell, mostly that of the leader: it matters most.
    fn victim(&self) -> usize {
        let leader = self.leader().filter(|_| self.chance.once_in(2));
        leader.unwrap_or_else(|| self.chance.below(self.cells.len()))
    }

    /// Something happens.
    fn befall(&mut self) {
        let now = self.now.get();
        let chance = self.chance.clone();
        let secs = |from: u64, to: u64| chance.between(Duration::from_secs(from), Duration::from_secs(to));
        let any = chance.below(ADMINS + self.cells.len());
        let cell = self.victim();
        let process = ADMINS + cell;
        tracing::debug!(?now, cell, any, "something befalls");
        // The next one to be elected may lack what the others have.
        if chance.once_in(3) {
            self.servers.borrow_mut().slow_until[chance.below(self.cells.len())] = now + secs(1, 10);
        }
        match chance.below(20) {
            // PostgreSQL alone.
            0 | 1 => self.servers.borrow_mut().cells[cell].kill(),
            2 => self.freeze_server(cell, now + secs(1, 20)),
            3 => self.servers.borrow_mut().slow_until[cell] = now + secs(1, 15),
            // The host.
            4 | 5 => self.switch_off(cell, now + secs(2, 40)),
            6 => {
                let until = now + secs(1, 30);
                self.freeze_server(cell, until);
                self.members[cell].freeze(until);
            }
            // The process.
            7 => self.kill(process, now + secs(1, 20)),
            8 => self.kill(any, now + secs(1, 20)),
            9 => {
                let until = now + secs(1, 30);
                self.host(any).freeze(until);
            }
            // The network.
            10 | 11 => self.isolate(cell, now + secs(1, 40), true),
            12 => self.isolate(cell, now + secs(1, 40), false),
            13 => {
                let other = chance.below(self.cells.len());
                let until = now + secs(1, 30);
                self.network.cut(cell, other, until);
                if chance.once_in(2) {
                    self.network.cut(other, cell, until);
                }
            }
            14 => self.begin_weather(),
            // etcd.
            15 => self.etcd.elect_until(now + secs(1, 12)),
            16 => match chance.below(4) {
                0 => self.etcd.full_until(now + secs(1, 20)),
                1 => self.etcd.deny(any, now + secs(1, 10)),
                2 => self.etcd.break_watches(any),
                _ => self.etcd.cut(any, now + secs(1, 30)),
            },
            17 => {
                let off =
                    chance.between(Duration::ZERO, Duration::from_secs(600)).as_millis() as i64 - 300_000;
                self.host(any).set_clock_offset(off);
            }
            18 => self.lose_data(chance.below(self.cells.len())),
            // A person moves the primary.
            _ => {
                let to = if chance.once_in(2) { String::new() } else { self.cells[cell].to_string() };
                if let Some(inbox) = &self.inboxes[chance.below(ADMINS)] {
                    let _ = inbox.send(to);
                }
            }
        }
    }

    fn freeze_server(&self, cell: usize, until: Duration) {
        if let Some(running) = &mut self.servers.borrow_mut().cells[cell].running {
            running.frozen_until = until;
        }
    }

    /// A data directory is lost. What was promised outlives only the loss of less than half of them, so that all others must be whole:
    /// each a member by the copy that it has.
    fn lose_data(&self, cell: usize) {
        let mut servers = self.servers.borrow_mut();
        let Some(record) = self.invariants.record() else { return };
        let [rule] = record.rules.as_slice() else { return };
        let mut cells = self.cells.iter().zip(&servers.cells);
        let all_whole = cells.all(|(name, server)| {
            let copy = server.kept.as_ref().map(|kept| kept.copy);
            server.data.is_some() && !server.seeding && copy.is_some_and(|copy| rule.has(name, copy))
        });
        if all_whole && self.leader() != Some(cell) {
            let lost = &mut servers.cells[cell];
            lost.kill();
            lost.data = None;
            lost.seeding = true;
        }
    }

    /// Somebody is struck at the moments that matter most: a new primary before its first commits are on others, and the leader once
    /// a copy was made anew, which may lack what the one before it had.
    fn strike(&mut self) {
        let now = self.now.get();
        let leader = self.leader();
        for cell in 0..self.cells.len() {
            let (is_primary, seeds) = {
                let server = &self.servers.borrow().cells[cell];
                (server.is_primary(), server.seeding)
            };
            let (was_primary, seeded) = std::mem::replace(&mut self.were[cell], (is_primary, seeds));
            let victim = match (is_primary && !was_primary, seeded && !seeds) {
                (true, _) => Some(cell),
                (false, true) => leader,
                (false, false) => None,
            };
            if let Some(victim) = victim.filter(|_| self.stormy && self.chance.once_in(2)) {
                let delay = self.chance.between(Duration::ZERO, MAX_STRIKE_DELAY);
                self.strikes.push((now + delay, victim));
            }
        }
        let due: Vec<usize> =
            self.strikes.extract_if(.., |(at, _)| *at <= now).map(|(_, cell)| cell).collect();
        for cell in due {
            let back = now + self.chance.between(Duration::from_secs(2), Duration::from_secs(20));
            match self.chance.below(4) {
                0 => self.servers.borrow_mut().cells[cell].kill(),
                1 => self.switch_off(cell, back),
                2 => self.isolate(cell, back, true),
                _ => {
                    self.freeze_server(cell, back);
                    self.members[cell].freeze(back);
                }
            }
        }
    }

    /// Cuts a site off from all others, and sometimes from etcd; in one direction only, unless `both`.
    fn isolate(&self, cell: usize, until: Duration, both: bool) {
        let outward = self.chance.once_in(2);
        for other in (0..self.cells.len()).filter(|other| *other != cell) {
            if both || outward {
                self.network.cut(cell, other, until);
            }
            if both || !outward {
                self.network.cut(other, cell, until);
            }
        }
        if both && self.chance.once_in(2) {
            self.etcd.cut(ADMINS + cell, until);
            if cell < ADMINS {
                self.etcd.cut(cell, until);
            }
        }
    }

    fn host(&mut self, which: usize) -> &mut Host {
        if which < ADMINS { &mut self.admins[which] } else { &mut self.members[which - ADMINS] }
    }

    fn kill(&mut self, which: usize, back: Duration) {
        self.host(which).kill();
        self.restart[which] = back;
        if which >= ADMINS {
            self.network.close(which - ADMINS);
        } else {
            self.inboxes[which] = None;
        }
    }

    /// A whole host loses its power.
    fn switch_off(&mut self, cell: usize, back: Duration) {
        self.kill(ADMINS + cell, back);
        if cell < ADMINS {
            self.kill(cell, back);
        }
        self.servers.borrow_mut().cells[cell].kill();
    }

    fn start_what_is_down(&mut self) {
        let now = self.now.get();
        for which in 0..ADMINS + self.cells.len() {
            let due = !self.stormy || self.restart[which] <= now;
            if !due || self.host(which).is_running() {
                continue;
            }
            let (kv, keys, network) = (self.etcd.client(which), self.keys.clone(), self.network.clone());
            if which < ADMINS {
                let (sender, inbox) = mpsc::unbounded_channel();
                self.inboxes[which] = Some(sender);
                let cells = self.cells.clone();
                self.admins[which].start(move || admin::run(keys, kv, (network, which), cells, inbox));
            } else {
                let index = which - ADMINS;
                let setup = MemberSetup {
                    database: self.database.clone(),
                    cell: self.cells[index].clone(),
                    index,
                    keys,
                    servers: Rc::clone(&self.servers),
                    network,
                    chance: self.chance.clone(),
                };
                self.members[index].start(move || member::run(setup, kv));
            }
        }
    }

    fn tick(&mut self) -> Result<(), Finding> {
        self.start_what_is_down();
        let length = Duration::from_millis(*self.chance.pick(&TICKS));
        let now = self.now.get() + length;
        self.now.set(now);
        self.etcd.advance(now);
        self.network.advance(now);
        let mut wrong = Vec::new();
        for change in self.etcd.take_changes() {
            let value = match &change {
                Change::Put(entry) => Some(&entry.value),
                Change::Delete { .. } => None,
            };
            self.transcript.note(&(change.key(), change.revision(), value));
            wrong.extend(self.invariants.see(&change, &self.servers.borrow()));
        }
        self.servers.borrow_mut().advance(now);
        wrong.extend(self.invariants.look(&mut self.servers.borrow_mut()));
        self.strike();
        // None is always the first to see what has changed.
        let all = ADMINS + self.cells.len();
        let first = self.chance.below(all);
        for n in 0..all {
            self.host((first + n) % all).tick(length);
        }
        self.transcript.note(&(self.chance.state(), self.etcd.state(), self.network.state()));
        self.transcript.end_tick(now);
        match wrong.into_iter().next() {
            Some(what) => Err(self.finding(what)),
            None => Ok(()),
        }
    }

    fn calm(&mut self) {
        self.stormy = false;
        self.strikes.clear();
        self.etcd.calm();
        self.network.calm();
    }
}

impl Simulated for Replication {
    fn steps(&self) -> u64 {
        self.etcd.steps() + self.network.steps()
    }

    fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    fn episode(&mut self) -> Result<(), Finding> {
        self.stormy = true;
        self.begin_weather();
        let end = self.now.get() + STORM;
        let mut event = self.now.get();
        while self.now.get() < end {
            if self.now.get() >= event {
                self.befall();
                event = self.now.get() + self.chance.between(Duration::ZERO, MAX_EVENT_PAUSE);
            }
            self.tick()?;
        }
        self.calm();
        let latest = self.now.get() + MAX_CALM;
        let mut settled = Duration::ZERO;
        loop {
            let before = self.now.get();
            self.tick()?;
            let unrest = self.invariants.unrest(&self.servers.borrow());
            settled = if unrest.is_empty() { settled + (self.now.get() - before) } else { Duration::ZERO };
            if settled > Duration::from_secs(3) {
                tracing::info!(
                    terms = self.invariants.terms(),
                    commits = self.invariants.commits(),
                    calm = ?(self.now.get() + MAX_CALM).saturating_sub(latest),
                    "an episode ends"
                );
                return Ok(());
            }
            if self.now.get() > latest {
                return Err(self.finding(format!("not at rest: {}", unrest.join("; "))));
            }
        }
    }
}
