//! What it costs that cells are on hosts of their own, and that the network between them fails.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cellar_tests::{Cluster, HostsCluster, command_line, rss_kib, run, wait_for};
use serde_json::Value;

use crate::figure::{Limit, Report, in_turns, median, note, ratio};

const ROUNDS: usize = 5;
const CELLS: u8 = 3;

/// pgbench's scale, 16 MB each.
const SCALE: &str = "5";

/// Of one run of pgbench.
const LOAD_SECONDS: &str = "10";

/// Until the daemons have done what a new cluster takes, and then while they are looked at.
const IDLE: Duration = Duration::from_secs(60);

/// All streaming again after a cut.
const STREAMING_TIMEOUT: Duration = Duration::from_secs(120);

/// A cluster over hosts, unless this is not root.
fn cluster(make: impl FnOnce(u8) -> Option<HostsCluster>) -> HostsCluster {
    match make(CELLS) {
        Some(cluster) => cluster,
        None => panic!("hosts take root"),
    }
}

/// Until all that was written before is on disk: the next one does not wait for it.
fn settle() {
    let _ = run(&mut std::process::Command::new("sync")).ok();
}

/// From installed bundles to a cluster that is well. The hosts start at the same time.
fn over_hosts() -> Duration {
    let cluster = cluster(HostsCluster::specified);
    let _ = cluster.init().ok();
    let hosts = cluster.database_hosts();
    hosts.iter().for_each(|host| drop(cluster.install(host).ok()));
    settle();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for host in &hosts {
            let _ = scope.spawn(|| drop(cluster.on(host, &["start"]).ok()));
        }
    });
    let _ = cluster.wait().ok();
    let took = begun.elapsed();
    let _ = cluster.wait_streaming(STREAMING_TIMEOUT);
    took
}

fn on_one_machine() -> Duration {
    let cluster = Cluster::new();
    settle();
    let begun = Instant::now();
    let _ = cluster.try_up("zone1,zone2,zone3").ok();
    begun.elapsed()
}

/// Three hosts with three members of etcd, against `cellar up` on one machine.
pub(crate) fn bootstrap(report: &mut Report) {
    let (mut hosts, mut machine) = (Vec::new(), Vec::new());
    in_turns(ROUNDS, || hosts.push(over_hosts()), || machine.push(on_one_machine()));
    let ratio = ratio(("three hosts", &hosts), ("cellar up", &machine));
    report.figure("hosts_bootstrap", ratio, "ratio", Limit::AtMost(1.3));
}

/// Commits a second of one run of pgbench at the primary.
fn load(cluster: &HostsCluster) -> f64 {
    let mut command = cluster.tool("db1", "pgbench");
    command.args(["-n", "-N", "-c", "4", "-T", LOAD_SECONDS, "postgres"]);
    let printed = run(&mut command).ok();
    let rate = printed.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    match rate {
        Some(rate) => rate,
        None => panic!("pgbench gives no rate: {printed}"),
    }
}

fn took(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

/// Does something while the third cell is cut off from all others, which have seen it.
fn while_cut(cluster: &HostsCluster, work: impl FnOnce()) {
    cluster.hosts.isolate("db3");
    wait_for("zone3 to be seen as down", STREAMING_TIMEOUT, || {
        cluster.status("zone3").is_none().then_some(())
    });
    work();
    cluster.hosts.heal_all();
    let _ = cluster.wait_streaming(STREAMING_TIMEOUT);
    wait_for("zone3 to report", STREAMING_TIMEOUT, || cluster.status("zone3").map(drop));
}

/// What the others' clients and backups notice of a cell of three that is cut off.
pub(crate) fn partition_cost(report: &mut Report) {
    let cluster = cluster(HostsCluster::well);
    let _ = run(cluster.tool("db1", "pgbench").args(["-i", "-q", "-s", SCALE, "postgres"])).ok();
    let backup = |samples: &mut Vec<Duration>| {
        samples.push(took(|| drop(cluster.cellar(&["backup", "--from", "zone2", "--type", "incr"]).ok())));
    };
    // The first one copies what pgbench has made.
    backup(&mut Vec::new());
    let (mut whole, mut cut) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    in_turns(
        ROUNDS,
        || {
            whole.0.push(load(&cluster));
            backup(&mut whole.1);
        },
        || {
            while_cut(&cluster, || {
                cut.0.push(load(&cluster));
                backup(&mut cut.1);
            });
        },
    );
    note(&format!("  commits a second: whole {:.0?}, one cell cut off {:.0?}", whole.0, cut.0));
    let middle = |rates: &[f64]| {
        let each: Vec<Duration> = rates.iter().map(|rate| Duration::from_secs_f64(1.0 / rate)).collect();
        median(&each).as_secs_f64()
    };
    let commits = middle(&whole.0) / middle(&cut.0);
    report.figure("partition_cost_commits", commits, "ratio", Limit::AtLeast(0.97));
    let backups = ratio(("one cell cut off", &cut.1), ("all cells there", &whole.1));
    report.figure("partition_cost_backup", backups, "ratio", Limit::AtMost(1.15));
}

/// How many entries etcd's log has, which are all writes: also those that change no key, such as of leases.
fn etcd_writes(cluster: &HostsCluster) -> f64 {
    let told = cluster.etcdctl(&["db1"], &["endpoint", "status", "--write-out=json"]).ok();
    let status: Value = serde_json::from_str(&told).unwrap_or_default();
    match status[0]["Status"]["raftIndex"].as_f64() {
        Some(index) => index,
        None => panic!("etcd gives no index: {told}"),
    }
}

/// Resident memory of the multipoolers, in MiB.
fn multipoolers(cluster: &HostsCluster) -> Vec<f64> {
    let processes = cluster.database_hosts().into_iter().flat_map(|host| cluster.hosts.processes(&host));
    let is_multipooler = |pid: &i32| {
        let words = command_line(*pid);
        words.first().is_some_and(|program| Path::new(program).ends_with("multipooler"))
    };
    processes.filter(is_multipooler).map(|pid| f64::from(rss_kib(pid)) / 1024.0).collect()
}

/// What a cluster over hosts writes into etcd that does nothing, and what its multipoolers need.
pub(crate) fn idle(report: &mut Report) {
    let cluster = cluster(HostsCluster::well);
    sleep(IDLE);
    let (begun, before) = (Instant::now(), etcd_writes(&cluster));
    sleep(IDLE);
    let rate = (etcd_writes(&cluster) - before) / begun.elapsed().as_secs_f64();
    report.figure("idle_hosts_etcd_writes", rate, "1/s", Limit::AtMost(5.0));
    let memory = multipoolers(&cluster);
    assert_eq!(memory.len(), usize::from(CELLS), "multipoolers");
    note(&format!("  multipooler, MiB: {memory:.2?}"));
    let most = memory.into_iter().fold(0.0, f64::max);
    report.figure("idle_hosts_rss_multipooler", most, "MiB", Limit::AtMost(10.0));
}
