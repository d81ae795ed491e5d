//! Progress: one line a step, for the person who waits.

use std::fmt;
use std::time::{Duration, Instant};

type Sink = dyn Fn(Duration, &str) + Send + Sync;

/// Receives one line per step, with the time since the beginning.
pub struct Steps {
    begun: Instant,
    sink: Box<Sink>,
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl Steps {
    /// Steps that go to `sink`; the time counts from now.
    pub fn new(sink: impl Fn(Duration, &str) + Send + Sync + 'static) -> Self {
        Self { begun: Instant::now(), sink: Box::new(sink) }
    }

    pub(crate) fn step(&self, text: &str) {
        (self.sink)(self.begun.elapsed(), text);
    }
}
