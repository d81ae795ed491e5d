//! Counting open connections, so that neither many certificates nor one take all there may be.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Bounds on open connections whose peers have proven who they are.
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
struct Open {
    total: usize,
    by_serial: HashMap<String, usize>,
}

/// The open connections of one listener.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    limits: ConnectionLimits,
    open: Arc<Mutex<Open>>,
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    serial: String,
    open: Arc<Mutex<Open>>,
}

impl Connections {
    pub(crate) fn new(limits: ConnectionLimits) -> Self {
        Self { limits, open: Arc::default() }
    }

    /// A place for one more connection with this certificate, or why there is none.
    pub(crate) fn enter(&self, serial: &str) -> Result<Place, &'static str> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.total >= self.limits.total {
            return Err("too many connections are open");
        }
        let own = open.by_serial.entry(serial.to_owned()).or_default();
        if *own >= self.limits.per_certificate {
            return Err("too many connections with the same certificate are open");
        }
        *own += 1;
        open.total += 1;
        Ok(Place { serial: serial.to_owned(), open: self.open.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total -= 1;
        let left = open.by_serial.get_mut(&self.serial).map(|own| {
            *own -= 1;
            *own
        });
        if left == Some(0) {
            open.by_serial.remove(&self.serial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_once_and_given_back() {
        let connections = Connections::new(ConnectionLimits { total: 3, per_certificate: 2 });
        let (first, _second) = (connections.enter("a").unwrap(), connections.enter("a").unwrap());
        assert!(connections.enter("a").unwrap_err().contains("same certificate"));
        let other = connections.enter("b").unwrap();
        assert!(connections.enter("c").unwrap_err().contains("too many connections are open"));
        drop(first);
        let _again = connections.enter("a").unwrap();
        drop(other);
        assert_eq!(connections.open.lock().unwrap().by_serial.keys().collect::<Vec<_>>(), ["a"]);
    }
}
