//! Logical decoding, and what is said of slots that do not outlive a change of the primary.

use cellar_tests::{Cluster, eventually};

use crate::quorum::{CELLS, others, wait_for_cohort, with_quorum};

/// Has the WAL written for logical decoding.
#[track_caller]
pub(crate) fn decode(cluster: &Cluster, cells: &[&str]) {
    cluster.cellar(&["settings", "set", "wal_level=logical"]);
    cluster.cellar(&["restart", "--rolling"]);
    for cell in cells {
        assert_eq!(cluster.sql(cell, "SHOW wal_level"), "logical", "{cell}");
    }
}

#[track_caller]
fn create_slot(cluster: &Cluster, primary: &str, name: &str, plugin: &str) {
    let sql = format!("SELECT pg_create_logical_replication_slot('{name}', '{plugin}')");
    cluster.sql(primary, &sql);
}

#[test]
fn changes_are_decoded_and_no_slot_keeps_a_primary_from_starting() {
    let cluster = Cluster::up("zone1,zone2");
    let refused = cluster.try_cellar(&["settings", "set", "wal_level=minimal"]);
    assert!(refused.code == 2 && refused.stderr.contains("replica or logical"), "{refused:?}");
    decode(&cluster, &["zone1", "zone2"]);
    cluster.sql("zone1", "CREATE TABLE t (i int PRIMARY KEY)");
    cluster.sql("zone1", "CREATE PUBLICATION everything FOR ALL TABLES");
    create_slot(&cluster, "zone1", "words", "test_decoding");
    create_slot(&cluster, "zone1", "sub", "pgoutput");
    cluster.sql("zone1", "INSERT INTO t VALUES (7)");
    let words = cluster.sql("zone1", "SELECT data FROM pg_logical_slot_get_changes('words', NULL, NULL)");
    assert!(words.contains("table public.t: INSERT: i[integer]:7"), "{words}");
    let sent = "SELECT count(*) > 2 FROM pg_logical_slot_peek_binary_changes('sub', NULL, NULL, \
                'proto_version', '1', 'publication_names', 'everything')";
    assert_eq!(cluster.sql("zone1", sent), "t");

    // With less the primary would not start again.
    let refused = cluster.try_cellar(&["settings", "set", "wal_level=replica"]);
    assert!(refused.code == 2 && refused.stderr.contains("sub, words"), "{refused:?}");
    cluster.cellar(&["settings", "set", "max_replication_slots=1"]);
    cluster.cellar(&["settings", "unset", "wal_level"]);
    cluster.cellar(&["restart", "zone1", "--allow-primary"]);
    assert_eq!(cluster.sql("zone1", "SHOW wal_level"), "logical");
    assert_eq!(cluster.sql("zone1", "SELECT current_setting('max_replication_slots')::int >= 2"), "t");
    assert_eq!(cluster.sql("zone1", sent), "t");
    cluster.sql("zone1", "SELECT pg_drop_replication_slot('sub'), pg_drop_replication_slot('words')");
    cluster.cellar(&["restart", "zone1", "--allow-primary"]);
    assert_eq!(cluster.sql("zone1", "SHOW wal_level"), "replica");
}

/// PostgreSQL 17 would say why in other words.
#[test]
fn slot_that_another_primary_would_not_have_is_told_of() {
    let cluster = with_quorum();
    decode(&cluster, &CELLS);
    wait_for_cohort(&cluster);
    let primary = cluster.primary();
    assert!(!cluster.cellar(&["status"]).contains("logical slot"));
    create_slot(&cluster, &primary, "sub", "pgoutput");
    let note = "logical slot sub of \"postgres\" is lost when another member leads";
    eventually("status to say it", || cluster.cellar(&["status"]).contains(note));
    let explained = cluster.cellar(&["explain"]);
    assert!(explained.contains(note) && explained.contains("set up again"), "{explained}");

    let next = others(&primary)[0];
    let moved = cluster.try_cellar(&["switchover", "--to", next]);
    assert!(moved.code == 0 && moved.stderr.contains(note), "{moved:?}");
    // PostgreSQL leaves it in the old primary.
    let left = format!("{primary} has the logical slot sub of \"postgres\" from when it led");
    eventually("status to say that it is still there", || cluster.cellar(&["status"]).contains(&left));
    cluster.sql(&primary, "SELECT pg_drop_replication_slot('sub')");
    eventually("status to say nothing", || !cluster.cellar(&["status"]).contains("logical slot"));
}
