//! Which processes listen on a TCP port, as far as this user may see.

use std::collections::BTreeSet;

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process as Entry};

use crate::process::Process;

/// The processes that listen on a port; empty when there are none, or none that this user may see.
#[must_use]
pub fn listeners(port: u16) -> Vec<Process> {
    let tables = [procfs::net::tcp(), procfs::net::tcp6()];
    let sockets = listening_sockets(&tables.into_iter().flatten().flatten().collect::<Vec<_>>(), port);
    if sockets.is_empty() {
        return Vec::new();
    }
    Process::all().into_iter().filter(|process| has_open(process.pid, &sockets)).collect()
}

/// Inodes of the sockets that listen on the port.
fn listening_sockets(table: &[TcpNetEntry], port: u16) -> BTreeSet<u64> {
    let listening =
        |entry: &&TcpNetEntry| entry.state == TcpState::Listen && entry.local_address.port() == port;
    table.iter().filter(listening).map(|entry| entry.inode).collect()
}

fn has_open(pid: i32, sockets: &BTreeSet<u64>) -> bool {
    let Ok(descriptors) = Entry::new(pid).and_then(|entry| entry.fd()) else { return false };
    descriptors
        .flatten()
        .any(|descriptor| matches!(descriptor.target, FDTarget::Socket(inode) if sockets.contains(&inode)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn listener_is_found_and_a_connection_is_none() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            let found: Vec<i32> = listeners(port).into_iter().map(|process| process.pid).collect();
            assert_eq!(found, [std::process::id().cast_signed()]);
            let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            drop(listener);
            assert!(listeners(port).is_empty());
            assert!(listeners(connection.local_addr().unwrap().port()).is_empty());
        }
    }
}
