//! Hosts whose clocks are minutes apart.

use std::time::Duration;

use cellar_tests::{HostsCluster, cell_of, eventually_is};

const STREAMING_TIMEOUT: Duration = Duration::from_secs(60);

/// The clocks: that of the primary's host is ten minutes ahead of the last one's.
const CLOCKS: [(&str, i64); 2] = [("db1", 360), ("db3", -240)];

/// Seconds since 1970 by the clock of a host's PostgreSQL.
fn clock(cluster: &HostsCluster, host: &str) -> f64 {
    cluster.sql(host, "SELECT extract(epoch FROM clock_timestamp())").ok().trim().parse().unwrap()
}

fn insert(cluster: &HostsCluster, row: u32) {
    let _ = cluster.sql("db1", &format!("INSERT INTO ledger VALUES ({row})")).ok();
}

#[test]
#[ignore = "libfaketime of Debian 12 and sandboxed private instances do not go together everywhere: cargo test -p cellar-tests --test hosts -- --ignored clocks"]
fn with_clocks_ten_minutes_apart_backups_restores_to_a_time_and_the_status_are_right() {
    let Some(cluster) = HostsCluster::specified(3) else { return };
    CLOCKS.iter().for_each(|(host, ahead)| cluster.hosts.set_clock(host, *ahead));
    let _ = cluster.init().ok();
    for host in cluster.database_hosts() {
        let _ = cluster.install(&host).ok();
        let _ = cluster.on(&host, &["start"]).ok();
    }
    let _ = cluster.wait().ok();
    let _ = cluster.wait_streaming(STREAMING_TIMEOUT);
    let apart = clock(&cluster, "db1") - clock(&cluster, "db3");
    assert!((apart - 600.0).abs() < 10.0, "the clocks are {apart} s apart");

    let _ = cluster.sql("db1", "CREATE TABLE ledger (n int PRIMARY KEY)").ok();
    let _ = cluster.back_up("zone2");
    insert(&cluster, 1);
    let point = cluster
        .sql(
            "db1",
            "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        )
        .ok();
    insert(&cluster, 2);
    // It ended after that time, which the clock of its host reaches in ten minutes only: pgBackRest asks the primary's.
    let _ = cluster.back_up("zone3");
    insert(&cluster, 3);

    // Onto a host whose clock is right: a private instance may not use the memory by which the others' are set.
    let restored = cluster.json(&["restore", "--to-time", point.trim(), "--onto", "zone2", "--yes"]);
    assert_eq!(restored["state"], "JOB_STATE_SUCCEEDED", "{restored:#}");
    let _ = cluster.wait().ok();
    for host in cluster.database_hosts() {
        eventually_is(&format!("the rows of {host}"), "1", || {
            cluster
                .sql(&host, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM ledger")
                .stdout
                .trim()
                .to_owned()
        });
    }
    let _ = cluster.wait_streaming(STREAMING_TIMEOUT);
    for host in cluster.database_hosts() {
        let role = if host == "db2" { "ROLE_PRIMARY" } else { "ROLE_STANDBY" };
        eventually_is(&format!("the role of {host}"), role, || {
            let status = cluster.status(&cell_of(&host)).unwrap_or_default();
            status["role"].as_str().unwrap_or_default().to_owned()
        });
    }
    let _ = cluster.back_up("zone3");
}
