//! The WAL that a primary keeps for members that are away.

use cellar_tests::{Cluster, eventually, signal, wait_for};
use nix::sys::signal::Signal;

use crate::quorum::{CELLS, FAILOVER_TIMEOUT, others, wait_for_cohort, with_quorum};

/// The physical slots of a cell's instance, of which none is lost.
fn slots(cluster: &Cluster, cell: &str) -> Option<Vec<String>> {
    let sql = "SELECT slot_name FROM pg_replication_slots WHERE restart_lsn IS NOT NULL ORDER BY slot_name";
    let told = cluster.try_sql(cell, sql);
    (told.code == 0).then(|| told.stdout.lines().map(str::to_owned).collect())
}

#[track_caller]
fn wait_for_slots(cluster: &Cluster, cell: &str, wanted: &[&str]) {
    eventually(&format!("{cell} to have the slots {wanted:?}"), || {
        slots(cluster, cell).is_some_and(|found| found == wanted)
    });
}

/// Waits until the slot of a member is where the primary is now.
#[track_caller]
fn wait_until_at(cluster: &Cluster, primary: &str, slot: &str) {
    let now = cluster.sql(primary, "SELECT pg_current_wal_flush_lsn()");
    let sql = format!("SELECT restart_lsn >= '{now}' FROM pg_replication_slots WHERE slot_name = '{slot}'");
    eventually(&format!("{slot} to be at {now}"), || cluster.sql(primary, &sql) == "t");
}

/// The file of WAL from which on a slot keeps it.
fn first_kept(cluster: &Cluster, primary: &str, slot: &str) -> String {
    let sql =
        format!("SELECT pg_walfile_name(restart_lsn) FROM pg_replication_slots WHERE slot_name = '{slot}'");
    cluster.sql(primary, &sql)
}

/// The oldest file of WAL that an instance has.
fn oldest(cluster: &Cluster, cell: &str) -> String {
    cluster.sql(cell, "SELECT min(name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'")
}

/// Ends so many segments with something in each, and has the primary remove what it need not keep.
fn write_segments(cluster: &Cluster, primary: &str, count: u32) {
    for _ in 0..count {
        cluster.sql(primary, "INSERT INTO t SELECT generate_series(1, 1000)");
        cluster.sql(primary, "SELECT pg_switch_wal()");
    }
    cluster.sql(primary, "CHECKPOINT");
}

#[test]
fn a_standby_that_was_away_streams_again_though_the_archive_has_nothing() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone1", "CREATE TABLE t (i int)");
    cluster.cellar(&["settings", "set", "wal_keep_size=0"]);
    wait_for_slots(&cluster, "zone1", &["cellar_zone2"]);
    write_segments(&cluster, "zone1", 3);
    // It keeps nothing that the standby has.
    wait_until_at(&cluster, "zone1", "cellar_zone2");
    cluster.kill_cell("zone2");
    let kept = first_kept(&cluster, "zone1", "cellar_zone2");
    write_segments(&cluster, "zone1", 12);
    cluster.sql("zone1", "CHECKPOINT");
    assert_eq!(oldest(&cluster, "zone1"), kept, "the slot alone keeps it");
    let last = cluster.sql("zone1", "SELECT pg_walfile_name(pg_switch_wal())");
    eventually("all of it to be archived", || {
        cluster.sql("zone1", "SELECT last_archived_wal FROM pg_stat_archiver") >= last
    });
    for entry in std::fs::read_dir(cluster.archive()).expect("the archive").flatten() {
        if entry.path().is_dir() {
            std::fs::remove_dir_all(entry.path()).expect("removed");
        }
    }
    cluster.cellar(&["up"]);
    cluster.wait_streaming("zone2");
    let rows = cluster.sql("zone1", "SELECT count(*) FROM t");
    eventually("the rows to arrive", || cluster.sql("zone2", "SELECT count(*) FROM t") == rows);
    // And once it has it, the primary keeps it no more.
    eventually("the slot to move on", || first_kept(&cluster, "zone1", "cellar_zone2") > kept);
}

#[test]
fn what_a_slot_keeps_is_bounded_and_slots_go_with_their_cells() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    cluster.sql("zone1", "CREATE TABLE t (i int)");
    // A user's own is left alone, whatever it is.
    cluster.sql("zone1", "SELECT pg_create_physical_replication_slot('mine', true)");
    wait_for_slots(&cluster, "zone1", &["cellar_zone2", "cellar_zone3", "mine"]);
    assert_eq!(slots(&cluster, "zone2"), Some(vec![]));
    cluster.cellar(&["cells", "remove", "zone3"]);
    wait_for_slots(&cluster, "zone1", &["cellar_zone2", "mine"]);
    cluster.sql("zone1", "SELECT pg_drop_replication_slot('mine')");

    assert_eq!(cluster.sql("zone1", "SHOW max_slot_wal_keep_size"), "8GB");
    cluster.cellar(&["settings", "set", "wal_keep_size=0", "max_slot_wal_keep_size=48MB"]);
    cluster.kill_cell("zone2");
    let pooler = cluster.pid("zone1/pid/multipooler.pid");
    signal(pooler, Signal::SIGSTOP);
    let kept = first_kept(&cluster, "zone1", "cellar_zone2");
    write_segments(&cluster, "zone1", 8);
    let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'cellar_zone2'";
    let lost = cluster.sql("zone1", status);
    signal(pooler, Signal::SIGCONT);
    assert_eq!(lost, "lost");
    wait_for_slots(&cluster, "zone1", &["cellar_zone2"]);
    assert!(first_kept(&cluster, "zone1", "cellar_zone2") > kept);
    // What it did not keep is in the archive.
    cluster.cellar(&["up"]);
    cluster.wait_streaming("zone2");
    let rows = cluster.sql("zone1", "SELECT count(*) FROM t");
    eventually("the rows to arrive", || cluster.sql("zone2", "SELECT count(*) FROM t") == rows);
}

#[test]
fn slots_are_where_the_primary_is() {
    let cluster = with_quorum();
    let first = cluster.primary();
    let of = |cell: &str| {
        let others = CELLS.iter().filter(|other| **other != cell);
        others.map(|other| format!("cellar_{other}")).collect::<Vec<_>>()
    };
    let wait_for_slots_of = |primary: &str| {
        let wanted = of(primary);
        wait_for_slots(&cluster, primary, &wanted.iter().map(String::as_str).collect::<Vec<_>>());
    };
    wait_for_slots_of(&first);
    // In these databases a standby's name has the number of its copy.
    cluster.sql(&first, "CREATE TABLE t (i int)");
    of(&first).iter().for_each(|slot| wait_until_at(&cluster, &first, slot));

    let second = others(&first)[0];
    cluster.cellar(&["switchover", "--to", second]);
    wait_for_slots_of(second);
    wait_for_slots(&cluster, &first, &[]);

    cluster.kill_cell(second);
    let third = wait_for("another primary", FAILOVER_TIMEOUT, || {
        let now = cluster.primary();
        (now != second).then_some(now)
    });
    wait_for_slots_of(&third);
    cluster.cellar(&["up"]);
    wait_for_cohort(&cluster);
    wait_for_slots(&cluster, second, &[]);
    of(&third).iter().for_each(|slot| wait_until_at(&cluster, &third, slot));
}
