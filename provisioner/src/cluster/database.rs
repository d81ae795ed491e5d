//! A database of a cluster, and its members.

use cellar_model::{CellName, DatabaseName, StanzaName};
use serde::{Deserialize, Serialize};

/// A database of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterDatabase {
    /// Its name.
    pub name: DatabaseName,
    /// pgBackRest's name for it.
    pub stanza: StanzaName,
    /// The cell that ran initdb.
    pub bootstrap_cell: CellName,
    /// The cells in which it is to have members; empty for all. A cell that leaves the cluster stays in it, so that the
    /// member is there again when the cell is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<CellName>,
    /// Moves the ports of its members. The first database has the cluster's.
    pub port_offset: u16,
    /// How many full backups an expiry keeps; a default unless it was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_full: Option<u32>,
    /// The name of the first backup that is waited for; none once it is in the repository, or has failed for good. Another
    /// repository gets another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_backup: Option<uuid::Uuid>,
}

impl ClusterDatabase {
    /// Whether it is to have a member in a cell.
    #[must_use]
    pub fn is_wanted_in(&self, cell: &CellName) -> bool {
        self.cells.is_empty() || self.cells.contains(cell)
    }
}

/// The instance of a database in a cell, with its multipooler and all that is beside it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The cell.
    pub cell: CellName,
    /// The database.
    pub database: DatabaseName,
}
