//! Invariant 6: roles are observed. A promotion by hand changes no file, and everything goes on.

use cellar_tests::{Cluster, eventually, kill_hard};

fn config(cluster: &Cluster, cell: &str) -> String {
    std::fs::read_to_string(cluster.directory().join(cell).join("pgbackrest.conf")).expect("a config")
}

#[test]
fn a_promotion_by_hand_is_followed() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    cluster.sql("zone1", "CREATE TABLE t AS SELECT 1 AS before");
    let before: Vec<String> = ["zone1", "zone2", "zone3"].iter().map(|cell| config(&cluster, cell)).collect();
    // Replication is asynchronous: what zone2 has not received dies with zone1.
    eventually("zone2 to have the table", || cluster.try_sql("zone2", "TABLE t").code == 0);
    // The old primary goes, another is promoted.
    cluster.kill_cell("zone1");
    cluster.sql("zone2", "SELECT pg_promote()");
    eventually("zone2 to be recorded as primary", || cluster.primary() == "zone2");
    cluster.sql("zone2", "INSERT INTO t VALUES (2)");
    cluster.wait_streaming("zone3");
    eventually("zone3 to have both rows", || cluster.sql("zone3", "SELECT count(*) FROM t") == "2");
    // Until its lease ends, what zone1 last said stands, and that was that it is a primary.
    eventually("zone1 to be seen down", || cluster.status("zone1").is_none());
    let job = cluster.backup("zone3", "incr");
    let source = &job["result"]["backup"]["source"];
    assert_eq!(source["cell"], "zone3");
    assert_eq!(source["timeline"], 2);
    assert_eq!(source["verified"], true);
    let after: Vec<String> = ["zone1", "zone2", "zone3"].iter().map(|cell| config(&cluster, cell)).collect();
    assert_eq!(before, after, "no generated file knows about roles");

    // The old primary comes back: it is not started as a second one, and a rebuild makes it a standby.
    let _ = cluster.try_cellar(&["up", "--timeout", "15s"]);
    eventually("zone1 to say what is the matter", || {
        cluster.status("zone1").is_some_and(|status| status.message.contains("cellar rebuild zone1"))
    });
    assert_eq!(cluster.primary(), "zone2");
    cluster.cellar(&["rebuild", "zone1"]);
    cluster.wait_streaming("zone1");
    eventually("zone1 to have both rows", || cluster.sql("zone1", "SELECT count(*) FROM t") == "2");
    let _ = cluster.backup("zone1", "incr");
}

/// A second primary that is really there: backups are refused until somebody decides.
#[test]
fn two_primaries_stop_backups() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    cluster.sql("zone2", "SELECT pg_promote()");
    eventually("both to be seen", || {
        let primaries = cluster.poolers().into_iter().filter_map(|view| view.status);
        primaries.filter(|status| status.role() == cellar_api::v1::Role::Primary).count() == 2
    });
    let message = cluster.try_cellar(&["backup", "--from", "zone3"]).refused(3);
    assert!(message.contains("zone1") || message.contains("zone2"), "{message}");
    // The one on the old timeline goes.
    kill_hard(cluster.pid("zone1/pid/multipooler.pid"));
    kill_hard(cluster.postmaster("zone1"));
    eventually("zone1 to be seen down", || cluster.status("zone1").is_none());
    cluster.wait_streaming("zone3");
    let _ = cluster.backup("zone3", "incr");
}

/// A primary that was deposed while it ran has WAL that nobody else has. Neither it nor a standby made
/// again afterwards may follow that WAL past the point where the new timeline began.
#[test]
fn standbys_do_not_follow_a_deposed_primary() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    cluster.sql("zone1", "CREATE TABLE t AS SELECT 1 AS i");
    eventually("zone2 to have the table", || cluster.try_sql("zone2", "TABLE t").code == 0);
    cluster.sql("zone2", "SELECT pg_promote()");
    eventually("zone2 to be recorded as primary", || cluster.primary() == "zone2");
    // Written to the loser after the fork.
    cluster.sql("zone1", "CREATE TABLE lost AS SELECT generate_series(1, 10000) AS i");
    cluster.cellar(&["rebuild", "zone1"]);
    cluster.cellar(&["rebuild", "zone3"]);
    cluster.sql("zone2", "INSERT INTO t SELECT generate_series(2, 50000)");
    for cell in ["zone1", "zone3"] {
        eventually(&format!("{cell} to have the new rows"), || {
            cluster.try_sql(cell, "SELECT count(*) FROM t").stdout.trim() == "50000"
        });
        assert_ne!(cluster.try_sql(cell, "TABLE lost").code, 0, "{cell} has what the new timeline never had");
        let _ = cluster.backup(cell, "incr");
    }
}

/// Every pooler may say who the primary is, so a stolen key may, too. The primary that there is takes its place back.
#[test]
fn a_false_primary_in_the_records_is_corrected() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    let key = "/cellar/demo/leaders/app";
    let truth = cluster.etcd_get(key);
    let identity = |record: &str| -> String {
        let record: serde_json::Value = serde_json::from_str(record).expect("JSON");
        record["systemIdentifier"].as_str().expect("an identity").to_owned()
    };
    let (true_one, other) = (identity(&truth), "7000000000000000001".to_owned());
    // Another member on a timeline that it never saw, or on the present one; one that is not there; another database.
    for (cell, term, identity) in
        [("zone3", 99, &true_one), ("zone3", 1, &true_one), ("ghost", 99, &true_one), ("zone2", 2, &other)]
    {
        let record = serde_json::json!({ "cell": cell, "term": term, "systemIdentifier": identity });
        let put = ["put", key, &record.to_string()];
        let _ = cluster.etcdctl_as("zone2/tls/pooler.crt", "zone2/tls/server.key", &put).ok();
        eventually(&format!("the true primary to be recorded instead of {cell} on {term}"), || {
            cluster.etcd_get(key).contains("\"zone1\"")
        });
        cluster.wait_streaming("zone2");
        cluster.wait_streaming("zone3");
        assert_eq!(cluster.sql("zone1", "SELECT pg_is_in_recovery()"), "f");
    }
    let log = std::fs::read_to_string(cluster.directory().join("zone1/log/multipooler.log")).expect("a log");
    assert!(log.contains("the record is false"), "{log}");
    // It archives again, which a backup needs.
    let _ = cluster.backup("zone3", "full");
}

/// Its file is moved away by hand, or lost with a file system.
#[test]
fn a_standby_without_its_signal_file_is_not_started_as_a_second_primary() {
    let cluster = Cluster::up("zone1,zone2");
    std::fs::remove_file(cluster.directory().join("zone2/pg_data/standby.signal")).expect("a standby");
    kill_hard(cluster.postmaster("zone2"));
    eventually("zone2 to say what is the matter", || {
        cluster.status("zone2").is_some_and(|status| status.message.contains("second primary"))
    });
    assert_ne!(cluster.try_sql("zone2", "SELECT 1").code, 0);
    assert_eq!(cluster.primary(), "zone1");
    cluster.cellar(&["rebuild", "zone2"]);
    cluster.wait_streaming("zone2");
}
