//! `cellar-sim`: simulates until something is found, or enough steps were taken.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use cellar_sim::world::World;
use clap::Parser;

/// Simulates clusters and looks for what must not be.
#[derive(Debug, Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this seed.
    #[arg(long)]
    only: bool,
    /// Storms per seed.
    #[arg(long, default_value_t = 5)]
    episodes: u32,
    /// Ends after so many steps in all.
    #[arg(long, default_value_t = 1_000_000)]
    steps: u64,
    /// Ends after so many seconds, instead.
    #[arg(long)]
    seconds: Option<u64>,
    /// Goes on after a finding.
    #[arg(long)]
    keep_going: bool,
}

#[expect(clippy::print_stdout, reason = "what it finds is its output")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    let begun = Instant::now();
    let (mut steps, mut seed, mut found) = (0, arguments.seed, 0);
    let enough = |steps: u64| match arguments.seconds {
        Some(seconds) => begun.elapsed() > Duration::from_secs(seconds),
        None => steps >= arguments.steps,
    };
    while !enough(steps) {
        let mut world = World::new(seed);
        let end = (0..arguments.episodes).try_for_each(|_| world.episode());
        steps += world.steps();
        if let Err(finding) = end {
            found += 1;
            println!(
                "seed {} after {} steps, {:.2} s simulated, {:.1} s: {}",
                finding.seed,
                finding.steps,
                finding.at.as_secs_f64(),
                begun.elapsed().as_secs_f64(),
                finding.what
            );
            println!("again: cargo run --release -p cellar-sim -- --only --seed {}", finding.seed);
            if !arguments.keep_going {
                return ExitCode::FAILURE;
            }
        }
        seed += 1;
        if arguments.only {
            break;
        }
    }
    let rate = steps as f64 / begun.elapsed().as_secs_f64();
    println!("{steps} steps of {} seeds, {rate:.0} a second, {found} findings", seed - arguments.seed);
    if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
