//! Figures: measured, compared with their limits, printed.

use std::io::Write;
use std::time::Duration;

/// What a figure must not exceed, or reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn number(self) -> f64 {
        match self {
            Self::AtMost(number) | Self::AtLeast(number) => number,
        }
    }

    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

/// The figures of one run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    missed: bool,
}

impl Report {
    /// Prints a figure: the one line of it on standard output.
    pub(crate) fn figure(&mut self, name: &str, value: f64, unit: &str, limit: Limit) {
        let decimals = match unit {
            "1/s" | "ms" => 1,
            _ => 2,
        };
        let bound = limit.number();
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "bench {name} {value:.decimals$} {unit} limit {bound:.decimals$}");
        let _ = out.flush();
        if !limit.holds(value) {
            note(&format!("{name} misses its limit"));
            self.missed = true;
        }
    }

    /// Some figure could not be measured.
    pub(crate) fn failed(&mut self) {
        self.missed = true;
    }

    /// Whether everything was measured and within its limit.
    pub(crate) fn is_good(&self) -> bool {
        !self.missed
    }
}

/// Something worth knowing beside the figures, on standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Takes two things in turns, each first as often as second: whoever is second finds warm caches.
pub(crate) fn in_turns(rounds: usize, mut one: impl FnMut(), mut other: impl FnMut()) {
    for round in 0..rounds {
        if round % 2 == 0 {
            one();
            other();
        } else {
            other();
            one();
        }
    }
}

/// The value that `share` of the samples do not exceed.
pub(crate) fn quantile(samples: &[Duration], share: f64) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort();
    let last = sorted.len().saturating_sub(1);
    // Nearest rank; the conversion is of a number between 0 and `last`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let at = ((share * sorted.len() as f64).ceil() as usize).saturating_sub(1).min(last);
    sorted.get(at).copied().unwrap_or_default()
}

/// The middle one.
pub(crate) fn median(samples: &[Duration]) -> Duration {
    quantile(samples, 0.5)
}

/// The ratio of two medians, with the samples on standard error.
pub(crate) fn ratio(first: (&str, &[Duration]), second: (&str, &[Duration])) -> f64 {
    for (what, samples) in [first, second] {
        let all: Vec<String> = samples.iter().map(|sample| format!("{:.3}", sample.as_secs_f64())).collect();
        note(&format!("  {what}: median {:.3} s of {}", median(samples).as_secs_f64(), all.join(" ")));
    }
    median(first.1).as_secs_f64() / median(second.1).as_secs_f64()
}
