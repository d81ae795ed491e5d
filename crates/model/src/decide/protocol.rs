//! Which builds take part in a cluster: the minimum that a database demands, and when it is raised.
//!
//! The minimum follows the poolers: once each of them has reported a newer protocol, none is to fall behind it again. A
//! process that is older than the minimum does nothing for the database but keep PostgreSQL running, and a newer kind
//! of job or record is used only when the minimum allows it. So a rolling update needs no order among the poolers, and
//! an old binary that was started by mistake does no harm. etcd decides its own cluster version in the same way.

use crate::decide::snapshot::Snapshot;
use crate::records::topology::Database;
use crate::types::code::{Code, Refusal};
use crate::types::name::{CellName, DatabaseName};
use crate::types::protocol::Protocol;

impl Snapshot<'_> {
    /// The minimum that the database is to demand from now on: the lowest protocol of its poolers, if all of them
    /// report and that is more than it demands now. Never more than this build's own.
    #[must_use]
    pub fn raised_minimum(&self, database: &Database) -> Option<Protocol> {
        let mut lowest = Protocol::OURS;
        let mut poolers = self.poolers.keys().filter(|(name, _)| *name == database.name).peekable();
        poolers.peek()?;
        for pooler in poolers {
            lowest = lowest.min(self.status.get(pooler)?.versions.protocol);
        }
        (lowest > database.minimum_protocol).then_some(lowest)
    }

    /// That this process and the pooler of a cell are new enough for the database.
    ///
    /// # Errors
    /// Refused when one of them is not. A pooler that does not report is not refused here.
    pub fn new_enough(&self, database: &DatabaseName, cell: &CellName) -> Result<(), Refusal> {
        let Some(minimum) = self.databases.get(database).map(|database| database.minimum_protocol) else {
            return Ok(());
        };
        if minimum > Protocol::OURS {
            return Err(Refusal::new(
                Code::Unsupported,
                format!(
                    "this multiadmin is too old for database {database}: it speaks protocol {}, and the cluster's minimum is {minimum}",
                    Protocol::OURS
                ),
            )
            .hint("update multiadmin to the version of the cluster's other processes")
            .about("database", database));
        }
        let Some(status) = self.status.get(&(database.clone(), cell.clone())) else { return Ok(()) };
        let own = status.versions.protocol;
        if own >= minimum {
            return Ok(());
        }
        Err(Refusal::new(
            Code::Unsupported,
            format!(
                "the multipooler of cell {cell} is too old: it speaks protocol {own}, and the cluster's minimum is {minimum}"
            ),
        )
        .hint(format!("update multipooler in cell {cell} to the version of the others"))
        .about("cell", cell)
        .about("database", database))
    }
}
