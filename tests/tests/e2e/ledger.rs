//! A table whose rows are known one by one, and what a restore is asked to bring back of it.

use std::path::PathBuf;
use std::time::Duration;

use cellar_tests::{Cluster, HOLD_TIMEOUT, eventually, has_word, wait_until};
pub(crate) use cellar_tests::{hold, release};
use serde_json::Value;

/// How long a standby that streams may take to have what the primary has.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// How a row is shown: its number and its text.
const SHOWN: &str = "id || ' ' || what";

/// The rows, oldest first.
pub(crate) type Rows = Vec<String>;
/// Makes the table in the primary.
#[track_caller]
pub(crate) fn create(cluster: &Cluster) {
    cluster.sql(&cluster.primary(), "CREATE TABLE ledger (id serial PRIMARY KEY, what text NOT NULL)");
}

/// Commits one row in the primary; the row.
#[track_caller]
pub(crate) fn insert(cluster: &Cluster, what: &str) -> String {
    let primary = cluster.primary();
    cluster.sql(&primary, &format!("INSERT INTO ledger (what) VALUES ('{what}') RETURNING {SHOWN}"))
}

/// Waits until the primary takes writes again, which a fence may have stopped.
#[track_caller]
pub(crate) fn wait_for_primary(cluster: &Cluster) {
    eventually("the primary to take writes", || {
        cluster.try_sql(&cluster.primary(), "SELECT pg_is_in_recovery()").stdout.trim() == "f"
    });
}

/// The rows that one cell has.
#[track_caller]
pub(crate) fn rows(cluster: &Cluster, cell: &str) -> Rows {
    let text = cluster.sql(cell, &format!("SELECT {SHOWN} FROM ledger ORDER BY id"));
    text.lines().map(str::to_owned).collect()
}

/// The time at the primary, in UTC with microseconds, as `2026-03-01T10:15:00.123456Z`. Every backup that has ended can
/// lead to it: the repository knows only the second in which one ended, so the time is in a later one.
#[track_caller]
pub(crate) fn now(cluster: &Cluster) -> String {
    let primary = cluster.primary();
    cluster.sql(
        &primary,
        "SELECT pg_sleep_until(date_trunc('second', clock_timestamp()) + interval '1 second')",
    );
    cluster.sql(
        &primary,
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    )
}

/// The recorded primary takes writes and has exactly these rows, and so has every other one of `cells` as a standby
/// that streams.
#[track_caller]
pub(crate) fn check(cluster: &Cluster, cells: &[&str], expected: &[String]) {
    let primary = cluster.primary();
    assert!(cells.contains(&primary.as_str()), "the primary is {primary}");
    for cell in cells.iter().copied() {
        if cell == primary {
            assert_eq!(cluster.sql(cell, "SELECT pg_is_in_recovery()"), "f", "{cell}");
            assert_eq!(rows(cluster, cell), expected, "in the primary {cell}");
            continue;
        }
        cluster.wait_streaming(cell);
        assert_eq!(cluster.sql(cell, "SELECT pg_is_in_recovery()"), "t", "{cell}");
        // It may have to receive the newest.
        wait_until(&format!("the rows in the standby {cell}"), RECEIVE_TIMEOUT, || {
            let seen = rows(cluster, cell);
            if seen == expected { Ok(()) } else { Err(format!("{seen:?} instead of {expected:?}")) }
        });
    }
}

/// The primary archives: a segment that it ends now comes into the repo. Its name.
#[track_caller]
pub(crate) fn archives(cluster: &Cluster) -> String {
    let primary = cluster.primary();
    // A position just before the switch, so that it names the segment that ends.
    let segment = cluster.sql(
        &primary,
        "SELECT pg_walfile_name(pg_create_restore_point('archives')); SELECT pg_switch_wal() IS NULL",
    );
    let segment = segment.lines().next().expect("a name").to_owned();
    eventually(&format!("{segment} to be archived"), || archived(cluster, &segment).is_some());
    eventually("the archiver to say so", || {
        let last = cluster.sql(&primary, "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver");
        last >= segment
    });
    segment
}

/// A WAL segment's file in the repo.
pub(crate) fn archived(cluster: &Cluster, segment: &str) -> Option<PathBuf> {
    let archive = cluster.directory().join("repo/archive/app");
    let ids = std::fs::read_dir(archive).ok()?.flatten().filter(|entry| entry.path().is_dir());
    let here = |entry: &std::fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|name| name.starts_with(&format!("{segment}-")))
    };
    let folders = ids.map(|id| id.path().join(&segment[..16]));
    folders
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .flatten()
        .find(here)
        .map(|f| f.path())
}

/// Ends the segment that the primary writes, and waits until it is archived. Its name.
#[track_caller]
pub(crate) fn next_segment(cluster: &Cluster) -> String {
    archives(cluster)
}

/// `cellar restore`, which must succeed; the ended job.
#[track_caller]
pub(crate) fn restore(cluster: &Cluster, arguments: &[&str]) -> Value {
    let job = cluster.json(&[&["restore", "--yes"], arguments].concat());
    assert_eq!(job["kind"], "JOB_KIND_RESTORE", "{job:#}");
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    job
}

/// `cellar restore rollback`, which must succeed; the ended job.
#[track_caller]
pub(crate) fn rollback(cluster: &Cluster, job: &Value) -> Value {
    let ended = cluster.json(&["restore", "rollback", id(job), "--yes"]);
    assert_eq!(ended["kind"], "JOB_KIND_ROLLBACK", "{ended:#}");
    assert_eq!(ended["state"], "JOB_STATE_SUCCEEDED", "{ended:#}");
    ended
}

/// `cellar restore --no-wait`; the job's id.
#[track_caller]
pub(crate) fn begin_restore(cluster: &Cluster, arguments: &[&str]) -> String {
    let job = cluster.json(&[&["restore", "--yes", "--no-wait"], arguments].concat());
    id(&job).to_owned()
}

/// `cellar restore --plan`, which must succeed; the plan.
#[track_caller]
pub(crate) fn plan(cluster: &Cluster, arguments: &[&str]) -> Value {
    let job = cluster.json(&[&["restore", "--plan"], arguments].concat());
    assert_eq!(job["kind"], "JOB_KIND_PLAN", "{job:#}");
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    job["result"]["plan"].clone()
}

/// A job's id.
#[track_caller]
pub(crate) fn id(job: &Value) -> &str {
    job["id"].as_str().expect("an id")
}

/// What `cellar restore` tells about a restore's end.
pub(crate) fn result(job: &Value) -> &Value {
    &job["result"]["restore"]
}

/// The label of a backup's job.
#[track_caller]
pub(crate) fn label(job: &Value) -> String {
    job["result"]["backup"]["label"].as_str().expect("a label").to_owned()
}

/// What lies beside the data directory of a cell: copies that are made, data that is kept.
pub(crate) fn beside(cluster: &Cluster, cell: &str) -> Vec<String> {
    let entries = std::fs::read_dir(cluster.directory().join(cell)).expect("a cell has a directory");
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut beside: Vec<String> = names.filter(|name| name.starts_with("pg_data.")).collect();
    // What a job works in is gone with it.
    let scratch =
        std::fs::read_dir(cluster.directory().join(cell).join("tmp")).into_iter().flatten().flatten();
    beside.extend(scratch.map(|entry| format!("tmp/{}", entry.file_name().display())));
    beside.sort();
    beside
}

/// A restore that has begun to copy and is stopped there: pgBackRest's processes.
#[track_caller]
pub(crate) fn hold_copying(job: &str) -> Vec<i32> {
    let needle = format!("pg_data.restored-{job}");
    hold("the restore to copy", HOLD_TIMEOUT, |pid| has_word(pid, &needle), || true)
}

/// A backup that has begun to copy and is stopped there: its job, and pgBackRest's processes.
#[track_caller]
pub(crate) fn hold_backup(cluster: &Cluster, cell: &str, backup_type: &str) -> (String, Vec<i32>) {
    let id = cluster.begin_backup(cell, backup_type);
    let held = cluster.hold_backup(cell, &id);
    (id, held)
}

/// The step of a restore of one kind that is told first.
#[track_caller]
pub(crate) fn step<'a>(job: &'a Value, kind: &str) -> &'a Value {
    let steps = job["steps"].as_array().expect("steps");
    steps.iter().find(|step| step["kind"] == format!("JOB_KIND_{kind}")).expect("a step")
}
