//! How fast the simulation is.

use std::process::Command;

use cellar_tests::run;

use crate::figure::{Limit, Report};

/// Simulated steps a second on one core, over twenty seconds; builds the simulation first if it is not built.
pub(crate) fn rate(report: &mut Report) {
    let mut make = Command::new("make");
    make.args(["--no-print-directory", "sim", "SECONDS=20"]);
    let printed = run(&mut make).ok();
    // The last line: "N steps of N seeds, N a second on each of N cores, N findings".
    let rate = printed.lines().last().and_then(|line| {
        let (before, _) = line.split_once(" a second")?;
        before.rsplit(' ').next()?.parse().ok()
    });
    let Some(rate) = rate else { panic!("make sim printed no rate: {printed}") };
    report.figure("sim_rate", rate, "steps/s", Limit::AtLeast(20_000.0));
}
