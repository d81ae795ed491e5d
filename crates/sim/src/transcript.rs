//! What a run has done, tick by tick, so that two runs of a seed can be compared.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// For each tick a number that follows from everything that was noted until its end.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    /// Its keys are the same in every process.
    sum: DefaultHasher,
    ticks: Vec<(Duration, u64)>,
}

impl Transcript {
    /// Notes something that happens in this tick.
    pub fn note(&mut self, what: &impl Hash) {
        what.hash(&mut self.sum);
    }

    /// Ends the tick at a moment of simulated time.
    pub fn end_tick(&mut self, now: Duration) {
        let sum = self.sum.finish();
        tracing::debug!(?now, sum, "tick");
        self.ticks.push((now, sum));
    }

    /// The moment of the first tick that differs, also when one of the two has ended before; `None` when they are the same.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<Duration> {
        let pairs = self.ticks.iter().zip(&other.ticks);
        let different = pairs.filter(|(ours, theirs)| ours != theirs).map(|(ours, _)| ours.0);
        let (shorter, longer) =
            if self.ticks.len() < other.ticks.len() { (self, other) } else { (other, self) };
        different.chain(longer.ticks.iter().skip(shorter.ticks.len()).map(|(at, _)| *at)).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(notes: &[u32]) -> Transcript {
        let mut transcript = Transcript::default();
        for (note, second) in notes.iter().zip(1..) {
            transcript.note(note);
            transcript.end_tick(Duration::from_secs(second));
        }
        transcript
    }

    #[test]
    fn runs_are_the_same_until_the_first_tick_that_differs() {
        let run = transcript(&[1, 2, 3]);
        assert_eq!(run.first_difference(&transcript(&[1, 2, 3])), None);
        assert_eq!(run.first_difference(&transcript(&[1, 4, 3])), Some(Duration::from_secs(2)));
        assert_eq!(run.first_difference(&transcript(&[1, 2])), Some(Duration::from_secs(3)));
        assert_eq!(transcript(&[1, 2]).first_difference(&run), Some(Duration::from_secs(3)));
    }
}
