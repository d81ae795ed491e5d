//! The addresses that this cell's servers listen on, and whether a server is there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use cellar_model::Pooler;
use cellar_system::{addresses_of, has_address, is_dual_stack};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a server may take to accept a connection.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to a server, and leaves it again.
///
/// # Errors
/// When it accepts no connection in time: why, with its address.
pub(crate) async fn reach(host: &str, port: u16) -> Result<(), String> {
    match timeout(ACCEPT_TIMEOUT, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{host}:{port}: {error}")),
        Err(_) => Err(format!("{host}:{port} accepts no connection within {} s", ACCEPT_TIMEOUT.as_secs())),
    }
}

/// What the servers of a cell listen on.
///
/// pgBackRest's client (2.45) tries only the first address of a host's name, and its server listens on one address. So
/// the two must be the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listening {
    /// Never empty; the first is where pgBackRest's clients connect.
    addresses: Vec<IpAddr>,
}

impl Default for Listening {
    fn default() -> Self {
        Self { addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] }
    }
}

/// The addresses, given what the card says (`listen`), where the host's name leads to (`named`, those that this machine
/// has), and whether a socket on `::` takes IPv4 connections.
///
/// `0.0.0.0` and `::` mean every address of the host. A loopback address means all loopback addresses that the host's
/// name leads to: the hosts file decides whether that is `127.0.0.1`, `::1`, or both. Any other address is meant as it is.
fn choose(listen: IpAddr, named: &[IpAddr], dual_stack: bool) -> Vec<IpAddr> {
    if listen.is_unspecified() {
        return vec![if dual_stack { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }];
    }
    let loopback: Vec<IpAddr> = named.iter().copied().filter(IpAddr::is_loopback).collect();
    if listen.is_loopback() && !loopback.is_empty() { loopback } else { vec![listen] }
}

impl Listening {
    /// What the card means on this machine now; none when it names no address. May wait for a name server.
    pub(crate) fn of(card: &Pooler) -> Option<Self> {
        let listen: IpAddr = card.listen.parse().ok()?;
        // Only a loopback address depends on the name.
        let named =
            if listen.is_loopback() { addresses_of(&card.host).unwrap_or_default() } else { Vec::new() };
        let here: Vec<IpAddr> = named.into_iter().filter(|address| has_address(*address)).collect();
        let dual_stack = listen.is_unspecified() && is_dual_stack();
        Some(Self { addresses: choose(listen, &here, dual_stack) })
    }

    fn first(&self) -> IpAddr {
        self.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// `tls-server-address` of pgBackRest, which takes one address.
    pub(crate) fn pgbackrest(&self) -> String {
        self.first().to_string()
    }

    /// `listen_addresses` of PostgreSQL, for which `::` has no IPv4 addresses.
    pub(crate) fn postgres(&self) -> String {
        if self.first().is_unspecified() {
            return "*".to_owned();
        }
        self.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
    }

    /// Where a server listens on a port.
    pub(crate) fn sockets(&self, port: u16) -> Vec<SocketAddr> {
        self.addresses.iter().map(|address| SocketAddr::new(*address, port)).collect()
    }

    /// An address at which this process reaches the cell's servers.
    pub(crate) fn local(&self) -> IpAddr {
        match self.first() {
            IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            // It takes IPv4 connections as well, and a machine may have IPv6 without `::1`.
            IpAddr::V6(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            address => address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(listen: &str, named: &[&str], dual_stack: bool) -> Listening {
        let named: Vec<IpAddr> = named.iter().map(|address| address.parse().unwrap()).collect();
        Listening { addresses: choose(listen.parse().unwrap(), &named, dual_stack) }
    }

    #[test]
    fn loopback_server_listens_where_the_name_of_its_host_leads() {
        for (named, pgbackrest, postgres) in [
            (vec!["127.0.0.1"], "127.0.0.1", "127.0.0.1"),
            (vec!["::1", "127.0.0.1"], "::1", "::1,127.0.0.1"),
            (vec!["::1"], "::1", "::1"),
            // The name leads to another host, or nowhere.
            (vec!["10.0.0.5"], "127.0.0.1", "127.0.0.1"),
            (vec![], "127.0.0.1", "127.0.0.1"),
        ] {
            let found = listening("127.0.0.1", &named, true);
            assert_eq!((found.pgbackrest().as_str(), found.postgres().as_str()), (pgbackrest, postgres));
        }
    }

    #[test]
    fn server_for_all_addresses_is_reached_over_ipv4_and_ipv6() {
        for listen in ["0.0.0.0", "::"] {
            let found = listening(listen, &[], true);
            assert_eq!((found.pgbackrest().as_str(), found.postgres().as_str()), ("::", "*"));
            assert_eq!(found.sockets(7), ["[::]:7".parse().unwrap()]);
            let without_ipv6 = listening(listen, &[], false);
            assert_eq!(
                (without_ipv6.pgbackrest().as_str(), without_ipv6.postgres().as_str()),
                ("0.0.0.0", "*")
            );
        }
    }

    #[test]
    fn named_address_is_meant_as_it_is() {
        let found = listening("10.0.0.5", &["127.0.1.1"], true);
        assert_eq!((found.pgbackrest().as_str(), found.postgres().as_str()), ("10.0.0.5", "10.0.0.5"));
        assert_eq!(found.local().to_string(), "10.0.0.5");
    }
}
