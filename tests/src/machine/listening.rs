//! What a cluster's processes listen on, as the kernel says it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::machine::process::processes_of;

/// State of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// An address as `/proc/net/tcp` writes it: each 32-bit word in the machine's own order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words: Option<Vec<u8>> = (0..ip.len() / 8)
        .map(|at| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok())
        .map(|word| word.map(u32::to_ne_bytes))
        .try_fold(Vec::new(), |bytes, word| Some([bytes, word?.to_vec()].concat()));
    let words = words?;
    let ip = match words.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(words).ok()?)),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Listening sockets of a table by their inode.
fn listening(table: &str) -> BTreeMap<String, SocketAddr> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = address(fields.get(1)?)?;
        (*fields.get(3)? == LISTEN).then(|| Some((fields.get(9)?.to_string(), address)))?
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// Every TCP address on which a process listens that works in `directory` or names it in its arguments.
#[must_use]
pub fn listening_of(directory: &Path) -> BTreeSet<SocketAddr> {
    let table = |name: &str| std::fs::read_to_string(Path::new("/proc/net").join(name)).unwrap_or_default();
    let mut sockets = listening(&table("tcp"));
    sockets.extend(listening(&table("tcp6")));
    let mut found = BTreeSet::new();
    for pid in processes_of(directory) {
        for descriptor in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let target = std::fs::read_link(descriptor.path()).unwrap_or_default().display().to_string();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            found.extend(inode.and_then(|inode| sockets.get(inode)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_kernels_own_table_is_read() {
        let (v4, v6) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::1]:0"));
        let mut wanted = vec![v4.local_addr().unwrap()];
        wanted.extend(v6.iter().map(|socket| socket.local_addr().unwrap()));
        let sockets = ["tcp", "tcp6"]
            .map(|name| std::fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default());
        let found: BTreeSet<SocketAddr> =
            sockets.iter().flat_map(|table| listening(table).into_values()).collect();
        for address in wanted {
            assert!(found.contains(&address), "{address}");
        }
        assert!(listening("").is_empty());
    }
}
