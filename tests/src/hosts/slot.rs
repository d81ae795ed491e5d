//! Which network is whose: a number that a living test holds a lock for, in the names of all that belongs to it.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::hosts::network;

/// The beginning of the names of all namespaces of tests; the number follows.
const PREFIX: &str = "cellar-test-";

/// One file for each number, locked by the test that has it. They stay: they are empty, and a lock on a file that is
/// removed and made again would be two locks.
const LOCKS: &str = "/run/cellar-test-hosts";

/// The third byte of the addresses, so that those of tests at the same time differ in logs too.
const NUMBERS: std::ops::RangeInclusive<u8> = 1..=250;

/// A network of this process's, until it is dropped. Whoever has made anything in it clears it before.
#[derive(Debug)]
pub(super) struct Slot {
    number: u8,
    _lock: File,
}

impl Slot {
    /// One that nobody has. What tests have left that are no more is removed first.
    ///
    /// # Panics
    /// When all are taken, or there cannot be locks.
    #[track_caller]
    pub(super) fn take() -> Self {
        if let Err(error) = std::fs::create_dir_all(LOCKS) {
            panic!("{LOCKS} cannot be made: {error}");
        }
        for number in left() {
            drop(Self::try_take(number));
        }
        match NUMBERS.into_iter().find_map(Self::try_take) {
            Some(slot) => slot,
            None => panic!("{} tests with hosts run already: wait for them to end", NUMBERS.len()),
        }
    }

    /// The one of this number, with nothing in it, unless a living test has it.
    fn try_take(number: u8) -> Option<Self> {
        let path = Path::new(LOCKS).join(number.to_string());
        let lock = match File::create(&path) {
            Ok(lock) => lock,
            Err(error) => panic!("{} cannot be written: {error}", path.display()),
        };
        lock.try_lock().ok()?;
        let slot = Self { number, _lock: lock };
        slot.clear();
        Some(slot)
    }

    /// The namespace of a host.
    pub(super) fn namespace(&self, host: &str) -> String {
        format!("{PREFIX}{}-{host}", self.number)
    }

    /// The address of a host, by its own number.
    pub(super) fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, host)
    }

    /// Ends and removes all that is in it.
    pub(super) fn clear(&self) {
        let names = network::known();
        names
            .iter()
            .filter(|name| number_of(name) == Some(self.number))
            .for_each(|name| network::remove(name));
    }
}

/// The numbers of which anything is there.
fn left() -> BTreeSet<u8> {
    network::known().iter().filter_map(|name| number_of(name)).collect()
}

fn number_of(namespace: &str) -> Option<u8> {
    namespace.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_have_a_number() {
        assert_eq!(number_of("cellar-test-17-db1"), Some(17));
        for other in ["cellar-test-17", "cellar-test-x-db1", "cellar-17-db1", "blue", "cellar-test-300-db1"] {
            assert_eq!(number_of(other), None, "{other}");
        }
    }
}
