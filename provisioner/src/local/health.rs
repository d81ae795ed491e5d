//! Which processes of a local cluster live.

use std::path::Path;

use cellar_system::{read_text, running_pid};

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
    /// What to do about it when it does not live; none where `cellar up` starts it.
    pub repair: Option<String>,
}

impl Cluster {
    /// Every process that the cluster should have on this machine.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessHealth> {
        let health = |what: String, pid| ProcessHealth { what, pid, note: None, repair: None };
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
            let pooler = running_pid(&self.pooler_pid_file(&member));
            all.push(ProcessHealth {
                note: read_text(&layout.not_claimed()).ok(),
                ..health(format!("multipooler of cell {cell}"), pooler)
            });
            if self.state.pool {
                let pool = self.pool_process(&member).and_then(|found| u32::try_from(found.pid).ok());
                all.push(ProcessHealth {
                    repair: pooler.map(|_| pool_repair(&layout.log())),
                    ..health(format!("PgBouncer of cell {cell}"), pool)
                });
            }
            all.push(ProcessHealth {
                repair: pooler.map(|_| why_not_running(&layout.log())),
                ..health(format!("PostgreSQL of cell {cell}"), postgres)
            });
        }
        all
    }
}

/// What to do about a PgBouncer that does not run although its multipooler does, which starts it.
fn pool_repair(log: &Path) -> String {
    format!(
        "its multipooler starts it by itself once there is a primary; why it has not is in {} and {}",
        log.join("pgbouncer.log").display(),
        log.join("multipooler.log").display()
    )
}

/// What to do about a PostgreSQL that does not run although its multipooler does, which starts it: `cellar up` cannot do more.
fn why_not_running(log: &Path) -> String {
    format!(
        "its multipooler starts it by itself when it can; why it has not is below and in {} and {}",
        log.join("postgres.log").display(),
        log.join("multipooler.log").display()
    )
}
