//! Which processes of a local cluster live.

use cellar_system::running_pid;

use crate::cluster::local_cluster::Cluster;
use crate::processes::haproxy::HAPROXY;

/// A process that a cluster should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessHealth {
    /// What it is.
    pub what: String,
    /// Its process id, when it lives.
    pub pid: Option<u32>,
    /// Why it does not do its work, when another machine does it, or it must not be started.
    pub note: Option<String>,
}

impl Cluster {
    /// Every process that the cluster should have on this machine.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessHealth> {
        let health = |what: String, pid| ProcessHealth { what, pid, note: None };
        let mut all = Vec::new();
        if self.has_etcd() {
            all.push(health("etcd".to_owned(), self.etcd_pid()));
        }
        if self.has_multiadmin() {
            all.push(health("multiadmin".to_owned(), running_pid(&self.admin_pid_file())));
        }
        if self.state.route {
            all.push(health(HAPROXY.to_owned(), self.haproxy_pid()));
        }
        for member in self.members_here() {
            let (layout, cell) = (self.layout_of(&member), self.state.shown(&member));
            let postmaster = cellar_postgres::running(&layout.data()).ok().flatten();
            let postgres = postmaster.and_then(|found| u32::try_from(found.pid).ok());
            all.push(ProcessHealth {
                note: std::fs::read_to_string(layout.not_claimed()).ok(),
                ..health(format!("multipooler of cell {cell}"), running_pid(&self.pooler_pid_file(&member)))
            });
            all.push(health(format!("PostgreSQL of cell {cell}"), postgres));
        }
        all
    }
}
