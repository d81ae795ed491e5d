//! A copy that is recovered or checked is sealed off: it reaches nothing outside its own directories, and nothing that
//! the database's own configuration says has an effect on it.

use std::path::{Path, PathBuf};
use std::process::Command;

use cellar_tests::{Cluster, eventually, run};
use serde_json::Value;

/// As it ends soonest.
const HASTE: [&str; 4] = ["--nice", "0", "--max-rate", "0"];

/// A directory for a tablespace, that PostgreSQL's user owns.
fn place(cluster: &Cluster, name: &str) -> PathBuf {
    let place = cluster.directory().join(name);
    let owner = cluster.directory().join("zone1");
    let mut make = Command::new("install");
    make.args(["-d", "-m", "700"]).arg(&place);
    let _ = run(&mut make).ok();
    let mut give = Command::new("chown");
    give.arg(format!("--reference={}", owner.join("pg_data").display())).arg(&place);
    let _ = run(&mut give).ok();
    place
}

/// Waits until everything that was written so far is in the archive.
fn archive(cluster: &Cluster) {
    let last = cluster.sql("zone1", "SELECT pg_walfile_name(pg_switch_wal())");
    eventually("what was written to be archived", || {
        cluster.sql("zone1", "SELECT last_archived_wal FROM pg_stat_archiver") >= last
    });
}

fn drill(cluster: &Cluster, arguments: &[&str]) -> Value {
    let _ = cluster.try_cellar(&[&["drill"][..], &HASTE, arguments].concat());
    newest_job(cluster)
}

fn newest_job(cluster: &Cluster) -> Value {
    let jobs = cluster.json(&["jobs", "list"]);
    let id = jobs["jobs"][0]["id"].as_str().expect("a job").to_owned();
    cluster.job(&id)
}

/// Everything below a directory with the time of its last change.
fn picture(directory: &Path) -> Vec<(PathBuf, std::time::SystemTime)> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
            let metadata = entry.metadata().expect("metadata");
            found.push((entry.path(), metadata.modified().expect("a time")));
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// The rows of table `t` that a restart reads from disk.
fn rows_after_restart(cluster: &Cluster) -> String {
    let postmaster = cluster.postmaster("zone1");
    let _ = run(Command::new("kill").args(["-INT", &postmaster.to_string()])).ok();
    eventually("PostgreSQL to be started again", || {
        let text = std::fs::read_to_string(cluster.directory().join("zone1/pg_data/postmaster.pid"));
        let pid = text.ok().and_then(|text| text.lines().next()?.trim().parse::<i32>().ok());
        pid.is_some_and(|pid| pid != postmaster) && cluster.try_sql("zone1", "SELECT 1").code == 0
    });
    cluster.sql("zone1", "SELECT string_agg(v || '=' || n, ',' ORDER BY v) FROM (SELECT v, count(*) AS n FROM t GROUP BY v) s")
}

#[test]
fn drill_never_writes_to_a_tablespace_that_was_made_after_the_backup() {
    let cluster = Cluster::up("zone1");
    let place = place(&cluster, "made-after");
    let sql = |sql: &str| cluster.sql("zone1", sql);
    sql(&format!("CREATE TABLESPACE ts1 LOCATION '{}'", place.display()));
    sql("CREATE TABLE t (id int, v text) WITH (autovacuum_enabled = off) TABLESPACE ts1");
    sql("INSERT INTO t SELECT g, 'a' FROM generate_series(1, 20000) g");
    archive(&cluster);
    sql("INSERT INTO t SELECT g, 'b' FROM generate_series(20001, 40000) g");
    sql("VACUUM FREEZE t");
    sql("CHECKPOINT");
    let before = picture(&place);

    let job = drill(&cluster, &["--on", "zone1"]);
    assert_eq!(job["error"]["code"], "UNSUPPORTED", "{job:#}");
    let message = job["error"]["message"].as_str().expect("a message");
    assert!(message.contains(&place.display().to_string()), "{message}");
    assert_eq!(picture(&place), before, "the drill wrote outside its directory");
    assert_eq!(rows_after_restart(&cluster), "a=20000,b=20000");

    // A restore is refused in its plan, before anything is stopped.
    let refused = cluster.try_cellar(&["restore", "--latest", "--yes"]);
    assert!(refused.code == 3 && refused.stderr.contains("UNSUPPORTED"), "{refused:?}");
    assert!(refused.stderr.contains(&place.display().to_string()), "{refused:?}");

    // A backup that has the tablespace can be drilled: its files are mapped below the drill's directory.
    let _ = cluster.cellar(&["backup", "--from", "zone1", "--allow-primary", "--type", "full"]);
    let before = picture(&place);
    let job = drill(&cluster, &["--on", "zone1", "--check", "SELECT count(*) = 40000 FROM t"]);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    assert_eq!(picture(&place), before, "the drill wrote outside its directory");

    // What was made and dropped again after the backup is in the WAL all the same, and in no catalog.
    let gone = self::place(&cluster, "made-and-dropped");
    sql(&format!("CREATE TABLESPACE ts2 LOCATION '{}'", gone.display()));
    sql("DROP TABLESPACE ts2");
    archive(&cluster);
    let before = picture(&gone);
    let job = drill(&cluster, &["--on", "zone1"]);
    assert_eq!(job["error"]["code"], "UNSUPPORTED", "{job:#}");
    assert_eq!(picture(&gone), before);
}
