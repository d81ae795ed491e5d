//! One cluster, its writers, and round after round.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cellar_tests::{
    Cluster, Instance, Place, Row, TABLE, Writers, all_there, overlap, run, signal, wait_until,
};
use nix::sys::signal::Signal;

use crate::fault::{Beside, Fault};
use crate::results::Outcome;

pub(crate) const CELLS: [&str; 3] = ["zone1", "zone2", "zone3"];

/// The writer through HAProxy is the first one.
const ROUTED: usize = 0;

/// From one of its writes to the next.
const PACE: Duration = Duration::from_millis(10);

/// From one write past the route to the next, at each member all the time: most of them are refused.
const DIRECT_PACE: Duration = Duration::from_millis(50);

/// Writes are back within this, whatever the matter is, or something is wrong.
const WRITES_TIMEOUT: Duration = Duration::from_secs(120);

/// All three stream again within this, also when one has to be restored from a backup.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(240);

/// All rows are in every standby within this.
const ROWS_TIMEOUT: Duration = Duration::from_secs(60);

/// A term that was steady for this long has held, and the next failover waits for nothing.
const HELD: Duration = Duration::from_secs(31);

/// A cluster under load.
pub(crate) struct Soak {
    pub(crate) cluster: Cluster,
    pub(crate) instances: Vec<(&'static str, Instance)>,
    writers: Writers,
    /// The row by which the newest timeline became known.
    newest: Option<Row>,
    /// Every row that was acknowledged before this round.
    earlier: Vec<u64>,
    /// Since when the leader's record, which a member that joins again changes too, is as it is.
    changed: Instant,
}

/// What a fault did.
struct Struck {
    since: Instant,
    /// The first write through the route that was asked for and acknowledged after it.
    first: Row,
}

impl Soak {
    /// A cluster of three with quorum commit and HAProxy, which is written to.
    #[track_caller]
    pub(crate) fn begin() -> Self {
        let cluster = Cluster::with_quorum_and_route(&CELLS);
        let changed = Instant::now();
        let application = cluster.application();
        let _ = run(application.routed("psql").args(["-XAtqw", "-c", TABLE])).ok();
        let mut places = vec![Place { psql: Box::new(move || application.routed("psql")), pace: PACE }];
        for cell in CELLS {
            places.push(Place { psql: Box::new(cluster.app_psql(cell)), pace: DIRECT_PACE });
        }
        let instances = CELLS.map(|cell| (cell, cluster.instance(cell))).to_vec();
        let writers = Writers::start(places);
        Self { cluster, instances, writers, newest: None, earlier: Vec::new(), changed }
    }

    fn cell_of(&self, row: &Row) -> &'static str {
        let found = self.instances.iter().find(|(_, instance)| instance.port == u32::from(row.server.port));
        match found {
            Some((cell, _)) => cell,
            None => panic!("nobody has the port of {row:?}"),
        }
    }

    #[track_caller]
    fn write_after(&self, since: Instant, by: impl Fn(&Row) -> bool) -> Row {
        match self.writers.first(ROUTED, since, by, WRITES_TIMEOUT) {
            Some(row) => row,
            None => panic!("no write through the routed port within {WRITES_TIMEOUT:?}"),
        }
    }

    /// Plays a round: the cluster is whole before and afterwards.
    #[track_caller]
    pub(crate) fn round(
        &mut self,
        (seed, round): (u64, u32),
        (fault, beside): (Fault, Beside),
        chance: &mut fastrand::Rng,
    ) -> Outcome {
        if beside != Beside::Soon {
            sleep((self.changed + HELD).saturating_duration_since(Instant::now()));
        }
        let before = self.write_after(Instant::now(), |_| true);
        let from = self.cell_of(&before);
        if beside == Beside::Standby {
            let standbys: Vec<&str> = CELLS.into_iter().filter(|cell| *cell != from).collect();
            let _ = self.cluster.kill_at_once(&[self.cluster.postmaster(standbys[chance.usize(..2)])]);
            sleep(Duration::from_millis(chance.u64(..3000)));
        }
        let Struck { since, first } = self.strike(fault, beside, &before, chance);
        let back = match fault {
            Fault::Switchover => self.writers.longest_wait(ROUTED, since, first.acknowledged),
            _ => first.acknowledged - since,
        };
        let is_away = matches!(fault, Fault::Cell | Fault::PoolerAndPostgres);
        if is_away && beside != Beside::Early {
            sleep(Duration::from_millis(chance.u64(..3000)));
        }
        self.cluster.cellar(&["up"]);
        self.cluster.wait_whole(&CELLS, WHOLE_TIMEOUT);
        let whole = Instant::now();
        let later = self.writers.longest_wait(ROUTED, first.acknowledged, whole);
        let last = self.write_after(Instant::now(), |_| true);
        self.changed = whole;
        let rows = self.check();
        Outcome {
            seed,
            round,
            fault,
            beside,
            millis: in_millis(back),
            later_millis: in_millis(later),
            whole_millis: in_millis(whole - since),
            from: from.to_owned(),
            to: self.cell_of(&last).to_owned(),
            rows,
            load: load(),
        }
    }

    #[track_caller]
    fn strike(&self, fault: Fault, beside: Beside, before: &Row, chance: &mut fastrand::Rng) -> Struck {
        let from = self.cell_of(before);
        let after = |since| self.write_after(since, |_| true);
        if fault == Fault::Switchover {
            let since = Instant::now();
            self.cluster.cellar(&["switchover"]);
            return Struck { since, first: after(Instant::now()) };
        }
        let pids = match fault {
            Fault::Postmaster => vec![self.cluster.postmaster(from)],
            Fault::PoolerAndPostgres => {
                let helpers = cellar_tests::processes_with("pgbackrest", "server");
                self.cluster
                    .processes_of_cell(from)
                    .into_iter()
                    .filter(|pid| !helpers.contains(pid))
                    .collect()
            }
            _ => self.cluster.processes_of_cell(from),
        };
        let etcd = (beside == Beside::Etcd).then(|| self.cluster.stop_etcd(Signal::SIGKILL));
        let since = if fault == Fault::Frozen {
            let since = Instant::now();
            pids.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
            since
        } else {
            self.cluster.kill_at_once(&pids)
        };
        let done = Instant::now();
        if let Some(etcd) = etcd {
            sleep(Duration::from_millis(chance.u64(1000..6000)));
            self.cluster.start_etcd(etcd);
        }
        let away = Duration::from_millis(chance.u64(..8000));
        let is_early = beside == Beside::Early;
        if is_early {
            sleep((done + away).saturating_duration_since(Instant::now()));
            if fault != Fault::Frozen {
                self.cluster.cellar(&["up"]);
            }
        }
        let first = match fault {
            Fault::Frozen if is_early => {
                pids.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
                after(done)
            }
            Fault::Frozen => {
                let first = after(done);
                sleep(away);
                pids.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
                first
            }
            // A session of the one that was killed may end its statement before it notices.
            _ => self.write_after(done, |row| row.server != before.server),
        };
        Struck { since, first }
    }

    /// Every row that was acknowledged is in every member, and no two members acknowledged at a time. How many were new.
    #[track_caller]
    fn check(&mut self) -> usize {
        let until = Instant::now();
        let mut rows = self.writers.acknowledged();
        rows.retain(|row| row.acknowledged <= until);
        self.writers.forget(until);
        let known: Vec<Row> = self.newest.iter().chain(&rows).copied().collect();
        if let Some(what) = overlap(&known) {
            panic!("two members acknowledged at a time: {what}");
        }
        self.newest =
            known.into_iter().max_by_key(|row| (row.server.timeline, std::cmp::Reverse(row.acknowledged)));
        let ranges: BTreeSet<String> = rows
            .iter()
            .map(|row| row.writer)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(|writer| {
                let of = || rows.iter().filter(|row| row.writer == writer).map(|row| row.id);
                format!("id BETWEEN {} AND {}", of().min().unwrap_or(0), of().max().unwrap_or(0))
            })
            .collect();
        let ranges = ranges.into_iter().collect::<Vec<_>>().join(" OR ");
        let ask =
            format!("SELECT (SELECT count(*) FROM ledger) UNION ALL SELECT id FROM ledger WHERE {ranges}");
        for cell in CELLS {
            wait_until(&format!("the acknowledged rows in {cell}"), ROWS_TIMEOUT, || {
                let (count, there) = self.ids(cell, &ask)?;
                all_there(&rows, &there)?;
                let wanted = self.earlier.len() + rows.len();
                if count < wanted { Err(format!("{count} rows of {wanted} or more")) } else { Ok(()) }
            });
        }
        self.earlier.extend(rows.iter().map(|row| row.id));
        rows.len()
    }

    /// The first number and the others that a query of a cell gives.
    fn ids(&self, cell: &str, query: &str) -> Result<(usize, BTreeSet<u64>), String> {
        let answer = self.cluster.try_app_sql(cell, query);
        let mut numbers = answer.stdout.lines().map(str::parse::<u64>);
        match numbers.next() {
            Some(Ok(first)) if answer.code == 0 => {
                let rest = numbers.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
                Ok((usize::try_from(first).unwrap_or(usize::MAX), rest))
            }
            _ => Err(answer.stderr),
        }
    }

    /// Ends the writers. Every row that was ever acknowledged is in every member; how many there were.
    #[track_caller]
    pub(crate) fn end(mut self) -> usize {
        let _ = self.check();
        let all = std::mem::take(&mut self.earlier);
        for cell in CELLS {
            let (_, there) = match self.ids(cell, "SELECT 0 UNION ALL SELECT id FROM ledger") {
                Ok(ids) => ids,
                Err(why) => panic!("{cell}: {why}"),
            };
            let lost = all.iter().filter(|id| !there.contains(id)).count();
            assert_eq!(lost, 0, "of {} acknowledged rows are not in {cell}", all.len());
        }
        all.len()
    }
}

fn in_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The machine's load of the last minute.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}
