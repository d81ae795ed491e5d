//! What every part of the agent works with.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::time::Duration;

use cellar_daemon::OsUser;
use cellar_model::{CellLayout, CellName, Database, DatabaseName, Leader, Pooler};
use cellar_pgbackrest::Pgbackrest;
use cellar_postgres::{Endpoint, InstanceFacts, Tools};
use cellar_topology::{LeaseKeeper, Mirror, Store};
use tokio::sync::Notify;

use crate::reporter::Report;

/// How long a probe may take before "no answer" is the answer. A healthy instance needs a
/// millisecond; a frozen one must not hold up the loop.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The agent of one instance. Lives on one thread, hence the cells.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The database served.
    pub(crate) database: DatabaseName,
    /// The cell served.
    pub(crate) cell: CellName,
    /// This run of the process.
    pub(crate) epoch: String,
    /// Where the cell's files are.
    pub(crate) layout: CellLayout,
    /// The user that everything runs as.
    pub(crate) user: OsUser,
    /// PostgreSQL's programs.
    pub(crate) tools: Tools,
    /// pgBackRest.
    pub(crate) pgbackrest: Pgbackrest,
    /// etcd.
    pub(crate) store: Store,
    /// This database's part of the topology.
    pub(crate) mirror: Mirror,
    /// This process's lease.
    pub(crate) lease: LeaseKeeper,
    /// What was last observed of the instance.
    pub(crate) facts: RefCell<Option<InstanceFacts>>,
    /// What the status says.
    pub(crate) report: RefCell<Report>,
    /// Wakes the reporter.
    pub(crate) reported: Notify,
    /// Wakes the supervisor before its next tick.
    pub(crate) nudge: Notify,
    /// Rings when `pgbackrest.conf` has changed.
    pub(crate) config_changed: Notify,
    /// Set while a job has the instance to itself; the supervisor keeps its hands off.
    pub(crate) held: Cell<bool>,
}

impl Agent {
    /// The database's record.
    pub(crate) fn database_record(&self) -> Option<Database> {
        self.mirror.view().databases.get(&self.database).cloned()
    }

    /// This pooler's own address card.
    pub(crate) fn card(&self) -> Option<Pooler> {
        self.card_of(&self.cell)
    }

    /// Another pooler's address card.
    pub(crate) fn card_of(&self, cell: &CellName) -> Option<Pooler> {
        self.mirror.view().poolers.get(&(self.database.clone(), cell.clone())).cloned()
    }

    /// The recorded primary.
    pub(crate) fn leader(&self) -> Option<Leader> {
        self.mirror.view().leaders.get(&self.database).cloned()
    }

    /// The cell whose PostgreSQL is at this address.
    pub(crate) fn cell_at(&self, host: &str, port: u16) -> Option<CellName> {
        let view = self.mirror.view();
        view.poolers
            .values()
            .find(|card| card.database == self.database && card.host == host && card.postgres_port == port)
            .map(|card| card.cell.clone())
    }

    /// Where the instance's socket is.
    pub(crate) fn endpoint(&self, card: &Pooler) -> Endpoint {
        Endpoint { socket_directory: PathBuf::from(&card.socket_directory), port: card.postgres_port }
    }

    /// Changes what the status says.
    pub(crate) fn say(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.borrow_mut());
        self.reported.notify_one();
    }

    /// The marker of a restore that was begun.
    pub(crate) fn seeding_marker(&self) -> PathBuf {
        self.layout.root().join("state").join("seeding")
    }

    /// The marker of a cell that has once had its data.
    pub(crate) fn seeded_marker(&self) -> PathBuf {
        self.layout.root().join("state").join("seeded")
    }
}
