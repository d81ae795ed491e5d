//! Hosts that die, sleep or are cut off, under a ledger of acknowledged rows.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cellar_tests::{HostsCluster, Ledger, eventually};

/// Longer than a lease, an election of etcd and the first look after it take on a busy machine.
const SETTLED: Duration = Duration::from_secs(60);

#[track_caller]
fn with_ledger() -> Option<(HostsCluster, Ledger)> {
    let cluster = HostsCluster::well(3)?;
    let ledger = Ledger::create(&cluster, "db1");
    Some((cluster, ledger))
}

/// Rows are written while `work` goes on; afterwards every host has every acknowledged row.
#[track_caller]
fn while_writing((cluster, ledger): &(HostsCluster, Ledger), work: impl FnOnce()) -> Duration {
    let ((), written) = ledger.while_writing(cluster, work);
    assert!(written.count > 0, "nothing was written");
    ledger.wait_for_all(cluster, &BTreeSet::new(), SETTLED);
    written.longest
}

/// Waits until a cell is shown as down, or as running.
#[track_caller]
fn wait_for_cell(cluster: &HostsCluster, cell: &str, reports: bool) {
    eventually(&format!("{cell} to report: {reports}"), || cluster.status(cell).is_some() == reports);
}

#[test]
fn a_cell_that_is_cut_off_costs_the_others_nothing_and_catches_up() {
    let Some(scene) = with_ledger() else { return };
    let cluster = &scene.0;
    let longest = while_writing(&scene, || {
        cluster.hosts.isolate("db3");
        wait_for_cell(cluster, "zone3", false);
        let refused = cluster.cellar(&["backup", "--from", "zone3"]).refused(3);
        assert!(refused.contains("zone3 is down"), "{refused}");
        cluster.back_up("zone2");
        cluster.hosts.heal_all();
        wait_for_cell(cluster, "zone3", true);
    });
    assert!(longest < SETTLED, "the primary stood still for {longest:?}");
    cluster.back_up("zone3");
}

#[test]
fn the_cut_off_host_of_the_primary_is_told_and_nothing_is_promoted() {
    let Some(scene) = with_ledger() else { return };
    let cluster = &scene.0;
    while_writing(&scene, || {
        cluster.hosts.isolate("db1");
        wait_for_cell(cluster, "zone1", false);
        let refused = cluster.cellar(&["backup", "--from", "zone2"]).refused(3);
        assert!(refused.contains("zone1"), "{refused}");
        for host in ["db2", "db3"] {
            assert_eq!(cluster.sql(host, "SELECT pg_is_in_recovery()").ok().trim(), "t");
        }
        cluster.hosts.heal_all();
        wait_for_cell(cluster, "zone1", true);
    });
    let _ = cluster.wait().ok();
    cluster.back_up("zone2");
}

#[test]
fn one_etcd_member_may_die_two_stop_the_control_plane_and_the_database_goes_on() {
    let Some(scene) = with_ledger() else { return };
    let cluster = &scene.0;
    while_writing(&scene, || {
        cluster.hosts.kill_all("db3");
        wait_for_cell(cluster, "zone3", false);
        cluster.back_up("zone2");
        cluster.hosts.kill_all("db2");
        let begun = Instant::now();
        eventually("the commands to say that etcd does not answer", || {
            cluster.cellar(&["cells", "list"]).code == 4
        });
        let refused = cluster.cellar(&["backup", "--from", "zone1", "--allow-primary"]);
        assert_eq!(refused.code, 4, "{refused:?}");
        assert!(begun.elapsed() < 2 * SETTLED, "a command waited too long");
        for host in ["db2", "db3"] {
            let _ = cluster.on(host, &["start"]).ok();
        }
        let _ = cluster.wait().ok();
    });
    cluster.back_up("zone3");
}

#[test]
fn a_host_that_sleeps_during_its_backup_ends_it_truly() {
    let Some(scene) = with_ledger() else { return };
    let cluster = &scene.0;
    let (id, _) = cluster.hold_backup("db2");
    // A machine that sleeps answers nothing, neither its programs nor its kernel.
    cluster.hosts.isolate("db2");
    cluster.hosts.freeze("db2");
    // Its job is closed when its lease and the time after which its work must have ended are over. Its session at the
    // primary, which TCP would keep for a quarter of an hour, ends with the job, and the next backup waits for that.
    let next = cluster.json(&["backup", "--from", "zone3", "--type", "full", "--queue"]);
    assert_eq!(next["state"], "JOB_STATE_SUCCEEDED", "{next:#}");
    assert_eq!(cluster.job(&id).unwrap()["state"], "JOB_STATE_FAILED", "closed before the next begins");
    cluster.hosts.thaw("db2");
    cluster.hosts.heal_all();
    let _ = cluster.wait().ok();
    // The multiadmin there shows what it knew before until its connection to etcd is found to be dead.
    let ended = cluster.ended(&id, SETTLED);
    // It was held in the middle of its work, so it has no backup.
    assert_eq!(ended["state"], "JOB_STATE_FAILED", "{ended:#}");
    cluster.check_backup("db2", &ended);
    cluster.back_up("zone2");
}
