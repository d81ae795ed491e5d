//! What must hold before anything is started or written.
//!
//! Every check runs, and all problems are reported at once: a person who solves five wants to run the command twice, not
//! six times.

use std::path::Path;

use cellar_model::{CellLayout, Database, Pooler};
use cellar_pgbackrest::{ConfigInput, render_full};

use crate::binaries;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::LocalCell;
use crate::error::finding::Finding;
use crate::error::provision_error::Result;
use crate::preflight::port::check_port;
use crate::preflight::{access, data_directory, disk, host_name, store};

impl Cluster {
    /// The problems that keep these cells from running beside what runs already. `new` of them have no data yet.
    ///
    /// # Errors
    /// When the cells' ports or paths cannot be at all; findings are no error.
    pub fn preflight(&self, cells: &[LocalCell], new: usize) -> Result<Vec<Finding>> {
        // Paths that pgBackRest would misread, sockets that are too long, ports above 65535.
        self.check_configs(&self.poolers(cells)?)?;
        let mut findings = binaries::missing();
        findings.extend(self.state.route.then(binaries::missing_haproxy).flatten());
        findings.extend(self.state.pool.then(binaries::missing_pgbouncer).flatten());
        findings.extend(store::check(&self.state.repo));
        findings.extend(host_name::check());
        let members: Vec<_> = cells.iter().flat_map(|cell| self.state.members_in(&cell.name)).collect();
        let layouts: Vec<_> = members.iter().map(|member| self.layout_of(member)).collect();
        findings.extend(self.check_access(&layouts));
        findings.extend(layouts.iter().filter_map(|layout| data_directory::check(&layout.data())));
        if new > 0 {
            findings.extend(disk::check(self.layout.root(), new));
            findings.extend(self.repository_here().and_then(disk::check_repo));
        }
        for need in self.ports(cells)? {
            findings.extend(check_port(&need, &self.listen_at(need.port), Some(self.layout.root())));
            findings.extend(host_name::check_reach(&need, self.layout.root()));
        }
        Ok(findings)
    }

    pub(crate) fn check_configs(&self, poolers: &[Pooler]) -> Result<()> {
        for database in self.state.databases() {
            // What is encrypted with what has no bearing on paths and ports.
            let database = Database { repo_cipher: None, ..self.record_of(database) };
            let of_database = || poolers.iter().filter(|pooler| pooler.database == database.name);
            for local in of_database() {
                let others: Vec<&Pooler> = of_database().filter(|other| other.cell != local.cell).collect();
                render_full(&ConfigInput {
                    database: &database,
                    local,
                    others: &others,
                    tls_server_auth: "*",
                    passphrase: None,
                })?;
            }
        }
        Ok(())
    }

    fn check_access(&self, members: &[CellLayout]) -> Vec<Finding> {
        let repo = self.repository_here().map(Path::to_owned);
        let places = repo.into_iter().chain(members.iter().map(|layout| layout.root().to_owned()));
        let mut findings: Vec<Finding> =
            places.filter_map(|place| access::check(&place, &self.user)).collect();
        findings.extend(access::check_mount(self.layout.root()));
        // The same parent keeps every cell out, and one change of it helps all.
        findings.dedup_by(|later, first| later.hint == first.hint);
        findings
    }
}
