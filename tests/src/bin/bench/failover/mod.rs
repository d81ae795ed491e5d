//! What the loss of a primary costs, and what it costs to be prepared for it; against Patroni of Debian on the same machine in
//! the same run.

mod load;
mod ours;
mod partition;
mod patroni;
mod rounds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::failover::ours::Ours;
use crate::failover::patroni::{DEFAULTS, FASTEST, Patroni, Times};
use crate::failover::rounds::{Loss, play};
use crate::figure::{Limit, Report, median, note, quantile};

pub(crate) use load::{etcd_gone, false_alarms, quorum_cost, switchover, switchover_pooled};
pub(crate) use partition::rto_partition;

/// How often each is measured.
const ROUNDS: usize = 20;

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

/// The samples of all three. Ours must be all there; of the others what they gave until one had no write for so long that the
/// run was given up.
struct Compared {
    ours: Vec<Duration>,
    defaults: Vec<Duration>,
    fastest: Vec<Duration>,
}

impl Compared {
    /// Ours, Patroni's defaults and its fastest settings at the same time, so that the machine is as busy for each.
    fn measure(loss: Loss) -> Self {
        let theirs = |times: Times, who: &'static str| {
            move || {
                let mut samples = Vec::new();
                let played = catch_unwind(AssertUnwindSafe(|| {
                    play(who, &Patroni::start(times), loss, ROUNDS, &mut samples);
                }));
                if played.is_err() {
                    note(&format!("  {who}, {loss:?}: given up after {} samples", samples.len()));
                }
                assert!(!samples.is_empty(), "no sample of {who}");
                tell(who, &format!("{loss:?}"), &samples);
                samples
            }
        };
        std::thread::scope(|scope| {
            let defaults = scope.spawn(theirs(DEFAULTS, "patroni, defaults"));
            let fastest = scope.spawn(theirs(FASTEST, "patroni, fastest"));
            let ours = measured(loss);
            let got = [defaults.join(), fastest.join()];
            let [defaults, fastest] = got.map(|samples| match samples {
                Ok(samples) => samples,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            Self { ours, defaults, fastest }
        })
    }
}

fn measured(loss: Loss) -> Vec<Duration> {
    let mut samples = Vec::new();
    play("cellar", &Ours::start(), loss, ROUNDS, &mut samples);
    tell("cellar", &format!("{loss:?}"), &samples);
    samples
}

fn middle(samples: &[Duration]) -> f64 {
    median(samples).as_secs_f64()
}

/// The primary's host dies.
pub(crate) fn rto_host(report: &mut Report) {
    let Compared { ours, defaults, fastest } = Compared::measure(Loss::Host);
    report.figure("rto_host", middle(&ours), "s", Limit::AtMost(3.0));
    report.figure("rto_host_worst", quantile(&ours, 1.0).as_secs_f64(), "s", Limit::AtMost(5.0));
    report.figure("rto_host_to_defaults", middle(&ours) / middle(&defaults), "ratio", Limit::AtMost(0.15));
    report.figure("rto_host_to_fastest", middle(&ours) / middle(&fastest), "ratio", Limit::AtMost(0.3));
}

/// The primary's postmaster dies alone.
pub(crate) fn rto_postmaster(report: &mut Report) {
    let Compared { ours, defaults, .. } = Compared::measure(Loss::Postmaster);
    report.figure("rto_postmaster", middle(&ours), "s", Limit::AtMost(1.5));
    let to_defaults = middle(&ours) / middle(&defaults);
    report.figure("rto_postmaster_to_defaults", to_defaults, "ratio", Limit::AtMost(0.25));
}

/// The primary's postmaster is stopped, and its sessions go on; until another server, or this one started again, writes.
pub(crate) fn rto_frozen(report: &mut Report) {
    report.figure("rto_frozen", middle(&measured(Loss::Frozen)), "s", Limit::AtMost(6.0));
}
