//! `cellar-sim`: simulates seed after seed until something is found, or enough steps were taken.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use cellar_sim::replication::world::Replication;
use cellar_sim::transcript::Transcript;
use cellar_sim::world::{Finding, Simulated, World};
use clap::Parser;

/// Simulates clusters and looks for what must not be.
#[derive(Debug, Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulates only this seed, to its end.
    #[arg(long)]
    only: bool,
    /// Storms per seed.
    #[arg(long, default_value_t = 5)]
    episodes: u32,
    /// Ends after so many steps in all.
    #[arg(long, default_value_t = 1_000_000)]
    steps: u64,
    /// Ends after so many seconds instead; 0 is never.
    #[arg(long)]
    seconds: Option<u64>,
    /// Threads, each with a seed of its own; 0 is one a core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Simulates one in so many seeds twice, and finds it when the runs differ; 0 is none. A seed by `--only` is always
    /// simulated twice.
    #[arg(long, default_value_t = 4)]
    repeat: u64,
    /// Goes on after a finding.
    #[arg(long)]
    keep_going: bool,
}

/// What the threads share.
struct Progress {
    begun: Instant,
    next: AtomicU64,
    steps: AtomicU64,
    found: AtomicU64,
    enough: AtomicBool,
    output: Mutex<()>,
}

/// One run of a seed.
struct Run {
    finding: Option<Finding>,
    steps: u64,
    transcript: Transcript,
}

fn main() -> ExitCode {
    if !cfg!(tokio_unstable) {
        eprintln!("this build does not repeat a seed exactly: build it by `make sim`");
        return ExitCode::from(2);
    }
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    let threads = match arguments.threads {
        _ if arguments.only => 1,
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let progress = Progress {
        begun: Instant::now(),
        next: AtomicU64::new(arguments.seed),
        steps: AtomicU64::new(0),
        found: AtomicU64::new(0),
        enough: AtomicBool::new(false),
        output: Mutex::new(()),
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| simulate(&arguments, &progress));
        }
    });
    summarize(&arguments, &progress, threads);
    if progress.found.load(Relaxed) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn simulate(arguments: &Arguments, progress: &Progress) {
    while !progress.enough.load(Relaxed) {
        let seed = progress.next.fetch_add(1, Relaxed);
        let run = simulate_seed(seed, arguments, progress);
        let mut findings = Vec::from_iter(run.finding);
        // Of both kinds.
        let is_repeated = arguments.only || (seed / 2).checked_rem(arguments.repeat) == Some(0);
        if is_repeated {
            let again = simulate_seed(seed, arguments, progress);
            if let Some(at) = run.transcript.first_difference(&again.transcript) {
                let what = "its second run goes on otherwise: something does not follow from the seed";
                findings.push(Finding { seed, at, steps: again.steps, what: what.to_owned() });
                findings.extend(again.finding);
            }
        }
        for finding in &findings {
            progress.found.fetch_add(1, Relaxed);
            print(finding, progress);
        }
        if !findings.is_empty() && !arguments.keep_going {
            progress.enough.store(true, Relaxed);
        }
        let steps = progress.steps.load(Relaxed);
        let enough = match arguments.seconds {
            Some(0) => false,
            Some(seconds) => progress.begun.elapsed() > Duration::from_secs(seconds),
            None => steps >= arguments.steps,
        };
        if enough || arguments.only {
            progress.enough.store(true, Relaxed);
        }
    }
}

fn simulate_seed(seed: u64, arguments: &Arguments, progress: &Progress) -> Run {
    // An odd seed is of jobs, an even one of replication.
    let mut world: Box<dyn Simulated> =
        if seed.is_multiple_of(2) { Box::new(Replication::new(seed)) } else { Box::new(World::new(seed)) };
    let end = (0..arguments.episodes).try_for_each(|_| world.episode());
    progress.steps.fetch_add(world.steps(), Relaxed);
    Run { finding: end.err(), steps: world.steps(), transcript: world.transcript().clone() }
}

#[expect(clippy::print_stdout, reason = "what it finds is its output")]
fn print(finding: &Finding, progress: &Progress) {
    let _one_at_a_time = progress.output.lock();
    println!(
        "seed {} after {} steps, {:.2} s simulated, {:.1} s: {}",
        finding.seed,
        finding.steps,
        finding.at.as_secs_f64(),
        progress.begun.elapsed().as_secs_f64(),
        finding.what
    );
    println!("again: make sim SEED={}", finding.seed);
}

#[expect(clippy::print_stdout, reason = "the summary is its output")]
#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn summarize(arguments: &Arguments, progress: &Progress, threads: usize) {
    let steps = progress.steps.load(Relaxed);
    let rate = steps as f64 / progress.begun.elapsed().as_secs_f64() / threads as f64;
    println!(
        "{steps} steps of {} seeds, {rate:.0} a second on each of {threads} cores, {} findings",
        progress.next.load(Relaxed) - arguments.seed,
        progress.found.load(Relaxed)
    );
}
