//! How WAL comes to a standby: over a stream, or from the archive.

use std::time::Duration;

use cellar_model::{History, Lineage, Lsn, SegmentSize, Timeline};
use cellar_pooler::failover::FromArchive;

use super::Servers;
use super::instance::{Receiver, Sender};
use crate::replication::data::{Archive, Data, Record, lsn, records_before, segment};

/// `wal_receiver_timeout` under quorum commit, and how long a primary waits for a sign of a standby.
pub(super) const STREAM_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a standby that found nobody to stream from waits.
const RETRY: Duration = Duration::from_millis(200);

impl Servers {
    /// Whether a standby may stream from a server: what it has is on that one's line.
    fn is_on_line(&self, standby: usize, of: usize) -> bool {
        let (Some(own), Some(data)) = (&self.cells[standby].data, &self.cells[of].data) else { return false };
        let at = lsn(own.len());
        own.len() <= data.len() && data.lineage().contains(Timeline::new(own.timeline), at)
    }

    /// A standby receives.
    pub(super) fn receive(&mut self, cell: usize) {
        let (now, server) = (self.now, &self.cells[cell]);
        let Some((running, data)) = server.running.as_ref().zip(server.data.as_ref()) else { return };
        let config = running.others.goes_by.0.clone();
        let upstream = config.upstream.as_ref().filter(|_| data.recovers);
        let upstream = upstream.and_then(|upstream| self.names.iter().position(|name| name == upstream));
        let receiver = running.receiver.clone().filter(|receiver| {
            upstream == Some(receiver.from)
                && receiver.name == config.standby_name
                && now.saturating_sub(receiver.heard) < STREAM_TIMEOUT
        });
        let receiver = match (receiver, upstream) {
            (Some(receiver), _) => self.stream(cell, receiver),
            (None, Some(from)) if running.connects <= now => self.connect(cell, from, config.standby_name),
            _ => None,
        };
        let is_alone = receiver.is_none();
        if let Some(running) = &mut self.cells[cell].running {
            if is_alone && running.connects <= now {
                running.connects = now + RETRY;
            }
            running.receiver = receiver;
        }
        if is_alone {
            self.restore(cell, &config.from_archive);
        }
    }

    fn connect(&mut self, cell: usize, from: usize, name: String) -> Option<Receiver> {
        let now = self.now;
        let reaches = !self.network.is_cut(cell, from) && !self.network.is_cut(from, cell);
        if !reaches || !self.cells[from].is_open(now) {
            return None;
        }
        let is_on_line = self.is_on_line(cell, from);
        // It says how far it is before the primary has looked where it begins.
        let flushed = self.cells[cell].data.as_ref().map_or(0, Data::len);
        let sender = Sender { name: name.clone(), flushed, heard: now };
        if let Some(running) = &mut self.cells[from].running {
            running.senders.insert(cell, sender);
        }
        is_on_line.then_some(Receiver { from, name, heard: now })
    }

    fn stream(&mut self, cell: usize, receiver: Receiver) -> Option<Receiver> {
        let (now, from) = (self.now, receiver.from);
        if self.network.is_cut(from, cell) {
            return Some(receiver);
        }
        let source = &self.cells[from];
        let known = source.running.as_ref().and_then(|running| running.senders.get(&cell));
        // The other end has gone, and says so.
        if source.running.is_none() || known.is_none_or(|sender| sender.name != receiver.name) {
            return None;
        }
        if !source.is_open(now) {
            return Some(receiver);
        }
        let is_on_line = self.is_on_line(cell, from);
        let source = self.cells[from].data.as_ref()?;
        let (timeline, left) = (source.timeline, source.left.clone());
        let own = self.cells[cell].data.as_ref().map_or(0, Data::len);
        let news: Vec<Record> = match is_on_line && self.slow_until[cell] <= now {
            true => source.records[own as usize..].to_vec(),
            false => Vec::new(),
        };
        if !is_on_line {
            return None;
        }
        // What it had flushed before: an answer takes its time.
        let replies = !self.network.is_cut(cell, from);
        if let Some(running) = self.cells[from].running.as_mut().filter(|_| replies)
            && let Some(sender) = running.senders.get_mut(&cell)
        {
            (sender.flushed, sender.heard) = (own, now);
        }
        if let Some(data) = self.cells[cell].data.as_mut() {
            for record in news {
                data.push(record);
            }
            if left.last().is_none_or(|(_, at)| *at <= data.len()) {
                (data.timeline, data.left) = (timeline, left);
            }
        }
        Some(Receiver { heard: now, ..receiver })
    }

    /// A standby that streams from nobody takes the next segment from the archive.
    fn restore(&mut self, cell: usize, from: &FromArchive) {
        let without: &[String] = match from {
            FromArchive::All => &[],
            FromArchive::But(segments) => segments,
            FromArchive::Histories | FromArchive::Nothing => return,
        };
        let Some(data) = self.cells[cell].data.as_mut().filter(|data| data.recovers) else { return };
        let size = SegmentSize::default();
        let number = segment(data.len());
        let target = newest_line(&self.archive, data);
        for file in target.files(number, size) {
            if without.contains(&size.file_name(file)) {
                continue;
            }
            let Some(records) = self.archive.get(file.timeline.get(), number) else { continue };
            let begin = records_before(number);
            let own = &data.records[begin.min(data.len()) as usize..];
            // Its records do not follow on these.
            if !records.starts_with(own) {
                return;
            }
            for record in records[own.len()..].iter().copied() {
                data.push(record);
            }
            if file.timeline.get() != data.timeline
                && let Some(history) = self.archive.histories.get(&file.timeline.get())
            {
                data.left = ancestors(history);
                data.timeline = file.timeline.get();
            }
            return;
        }
    }

    /// Standbys that have gone say so, unless nothing gets here.
    pub(super) fn drop_senders(&mut self, cell: usize) {
        let receives = |standby: usize, name: &str| {
            let receiver = self.cells[standby].running.as_ref().and_then(|running| running.receiver.as_ref());
            receiver.is_some_and(|receiver| receiver.from == cell && receiver.name == name)
        };
        let senders = self.cells[cell].running.as_ref().map(|running| &running.senders);
        let gone: Vec<usize> = senders
            .into_iter()
            .flatten()
            .filter(|(standby, sender)| {
                !receives(**standby, &sender.name) && !self.network.is_cut(**standby, cell)
            })
            .map(|(standby, _)| *standby)
            .collect();
        if let Some(running) = &mut self.cells[cell].running {
            running.senders.retain(|standby, _| !gone.contains(standby));
        }
    }
}

fn ancestors(history: &str) -> Vec<(u32, u64)> {
    let parsed: History = history.parse().unwrap_or_default();
    let records = |at: Lsn| at.bytes().saturating_sub(lsn(0).bytes()) / (lsn(1).bytes() - lsn(0).bytes());
    parsed.0.iter().map(|it| (it.timeline.get(), records(it.left_at))).collect()
}

/// The line of the newest timeline in the archive that goes on from what a standby has (`recovery_target_timeline = latest`).
fn newest_line(archive: &Archive, data: &Data) -> Lineage {
    let mut newest = data.lineage();
    let mut next = data.timeline + 1;
    while let Some(history) = archive.histories.get(&next) {
        let parsed: History = history.parse().unwrap_or_default();
        let line = Lineage::new(Timeline::new(next), &parsed);
        let at = lsn(data.len());
        if line.contains(Timeline::new(data.timeline), at) {
            newest = line;
        }
        next += 1;
    }
    newest
}
