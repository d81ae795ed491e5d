//! The benchmarks: real clusters, release build, one line per figure on standard output.
//!
//! `bench` runs them all, `bench NAME...` those whose figures' names begin so. What is compared is taken
//! alternately in one run. Exit code 1 when a limit is missed.

mod backup;
mod bootstrap;
mod config;
mod failover;
mod figure;
mod fleet;
mod history;
mod hosts;
mod idle;
mod restore;
mod security;
mod simulation;
mod topology;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use crate::figure::{Report, note};

/// What one benchmark yields, and the benchmark.
type Bench = (&'static [&'static str], fn(&mut Report));

const BENCHES: &[Bench] = &[
    (&["backup_overhead"], backup::overhead),
    (&["dead_cell"], backup::dead_cell),
    (&["dead_cell_blocking"], backup::dead_cell_blocking),
    (&["bootstrap"], bootstrap::bootstrap),
    (&["bootstrap_other_build"], bootstrap::other_build),
    (
        &["idle_rss_multipooler", "idle_rss_multiadmin", "idle_cpu_multipooler", "idle_cpu_multiadmin"],
        idle::idle,
    ),
    (&["memory_at_500_jobs_multipooler", "memory_at_500_jobs_multiadmin"], history::memory_at_500_jobs),
    (&["config_256"], config::render),
    (&["rebuild_overhead"], restore::rebuild),
    (&["pitr_rto", "pitr_all_streaming"], restore::to_a_time),
    (&["drill_cost"], restore::drill_cost),
    (&["drill_memory"], restore::drill_memory),
    (
        &["topology_10k_ready", "topology_10k_list_p99", "topology_10k_job_rate", "topology_10k_rss"],
        topology::ten_thousand,
    ),
    (&["tls_cost"], security::tls_cost),
    (&["flood_p99", "flood_rss"], security::flood),
    (&["sim_rate"], simulation::rate),
    (&["hosts_bootstrap"], hosts::bootstrap),
    (&["partition_cost_commits", "partition_cost_backup"], hosts::partition_cost),
    (&["fleet_ready", "fleet_status_p99", "fleet_jobs_lost"], fleet::fleet),
    (&["idle_hosts_etcd_writes", "idle_hosts_rss_multipooler"], hosts::idle),
    (&["agent_rss", "agent_cpu"], idle::agent),
    (&["rto_host", "rto_host_worst", "rto_host_to_defaults", "rto_host_to_fastest"], failover::rto_host),
    (&["rto_postmaster", "rto_postmaster_to_defaults"], failover::rto_postmaster),
    (&["rto_partition", "rto_partition_reads"], failover::rto_partition),
    (&["rto_frozen"], failover::rto_frozen),
    (&["switchover"], failover::switchover),
    (&["switchover_pooled"], failover::switchover_pooled),
    (&["quorum_cost"], failover::quorum_cost),
    (&["etcd_gone"], failover::etcd_gone),
    (&["false_alarms"], failover::false_alarms),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let names = || BENCHES.iter().flat_map(|(names, _)| *names);
    if let Some(unknown) = wanted.iter().find(|text| !names().any(|name| name.starts_with(text.as_str()))) {
        let known: Vec<&str> = names().copied().collect();
        note(&format!("there is no figure {unknown}; there are {}", known.join(", ")));
        return ExitCode::from(2);
    }
    cellar_tests::keep_clusters_on_disk();
    cellar_tests::clean_up_when_told_to_end();
    let mut report = Report::default();
    for (names, bench) in BENCHES {
        let asked = |name: &&str| wanted.iter().any(|text| name.starts_with(text.as_str()));
        if !wanted.is_empty() && !names.iter().any(asked) {
            continue;
        }
        note(&format!("{} ...", names.join(", ")));
        // A benchmark that cannot be done panics with the reason, as the tests' harness does.
        if catch_unwind(AssertUnwindSafe(|| bench(&mut report))).is_err() {
            note(&format!("{}: not measured", names.join(", ")));
            report.failed();
        }
    }
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
