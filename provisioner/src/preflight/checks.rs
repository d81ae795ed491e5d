//! What must hold before anything is started or written.
//!
//! Everything is looked at, and everything that is in the way is named at once: a person who mends
//! five things wants to run the command twice, not six times.

use std::path::Path;

use cellar_model::{CellName, Database, Pooler, Ports};
use cellar_pgbackrest::{ConfigInput, render_full};

use crate::binaries;
use crate::error::Result;
use crate::local::cluster::{Cluster, LISTEN};
use crate::local::state::LocalCell;
use crate::preflight::{disk, port_holder, reach};

/// One thing that is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What, with names.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

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
        for (base, purpose) in single {
            needs.push(PortNeed { port: self.port(base)?, purpose: purpose.to_owned() });
        }
        for cell in cells {
            needs.extend(self.cell_ports(cell)?);
        }
        Ok(needs)
    }

    pub(crate) fn cell_ports(&self, cell: &LocalCell) -> Result<Vec<PortNeed>> {
        let pooler = self.pooler(cell)?;
        let need = |port, what: &str| PortNeed { port, purpose: format!("{what} of cell {}", cell.name) };
        Ok(vec![
            need(pooler.pgbackrest_port, "the pgBackRest TLS server"),
            need(pooler.postgres_port, "PostgreSQL"),
            need(pooler.grpc_port, "multipooler"),
        ])
    }

    /// Everything that is in the way of running these cells beside what runs already. `new` of them
    /// have no data yet.
    ///
    /// # Errors
    /// When the cells' ports or paths cannot be at all; findings are no error.
    pub fn preflight(&self, cells: &[LocalCell], new: usize) -> Result<Vec<Finding>> {
        // Paths that pgBackRest would misread, sockets that are too long, ports above 65535.
        let poolers = cells.iter().map(|cell| self.pooler(cell)).collect::<Result<Vec<_>>>()?;
        self.check_configs(&poolers)?;
        let mut findings = binaries::missing();
        findings.extend(self.check_reach(cells.iter().map(|cell| &cell.name)));
        if new > 0 {
            findings.extend(disk::check(self.layout.root(), new));
            findings.extend(disk::check_repo(&self.state.repo));
        }
        for need in self.ports(cells)? {
            findings.extend(check_port(&need, Some(self.layout.root())));
        }
        Ok(findings)
    }

    fn check_configs(&self, poolers: &[Pooler]) -> Result<()> {
        // What is encrypted with what has no bearing on paths and ports.
        let database = Database { repo_cipher: None, ..self.database() };
        for local in poolers {
            let others: Vec<&Pooler> = poolers.iter().filter(|other| other.cell != local.cell).collect();
            render_full(&ConfigInput {
                database: &database,
                local,
                others: &others,
                tls_server_auth: "*",
                passphrase: None,
            })?;
        }
        Ok(())
    }

    fn check_reach<'a>(&'a self, cells: impl Iterator<Item = &'a CellName>) -> Vec<Finding> {
        let places = std::iter::once(self.state.repo.clone())
            .chain(cells.map(|cell| self.layout.cell(cell).root().to_owned()));
        let mut findings: Vec<Finding> =
            places.filter_map(|place| reach::check(&place, &self.user)).collect();
        // The same parent stands in the way of every cell, and is mended in the same way.
        findings.dedup_by(|later, first| later.hint == first.hint);
        findings
    }
}

/// How often a port is looked at that is taken by nobody who can be seen.
const LOOKS: u32 = 10;

/// Pause between the looks.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(50);

/// Whether the port is free, or held by the cluster in `own` itself.
pub(crate) fn check_port(need: &PortNeed, own: Option<&Path>) -> Option<Finding> {
    let PortNeed { port, purpose } = need;
    let mut held = "another process, which this user may not see".to_owned();
    // A process that was just killed keeps its port until the kernel has taken it apart, and one that binds its port
    // anew is not seen with either socket.
    for look in 0..LOOKS {
        if look > 0 {
            std::thread::sleep(LOOK_AGAIN);
        }
        match std::net::TcpListener::bind((LISTEN, *port)) {
            Ok(_free) => return None,
            Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
                return Some(Finding {
                    message: format!("port {port}, needed by {purpose}, cannot be used: {error}"),
                    hint: Some("choose other ports with --port-offset N, or --port-offset auto".to_owned()),
                });
            }
            Err(_in_use) => {}
        }
        let holders = port_holder::holders(*port);
        if own
            .is_some_and(|dir| holders.iter().any(|holder| crate::local::process::works_for(holder.pid, dir)))
        {
            return None;
        }
        if let Some(holder) = holders.first() {
            held = format!("process {} ({})", holder.pid, holder.command);
            break;
        }
    }
    Some(Finding {
        message: format!("port {port}, needed by {purpose}, is in use by {held}"),
        hint: Some(
            "end that process, or choose other ports with --port-offset N or --port-offset auto".to_owned(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_port_in_use_is_named_with_its_holder() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let need = PortNeed { port, purpose: "PostgreSQL of cell zone1".into() };
        let finding = check_port(&need, None).unwrap();
        assert!(finding.message.contains(&format!("port {port}, needed by PostgreSQL of cell zone1")));
        assert!(finding.message.contains(&format!("process {}", std::process::id())), "{finding:?}");
        let stranger = tempfile::tempdir().unwrap();
        assert!(check_port(&need, Some(stranger.path())).is_some());
        let own = std::env::current_dir().unwrap();
        assert_eq!(check_port(&need, Some(&own)), None, "held by a process that works there");
        drop(socket);
        assert_eq!(check_port(&need, None), None);
    }
}
