//! Counting open connections, so that no certificate, and not all of them together, use up the file descriptors.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Bounds on open connections whose peers have proven their identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// How many may be open at once. Each holds a file descriptor.
    pub total: usize,
    /// How many of them with one certificate.
    pub per_certificate: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        // With as many handshakes as there may be, three quarters of the usual limit of 1024 file
        // descriptors. One client needs one connection; a certificate may be shared by a team's scripts.
        Self { total: 512, per_certificate: 128 }
    }
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_serial: HashMap<String, usize>,
}

/// The open connections of one listener.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    limits: ConnectionLimits,
    counts: Arc<Mutex<Counts>>,
}

/// One counted connection; dropping this frees its slot.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    serial: String,
    counts: Arc<Mutex<Counts>>,
}

impl Connections {
    pub(crate) fn new(limits: ConnectionLimits) -> Self {
        Self { limits, counts: Arc::default() }
    }

    /// Counts one more connection with this certificate, or says why it is refused.
    pub(crate) fn open(&self, serial: &str) -> Result<ConnectionSlot, &'static str> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.total >= self.limits.total {
            return Err("too many connections are open");
        }
        let own = counts.by_serial.entry(serial.to_owned()).or_default();
        if *own >= self.limits.per_certificate {
            return Err("too many connections with the same certificate are open");
        }
        *own += 1;
        counts.total += 1;
        Ok(ConnectionSlot { serial: serial.to_owned(), counts: self.counts.clone() })
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        let left = counts.by_serial.get_mut(&self.serial).map(|own| {
            *own -= 1;
            *own
        });
        if left == Some(0) {
            counts.by_serial.remove(&self.serial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_once_and_given_back() {
        let connections = Connections::new(ConnectionLimits { total: 3, per_certificate: 2 });
        let (first, _second) = (connections.open("a").unwrap(), connections.open("a").unwrap());
        assert!(connections.open("a").unwrap_err().contains("same certificate"));
        let other = connections.open("b").unwrap();
        assert!(connections.open("c").unwrap_err().contains("too many connections are open"));
        drop(first);
        let _again = connections.open("a").unwrap();
        drop(other);
        assert_eq!(connections.counts.lock().unwrap().by_serial.keys().collect::<Vec<_>>(), ["a"]);
    }
}
