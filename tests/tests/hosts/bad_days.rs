//! Hosts that die, sleep or are cut off, under a ledger of acknowledged rows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cellar_tests::{HostsCluster, eventually};

/// Longer than a lease, an election of etcd and the first look after it take on a busy machine.
const SETTLED: Duration = Duration::from_secs(60);

/// Writes rows at the primary until told to stop; gives how many were acknowledged, and the longest time between two.
fn write_rows(cluster: &HostsCluster, stop: &AtomicBool) -> (usize, Duration) {
    let (mut count, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        if cluster.sql("db1", "INSERT INTO ledger DEFAULT VALUES").code == 0 {
            count += 1;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
    }
    (count, longest)
}

#[track_caller]
fn with_ledger() -> Option<HostsCluster> {
    let cluster = HostsCluster::well(3)?;
    let _ = cluster.sql("db1", "CREATE TABLE ledger (id serial PRIMARY KEY)").ok();
    Some(cluster)
}

/// Writes at the primary while `work` goes on; afterwards every standby has every acknowledged row.
#[track_caller]
fn while_writing(cluster: &HostsCluster, work: impl FnOnce()) -> Duration {
    let stop = AtomicBool::new(false);
    let (count, longest) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_rows(cluster, &stop));
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let written = writer.join().unwrap();
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written
    });
    assert!(count > 0, "nothing was written");
    for host in cluster.database_hosts() {
        cluster.wait_for_rows(&host, count);
    }
    longest
}

/// Waits until a cell is shown as down, or as running.
#[track_caller]
fn wait_for_cell(cluster: &HostsCluster, cell: &str, reports: bool) {
    eventually(&format!("{cell} to report: {reports}"), || cluster.status(cell).is_some() == reports);
}

#[test]
fn a_cell_that_is_cut_off_costs_the_others_nothing_and_catches_up() {
    let Some(cluster) = with_ledger() else { return };
    let longest = while_writing(&cluster, || {
        cluster.hosts.isolate("db3");
        wait_for_cell(&cluster, "zone3", false);
        let refused = cluster.cellar(&["backup", "--from", "zone3"]).refused(3);
        assert!(refused.contains("zone3 is down"), "{refused}");
        cluster.back_up("zone2");
        cluster.hosts.heal_all();
        wait_for_cell(&cluster, "zone3", true);
    });
    assert!(longest < SETTLED, "the primary stood still for {longest:?}");
    cluster.back_up("zone3");
}

#[test]
fn the_cut_off_host_of_the_primary_is_told_and_nothing_is_promoted() {
    let Some(cluster) = with_ledger() else { return };
    while_writing(&cluster, || {
        cluster.hosts.isolate("db1");
        wait_for_cell(&cluster, "zone1", false);
        let refused = cluster.cellar(&["backup", "--from", "zone2"]).refused(3);
        assert!(refused.contains("zone1"), "{refused}");
        for host in ["db2", "db3"] {
            assert_eq!(cluster.sql(host, "SELECT pg_is_in_recovery()").ok().trim(), "t");
        }
        cluster.hosts.heal_all();
        wait_for_cell(&cluster, "zone1", true);
    });
    let _ = cluster.wait().ok();
    cluster.back_up("zone2");
}

#[test]
fn one_etcd_member_may_die_two_stop_the_control_plane_and_the_database_goes_on() {
    let Some(cluster) = with_ledger() else { return };
    while_writing(&cluster, || {
        cluster.hosts.kill_all("db3");
        wait_for_cell(&cluster, "zone3", false);
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
    let Some(cluster) = with_ledger() else { return };
    // Large enough that the backup is at work when the host falls asleep.
    let _ = cluster
        .sql(
            "db1",
            "CREATE TABLE ballast AS SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 200000) i",
        )
        .ok();
    let jobs = cluster.host_directory("db2").join("zone2/jobs").display().to_string();
    let id = cluster.json(&["backup", "--from", "zone2", "--type", "full", "--no-wait"])["id"].clone();
    let id = id.as_str().unwrap().to_owned();
    eventually("pgBackRest to work on db2", || {
        let works = cluster.hosts.processes("db2").iter().any(|pid| {
            let line = cellar_tests::command_line(*pid);
            line.iter().any(|word| word.contains(&jobs)) && line.last().is_some_and(|word| word == "backup")
        });
        let state = cluster.json(&["jobs", "show", &id])["state"].clone();
        works || state != "JOB_STATE_RUNNING" && state != "JOB_STATE_PENDING"
    });
    // A machine that sleeps answers nothing, neither its programs nor its kernel.
    cluster.hosts.isolate("db2");
    cluster.hosts.freeze("db2");
    // Longer than its lease and the time after which its work must have ended.
    let another = cluster.json(&["backup", "--from", "zone3", "--type", "full", "--queue"]);
    assert_eq!(another["state"], "JOB_STATE_SUCCEEDED", "{another}");
    cluster.hosts.thaw("db2");
    cluster.hosts.heal_all();
    let _ = cluster.wait().ok();
    let ended = cluster.json(&["jobs", "show", &id]);
    let label = ended["result"]["backup"]["label"].as_str();
    match ended["state"].as_str() {
        // It had ended before the host fell asleep, and what it made is there.
        Some("JOB_STATE_SUCCEEDED") => drop(cluster.json(&["backups", "show", label.unwrap()])),
        Some("JOB_STATE_FAILED") => assert!(label.is_none(), "{ended}"),
        _ => panic!("{ended}"),
    }
    cluster.back_up("zone2");
}
