//! The topology as a decision looks at it, and what can be read from it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::decide::request::JobRequest;
use crate::records::incarnation::Incarnation;
use crate::records::instance::{InstanceState, LagClass, Role};
use crate::records::pooler::{Leader, Pooler, PoolerStatus};
use crate::records::topology::{Cell, Database};
use crate::types::code::{Code, Refusal};
use crate::types::name::{CellName, DatabaseName};

/// Everything a decision looks at.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// All cells.
    pub cells: &'a BTreeMap<CellName, Cell>,
    /// All databases.
    pub databases: &'a BTreeMap<DatabaseName, Database>,
    /// All poolers.
    pub poolers: &'a BTreeMap<(DatabaseName, CellName), Pooler>,
    /// Their status, as far as they live.
    pub status: &'a BTreeMap<(DatabaseName, CellName), PoolerStatus>,
    /// The recorded primaries.
    pub leaders: &'a BTreeMap<DatabaseName, Leader>,
    /// Which copies are the true ones.
    pub incarnations: &'a BTreeMap<DatabaseName, Incarnation>,
}

pub(crate) fn known<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "there are none yet".to_owned() } else { format!("known: {}", names.join(", ")) }
}

impl<'a> Snapshot<'a> {
    /// The database of that name, or the only one.
    ///
    /// # Errors
    /// Refused when there is none of that name, or the name is needed and missing.
    pub fn database(&self, name: Option<&DatabaseName>) -> Result<&'a Database, Refusal> {
        let all = || known(self.databases.keys().map(DatabaseName::as_str));
        match name {
            Some(name) => self.databases.get(name).ok_or_else(|| {
                Refusal::new(Code::UnknownDatabase, format!("there is no database {name} ({})", all()))
                    .about("database", name)
            }),
            None if self.databases.len() == 1 => {
                Ok(self.databases.values().next().unwrap_or_else(|| unreachable!()))
            }
            None if self.databases.is_empty() => {
                Err(Refusal::new(Code::UnknownDatabase, "the cluster has no database yet")
                    .hint("create one with `cellar up`"))
            }
            None => Err(Refusal::new(
                Code::InvalidArgument,
                format!("the cluster has several databases and the request names none ({})", all()),
            )
            .hint("name one with --database")
            .about("field", "database")),
        }
    }

    /// The pooler of a database in a cell.
    ///
    /// # Errors
    /// Refused when the cell has none.
    pub fn pooler(&self, database: &DatabaseName, cell: &CellName) -> Result<&'a Pooler, Refusal> {
        self.poolers.get(&(database.clone(), cell.clone())).ok_or_else(|| {
            let cells = self.poolers.keys().filter(|(db, _)| db == database).map(|(_, cell)| cell.as_str());
            Refusal::new(
                Code::UnknownCell,
                format!("database {database} has no cell {cell} ({})", known(cells)),
            )
            .about("cell", cell)
            .about("database", database)
        })
    }

    pub(crate) fn live_status(
        &self,
        database: &DatabaseName,
        cell: &CellName,
    ) -> Result<&'a PoolerStatus, Refusal> {
        let down = |message: String| {
            Refusal::new(Code::CellDown, message).about("cell", cell).about("database", database)
        };
        let status = self.status.get(&(database.clone(), cell.clone())).ok_or_else(|| {
            down(format!("cell {cell} is down: its multipooler does not report to the topology"))
                .hint(format!("start it (`cellar up` on a local cluster, else `cellar host start` there), or name another cell than {cell}"))
        })?;
        Ok(status)
    }

    pub(crate) fn answering(
        &self,
        database: &DatabaseName,
        cell: &CellName,
    ) -> Result<&'a PoolerStatus, Refusal> {
        let status = self.live_status(database, cell)?;
        if status.state != InstanceState::Running || status.role == Role::Unknown {
            let why = if status.message.is_empty() { String::new() } else { format!(": {}", status.message) };
            return Err(Refusal::new(
                Code::CellDown,
                format!("PostgreSQL in cell {cell} is {}, not running{why}", status.state.as_str()),
            )
            .hint("look at `cellar status`, repair the cell or name another one")
            .about("cell", cell)
            .about("database", database));
        }
        Ok(status)
    }

    /// That no restore has stopped the primary just now, in whose light everything else would look broken.
    pub(crate) fn not_fenced(&self, database: &DatabaseName) -> Result<(), Refusal> {
        let Some(job) = self.incarnations.get(database).and_then(|incarnation| incarnation.fence) else {
            return Ok(());
        };
        Err(Refusal::new(Code::Busy, format!("database {database} is being restored by job {job}"))
            .hint(format!("wait for it (`cellar jobs watch {job}`), then ask again"))
            .about("job", job)
            .about("database", database))
    }

    /// Cells other than `except` whose instance says that it is a primary.
    #[must_use]
    pub fn other_primaries(&self, database: &DatabaseName, except: Option<&CellName>) -> Vec<CellName> {
        self.status
            .values()
            .filter(|s| s.database == *database && s.role == Role::Primary && Some(&s.cell) != except)
            .map(|s| s.cell.clone())
            .collect()
    }
}

impl Snapshot<'_> {
    /// The recorded primary of a database that has been made.
    pub(crate) fn leader(&self, database: &DatabaseName) -> Result<&Leader, Refusal> {
        self.leaders.get(database).filter(|leader| leader.system_identifier.is_some()).ok_or_else(|| {
            Refusal::new(Code::NoPrimary, format!("database {database} has no recorded primary yet"))
                .hint("wait until `cellar status` shows a primary")
                .about("database", database)
        })
    }

    /// The cell that a restore is done in: the primary's, whose clients know it; one of the standbys when that is
    /// down, or when the old data would be restored over, which the primary's is the last to be.
    pub(crate) fn restore_cell(
        &self,
        database: &DatabaseName,
        leader: &Leader,
        in_place: bool,
    ) -> Result<CellName, Refusal> {
        let rank = |status: &PoolerStatus| {
            let is_primary = status.cell == leader.cell;
            // One whose disk is empty has no WAL that the archive lacks, which a standby has.
            let order = match (is_primary, in_place || status.state == InstanceState::Broken) {
                (true, false) => 0,
                (false, _) => 1,
                (true, true) => 2,
            };
            (order, wal_rank(status), status.cell.clone())
        };
        let of_database = |status: &&PoolerStatus| {
            status.database == *database
                && self.poolers.contains_key(&(database.clone(), status.cell.clone()))
        };
        let best = self.status.values().filter(of_database).min_by_key(|status| rank(status));
        best.map(|status| status.cell.clone()).ok_or_else(|| {
            Refusal::new(Code::CellDown, format!("no multipooler of database {database} reports"))
                .hint("start one (`cellar up` on a local cluster, else `cellar host start` on its host)")
                .about("database", database)
        })
    }
}

impl Snapshot<'_> {
    /// The cell that works on the repo and needs nothing of its instance: the named one, else a standby's, for the
    /// primary has work to do.
    pub(crate) fn reading_cell(
        &self,
        database: &DatabaseName,
        request: &JobRequest,
    ) -> Result<CellName, Refusal> {
        let leader = self.leader(database)?;
        match &request.cell {
            Some(cell) => {
                self.pooler(database, cell)?;
                self.live_status(database, cell)?;
                Ok(cell.clone())
            }
            None => self.restore_cell(database, leader, true),
        }
    }
}

impl Snapshot<'_> {
    /// As [`Snapshot::reading_cell`], for what pgBackRest does only where the repository is: an expiry, and with 2.45 a
    /// verification.
    pub(crate) fn repository_cell(
        &self,
        database: &Database,
        request: &JobRequest,
    ) -> Result<CellName, Refusal> {
        let Some(home) = database.repository.home() else {
            return self.reading_cell(&database.name, request);
        };
        if let Some(cell) = request.cell.as_ref().filter(|cell| *cell != home) {
            self.pooler(&database.name, cell)?;
            return Err(Refusal::new(
                Code::InvalidArgument,
                format!("the repository is on the host of cell {home}, and cell {cell} was named"),
            )
            .hint(format!("name cell {home}, or none"))
            .about("cell", cell)
            .about("database", &database.name));
        }
        self.leader(&database.name)?;
        self.at_repository(database, home)?;
        Ok(home.clone())
    }

    /// That the cell is up on whose host alone the repository is.
    pub(crate) fn at_repository(&self, database: &Database, home: &CellName) -> Result<(), Refusal> {
        self.live_status(&database.name, home).map(drop).map_err(|refusal| {
            let message = format!("pgBackRest does that on the host of the repository only: {refusal}");
            Refusal::new(Code::CellDown, message)
                .hint(format!("start the multipooler of cell {home} (`cellar host start` there): no other cell can do it"))
                .about("cell", home)
                .about("database", &database.name)
        })
    }
}

/// The more WAL a member has, the lower; one that does not run counts as far behind. What it has received counts, not what
/// it has replayed: a standby may be told to replay late.
fn wal_rank(status: &PoolerStatus) -> impl Ord + use<> {
    let runs = status.state == InstanceState::Running;
    let held = status.held_timeline.zip(status.held_lsn);
    let knowledge = match (&status.streams_from, held) {
        // The primary is there, and it has what the primary sends.
        (Some(_), _) => 0,
        (None, Some(_)) => 1,
        (None, None) => 2,
    };
    let lag = match status.receive_lag {
        LagClass::Current => 0,
        LagClass::Segment => 1,
        LagClass::Behind => 2,
        LagClass::Unknown => 3,
        LagClass::Far => 4,
    };
    (!runs, knowledge, Reverse(held), lag)
}
