//! Random failures of the primary of a cluster under load, again and again: `make soak-failover N=300`.
//!
//! After each, all three members stream again, every acknowledged row is in each of them, and no two acknowledged at a time.
//! What came of each round is a line of a file, to which several soaks may add; `--summary` prints what all of them say. The
//! first fault ends the soak: exit code 1, and the cluster is kept beside the file.

mod evidence;
mod fault;
mod results;
mod round;

use std::fs::File;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use crate::fault::{Fault, pick};
use crate::results::{Outcome, summary};
use crate::round::Soak;

const USAGE: &str = "soak-failover [--count N] [--seed SEED] [--only FAULT] [--results FILE] [--summary]";

/// Where the lines go that nobody says another file for.
const RESULTS: &str = "target/soak-failover/rounds.tsv";

/// What is asked for.
struct Options {
    count: u32,
    seed: u64,
    only: Option<Fault>,
    results: PathBuf,
    is_summary: bool,
}

fn parsed<T: FromStr>(option: &str, value: Option<String>) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("{option} has no value: {USAGE}"))?;
    value.parse().map_err(|_| format!("{option} {value}: {USAGE}"))
}

impl Options {
    fn from_arguments() -> Result<Self, String> {
        let mut options = Self {
            count: 300,
            seed: fastrand::u64(..1_000_000),
            only: None,
            results: RESULTS.into(),
            is_summary: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(option) = arguments.next() {
            match option.as_str() {
                "--count" => options.count = parsed(&option, arguments.next())?,
                "--seed" => options.seed = parsed(&option, arguments.next())?,
                "--only" => options.only = Some(parsed(&option, arguments.next())?),
                "--results" => options.results = parsed(&option, arguments.next())?,
                "--summary" => options.is_summary = true,
                _ => return Err(format!("{option}: {USAGE}")),
            }
        }
        Ok(options)
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// All rounds that the file has.
fn rounds(file: &Path) -> Result<Vec<Outcome>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    text.lines().map(str::parse).collect()
}

fn add(file: &Path, outcome: &Outcome) {
    let added = File::options().create(true).append(true).open(file);
    // In one write, so that the lines of several soaks do not mix.
    let added = added.and_then(|mut file| file.write_all(format!("{}\n", outcome.line()).as_bytes()));
    if let Err(error) = added {
        panic!("{}: {error}", file.display());
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn soak(options: &Options) -> Result<(), String> {
    let Options { count, seed, only, results, .. } = options;
    if let Some(directory) = results.parent() {
        std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    let mut chance = fastrand::Rng::with_seed(*seed);
    let mut soak = catch_unwind(Soak::begin).map_err(|panic| text_of(&*panic))?;
    for round in 1..=*count {
        let (fault, beside) = pick(&mut chance, *only);
        let played =
            catch_unwind(AssertUnwindSafe(|| soak.round((*seed, round), (fault, beside), &mut chance)));
        match played {
            Ok(outcome) => {
                say(&outcome.line());
                add(results, &outcome);
            }
            Err(panic) => {
                let what =
                    format!("FAULT in round {round} of seed {seed}, {fault} {beside}: {}", text_of(&*panic));
                say(&what);
                let kept = results.with_file_name(format!("kept-{seed}-{round}"));
                evidence::keep(&soak.cluster, &soak.instances, &what, &kept);
                return Err(format!("{what}\nthe cluster, which has been ended, is in {}", kept.display()));
            }
        }
    }
    let rows = catch_unwind(AssertUnwindSafe(|| soak.end())).map_err(|panic| text_of(&*panic))?;
    say(&format!("{count} rounds, {rows} acknowledged rows, all there"));
    Ok(())
}

fn main() -> ExitCode {
    let options = match Options::from_arguments() {
        Ok(options) => options,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "{why}");
            return ExitCode::from(2);
        }
    };
    cellar_tests::keep_clusters_on_disk();
    cellar_tests::clean_up_when_told_to_end();
    let mut code = ExitCode::SUCCESS;
    if !options.is_summary {
        say(&format!("seed {}", options.seed));
        if let Err(why) = soak(&options) {
            let _ = writeln!(std::io::stderr(), "{why}");
            code = ExitCode::FAILURE;
        }
    }
    match rounds(&options.results) {
        Ok(all) => say(&summary(&all)),
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "{why}");
            code = ExitCode::FAILURE;
        }
    }
    code
}
