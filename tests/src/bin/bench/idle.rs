//! What the daemons of a cluster need that does nothing.

use std::thread::sleep;
use std::time::{Duration, Instant};

use cellar_tests::{Cluster, cpu_time, rss_kib};

use crate::figure::{Limit, Report, note};

const IDLE: Duration = Duration::from_secs(30);

/// The same of a cluster with quorum commit.
const QUORUM_IDLE: Duration = Duration::from_secs(60);

const CELLS: [&str; 3] = ["zone1", "zone2", "zone3"];

/// The most resident memory of these processes, in MiB.
fn most_memory(pids: &[i32]) -> f64 {
    let each: Vec<f64> = pids.iter().map(|pid| f64::from(rss_kib(*pid)) / 1024.0).collect();
    note(&format!("  MiB: {each:.2?}"));
    each.into_iter().fold(0.0, f64::max)
}

/// The processor time that processes take, from now on.
struct Cpu {
    pids: Vec<i32>,
    begun: Instant,
    then: Vec<Duration>,
}

impl Cpu {
    fn of(pids: &[i32]) -> Self {
        let then = pids.iter().map(|pid| cpu_time(*pid)).collect();
        Self { pids: pids.to_vec(), begun: Instant::now(), then }
    }

    /// The most of one of them since, in percent of a core.
    fn most(&self) -> f64 {
        let wall = self.begun.elapsed().as_secs_f64();
        let since = self.pids.iter().zip(&self.then).map(|(pid, then)| cpu_time(*pid).saturating_sub(*then));
        let each: Vec<f64> = since.map(|used| used.as_secs_f64() / wall * 100.0).collect();
        note(&format!("  % of a core: {each:.2?}"));
        each.into_iter().fold(0.0, f64::max)
    }
}

fn multipoolers(cluster: &Cluster) -> Vec<i32> {
    CELLS.iter().map(|cell| cluster.pid(&format!("{cell}/pid/multipooler.pid"))).collect()
}

/// Memory after half a minute without work, then processor time over another half.
pub(crate) fn idle(report: &mut Report) {
    let cluster = Cluster::bootstrapped(&CELLS.join(","));
    let (poolers, admin) = (multipoolers(&cluster), [cluster.pid("pid/multiadmin.pid")]);
    sleep(IDLE);
    report.figure("idle_rss_multipooler", most_memory(&poolers), "MiB", Limit::AtMost(15.0));
    report.figure("idle_rss_multiadmin", most_memory(&admin), "MiB", Limit::AtMost(20.0));
    let (poolers, admin) = (Cpu::of(&poolers), Cpu::of(&admin));
    sleep(IDLE);
    report.figure("idle_cpu_multipooler", poolers.most(), "%", Limit::AtMost(0.5));
    report.figure("idle_cpu_multiadmin", admin.most(), "%", Limit::AtMost(0.5));
}

/// The same of the multipoolers of a cluster with quorum commit and HAProxy, which ask each other and are asked all the time.
pub(crate) fn agent(report: &mut Report) {
    let cluster = Cluster::with_quorum_and_route(&CELLS);
    sleep(IDLE);
    let poolers = multipoolers(&cluster);
    let cpu = Cpu::of(&poolers);
    sleep(QUORUM_IDLE);
    report.figure("agent_cpu", cpu.most(), "%", Limit::AtMost(0.5));
    report.figure("agent_rss", most_memory(&poolers), "MiB", Limit::AtMost(12.0));
}
