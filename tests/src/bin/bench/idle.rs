//! What the daemons of a cluster need that does nothing.

use std::thread::sleep;
use std::time::{Duration, Instant};

use cellar_tests::{Cluster, cpu_time, rss_kib};

use crate::figure::{Limit, Report, note};

const IDLE: Duration = Duration::from_secs(30);
const CELLS: [&str; 3] = ["zone1", "zone2", "zone3"];

/// Memory after half a minute without work, then processor time over another half.
pub(crate) fn idle(report: &mut Report) {
    let cluster = Cluster::bootstrapped(&CELLS.join(","));
    let poolers: Vec<i32> =
        CELLS.iter().map(|cell| cluster.pid(&format!("{cell}/pid/multipooler.pid"))).collect();
    let admin = [cluster.pid("pid/multiadmin.pid")];
    sleep(IDLE);
    let rss = |pids: &[i32]| {
        let each: Vec<f64> = pids.iter().map(|pid| f64::from(rss_kib(*pid)) / 1024.0).collect();
        note(&format!("  MiB: {each:.2?}"));
        each.into_iter().fold(0.0, f64::max)
    };
    report.figure("idle_rss_multipooler", rss(&poolers), "MiB", Limit::AtMost(15.0));
    report.figure("idle_rss_multiadmin", rss(&admin), "MiB", Limit::AtMost(20.0));
    let times = |pids: &[i32]| -> Vec<Duration> { pids.iter().map(|pid| cpu_time(*pid)).collect() };
    let (begun, poolers_then, admin_then) = (Instant::now(), times(&poolers), times(&admin));
    sleep(IDLE);
    let wall = begun.elapsed().as_secs_f64();
    let share = |pids: &[i32], then: &[Duration]| {
        let now = times(pids);
        let each: Vec<f64> = now
            .iter()
            .zip(then)
            .map(|(now, then)| now.saturating_sub(*then).as_secs_f64() / wall * 100.0)
            .collect();
        note(&format!("  % of a core: {each:.2?}"));
        each.into_iter().fold(0.0, f64::max)
    };
    report.figure("idle_cpu_multipooler", share(&poolers, &poolers_then), "%", Limit::AtMost(0.5));
    report.figure("idle_cpu_multiadmin", share(&admin, &admin_then), "%", Limit::AtMost(0.5));
}
