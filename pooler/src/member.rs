//! This process as etcd knows it: what it may write, what it sees, and the lease by which others know that it is alive.

use cellar_model::{CellName, DatabaseName};
use cellar_topology::{LeaseKeeper, Mirror, Store};

/// One pooler process of one database in one cell.
#[derive(Debug)]
pub struct Member {
    /// The database that it serves.
    pub database: DatabaseName,
    /// The cell that it serves.
    pub cell: CellName,
    /// The id of this run of the process.
    pub epoch: String,
    /// The records in etcd.
    pub store: Store,
    /// This database's part of the topology.
    pub mirror: Mirror,
    /// This process's lease.
    pub lease: LeaseKeeper,
}
