//! The corpus without a fuzzer: every file as it is, and changed at random, through the same function as the fuzz target.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

const HOSTILE: &[&str] = include!("../hostile.rs");

/// Changed inputs per file, unless CELLAR_FUZZ_ROUNDS says otherwise.
const ROUNDS: u64 = 300;

/// What one input may take: thousands of times what it does, for a machine that is busy, and far less than an
/// exponential or a quadratic parser would.
const TEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Size of the input that shows how the time grows.
const LARGE: usize = 1 << 20;

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below.max(1) as u64).unwrap_or(0)
    }
}

fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.roll(bytes.len() + 1);
    let to = at + dice.roll((bytes.len() - at).min(64) + 1);
    match dice.roll(8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << dice.roll(8),
        1 if at < bytes.len() => bytes[at] = u8::try_from(dice.roll(256)).unwrap_or(0),
        2 => drop(bytes.drain(at..to)),
        3 => {
            let part = bytes[at..to].to_vec();
            bytes.splice(at..at, part);
        }
        4 => bytes.truncate(at),
        5 => {
            let other = &others[dice.roll(others.len())];
            let from = dice.roll(other.len() + 1);
            bytes.splice(at..to, other[from..].iter().copied().take(512));
        }
        6 => {
            let number = ["0", "-1", "18446744073709551616", "1e308", "00", "4294967295", "FFFFFFFF"];
            bytes.splice(at..to, number[dice.roll(number.len())].bytes());
        }
        _ => drop(bytes.splice(at..at, HOSTILE[dice.roll(HOSTILE.len())].bytes())),
    }
}

fn attempt(name: &str, target: fn(&[u8]), bytes: &[u8]) {
    let begin = Instant::now();
    let ended = catch_unwind(AssertUnwindSafe(|| target(bytes)));
    let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]).into_owned();
    assert!(ended.is_ok(), "{name} does not hold; add this to fuzz/corpus/{name}: {:?}", shown());
    assert!(begin.elapsed() < TEST_TIMEOUT, "{name} took {:?} for: {:?}", begin.elapsed(), shown());
}

/// Runs one target over its corpus.
pub fn run(name: &str, target: fn(&[u8])) {
    let directory =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join("fuzz/corpus").join(name));
    let directory =
        directory.clone().find(|dir| dir.is_dir()).unwrap_or_else(|| panic!("no corpus for {name}"));
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let inputs: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).expect("a file")).collect();
    assert!(inputs.len() > 1, "{} is empty", directory.display());
    let rounds =
        std::env::var("CELLAR_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    for (at, input) in inputs.iter().enumerate() {
        attempt(name, target, input);
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ (at as u64 + 1));
        for _ in 0..rounds {
            let mut bytes = input.clone();
            for _ in 0..=dice.roll(4) {
                mutate(&mut bytes, &inputs, &mut dice);
            }
            attempt(name, target, &bytes);
        }
        attempt(
            name,
            target,
            &input
                .iter()
                .copied()
                .cycle()
                .take(if input.is_empty() { 0 } else { LARGE })
                .collect::<Vec<u8>>(),
        );
    }
    for text in HOSTILE {
        attempt(name, target, text.as_bytes());
    }
}
