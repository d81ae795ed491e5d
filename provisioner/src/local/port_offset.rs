//! `--port-offset auto`: ports for one more cluster on this machine.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::str::FromStr;

use cellar_model::Ports;

use crate::cluster::loopback::loopback;
use crate::error::provision_error::{ProvisionError, Result};

/// Distance between the offsets that are tried. The smallest multiple of 100 at which no port of one
/// cluster is a port of another one, for up to [`MAX_CELLS`] cells each; a test checks it.
const STEP: u16 = 700;

/// Cells per cluster for which offsets stay apart.
const MAX_CELLS: u16 = 64;

/// The largest offset: PostgreSQL's ports must stay below 65536.
const MAX_OFFSET: u16 = u16::MAX - Ports::POSTGRES - MAX_CELLS;

/// How the offset of a new cluster is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortOffset {
    /// This one.
    Fixed(u16),
    /// One at which everything is free.
    Auto,
}

impl FromStr for PortOffset {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            number => match number.parse() {
                Ok(offset) if offset <= MAX_OFFSET => Ok(Self::Fixed(offset)),
                _ => Err(format!("it must be auto or a number from 0 to {MAX_OFFSET}")),
            },
        }
    }
}

/// Holds an offset against other processes that look for one, until dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) offset: u16,
    _socket: UnixListener,
}

/// The abstract socket that stands for the offset on this machine: gone with its process, however that ends.
fn reserve(offset: u16) -> Option<Reservation> {
    let address = SocketAddr::from_abstract_name(format!("cellar-port-offset-{offset}")).ok()?;
    UnixListener::bind_addr(&address).ok().map(|socket| Reservation { offset, _socket: socket })
}

/// Every port of a cluster with so many cells.
fn ports(offset: u16, cells: u16) -> Vec<u16> {
    // HAProxy and PgBouncer may be asked for later.
    let single = [
        Ports::ETCD_CLIENT,
        Ports::ETCD_PEER,
        Ports::ADMIN_GRPC,
        Ports::ROUTE_WRITES,
        Ports::ROUTE_READS,
        Ports::ROUTE_STATISTICS,
    ];
    let each = [Ports::PGBACKREST, Ports::POSTGRES, Ports::POOLER_GRPC, Ports::POOLER_HEALTH, Ports::POOL];
    let of_cells = each.into_iter().flat_map(|base| (0..cells).map(move |index| base + index));
    single.into_iter().chain(of_cells).map(|port| port + offset).collect()
}

/// Reserves the first offset at which every port of `cells` cells is free.
///
/// # Errors
/// When there is none.
pub(crate) fn find(cells: usize) -> Result<Reservation> {
    let cells = u16::try_from(cells).unwrap_or(MAX_CELLS).min(MAX_CELLS);
    let addresses = loopback();
    let free = |port: &u16| addresses.iter().all(|address| TcpListener::bind((*address, *port)).is_ok());
    (0..=MAX_OFFSET / STEP)
        .filter_map(|n| reserve(n * STEP))
        .find(|reservation| ports(reservation.offset, cells).iter().all(free))
        .ok_or_else(|| ProvisionError::Argument {
            argument: "--port-offset",
            value: "auto".to_owned(),
            reason: format!("at each of {} offsets some port is in use", MAX_OFFSET / STEP + 1),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn no_two_offsets_share_a_port() {
        let mut taken = BTreeMap::new();
        for offset in (0..=MAX_OFFSET / STEP).map(|n| n * STEP) {
            // The HTTP ports that the design sets aside count too.
            let http = (0..MAX_CELLS).map(|index| 15200 + index).chain([15000]).map(|port| port + offset);
            for port in ports(offset, MAX_CELLS).into_iter().chain(http) {
                assert_eq!(taken.insert(port, offset), None, "port {port} at offset {offset}");
            }
        }
    }

    #[test]
    fn offset_is_reserved_once() {
        let first = reserve(39_999).unwrap();
        assert!(reserve(39_999).is_none());
        drop(first);
        assert!(reserve(39_999).is_some());
    }

    #[test]
    fn two_searches_find_different_offsets() {
        let (first, second) = (find(3).unwrap(), find(3).unwrap());
        assert_ne!(first.offset, second.offset);
    }

    #[test]
    fn offsets_are_read() {
        assert_eq!("auto".parse(), Ok(PortOffset::Auto));
        assert_eq!("100".parse(), Ok(PortOffset::Fixed(100)));
        for bad in ["", "-1", "60000", "x"] {
            assert!(bad.parse::<PortOffset>().is_err(), "{bad}");
        }
    }
}
