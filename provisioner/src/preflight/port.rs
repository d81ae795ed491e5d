//! Which ports a cluster needs, and whether each is free.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use cellar_model::Ports;
use cellar_system::{Process, is_inside, listeners};

use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::LocalCell;
use crate::error::finding::Finding;
use crate::error::provision_error::Result;
use crate::error::spec_error::SpecError;

/// Attempts to bind a port that is taken by nothing that this user may see, or by a process that is ending.
const MAX_ATTEMPTS: u32 = 40;

/// Pause between the attempts.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(50);

/// Characters of a command line that a message shows.
const MAX_COMMAND_CHARS: usize = 80;

/// A port with what needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortNeed {
    pub(crate) port: u16,
    pub(crate) purpose: String,
}

impl Cluster {
    /// Every port that these cells and the parts they share need.
    pub(crate) fn ports(&self, cells: &[LocalCell]) -> Result<Vec<PortNeed>> {
        let single = [
            (Ports::ETCD_CLIENT, "etcd (clients)"),
            (Ports::ETCD_PEER, "etcd (peers)"),
            (Ports::ADMIN_GRPC, "multiadmin"),
        ];
        let mut needs = Vec::new();
        let route = [
            (Ports::ROUTE_WRITES, "HAProxy (writes)"),
            (Ports::ROUTE_READS, "HAProxy (reads)"),
            (Ports::ROUTE_STATISTICS, "HAProxy (statistics)"),
        ];
        for (base, purpose) in single.into_iter().chain(route.into_iter().filter(|_| self.state.route)) {
            needs.push(PortNeed { port: self.port(base)?, purpose: purpose.to_owned() });
        }
        for cell in cells {
            needs.extend(self.cell_ports(cell)?);
        }
        Ok(needs)
    }

    pub(crate) fn cell_ports(&self, cell: &LocalCell) -> Result<Vec<PortNeed>> {
        let mut needs = Vec::new();
        for pooler in self.poolers(std::slice::from_ref(cell))? {
            let shown = self.state.shown(&Member { cell: pooler.cell, database: pooler.database });
            let need = |port, what: &str| PortNeed { port, purpose: format!("{what} of cell {shown}") };
            needs.extend([
                need(pooler.pgbackrest_port, "the pgBackRest TLS server"),
                need(pooler.postgres_port, "PostgreSQL"),
                need(pooler.grpc_port, "multipooler"),
                need(pooler.health_port, "multipooler (health)"),
            ]);
            if pooler.pool_port != 0 {
                needs.push(need(pooler.pool_port, "PgBouncer"));
            }
        }
        Ok(needs)
    }

    /// Refuses two things on the host of one of these cells that have the same port.
    pub(crate) fn check_ports_of_hosts(&self, cells: &[LocalCell]) -> Result<()> {
        for cell in cells.iter().filter(|cell| cell.host.is_some()) {
            let mut taken: BTreeMap<u16, String> = BTreeMap::new();
            for PortNeed { port, purpose } in self.ports(std::slice::from_ref(cell))? {
                if let Some(first) = taken.insert(port, purpose.clone()) {
                    let value = format!("port {port} on the host of cell {}", cell.name);
                    return Err(SpecError::Collision { first, second: purpose, value }.into());
                }
            }
        }
        Ok(())
    }
}

/// Whether a process works for the cluster in `dir`: it works in there, or an argument names a path in there.
pub(crate) fn works_for(process: &Process, dir: &Path) -> bool {
    let names_path = |argument: &String| {
        let value = argument.split_once('=').map(|(_, value)| value);
        [Some(argument.as_str()), value].into_iter().flatten().any(|text| is_inside(Path::new(text), dir))
    };
    process.working_path().is_some_and(|path| is_inside(&path, dir))
        || process.arguments().iter().any(names_path)
}

/// A process for a message: its number and its command line, without control characters.
fn describe(process: &Process) -> String {
    let command = process.arguments().join(" ");
    let shown: String =
        command.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_COMMAND_CHARS).collect();
    format!("process {} ({shown})", process.pid)
}

/// Binds every address, and frees it again.
fn bind_all(addresses: &[SocketAddr]) -> std::io::Result<()> {
    let bound: std::io::Result<Vec<TcpListener>> = addresses.iter().map(TcpListener::bind).collect();
    bound.map(drop)
}

/// Whether the port is free at these addresses, or held by the cluster in `own` itself.
pub(crate) fn check_port(need: &PortNeed, addresses: &[SocketAddr], own: Option<&Path>) -> Option<Finding> {
    let PortNeed { port, purpose } = need;
    let mut holder = "another process, which this user may not see".to_owned();
    // A process that was just killed keeps its port until the kernel has freed its sockets, and one that is replacing
    // its socket is seen with neither the old nor the new one.
    for attempt in 0..MAX_ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(ATTEMPT_INTERVAL);
        }
        match bind_all(addresses) {
            Ok(()) => return None,
            Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
                return Some(Finding {
                    message: format!("port {port}, needed by {purpose}, cannot be used: {error}"),
                    hint: Some("choose other ports with --port-offset N, or --port-offset auto".to_owned()),
                });
            }
            Err(_in_use) => {}
        }
        let holders = listeners(*port);
        if own.is_some_and(|dir| holders.iter().any(|process| works_for(process, dir))) {
            return None;
        }
        if let Some(first) = holders.first() {
            holder = describe(first);
            // One that is ending has no arguments any more, by which it would be known.
            if holders.iter().all(|process| !process.arguments().is_empty()) {
                break;
            }
        }
    }
    Some(Finding {
        message: format!("port {port}, needed by {purpose}, is in use by {holder}"),
        hint: Some(
            "end that process, or choose other ports with --port-offset N or --port-offset auto".to_owned(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_in_use_is_reported_with_its_holder() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = [socket.local_addr().unwrap()];
        let port = at[0].port();
        let need = PortNeed { port, purpose: "PostgreSQL of cell zone1".into() };
        let finding = check_port(&need, &at, None).unwrap();
        assert!(finding.message.contains(&format!("port {port}, needed by PostgreSQL of cell zone1")));
        assert!(finding.message.contains(&format!("process {}", std::process::id())), "{finding:?}");
        let stranger = tempfile::tempdir().unwrap();
        assert!(check_port(&need, &at, Some(stranger.path())).is_some());
        let own = std::env::current_dir().unwrap();
        assert_eq!(check_port(&need, &at, Some(&own)), None, "held by a process that works there");
        let link = stranger.path().join("link");
        std::os::unix::fs::symlink(&own, &link).unwrap();
        assert_eq!(check_port(&need, &at, Some(&link)), None, "the same directory under another name");
        drop(socket);
        assert_eq!(check_port(&need, &at, None), None);
    }
}
