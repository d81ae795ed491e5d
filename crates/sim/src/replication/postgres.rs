//! A model of PostgreSQL: who streams from whom, what is flushed where, and which commits are acknowledged.

mod instance;
mod streaming;

use std::collections::BTreeMap;
use std::time::Duration;

use cellar_model::CellName;
use cellar_pooler::failover::{Archives, FromArchive, Kept};
use tokio::sync::oneshot;

pub use instance::{Acknowledged, Config, Receiver, Running, Sender, Server};
use instance::{Process, Waiter};
use streaming::STREAM_TIMEOUT;

use crate::random::Chance;
use crate::replication::data::{Archive, Content, Data, Record, records_before, segment};
use crate::replication::network::Network;

/// The longest time until a process of PostgreSQL takes new settings: some 10 ms, and a tick of the simulation.
const RELOAD: Duration = Duration::from_millis(80);

/// How often a primary archives.
const ARCHIVE_INTERVAL: Duration = Duration::from_millis(400);

/// Commits of clients that wait at one primary at most.
const MAX_WAITING: usize = 4;

/// All servers, and the archive.
#[derive(Debug)]
pub struct Servers {
    /// Time since the simulation began.
    pub now: Duration,
    /// The cells by index.
    pub cells: Vec<Server>,
    /// Their names.
    pub names: Vec<CellName>,
    /// The archive.
    pub archive: Archive,
    /// What was acknowledged since somebody asked.
    pub acknowledged: Vec<Acknowledged>,
    next_id: u64,
    /// Standbys to which no WAL gets through until then.
    pub slow_until: Vec<Duration>,
    chance: Chance,
    network: Network,
}

impl Servers {
    /// Servers of these cells; the first is a primary with some data, and the others follow it.
    #[must_use]
    pub fn new(names: Vec<CellName>, chance: Chance, network: Network) -> Self {
        let record = |id| Record { id, content: Content::Other };
        let data = |recovers| Data {
            records: (1..=4).map(record).collect(),
            term: cellar_model::Term::default(),
            timeline: 1,
            left: Vec::new(),
            recovers,
        };
        let cells =
            (0..names.len()).map(|n| Server { data: Some(data(n > 0)), ..Server::default() }).collect();
        Self {
            now: Duration::ZERO,
            cells,
            slow_until: vec![Duration::ZERO; names.len()],
            names,
            archive: Archive::default(),
            acknowledged: Vec::new(),
            next_id: 5,
            chance,
            network,
        }
    }

    /// Starts PostgreSQL, unless it runs or has no data.
    pub fn start(&mut self, cell: usize) {
        let ready = self.now + self.chance.between(Duration::from_millis(50), Duration::from_secs(2));
        let server = &mut self.cells[cell];
        let (None, Some(_), Some(config)) = (&server.running, &server.data, &server.config) else { return };
        let process = Process::new(config);
        server.running = Some(Running {
            ready,
            frozen_until: Duration::ZERO,
            session: process.clone(),
            walsenders: process.clone(),
            others: process,
            receiver: None,
            connects: ready,
            senders: BTreeMap::new(),
            waiters: Vec::new(),
            promotes: None,
            shuts_down: None,
            archives_at: ready,
            refused: None,
        });
    }

    /// Writes the configuration; true when it differs from what was there. What runs heeds it soon.
    pub fn configure(&mut self, cell: usize, config: &Config) -> bool {
        let (now, chance) = (self.now, &self.chance);
        let server = &mut self.cells[cell];
        if server.config.as_ref() == Some(config) {
            return false;
        }
        server.config = Some(config.clone());
        if let Some(running) = &mut server.running {
            for process in [&mut running.session, &mut running.walsenders, &mut running.others] {
                process.told = Some((now + chance.between(Duration::ZERO, RELOAD), config.clone()));
            }
        }
        true
    }

    /// Has a standby leave recovery. Settings that were changed before are read before: the postmaster passes signals on in their
    /// order, and the startup process reads its configuration before it looks whether it is to be promoted.
    pub fn promote(&mut self, cell: usize) {
        let at = self.now + self.chance.between(Duration::from_millis(15), Duration::from_millis(160));
        if let Some(running) = &mut self.cells[cell].running {
            let read = running.others.told.as_ref().map_or(at, |(read, _)| *read);
            running.promotes = running.promotes.or(Some(at.max(read)));
        }
    }

    /// Has a primary shut down once its standbys have all.
    pub fn shut_down(&mut self, cell: usize) {
        let latest = self.now + Duration::from_secs(10);
        if let Some(running) = &mut self.cells[cell].running {
            running.shuts_down = running.shuts_down.or(Some(latest));
        }
    }

    /// Writes a record on a primary, and flushes it there. Before how many records it lies, and which one it is.
    pub fn write(&mut self, cell: usize, content: Content) -> Option<(u64, u64)> {
        let data = self.cells[cell].data.as_mut().filter(|data| !data.recovers)?;
        self.next_id += 1;
        data.push(Record { id: self.next_id, content });
        Some((data.len() - 1, self.next_id))
    }

    /// Commits on a primary. The commit waits for its quorum.
    pub fn commit(&mut self, cell: usize, canary: Option<oneshot::Sender<()>>) {
        let content = if canary.is_some() { Content::Canary } else { Content::Row };
        let Some((place, id)) = self.write(cell, content) else { return };
        if let Some(running) = &mut self.cells[cell].running {
            running.waiters.push(Waiter { place, id, canary });
        }
    }

    /// Writes the file of what a member must not forget.
    pub fn keep(&mut self, cell: usize, kept: &Kept) {
        self.cells[cell].kept = Some(kept.clone());
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Duration) {
        self.now = now;
        for cell in 0..self.cells.len() {
            let Some(running) = &mut self.cells[cell].running else { continue };
            if running.frozen_until > now {
                continue;
            }
            for process in [&mut running.session, &mut running.walsenders, &mut running.others] {
                process.heed(now);
            }
            if running.ready > now {
                continue;
            }
            if running.promotes.is_some_and(|at| at <= now) {
                self.leave_recovery(cell);
            }
            self.receive(cell);
            if self.cells[cell].is_primary() {
                self.serve(cell);
            }
        }
    }

    fn leave_recovery(&mut self, cell: usize) {
        let server = &mut self.cells[cell];
        let (Some(running), Some(data)) = (&mut server.running, &mut server.data) else { return };
        (running.promotes, running.receiver) = (None, None);
        if !data.recovers {
            return;
        }
        let mut timeline = data.timeline + 1;
        // As PostgreSQL does, which asks the archive for histories until it finds none.
        if running.others.goes_by.0.from_archive != FromArchive::Nothing {
            while self.archive.histories.contains_key(&timeline) {
                timeline += 1;
            }
        }
        data.left.push((data.timeline, data.len()));
        (data.timeline, data.recovers) = (timeline, false);
        self.write(cell, Content::Other);
    }

    /// A primary takes commits, acknowledges them, and archives.
    fn serve(&mut self, cell: usize) {
        let now = self.now;
        let is_busy = self.chance.once_in(2);
        let server = &mut self.cells[cell];
        let Some(running) = &mut server.running else { return };
        let len = server.data.as_ref().map_or(0, Data::len);
        let rows = running.waiters.iter().filter(|waiter| waiter.canary.is_none()).count();
        let commits = is_busy && rows < MAX_WAITING && running.shuts_down.is_none();
        running.senders.retain(|_, sender| now.saturating_sub(sender.heard) < STREAM_TIMEOUT);
        if let Some(latest) = running.shuts_down {
            let all_have = running.senders.values().all(|sender| sender.flushed >= len);
            if all_have || latest <= now {
                server.kill();
                return;
            }
        }
        if let Some((k, names)) = running.walsenders.goes_by.rule() {
            let counting = running.senders.values().filter(|sender| names.contains(&sender.name.as_str()));
            let mut flushed: Vec<u64> = counting.map(|sender| sender.flushed).collect();
            flushed.sort_unstable_by(|a, b| b.cmp(a));
            let upto = if k == 0 { Some(len) } else { flushed.get(k - 1).copied() };
            let upto = upto.unwrap_or(0);
            let (done, waiting) =
                std::mem::take(&mut running.waiters).into_iter().partition(|waiter| waiter.place < upto);
            running.waiters = waiting;
            let done: Vec<Waiter> = done;
            for waiter in done {
                self.acknowledged.push(Acknowledged { by: cell, place: waiter.place, id: waiter.id });
                if let Some(canary) = waiter.canary {
                    // Its session may be gone.
                    let _ = canary.send(());
                }
            }
        }
        if commits {
            self.commit(cell, None);
        }
        self.archive(cell);
        self.drop_senders(cell);
    }

    fn archive(&mut self, cell: usize) {
        let (now, server) = (self.now, &mut self.cells[cell]);
        let (Some(running), Some(data)) = (&mut server.running, &server.data) else { return };
        if running.archives_at > now || running.others.goes_by.0.archives == Archives::Nothing {
            return;
        }
        running.archives_at = now + ARCHIVE_INTERVAL;
        let mut result = match data.timeline {
            1 => Ok(()),
            timeline => self.archive.push_history(timeline, data.history()),
        };
        if running.others.goes_by.0.archives == Archives::All {
            let begin = data.left.last().map_or(0, |(_, at)| *at);
            for number in segment(begin)..segment(data.len()) {
                let (from, to) = (records_before(number), records_before(number + 1));
                let records = &data.records[from as usize..to as usize];
                result = result.and_then(|()| self.archive.push(data.timeline, number, records));
            }
        }
        running.refused = result.err();
    }
}

#[cfg(test)]
mod tests;
