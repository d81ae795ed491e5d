//! A cluster with one table, restores of it, and what must hold when one has ended.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_tests::{Cluster, eventually, processes_with, wait_for, wait_until};
use serde_json::Value;

use crate::ledger::{self, wait_for_primary};

/// Longest wait for a moment of a restore.
pub(super) const MOMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// What the table holds: how many rows, and the sum of their numbers.
pub(super) fn rows(cluster: &Cluster, cell: &str) -> String {
    cluster.sql(cell, "SELECT count(*) || ' ' || coalesce(sum(i), 0) FROM t")
}

pub(super) fn cells(cluster: &Cluster) -> Vec<String> {
    cluster.poolers().into_iter().filter_map(|view| Some(view.pooler?.cell)).collect()
}

pub(super) fn directory(cluster: &Cluster, cell: &str) -> PathBuf {
    cluster.directory().join(cell)
}

/// Directories of a cell whose names begin with `pg_data`.
pub(super) fn data_directories(cluster: &Cluster, cell: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory(cluster, cell)).expect("a cell's directory");
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("pg_data")).collect();
    names.sort();
    names
}

pub(super) fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

pub(super) fn incarnation(cluster: &Cluster) -> Value {
    serde_json::from_str(&cluster.etcd_get("/cellar/demo/incarnations/app")).unwrap_or(Value::Null)
}

pub(super) fn number(cluster: &Cluster) -> u64 {
    incarnation(cluster)["number"].as_u64().unwrap_or(1)
}

/// A step of a driven job, as etcd has it: multiadmin need not answer.
#[track_caller]
pub(super) fn recorded_step(cluster: &Cluster, id: &str, kind: &str, cell: &str) -> String {
    let records = cluster.etcd_dump();
    let jobs = records.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut steps = jobs.filter(|job| job["parent"] == id && job["cell"] == cell);
    let step = steps.find(|job| job["kind"] == format!("JOB_KIND_{kind}"));
    let id = step.as_ref().and_then(|job| job["id"].as_str());
    id.unwrap_or_else(|| panic!("no {kind} of {cell} in\n{records}")).to_owned()
}

/// A restore under way, and what the table may hold when it has ended.
pub(super) struct Restore {
    pub(super) id: String,
    /// Rows at the target.
    pub(super) at: String,
    /// Rows when it began.
    pub(super) all: String,
    /// The incarnation when it began.
    pub(super) number: u64,
    /// The cell that had the primary.
    pub(super) cell: String,
}

/// Some rows, a moment, some more rows: a restore to the moment is begun.
pub(super) fn begin(cluster: &Cluster) -> Restore {
    let cell = cluster.primary();
    cluster.sql(&cell, "INSERT INTO t SELECT generate_series(1, 100)");
    let at = rows(cluster, &cell);
    let time = ledger::now(cluster);
    cluster.sql(&cell, "INSERT INTO t SELECT generate_series(1000, 1100)");
    begin_to(cluster, &["--to-time", &time], at)
}

pub(super) fn begin_to(cluster: &Cluster, target: &[&str], at: String) -> Restore {
    let cell = cluster.primary();
    let (all, number) = (rows(cluster, &cell), number(cluster));
    let job = cluster.json(&[&["restore"], target, &["--yes", "--no-wait"]].concat());
    let id = job["id"].as_str().expect("a job").to_owned();
    Restore { id, at, all, number, cell }
}

pub(super) fn begin_rollback(cluster: &Cluster, of: &Restore) -> Restore {
    let cell = cluster.primary();
    let (all, number) = (rows(cluster, &cell), number(cluster));
    let job = cluster.json(&["restore", "rollback", &of.id, "--yes", "--no-wait"]);
    let id = job["id"].as_str().expect("a job").to_owned();
    Restore { id, at: of.all.clone(), all, number, cell }
}

/// A cluster with an empty table.
pub(super) fn cluster(names: &str) -> Cluster {
    let cluster = Cluster::up(names);
    cluster.sql("zone1", "CREATE TABLE t (i int)");
    cluster
}

/// Exactly one member is a primary, all others stream from it, and everybody has these rows.
pub(super) fn check_members(cluster: &Cluster, expected: &str) {
    let primary = cluster.primary();
    let all = cells(cluster);
    // The primary first: a row that it lacks is lost, and no standby will ever have it.
    assert_eq!(rows(cluster, &primary), expected, "in the primary {primary}");
    for cell in all.iter().filter(|cell| **cell != primary) {
        cluster.wait_streaming(cell);
        wait_until(&format!("the rows of {primary} in {cell}, {expected:?}"), MOMENT_TIMEOUT, || {
            let seen = cluster.try_sql(cell, "SELECT count(*) || ' ' || coalesce(sum(i), 0) FROM t");
            if seen.stdout.trim() == expected { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }
    for cell in &all {
        let recovers = cluster.sql(cell, "SELECT pg_is_in_recovery()");
        assert_eq!(recovers, if *cell == primary { "f" } else { "t" }, "{cell}, where {primary} is recorded");
    }
}

/// The directories of every cell become these, and nothing private is left.
pub(super) fn check_files(cluster: &Cluster, id: &str, expected: &[String]) {
    for cell in cells(cluster) {
        let mut seen = Vec::new();
        let tidy = || {
            seen = data_directories(cluster, &cell);
            (seen == expected && is_empty(&directory(cluster, &cell).join("tmp"))).then_some(())
        };
        wait_for(
            &format!("{cell} to hold {expected:?} and no private directory"),
            Duration::from_secs(30),
            tidy,
        );
    }
    eventually("no process of the copy to be left", || {
        processes_with("postgres", &format!("restored-{id}")).is_empty()
            && processes_with("pgbackrest", &format!("restored-{id}")).is_empty()
    });
}

/// The job's end is checked against everything that can be seen. True when it took effect.
pub(super) fn check_end(cluster: &Cluster, restore: &Restore) -> bool {
    let job = cluster.ended(&restore.id);
    let succeeded = job["state"] == "JOB_STATE_SUCCEEDED";
    let record = incarnation(cluster);
    assert_eq!(record["fence"], Value::Null, "{record}");
    if succeeded {
        assert_eq!(number(cluster), restore.number + 1, "{record}");
        assert_eq!(record["job"], restore.id.as_str(), "{record}");
        assert_eq!(job["result"]["restore"]["incarnation"], restore.number + 1, "{job:#}");
        assert_eq!(cluster.primary(), job["result"]["restore"]["cell"].as_str().unwrap(), "{job:#}");
        check_members(cluster, &restore.at);
        let mut expected = vec!["pg_data".to_owned()];
        if job["kind"] == "JOB_KIND_RESTORE" {
            expected.push(format!("pg_data.before-{}", restore.id));
        }
        check_files(cluster, &restore.id, &expected);
    } else {
        assert_eq!(job["state"], "JOB_STATE_FAILED", "{job:#}");
        let message = job["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("the database is as it was before"), "{job:#}");
        assert_ne!(job["error"]["code"], "INTERNAL", "{job:#}");
        assert_eq!(number(cluster), restore.number, "{record}");
        assert_eq!(cluster.primary(), restore.cell, "{job:#}");
        // The fence goes with the job's end; only then is the primary started again.
        wait_for_primary(cluster);
        check_members(cluster, &restore.all);
        let kept = restore.kept_before(cluster);
        check_files(cluster, &restore.id, &kept);
    }
    succeeded
}

impl Restore {
    /// What a failed one must leave: the old copy of an earlier restore, if there is one.
    pub(super) fn kept_before(&self, cluster: &Cluster) -> Vec<String> {
        let mut expected = vec!["pg_data".to_owned()];
        let record = incarnation(cluster);
        if record["keptIn"].is_string() {
            expected.push(format!("pg_data.before-{}", record["job"].as_str().expect("a job")));
        }
        expected
    }

    pub(super) fn copy(&self, cluster: &Cluster) -> PathBuf {
        directory(cluster, &self.cell).join(format!("pg_data.restored-{}", self.id))
    }
}

pub(super) fn succeeds(cluster: &Cluster, restore: &Restore) {
    assert!(check_end(cluster, restore), "it had to take effect: {:#}", cluster.job(&restore.id));
}

/// Ends FAILED with this code, and nothing has changed.
pub(super) fn fails(cluster: &Cluster, restore: &Restore, code: &str) {
    assert!(!check_end(cluster, restore), "it had to fail: {:#}", cluster.job(&restore.id));
    let job = cluster.job(&restore.id);
    assert_eq!(job["error"]["code"], code, "{job:#}");
}

pub(super) fn confirm(cluster: &Cluster, restore: &Restore) {
    cluster.cellar(&["restore", "confirm", &restore.id, "--yes"]);
    check_files(cluster, &restore.id, &["pg_data".to_owned()]);
}
