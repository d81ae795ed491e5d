//! Rows that a primary over hosts has acknowledged, one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::hosts::cluster::HostsCluster;
use crate::machine::wait::wait_until;

/// Leaves a busy machine to those whose work is tested.
const BETWEEN_ROWS: Duration = Duration::from_millis(20);

/// The table `ledger` of a cluster, and which of its rows were acknowledged on which timeline. A row that was not
/// acknowledged may be there or not.
#[derive(Debug, Default)]
pub struct Ledger {
    acknowledged: Mutex<BTreeMap<u64, u32>>,
    /// The last row that was asked for; the next one has the next number.
    last: AtomicU64,
}

/// What came of writing rows.
#[derive(Debug, Default)]
pub struct Written {
    /// How many were acknowledged.
    pub count: usize,
    /// The longest time from one that was acknowledged to the next.
    pub longest: Duration,
    /// What was said of each that was not.
    pub failures: Vec<String>,
}

/// A moment of a ledger.
#[derive(Debug, Clone)]
pub struct Moment {
    /// What was acknowledged before.
    before: BTreeSet<u64>,
    /// Rows with a higher number were asked for afterwards. The one that was under way meanwhile has this number.
    last: u64,
}

impl Moment {
    /// The number of the last row that was asked for: no two moments of one primary have the same.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }
}

impl Ledger {
    /// An empty table in the primary, which is on this host.
    #[must_use]
    #[track_caller]
    pub fn create(cluster: &HostsCluster, primary: &str) -> Self {
        let _ = cluster.sql(primary, "CREATE TABLE ledger (n bigint PRIMARY KEY)").ok();
        Self::default()
    }

    fn acknowledged(&self) -> MutexGuard<'_, BTreeMap<u64, u32>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes row after row until told to stop, on its host each: wherever one is taken, be that the right primary or not.
    fn write(&self, cluster: &HostsCluster, stop: &AtomicBool) -> Written {
        let hosts = cluster.database_hosts();
        let mut hosts = hosts.iter().cycle();
        let mut host = hosts.next();
        let (mut written, mut last) = (Written::default(), Instant::now());
        while let Some(at) = host.filter(|_| !stop.load(Ordering::Relaxed)) {
            let row = self.last.fetch_add(1, Ordering::Relaxed) + 1;
            let insert = format!(
                "INSERT INTO ledger VALUES ({row}) RETURNING substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
            );
            let answer = cluster.sql(at, &insert);
            match u32::from_str_radix(answer.stdout.trim(), 16) {
                Ok(timeline) if answer.code == 0 => {
                    self.acknowledged().insert(row, timeline);
                    written.count += 1;
                    written.longest = written.longest.max(last.elapsed());
                    last = Instant::now();
                }
                _ => {
                    written.failures.push(format!("row {row} on {at}: {answer:?}"));
                    host = hosts.next();
                }
            }
            std::thread::sleep(BETWEEN_ROWS);
        }
        written
    }

    /// Does this while rows are written. Gives what it gave, and what was written.
    ///
    /// # Panics
    /// When it does.
    #[track_caller]
    pub fn while_writing<T>(&self, cluster: &HostsCluster, work: impl FnOnce() -> T) -> (T, Written) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| self.write(cluster, &stop));
            let worked = catch_unwind(AssertUnwindSafe(work));
            stop.store(true, Ordering::Relaxed);
            let written = writer.join();
            let worked = worked.unwrap_or_else(|panic| resume_unwind(panic));
            (worked, written.unwrap_or_else(|panic| resume_unwind(panic)))
        })
    }

    /// Waits until every host has all rows that count, and none of `gone`.
    #[track_caller]
    pub fn wait_for_all(&self, cluster: &HostsCluster, gone: &BTreeSet<u64>, timeout: Duration) {
        for host in cluster.database_hosts() {
            wait_until("the acknowledged rows", timeout, || self.compare(cluster, &host, gone));
        }
    }

    /// How many rows count.
    #[must_use]
    pub fn len(&self) -> usize {
        self.acknowledged().len()
    }

    /// Whether no row was acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Now.
    #[must_use]
    pub fn moment(&self) -> Moment {
        let before = self.acknowledged().keys().copied().collect();
        Moment { before, last: self.last.load(Ordering::Relaxed) }
    }

    /// The database was restored to a point between these two moments, where this timeline begins. Gives what must be gone;
    /// that counts no more, nor does what was written in between.
    #[must_use]
    pub fn restored(&self, before: &Moment, after: &Moment, timeline: u32) -> BTreeSet<u64> {
        let mut rows = self.acknowledged();
        let left = |row: u64, on: u32| on < timeline && !before.before.contains(&row);
        let gone = rows.iter().filter(|(row, on)| left(**row, **on) && **row > after.last);
        let gone = gone.map(|(row, _)| *row).collect();
        rows.retain(|row, on| !left(*row, *on));
        gone
    }

    /// What is wrong with the rows that a host has, if anything is: `gone` must not be there.
    ///
    /// # Errors
    /// When there is: what.
    pub fn compare(&self, cluster: &HostsCluster, host: &str, gone: &BTreeSet<u64>) -> Result<(), String> {
        let answer = cluster.sql(host, "SELECT n FROM ledger");
        if answer.code != 0 {
            return Err(format!("{host} does not answer: {}", answer.stderr.trim()));
        }
        let rows: BTreeSet<u64> = answer.stdout.lines().filter_map(|line| line.trim().parse().ok()).collect();
        let wanted = self.acknowledged();
        let lost: Vec<_> = wanted.iter().filter(|(row, _)| !rows.contains(row)).collect();
        let risen: Vec<_> = rows.intersection(gone).collect();
        if lost.is_empty() && risen.is_empty() {
            return Ok(());
        }
        let first = |all: &[String]| all.iter().take(10).cloned().collect::<Vec<_>>().join(" ");
        let lost: Vec<String> = lost.iter().map(|(row, on)| format!("{row}(timeline {on})")).collect();
        let risen: Vec<String> = risen.iter().map(ToString::to_string).collect();
        Err(format!(
            "{host} has {} rows and lacks {} of {} acknowledged ones: {}; it has {} that the restore leaves out: {}",
            rows.len(),
            lost.len(),
            wanted.len(),
            first(&lost),
            risen.len(),
            first(&risen)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_takes_what_came_after_its_point_on_an_older_timeline_and_nothing_else() {
        let ledger = Ledger::default();
        let acknowledge = |row: u64, timeline| {
            ledger.last.store(row, Ordering::Relaxed);
            let _ = ledger.acknowledged().insert(row, timeline);
        };
        acknowledge(1, 1);
        let before = ledger.moment();
        acknowledge(2, 1);
        // Asked for before the second moment, acknowledged after it.
        ledger.last.store(3, Ordering::Relaxed);
        let after = ledger.moment();
        acknowledge(3, 1);
        acknowledge(4, 1);
        acknowledge(5, 2);
        assert_eq!(ledger.restored(&before, &after, 2), BTreeSet::from([4]));
        assert_eq!(ledger.acknowledged().keys().copied().collect::<Vec<_>>(), [1, 5]);
    }
}
