//! What the loss of a primary costs, and what it costs to be prepared for it; against Patroni of Debian on the same machine in
//! the same run.

mod load;
mod ours;
mod patroni;
mod rounds;

use std::time::Duration;

use crate::failover::ours::Ours;
use crate::failover::patroni::{DEFAULTS, FASTEST, Patroni, Times};
use crate::failover::rounds::{Loss, Subject, play};
use crate::figure::{Limit, Report, median, note, quantile};

pub(crate) use load::{etcd_gone, false_alarms, quorum_cost, switchover, switchover_pooled};

/// How often each is measured.
const ROUNDS: usize = 20;

/// Figures of one subject: the medians, and the worst of its samples.
#[derive(Debug, Default)]
struct Samples {
    host: Vec<Duration>,
    postmaster: Vec<Duration>,
}

fn tell(who: &str, what: &str, samples: &[Duration]) {
    let all: Vec<String> = samples.iter().map(|sample| format!("{:.2}", sample.as_secs_f64())).collect();
    note(&format!(
        "  {who}, {what}: median {:.2} s, worst {:.2} s of {}: {}",
        median(samples).as_secs_f64(),
        quantile(samples, 1.0).as_secs_f64(),
        samples.len(),
        all.join(" ")
    ));
}

/// Plays the rounds of one subject and takes it down.
fn measured(who: &str, subject: &impl Subject) -> Samples {
    let samples = Samples {
        host: play(who, subject, Loss::Host, ROUNDS),
        postmaster: play(who, subject, Loss::Postmaster, ROUNDS),
    };
    tell(who, "host", &samples.host);
    tell(who, "postmaster", &samples.postmaster);
    samples
}

/// The primary's host dies, and its postmaster alone: ours, Patroni's defaults and its fastest settings at the same time, so that
/// the machine is as busy for each.
pub(crate) fn rto(report: &mut Report) {
    let theirs = |times: Times, who: &'static str| move || measured(who, &Patroni::start(times));
    let (ours, defaults, fastest) = std::thread::scope(|scope| {
        let ours = scope.spawn(|| measured("cellar", &Ours::start()));
        let defaults = scope.spawn(theirs(DEFAULTS, "patroni, defaults"));
        let fastest = scope.spawn(theirs(FASTEST, "patroni, fastest"));
        let got = [ours.join(), defaults.join(), fastest.join()];
        let [ours, defaults, fastest] = got.map(|samples| match samples {
            Ok(samples) => samples,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        (ours, defaults, fastest)
    });
    let middle = |samples: &[Duration]| median(samples).as_secs_f64();
    report.figure("rto_host", middle(&ours.host), "s", Limit::AtMost(3.0));
    report.figure("rto_host_worst", quantile(&ours.host, 1.0).as_secs_f64(), "s", Limit::AtMost(5.0));
    let ratio = |ours: &[Duration], theirs: &[Duration]| middle(ours) / middle(theirs);
    report.figure("rto_host_to_defaults", ratio(&ours.host, &defaults.host), "ratio", Limit::AtMost(0.15));
    report.figure("rto_host_to_fastest", ratio(&ours.host, &fastest.host), "ratio", Limit::AtMost(0.3));
    report.figure("rto_postmaster", middle(&ours.postmaster), "s", Limit::AtMost(1.5));
    let to_defaults = ratio(&ours.postmaster, &defaults.postmaster);
    report.figure("rto_postmaster_to_defaults", to_defaults, "ratio", Limit::AtMost(0.25));
}

/// The primary's postmaster is stopped, and its sessions go on; until another server, or this one started again, writes.
pub(crate) fn rto_frozen(report: &mut Report) {
    let samples = play("cellar", &Ours::start(), Loss::Frozen, ROUNDS);
    tell("cellar", "frozen postmaster", &samples);
    report.figure("rto_frozen", median(&samples).as_secs_f64(), "s", Limit::AtMost(6.0));
}
