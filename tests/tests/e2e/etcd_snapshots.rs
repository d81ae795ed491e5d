//! A snapshot of etcd, and what becomes of a cluster whose etcd is put back to it.

use std::os::unix::fs::PermissionsExt;

use std::time::Duration;

use cellar_api::v1::InstanceState;
use cellar_tests::{Cluster, eventually, kill_hard, wait_for};
use serde_json::Value;

/// Ends etcd alone, hard, and loses its data.
fn lose_etcd(cluster: &Cluster) {
    let etcd = cluster.pid("pid/etcd.pid");
    kill_hard(etcd);
    eventually("etcd to be gone", || !std::path::Path::new(&format!("/proc/{etcd}")).exists());
    std::fs::remove_dir_all(cluster.directory().join("etcd/data")).unwrap();
}

fn names(answer: &Value, field: &str) -> Vec<String> {
    let list = answer[field].as_array().unwrap_or_else(|| panic!("no {field} in {answer}"));
    list.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn lost_etcd_comes_back_from_a_snapshot_with_the_cells_and_data_that_are_there() {
    let cluster = Cluster::up("zone1,zone2");
    let file = cluster.directory().join("etcd.db");
    let file = file.to_str().unwrap();

    let status = cluster.json(&["etcd", "status"]);
    assert_eq!(
        (status["state"].as_str(), status["members"][0]["leads"].as_bool()),
        (Some("well"), Some(true))
    );
    let written = cluster.json(&["etcd", "snapshot", file]);
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let size = std::fs::metadata(file).unwrap().len();
    assert_eq!(written["bytes"], size.to_string());
    assert!(written["revision"].as_str().is_some_and(|revision| revision != "0"), "{written}");
    let kept = cluster.directory().join("snapshots");
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("notes.db"), "").unwrap();
    std::fs::write(kept.join("etcd-demo-20260301T010000Z.db"), "").unwrap();
    let newest = cluster.json(&["etcd", "snapshot", "--keep", "1", kept.to_str().unwrap()]);
    let left = std::fs::read_dir(&kept).unwrap().flatten().map(|entry| entry.path().display().to_string());
    let mut left: Vec<String> = left.collect();
    left.sort();
    assert_eq!(left, [newest["file"].as_str().unwrap(), kept.join("notes.db").to_str().unwrap()]);
    let refused = cluster.try_cellar(&["etcd", "restore", file, "--yes"]);
    assert_eq!(refused.code, 3, "etcd runs: {}", refused.stderr);

    // What the snapshot does not know: a cell, a row, a restore of the database, and a backup.
    cluster.cellar(&["cells", "add", "zone3"]);
    let primary = cluster.primary();
    let _ = cluster.sql(&primary, "CREATE TABLE after_snapshot AS SELECT 7 AS n");
    cluster.cellar(&["restore", "--latest", "--yes"]);
    let primary = cluster.primary();
    assert_eq!(cluster.sql(&primary, "SELECT n FROM after_snapshot").trim(), "7");
    let _ = cluster.sql(&primary, "INSERT INTO after_snapshot VALUES (8)");
    for cell in ["zone1", "zone2", "zone3"] {
        if cell != primary {
            cluster.wait_streaming(cell);
        }
    }
    let backup = cluster.backup("zone3", "full");
    let before = cluster.postmaster(&primary);

    lose_etcd(&cluster);
    assert_eq!(cluster.try_cellar(&["etcd", "status"]).code, 4);
    // A part of a snapshot is none, and nothing is ended for it.
    let part = cluster.directory().join("part.db");
    let whole = std::fs::read(file).unwrap();
    std::fs::write(&part, &whole[..whole.len() - 512]).unwrap();
    let refused = cluster.try_cellar(&["etcd", "restore", part.to_str().unwrap(), "--yes"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    let _ = cluster.pid("pid/multiadmin.pid");

    let restored = cluster.json(&["etcd", "restore", file, "--yes"]);
    assert_eq!(names(&restored, "addedCells"), ["zone3"], "{restored}");
    assert_eq!((restored["incarnation"].as_u64(), &restored["kept"]), (Some(2), &Value::Null), "{restored}");
    assert_eq!(cluster.postmaster(&primary), before, "PostgreSQL goes on");
    cluster.cellar(&["up"]);
    assert_eq!(cluster.primary(), primary);
    assert_eq!(cluster.postmaster(&primary), before, "PostgreSQL goes on");
    for cell in ["zone1", "zone2", "zone3"] {
        if cell != primary {
            cluster.wait_streaming(cell);
        }
        assert_eq!(cluster.sql(cell, "SELECT count(*) FROM after_snapshot").trim(), "2", "{cell}");
    }
    // The repository is where backups are known from.
    let label = backup["result"]["backup"]["label"].as_str().unwrap();
    assert!(cluster.cellar(&["backups", "list"]).contains(label));
    let _ = cluster.backup("zone2", "incr");
    let _ = cluster.backup("zone3", "diff");
    assert_eq!(cluster.json(&["etcd", "status"])["state"], "well");
}

/// With etcd the record of who is the primary is lost, or it is put back to a time when another cell was.
fn replaced_primary_stays_down(has_snapshot: bool) {
    let cluster = Cluster::up("zone1,zone2,zone3");
    let file = cluster.directory().join("etcd.db");
    let file = file.to_str().unwrap();
    let _ = cluster.cellar(&["etcd", "snapshot", file]);
    cluster.sql("zone1", "CREATE TABLE t AS SELECT 1 AS i");
    eventually("zone2 to have the table", || cluster.try_sql("zone2", "TABLE t").code == 0);
    cluster.kill_cell("zone1");
    cluster.sql("zone2", "SELECT pg_promote()");
    eventually("zone2 to be recorded as primary", || cluster.primary() == "zone2");
    eventually("the promotion to be archived", || cluster.archive().join("00000002.history").exists());
    lose_etcd(&cluster);
    if has_snapshot {
        let _ = cluster.cellar(&["etcd", "restore", file, "--yes"]);
    }

    let _ = cluster.try_cellar(&["up", "--timeout", "30s"]);
    let told = || cluster.status("zone1").filter(|status| status.message.contains("promoted to timeline 2"));
    let status = wait_for("zone1 to say why it is not started", Duration::from_secs(90), told);
    assert_eq!(status.state(), InstanceState::Broken, "{status:?}");
    assert_ne!(cluster.try_sql("zone1", "SELECT 1").code, 0, "the old primary runs");
    eventually("zone2 to be recorded as primary", || cluster.primary() == "zone2");
    cluster.sql("zone2", "INSERT INTO t VALUES (2)");
    cluster.wait_streaming("zone3");
    cluster.cellar(&["rebuild", "zone1"]);
    cluster.wait_streaming("zone1");
    eventually("zone1 to have both rows", || cluster.sql("zone1", "SELECT count(*) FROM t") == "2");
}

#[test]
fn primary_that_was_replaced_is_not_started_when_etcd_is_lost() {
    replaced_primary_stays_down(false);
}

#[test]
fn primary_that_was_replaced_is_not_started_when_etcd_is_put_back() {
    replaced_primary_stays_down(true);
}

/// The snapshot knows the user of a cell that has been removed since, whose keys are still where they were.
#[test]
fn cell_that_was_removed_stays_shut_out_when_an_older_snapshot_is_put_back() {
    let cluster = Cluster::up("zone1,zone2");
    let file = cluster.directory().join("etcd.db");
    let file = file.to_str().unwrap();
    let as_zone2 = || {
        let get = ["get", "--prefix", "/cellar/demo/cells/"];
        cluster.etcdctl_as("zone2/tls/pooler.crt", "zone2/tls/server.key", &get)
    };
    let _ = as_zone2().ok();
    cluster.cellar(&["etcd", "snapshot", file]);
    cluster.cellar(&["cells", "remove", "zone2"]);
    assert_ne!(as_zone2().code, 0);
    lose_etcd(&cluster);
    let restored = cluster.json(&["etcd", "restore", file, "--yes"]);
    assert_eq!(names(&restored, "removedCells"), ["zone2"], "{restored}");
    cluster.cellar(&["up"]);
    let refused = as_zone2();
    assert_ne!(refused.code, 0, "{refused:?}");
}

/// The snapshot has a job that is open; it has ended since, and must not run again.
#[test]
fn job_that_was_open_in_a_snapshot_is_closed_and_old_data_is_kept() {
    let cluster = Cluster::up("zone1,zone2");
    let file = cluster.directory().join("etcd.db");
    let file = file.to_str().unwrap();
    let id = cluster.begin_backup("zone2", "full");
    cluster.cellar(&["etcd", "snapshot", file]);
    assert_eq!(cluster.ended(&id)["state"], "JOB_STATE_SUCCEEDED");
    let count = || cluster.json(&["backups", "list"])["backups"].as_array().unwrap().len();
    let backups = count();

    let etcd = cluster.pid("pid/etcd.pid");
    kill_hard(etcd);
    eventually("etcd to be gone", || !std::path::Path::new(&format!("/proc/{etcd}")).exists());
    let restored = cluster.json(&["etcd", "restore", file, "--yes"]);
    assert_eq!(names(&restored, "closedJobs"), [id.as_str()], "{restored}");
    let kept = restored["kept"].as_str().expect("the old data is kept");
    assert!(std::path::Path::new(kept).join("data/member").exists(), "{kept}");
    cluster.cellar(&["up"]);
    let job = cluster.job(&id);
    assert_eq!(
        (job["state"].as_str(), job["error"]["code"].as_str()),
        (Some("JOB_STATE_FAILED"), Some("UNAVAILABLE"))
    );
    cluster.wait_streaming("zone2");
    let _ = cluster.backup("zone2", "incr");
    assert_eq!(count(), backups + 1, "the one that was open was not made again");
}

/// Another tool, or a host of several, puts etcd back without looking at the data: then the data is right.
#[test]
fn record_that_is_older_than_the_data_stops_and_replaces_nothing() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.cellar(&["restore", "--latest", "--yes"]);
    let primary = cluster.primary();
    let standby = if primary == "zone1" { "zone2" } else { "zone1" };
    cluster.wait_streaming(standby);
    let _ = cluster.sql(&primary, "CREATE TABLE precious ()");
    let keys = cluster.etcd_keys();
    let key = keys.iter().find(|key| key.contains("/incarnations/")).expect("a record of the restore");
    let good = cluster.etcd_get(key);
    let running = [primary.as_str(), standby].map(|cell| cluster.postmaster(cell));
    cluster.etcd_put(key, r#"{"number":1}"#);
    let says = |cell: &str| {
        cluster.status(cell).is_some_and(|status| status.message.contains("put back to a state from before"))
    };
    for cell in [primary.as_str(), standby] {
        eventually("the cell to say that the record is older", || says(cell));
    }
    assert_eq!([primary.as_str(), standby].map(|cell| cluster.postmaster(cell)), running);
    // Neither started, nor replaced by a backup.
    kill_hard(running[1]);
    eventually("the standby to be down", || cluster.try_sql(standby, "SELECT 1").code != 0);
    eventually("the standby to say why", || says(standby));
    cluster.etcd_put(key, &good);
    cluster.wait_streaming(standby);
    assert_eq!(cluster.sql(standby, "SELECT to_regclass('precious') IS NOT NULL").trim(), "t");
    assert_eq!(cluster.postmaster(&primary), running[0]);
}
