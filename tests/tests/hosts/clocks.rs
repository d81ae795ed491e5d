//! Hosts whose clocks are ten minutes apart from each other.

use std::time::Duration;

use cellar_tests::{HostsCluster, cell_of, wait_until};

const TEN_MINUTES: i64 = 600;

/// A schedule has a run each minute; the rest is what its job takes on a busy machine.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// The primary's clock is ahead and a standby's is behind: nobody takes another host's time for their own.
#[test]
fn clocks_ten_minutes_apart_change_nothing() {
    let Some(mut cluster) = HostsCluster::specified(3) else { return };
    cluster.hosts.set_clock("db1", TEN_MINUTES);
    cluster.hosts.set_clock("db3", -TEN_MINUTES);
    let _ = cluster.init().ok();
    cluster.start_all();
    let seconds = |host: &str| {
        let told = cluster.sql(host, "SELECT extract(epoch FROM clock_timestamp())::bigint").ok();
        told.trim().parse::<i64>().unwrap()
    };
    let apart = seconds("db1") - seconds("db3") - 2 * TEN_MINUTES;
    assert!(apart.abs() < 60, "PostgreSQL has the clock of its host, but for {apart} s");

    // By the clock that is behind: one whose clock is ahead would set it from a time that has not come yet by that of a
    // leader that is behind.
    let client = cluster.directory().join("client").display().to_string();
    let behind = ["cellar", "--admin", "db3.test:15070", "--client-dir", &client];
    let set = [&behind[..], &["schedules", "set", "look", "--cron", "* * * * *", "check"]].concat();
    let _ = cluster.hosts.run("operator", &set).ok();
    cluster.create_rows(100);
    for cell in ["zone2", "zone3"] {
        cluster.back_up(cell);
    }
    // By the primary's clock this job's time is over before it is asked for, and by that of the other it is long.
    let _ = cluster.cellar(&["check", "--timeout", "5m"]).ok();
    let _ = cluster.cellar(&["drill", "--on", "zone3", "--timeout", "5m"]).ok();

    // A time that has passed by the clock of the primary only, which dates the commits.
    let time = cluster.sql(
        "db1",
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    );
    let time = time.ok();
    let _ = cluster.sql("db1", "DELETE FROM ledger WHERE id > 10").ok();
    let restored = cluster.json(&["restore", "--to-time", time.trim(), "--yes"]);
    for host in cluster.database_hosts() {
        cluster.wait_for_rows(&host, 100);
    }
    let id = restored["id"].as_str().unwrap();
    let _ = cluster.cellar(&["restore", "rollback", id, "--yes"]).ok();
    for host in cluster.database_hosts() {
        cluster.wait_for_rows(&host, 10);
    }

    wait_until("the schedule to have had a run", RUN_TIMEOUT, || {
        let listed = cluster.json(&["schedules", "list"]);
        let run = &listed["schedules"][0]["lastJob"];
        if run["state"] == "JOB_STATE_SUCCEEDED" { Ok(()) } else { Err(format!("{listed:#}")) }
    });
    // Keys that are new, and revoked ones, are taken up by every clock.
    for host in cluster.database_hosts() {
        let _ = cluster.cellar(&["cluster", "bundle", &cell_of(&host), "--new-keys"]).ok();
        let _ = cluster.install(&host).ok();
    }
    let _ = cluster.wait().ok();
    cluster.back_up("zone3");
}

/// Certificates are not valid yet on a host that is hours behind: that is said before anything is written there.
#[test]
fn a_clock_that_is_hours_behind_is_named_before_anything_is_installed() {
    let Some(mut cluster) = HostsCluster::specified(1) else { return };
    cluster.hosts.set_clock("db1", -3 * 3600);
    let _ = cluster.init().ok();
    let refused = cluster.install("db1").refused(3);
    assert!(refused.contains("the clock of this host") && refused.contains("timedatectl"), "{refused}");
    assert!(!cluster.host_directory("db1").exists());
}
