//! Clusters of three with quorum commit, and a ledger of the rows that they acknowledged.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cellar_tests::{Cluster, Instance, OsUser, as_user, eventually, postgres_user, wait_for};
use serde_json::Value;

pub(crate) const CELLS: [&str; 3] = ["zone1", "zone2", "zone3"];

/// How long a write may take before its writer gives it up. Whether it was committed is then not known.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a failover may take on a busy machine. It takes three to four seconds.
pub(crate) const FAILOVER_TIMEOUT: Duration = Duration::from_secs(40);

/// A failover that is not to happen would have happened within this.
pub(crate) const NO_FAILOVER: Duration = Duration::from_secs(12);

/// An acknowledged row: who acknowledged it, and when.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: u64,
    pub(crate) cell: &'static str,
    pub(crate) at: Instant,
}

/// Writers that try every member all the time, also one that should not take writes: whatever any of them acknowledges must
/// be there in the end.
pub(crate) struct Ledger {
    rows: Arc<Mutex<Vec<Row>>>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

impl Ledger {
    #[track_caller]
    pub(crate) fn begin(cluster: &Cluster) -> Self {
        cluster.sql(&cluster.primary(), "CREATE TABLE ledger (id bigint PRIMARY KEY)");
        let (rows, stop) = (Arc::<Mutex<Vec<Row>>>::default(), Arc::new(AtomicBool::new(false)));
        let mut ledger = Self { rows, stop, writers: Vec::new() };
        CELLS.iter().for_each(|cell| ledger.write_at(cluster, cell));
        ledger
    }

    /// Another writer, at that cell.
    pub(crate) fn write_at(&mut self, cluster: &Cluster, cell: &'static str) {
        let (rows, stop) = (Arc::clone(&self.rows), Arc::clone(&self.stop));
        let (instance, user) = (cluster.instance(cell), postgres_user());
        let write = move |id: u64| psql(&instance, &user, &format!("INSERT INTO ledger VALUES ({id})"));
        let mut id = (self.writers.len() as u64 + 1) * 1_000_000;
        self.writers.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                id += 1;
                if succeeds(write(id)) {
                    let row = Row { id, cell, at: Instant::now() };
                    rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }));
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a member, of those that are given, acknowledges a row from now on. Who it was.
    #[track_caller]
    pub(crate) fn wait_for_write(&self, cells: &[&str]) -> &'static str {
        let begun = Instant::now();
        wait_for(&format!("a row to be acknowledged by one of {cells:?}"), FAILOVER_TIMEOUT, || {
            let rows = self.rows();
            rows.iter().find(|row| row.at > begun && cells.contains(&row.cell)).map(|row| row.cell)
        })
    }

    /// How many rows were acknowledged since.
    pub(crate) fn since(&self, begun: Instant) -> usize {
        self.rows().iter().filter(|row| row.at > begun).count()
    }

    /// What was acknowledged since then is lost, and a person has accepted that.
    pub(crate) fn forget(&self, since: Instant) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.retain(|row| row.at < since);
    }

    /// Ends the writers. Every acknowledged row is in the primary, and in every standby.
    #[track_caller]
    pub(crate) fn check(mut self, cluster: &Cluster) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            writer.join().expect("a writer");
        }
        let rows = self.rows();
        assert!(!rows.is_empty());
        let primary = cluster.primary();
        let there: BTreeSet<u64> = cluster
            .sql(&primary, "SELECT id FROM ledger")
            .lines()
            .map(|line| line.parse().expect("a number"))
            .collect();
        let lost: Vec<&Row> = rows.iter().filter(|row| !there.contains(&row.id)).collect();
        assert!(
            lost.is_empty(),
            "{} of {} acknowledged rows are not in {primary}: {lost:?}",
            lost.len(),
            rows.len()
        );
        let cells = cluster.poolers().into_iter().filter_map(|view| Some(view.pooler?.cell));
        for cell in cells.filter(|cell| *cell != primary) {
            eventually(&format!("all rows to be in {cell}"), || {
                let finished = cluster.try_sql(&cell, "SELECT count(*) FROM ledger");
                finished.stdout.trim() == there.len().to_string()
            });
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn psql(instance: &Instance, user: &OsUser, statement: &str) -> Command {
    let mut command = as_user(user, "psql");
    command.args(["-h", &instance.sockets, "-p", &instance.port.to_string(), "-d", "postgres"]);
    command.args(["-XAtqc", statement]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Whether a statement is acknowledged; after two seconds it is given up. No timeout of PostgreSQL ends a commit that waits.
pub(crate) fn is_acknowledged(cluster: &Cluster, cell: &str, statement: &str) -> bool {
    succeeds(psql(&cluster.instance(cell), &postgres_user(), statement))
}

/// Whether a command ends with success in time; it is killed after that.
pub(crate) fn succeeds(mut command: Command) -> bool {
    let Ok(mut child) = command.spawn() else { return false };
    let deadline = Instant::now() + WRITE_TIMEOUT;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

/// A cluster of three with quorum commit.
#[track_caller]
pub(crate) fn with_quorum() -> Cluster {
    let cluster = Cluster::up("zone1,zone2,zone3");
    cluster.cellar(&["durability", "quorum"]);
    cluster
}

pub(crate) fn leadership(cluster: &Cluster) -> Value {
    cluster.json(&["durability"])["leader"]["leadership"].clone()
}

pub(crate) fn term(cluster: &Cluster) -> u64 {
    leadership(cluster)["term"].as_u64().expect("a term")
}

/// Waits until all three are in the cohort again, and nothing of a change is left.
#[track_caller]
pub(crate) fn wait_for_cohort(cluster: &Cluster) {
    wait_for_members(cluster, 3);
}

/// The same with so many members.
#[track_caller]
pub(crate) fn wait_for_members(cluster: &Cluster, count: usize) {
    wait_for(&format!("a cohort of {count}"), Duration::from_secs(120), || {
        let leadership = leadership(cluster);
        let rules = leadership["rules"].as_array()?;
        let is_whole = rules.len() == 1 && rules[0]["cohort"].as_object()?.len() == count;
        (is_whole && leadership["phase"] == "LEADERSHIP_PHASE_STEADY").then_some(())
    });
}

pub(crate) fn others<'a>(of: &str) -> Vec<&'a str> {
    CELLS.iter().copied().filter(|cell| *cell != of).collect()
}
