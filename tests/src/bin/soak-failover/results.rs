//! What came of the rounds: one line each in a file, and what all of them say together.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::str::FromStr;

use crate::fault::{Beside, Fault};

/// What came of one round.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// The seed of its soak, and its number there.
    pub(crate) seed: u64,
    pub(crate) round: u32,
    pub(crate) fault: Fault,
    pub(crate) beside: Beside,
    /// From the fault until a write through the routed port, begun after it, was acknowledged. Of a switchover: the longest time
    /// without an acknowledged write.
    pub(crate) millis: u64,
    /// The longest time without an acknowledged write afterwards, until all is whole again.
    pub(crate) later_millis: u64,
    /// From the fault until all is whole again.
    pub(crate) whole_millis: u64,
    pub(crate) from: String,
    pub(crate) to: String,
    /// How many rows were acknowledged in the round.
    pub(crate) rows: usize,
    /// The machine's load, the mean of a minute.
    pub(crate) load: f64,
}

impl Outcome {
    /// Its line.
    pub(crate) fn line(&self) -> String {
        let Self { seed, round, fault, beside, millis, later_millis, whole_millis, from, to, rows, load } =
            self;
        format!(
            "{seed}\t{round}\t{fault}\t{beside}\t{millis}\t{later_millis}\t{whole_millis}\t{from}\t{to}\t{rows}\t{load:.2}"
        )
    }

    /// Whether another member leads.
    fn has_moved(&self) -> bool {
        self.from != self.to
    }
}

impl FromStr for Outcome {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let bad = || format!("not a round: {line}");
        let fields: Vec<&str> = line.split('\t').collect();
        let [seed, round, fault, beside, millis, later, whole, from, to, rows, load] = fields[..] else {
            return Err(bad());
        };
        Ok(Self {
            seed: seed.parse().map_err(|_| bad())?,
            round: round.parse().map_err(|_| bad())?,
            fault: fault.parse().map_err(|()| bad())?,
            beside: beside.parse().map_err(|()| bad())?,
            millis: millis.parse().map_err(|_| bad())?,
            later_millis: later.parse().map_err(|_| bad())?,
            whole_millis: whole.parse().map_err(|_| bad())?,
            from: from.to_owned(),
            to: to.to_owned(),
            rows: rows.parse().map_err(|_| bad())?,
            load: load.parse().map_err(|_| bad())?,
        })
    }
}

/// The value that `percent` of the sorted ones do not exceed: the nearest rank.
fn quantile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn seconds(millis: u64) -> String {
    format!("{}.{}", millis / 1000, millis % 1000 / 100)
}

/// Where a bar of the histogram ends, in milliseconds.
const ENDS: [u64; 14] =
    [500, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 5000, 7500, 10_000, 15_000, 30_000, u64::MAX];

/// How wide the longest bar is.
const WIDTH: u64 = 50;

fn histogram(sorted: &[u64]) -> String {
    let mut counts = [0_u64; ENDS.len()];
    for millis in sorted {
        let at = ENDS.iter().position(|end| millis < end).unwrap_or(ENDS.len() - 1);
        counts[at] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let last = counts.iter().rposition(|count| *count > 0).map_or(0, |at| at + 1);
    let mut text = String::new();
    for (at, count) in counts.iter().enumerate().take(last) {
        let begin = at.checked_sub(1).map_or(0, |before| ENDS[before]);
        let end = if ENDS[at] == u64::MAX { "   -".to_owned() } else { format!("{:>4}", seconds(ENDS[at])) };
        let bar = "#".repeat(usize::try_from((count * WIDTH).div_ceil(most)).unwrap_or(0));
        let _ = writeln!(text, "{:>4} to {end} s {count:>4} {bar}", seconds(begin));
    }
    text
}

/// All rounds together: one line for each kind, and histograms.
pub(crate) fn summary(outcomes: &[Outcome]) -> String {
    let mut kinds: BTreeMap<(Fault, Beside), Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        kinds.entry((outcome.fault, outcome.beside)).or_default().push(outcome);
    }
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<20} {:<8} {:>5} {:>5}  {:>6} {:>6} {:>6}  {:>6} {:>6}",
        "fault", "beside", "count", "moved", "median", "p90", "worst", "later", "whole"
    );
    for ((fault, beside), of) in kinds {
        let sorted = |value: fn(&Outcome) -> u64| {
            let mut all: Vec<u64> = of.iter().map(|outcome| value(outcome)).collect();
            all.sort_unstable();
            all
        };
        let millis = sorted(|outcome| outcome.millis);
        let moved = of.iter().filter(|outcome| outcome.has_moved()).count();
        let _ = writeln!(
            text,
            "{:<20} {:<8} {:>5} {moved:>5}  {:>6} {:>6} {:>6}  {:>6} {:>6}",
            fault.to_string(),
            beside.to_string(),
            of.len(),
            seconds(quantile(&millis, 50)),
            seconds(quantile(&millis, 90)),
            seconds(quantile(&millis, 100)),
            seconds(quantile(&sorted(|outcome| outcome.later_millis), 100)),
            seconds(quantile(&sorted(|outcome| outcome.whole_millis), 50)),
        );
    }
    let of = |what: &str, belongs: &dyn Fn(&Outcome) -> bool| {
        let mut all: Vec<u64> =
            outcomes.iter().filter(|outcome| belongs(outcome)).map(|outcome| outcome.millis).collect();
        all.sort_unstable();
        format!("\n{what}: {}\n{}", all.len(), histogram(&all))
    };
    text += &of("failures of the primary", &|outcome| {
        outcome.fault != Fault::Switchover && !matches!(outcome.beside, Beside::Soon | Beside::Etcd)
    });
    text +=
        &of("failures of the primary while etcd was away, or within half a minute of the last", &|outcome| {
            outcome.fault != Fault::Switchover && matches!(outcome.beside, Beside::Soon | Beside::Etcd)
        });
    text += &of("switchovers", &|outcome| outcome.fault == Fault::Switchover);
    let rows: usize = outcomes.iter().map(|outcome| outcome.rows).sum();
    let moved = outcomes.iter().filter(|outcome| outcome.has_moved()).count();
    let load = outcomes.iter().map(|outcome| outcome.load).sum::<f64>()
        / f64::from(u32::try_from(outcomes.len().max(1)).unwrap_or(u32::MAX));
    let _ = writeln!(
        text,
        "\n{} rounds, {moved} with another primary afterwards; {rows} rows acknowledged, none lost; mean load {load:.1}",
        outcomes.len()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(fault: Fault, millis: u64) -> Outcome {
        Outcome {
            seed: 7,
            round: 1,
            fault,
            beside: Beside::Nothing,
            millis,
            later_millis: 20,
            whole_millis: 9000,
            from: "zone1".to_owned(),
            to: "zone2".to_owned(),
            rows: 10,
            load: 1.5,
        }
    }

    #[test]
    fn a_line_is_read_back() {
        let outcome = outcome(Fault::Frozen, 3210);
        assert_eq!(outcome.line().parse(), Ok(outcome));
        assert!("7\t1\tcell".parse::<Outcome>().is_err());
    }

    #[test]
    fn the_summary_has_ranks_and_bars() {
        let all: Vec<Outcome> = (1..=10).map(|n| outcome(Fault::Cell, n * 100)).collect();
        let text = summary(&all);
        let line = text.lines().find(|line| line.starts_with("cell")).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["cell", "-", "10", "10", "0.5", "0.9", "1.0", "0.0", "9.0"]
        );
        // 100 to 400, 500 to 900, 1000.
        let counts: Vec<&str> = text
            .lines()
            .filter(|line| line.contains(" to "))
            .filter_map(|line| line.split(" s ").nth(1)?.split_whitespace().next())
            .collect();
        assert_eq!(counts, ["4", "5", "1"]);
        assert!(text.contains("100 rows acknowledged"));
    }
}
