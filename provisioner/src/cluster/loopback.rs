//! Where [`HOST`] leads on this machine, which is where everything of a local cluster listens.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use cellar_model::HostName;
use cellar_system::{addresses_of, has_address};

/// The name under which everything on this machine reaches everything else.
pub(crate) const HOST: &str = "localhost";

/// [`HOST`] as the records have it.
pub(crate) fn host() -> HostName {
    #[expect(clippy::expect_used, reason = "the constant is a DNS name")]
    HOST.parse().expect("a DNS name")
}

/// The address in a local cluster's records, which stands for all loopback addresses that [`HOST`] leads to.
pub(crate) const LISTEN: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The loopback addresses that the host's name leads to and that this machine has, in the order in which clients try
/// them; without one, the address that the records name.
pub(crate) fn loopback() -> Vec<IpAddr> {
    let named = addresses_of(HOST).unwrap_or_default();
    let here: Vec<IpAddr> =
        named.into_iter().filter(|address| address.is_loopback() && has_address(*address)).collect();
    if here.is_empty() { vec![LISTEN] } else { here }
}

/// A port at each of these addresses.
pub(crate) fn at_loopback(port: u16) -> Vec<SocketAddr> {
    loopback().into_iter().map(|address| SocketAddr::new(address, port)).collect()
}
