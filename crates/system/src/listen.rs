//! Where a server has to listen so that everybody finds it who knows its host by name.

use std::io;
use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream, ToSocketAddrs};

/// The addresses of a host, in the order in which clients try them: that of `getaddrinfo(3)`, as pgBackRest's clients
/// and libpq use it. May wait for a name server.
///
/// # Errors
/// When the name leads nowhere.
pub fn addresses_of(host: &str) -> io::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for found in (host, 0).to_socket_addrs()? {
        if !addresses.contains(&found.ip()) {
            addresses.push(found.ip());
        }
    }
    Ok(addresses)
}

/// Whether this machine has the address, so that a server can listen on it.
#[must_use]
pub fn has_address(address: IpAddr) -> bool {
    TcpListener::bind((address, 0)).is_ok()
}

/// Whether a socket that listens on `::` takes IPv4 connections as well. Not so without IPv6, or with
/// `net.ipv6.bindv6only`.
#[must_use]
pub fn is_dual_stack() -> bool {
    let Ok(socket) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) else { return false };
    socket.local_addr().is_ok_and(|address| TcpStream::connect(("127.0.0.1", address.port())).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_leads_to_an_address_of_this_machine() {
        let addresses = addresses_of("localhost").unwrap();
        assert!(
            addresses.iter().any(|address| address.is_loopback() && has_address(*address)),
            "{addresses:?}"
        );
        let distinct: std::collections::BTreeSet<_> = addresses.iter().collect();
        assert_eq!(distinct.len(), addresses.len());
    }

    #[test]
    fn address_that_is_not_here_is_found_out() {
        // Reserved for documentation (RFC 5737, RFC 3849).
        for address in ["192.0.2.1", "2001:db8::1"] {
            assert!(!has_address(address.parse().unwrap()), "{address}");
        }
        assert!(addresses_of("no such host").is_err());
    }
}
