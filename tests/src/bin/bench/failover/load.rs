//! What a database under load notices of quorum commit, of a planned move, and of an etcd that is away.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cellar_tests::{Cluster, Pgbench, Place, Writers, run, signal, wait_for};
use nix::sys::signal::Signal;

use crate::failover::ours::{CELLS, Ours};
use crate::failover::rounds::Subject;
use crate::failover::tell;
use crate::figure::{Limit, Report, in_turns, median, note, quantile};

/// pgbench's scale, 16 MB each.
const SCALE: u32 = 10;

/// How often each is measured.
const ROUNDS: usize = 7;

/// Of one run of pgbench.
const SECONDS: u32 = 15;

/// How long etcd is away.
const GONE: Duration = Duration::from_secs(60);

const PACE: Duration = Duration::from_millis(10);

/// How long the false alarms are waited for, in seconds, unless `CELLAR_BENCH_ALARM_SECONDS` says so.
const ALARM_SECONDS: u32 = 3600;

/// Commits a second of pgbench at the primary.
fn commits(cluster: &Cluster, clients: u32, seconds: u32) -> f64 {
    let (clients, seconds) = (clients.to_string(), seconds.to_string());
    let arguments = ["-n", "-N", "-c", &clients, "-j", "2", "-T", &seconds];
    let printed = run(&mut cluster.tool("pgbench", &cluster.primary(), &arguments)).ok();
    let rate = printed.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("pgbench gives no rate: {printed}"))
}

fn middle(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Every process of Cellar in this cluster.
fn programs(cluster: &Cluster) -> Vec<i32> {
    let files = CELLS.iter().map(|cell| format!("{cell}/pid/multipooler.pid"));
    files.chain(["pid/multiadmin.pid".to_owned()]).map(|file| cluster.pid(&file)).collect()
}

/// Commits with quorum commit under Cellar, against the same PostgreSQL with the same `synchronous_standby_names` while nothing
/// of Cellar runs: its programs are stopped by a signal.
pub(crate) fn quorum_cost(report: &mut Report) {
    let cluster = Cluster::with_quorum_and_route(&CELLS);
    cluster.load(SCALE);
    let _ = commits(&cluster, 4, SECONDS);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    in_turns(
        ROUNDS,
        || with.push(commits(&cluster, 4, SECONDS)),
        || {
            let primary = cluster.primary();
            let pids = programs(&cluster);
            pids.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
            let seconds = SECONDS.to_string();
            let arguments = ["-n", "-N", "-c", "4", "-j", "2", "-T", &seconds];
            let printed = run(&mut cluster.tool("pgbench", &primary, &arguments));
            pids.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
            let printed = printed.ok();
            let rate =
                printed.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
            without.push(rate.unwrap_or_else(|| panic!("pgbench gives no rate: {printed}")));
            cluster.wait_whole(&CELLS, Duration::from_secs(60));
        },
    );
    note(&format!("  commits a second: under Cellar {with:.0?}, PostgreSQL alone {without:.0?}"));
    assert_eq!(cluster.leadership()["term"], 1, "there was no failover");
    report.figure("quorum_cost", middle(&with) / middle(&without), "ratio", Limit::AtLeast(0.98));
}

/// Commits in the minute in which etcd is away, against a minute before.
pub(crate) fn etcd_gone(report: &mut Report) {
    let cluster = Cluster::with_quorum_and_route(&CELLS);
    cluster.load(SCALE);
    let seconds = u32::try_from(GONE.as_secs()).unwrap_or(60);
    let _ = commits(&cluster, 4, SECONDS);
    let primary = cluster.primary();
    let postmaster = cluster.postmaster(&primary);
    let (mut before, mut gone) = (Vec::new(), Vec::new());
    let arguments = ["-n", "-N", "-c", "4", "-j", "2", "-T", &(seconds / 3).to_string()].map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let measure = |rates: &mut Vec<f64>| {
        for _ in 0..3 {
            let printed = run(&mut cluster.tool("pgbench", &primary, &arguments)).ok();
            let rate =
                printed.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
            rates.push(rate.unwrap_or_else(|| panic!("pgbench gives no rate: {printed}")));
        }
    };
    measure(&mut before);
    let etcd = cluster.stop_etcd(Signal::SIGKILL);
    measure(&mut gone);
    cluster.start_etcd(etcd);
    cluster.wait_whole(&CELLS, Duration::from_secs(60));
    note(&format!("  commits a second: before {before:.0?}, without etcd {gone:.0?}"));
    assert_eq!(cluster.postmaster(&primary), postmaster, "PostgreSQL was not restarted");
    assert_eq!(cluster.leadership()["term"], 1, "there was no failover");
    report.figure("etcd_gone", middle(&gone) / middle(&before), "ratio", Limit::AtLeast(0.98));
}

/// pgbench through the routed port, started again whenever it ends, until told to stop.
fn keep_loading(ours: &Ours, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let mut command = ours.application.routed_for_pgbench();
        command.args(["-n", "-N", "-c", "8", "-j", "2", "-T", "600"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(mut child) = command.spawn() else { return };
        while !stop.load(Ordering::Relaxed) && matches!(child.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The longest time without an acknowledged write around a planned move, with eight clients of pgbench.
pub(crate) fn switchover(report: &mut Report) {
    const MOVES: usize = 20;
    let ours = Ours::start();
    let mut filling = ours.application.routed_for_pgbench();
    let _ = run(filling.args(["-i", "-q", "-s", &SCALE.to_string()])).ok();
    let writers = Writers::start(vec![Place { psql: ours.client(), pace: PACE }]);
    let stop = AtomicBool::new(false);
    let mut samples = Vec::new();
    std::thread::scope(|scope| {
        let _ = scope.spawn(|| keep_loading(&ours, &stop));
        let moving = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..MOVES {
                sleep(Duration::from_secs(3));
                let begun = Instant::now();
                ours.cluster.cellar(&["switchover"]);
                let first = writers.first(0, Instant::now(), |_| true, Duration::from_secs(60));
                let Some(first) = first else { panic!("no write after a switchover") };
                samples.push(writers.longest_wait(0, begun, first.acknowledged));
                ours.cluster.wait_whole(&CELLS, Duration::from_secs(120));
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = moving {
            std::panic::resume_unwind(panic);
        }
    });
    tell("cellar", "switchover", &samples);
    report.figure("switchover", median(&samples).as_secs_f64(), "s", Limit::AtMost(1.0));
    note(&format!("  the worst: {:.2} s", quantile(&samples, 1.0).as_secs_f64()));
}

/// The same through PgBouncer, where no statement fails.
pub(crate) fn switchover_pooled(report: &mut Report) {
    const MOVES: usize = 20;
    const RUN_SECONDS: u64 = 10;
    let cluster = Cluster::with_quorum_and_pool(&CELLS);
    let application = cluster.application();
    let fill = || {
        let mut filling = application.pooled(&cluster, CELLS[0], "pgbench");
        run(filling.args(["-i", "-q", "-s", &SCALE.to_string()]))
    };
    // A role is let in some seconds after it was made.
    wait_for("PgBouncer to let the role in", Duration::from_secs(30), || (fill().code == 0).then_some(()));
    let mut samples = Vec::new();
    for number in 0..MOVES {
        cluster.wait_whole(&CELLS, Duration::from_secs(120));
        let through = CELLS[number % CELLS.len()];
        let load = Pgbench::start(application.pooled(&cluster, through, "pgbench"), RUN_SECONDS);
        sleep(Duration::from_secs(3));
        cluster.cellar(&["switchover"]);
        samples.push(load.longest_gap());
    }
    tell("cellar", "switchover through PgBouncer", &samples);
    report.figure("switchover_pooled", median(&samples).as_secs_f64(), "s", Limit::AtMost(1.0));
    note(&format!("  no statement failed; the worst: {:.2} s", quantile(&samples, 1.0).as_secs_f64()));
}

/// Failovers in an hour of pgbench at full load beside a build on all cores: none.
pub(crate) fn false_alarms(report: &mut Report) {
    let seconds = std::env::var("CELLAR_BENCH_ALARM_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds = seconds.unwrap_or(ALARM_SECONDS);
    let cluster = Cluster::with_quorum_and_route(&CELLS);
    cluster.load(SCALE);
    let begun = Instant::now();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let stop = AtomicBool::new(false);
    let mut builds = 0;
    let rate = std::thread::scope(|scope| {
        let building = scope.spawn(|| {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                let Ok(target) = tempfile::tempdir() else { return count };
                let mut build = Command::new(&cargo);
                build.args(["build", "--locked", "--workspace", "--target-dir"]).arg(target.path());
                build.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let Ok(mut child) = build.spawn() else { return count };
                while !stop.load(Ordering::Relaxed) && matches!(child.try_wait(), Ok(None)) {
                    sleep(Duration::from_millis(200));
                }
                // cargo ends its compilers when it is told to.
                signal(i32::try_from(child.id()).unwrap_or_default(), Signal::SIGINT);
                count += u32::from(child.wait().is_ok_and(|status| status.success()));
            }
            count
        });
        let rate = commits(&cluster, 8, seconds);
        stop.store(true, Ordering::Relaxed);
        builds = building.join().unwrap_or_default();
        rate
    });
    let term = cluster.leadership()["term"].as_f64().unwrap_or(f64::NAN);
    note(&format!(
        "  {:.0} s of pgbench, {rate:.0} commits a second, {builds} whole builds",
        begun.elapsed().as_secs_f64()
    ));
    report.figure("false_alarms", term - 1.0, "failovers", Limit::AtMost(0.0));
}
