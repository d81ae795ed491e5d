//! Chance, from one seed.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// A generator that everything in one simulation draws from. Clones share it.
#[derive(Debug, Clone)]
pub struct Chance(Rc<RefCell<fastrand::Rng>>);

impl Chance {
    /// The generator of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(fastrand::Rng::with_seed(seed))))
    }

    /// True once in `times` on average; never when `times` is 0.
    #[must_use]
    pub fn once_in(&self, times: u32) -> bool {
        times > 0 && self.0.borrow_mut().u32(0..times) == 0
    }

    /// A whole number below `end`, which must not be 0.
    #[must_use]
    pub fn below(&self, end: usize) -> usize {
        self.0.borrow_mut().usize(0..end)
    }

    /// A duration between two, to the millisecond.
    #[must_use]
    pub fn between(&self, from: Duration, to: Duration) -> Duration {
        let (from, to) = (from.as_millis() as u64, to.as_millis() as u64);
        Duration::from_millis(self.0.borrow_mut().u64(from..=to.max(from)))
    }

    /// One of the items, which must not be empty.
    #[must_use]
    pub fn pick<'a, T>(&self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Where the generator stands: what it was asked for until now.
    #[must_use]
    pub fn state(&self) -> u64 {
        self.0.borrow().get_seed()
    }

    /// 128 bits.
    #[must_use]
    pub fn bits(&self) -> u128 {
        self.0.borrow_mut().u128(..)
    }
}
