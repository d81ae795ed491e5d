//! `cellar databases create`: another database for a cluster on hosts that runs.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use cellar_model::{CellName, DatabaseName, StanzaName};
use serde::Serialize;

use crate::cluster::database::ClusterDatabase;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::hosts::init::Bundles;
use crate::spec::databases::allotted;

/// How long another `cellar` on the same cluster is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// A database that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewDatabase {
    /// Its name.
    #[serde(rename = "database")]
    pub name: DatabaseName,
    /// pgBackRest's name for it; its own when none is given.
    pub stanza: Option<StanzaName>,
    /// The cells in which it is to have members; empty for all that there are and will be.
    pub cells: Vec<CellName>,
    /// Moves the ports of its members; free ones when none is given.
    pub port_offset: Option<u16>,
    /// Full backups kept.
    pub retention_full: u32,
}

fn refused(argument: &'static str, value: &dyn ToString, reason: impl Into<String>) -> ProvisionError {
    ProvisionError::Argument { argument, value: value.to_string(), reason: reason.into() }
}

/// Adds a database to the cluster in the operator's directory: to its state, to etcd with its poolers' records, and to the
/// bundles of all hosts, which are issued again. Its instances are made when those are installed and started. Repeating it
/// with the same values finishes one that was interrupted, and issues the bundles again.
///
/// # Errors
/// When the cluster has another database of that name or stanza, a cell or port cannot be, or etcd does not answer.
pub async fn create_database_on_hosts(dir: &Path, new: &NewDatabase, steps: &Steps) -> Result<Bundles> {
    create_database(dir, new, &BTreeSet::new(), steps).await
}

/// The same while other cells are about to be added, in which it may be wanted, too.
pub(super) async fn create_database(
    dir: &Path,
    new: &NewDatabase,
    coming: &BTreeSet<CellName>,
    steps: &Steps,
) -> Result<Bundles> {
    let (mut cluster, _lock) = Cluster::open_locked(dir, LOCK_TIMEOUT, steps).await?;
    if cluster.is_local() {
        let reason = "the cluster there is on this machine, and has one database";
        return Err(refused("--dir", &dir.display(), reason));
    }
    cluster.require_settled_restore(steps).await?;
    let database = cluster.database_of(new, coming)?;
    match cluster.state.database(&new.name) {
        Some(known) if ClusterDatabase { first_backup: None, ..known.clone() } == database => {
            steps.step(&format!("database {} is in the cluster already: finishing it", new.name));
        }
        Some(_) => return Err(refused("the database", &new.name, "the cluster has it, with other values")),
        None => cluster.state.further_databases.push(database),
    }
    cluster.check_configs(&cluster.poolers(&cluster.state.cells)?)?;
    cluster.check_ports_of_hosts(&cluster.state.cells)?;
    // First: a run that ends in between is finished by the next one, or by a wait.
    cluster.state.save(&cluster.layout)?;
    // Its poolers, and those of the first database, which may no more read what is of all.
    cluster.ensure_permissions().await?;
    let reconciled = cluster.write_records(&cluster.store().await?).await?;
    if let Some(cell) = reconciled.removed.first() {
        return Err(ProvisionError::HalfRemoved { cell: cell.to_string() });
    }
    steps.step(&format!("database {} is recorded", new.name));
    let cells: Vec<CellName> = cluster.state.cells.iter().map(|cell| cell.name.clone()).collect();
    let bundles = cluster.issue_bundles(&cells, false)?;
    Ok(Bundles { cluster, bundles })
}

impl Cluster {
    /// The database as the state is to have it, where these cells are about to be added.
    fn database_of(&self, new: &NewDatabase, coming: &BTreeSet<CellName>) -> Result<ClusterDatabase> {
        let NewDatabase { name, cells, .. } = new;
        let known = self.state.database(name);
        let others = || self.state.databases().filter(|other| other.name != *name);
        let stanza = match &new.stanza {
            Some(stanza) => stanza.clone(),
            None => name
                .as_str()
                .parse()
                .map_err(|error: cellar_model::NameError| refused("the database", name, error.to_string()))?,
        };
        if let Some(other) = others().find(|other| other.stanza == stanza) {
            return Err(refused("--stanza", &stanza, format!("it is that of database {}", other.name)));
        }
        let is_here = |cell: &&CellName| self.state.cell(cell).is_some();
        if let Some(unknown) = cells.iter().find(|cell| !is_here(cell) && !coming.contains(*cell)) {
            return Err(refused("--cells", unknown, "the cluster has no cell of that name"));
        }
        let mut cells = cells.clone();
        cells.sort();
        cells.dedup();
        if let Some(home) = self.state.repo.home().filter(|home| !cells.is_empty() && !cells.contains(home)) {
            let reason =
                "the repository is on the host of this cell, where a database needs a member to reach it";
            return Err(refused("--cells", home, reason));
        }
        let taken: Vec<u16> = others().map(|other| other.port_offset).collect();
        let chosen = new.port_offset.or(known.map(|known| known.port_offset));
        let no_ports = || refused("--port-offset", &"", "no range of ports below 65536 is free: give it one");
        let first = || self.state.cells.iter().map(|cell| &cell.name).min();
        Ok(ClusterDatabase {
            name: name.clone(),
            stanza,
            bootstrap_cell: known
                .map(|known| &known.bootstrap_cell)
                .or(cells.iter().find(is_here))
                .or(cells.first())
                .or_else(first)
                .ok_or_else(|| refused("--cells", &"", "the cluster has no cell"))?
                .clone(),
            cells,
            port_offset: chosen.or_else(|| allotted(self.state.port_offset, &taken)).ok_or_else(no_ports)?,
            retention_full: Some(new.retention_full),
            first_backup: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str, cells: &[&str]) -> NewDatabase {
        NewDatabase {
            name: name.parse().unwrap(),
            stanza: None,
            cells: cells.iter().map(|cell| cell.parse().unwrap()).collect(),
            port_offset: None,
            retention_full: 7,
        }
    }

    #[test]
    fn new_database_has_free_ports_and_known_cells() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::on_hosts(dir.path(), &["zone1", "zone2"]);
        let none = BTreeSet::new();
        let sales = cluster.database_of(&new("sales", &["zone2"]), &none).unwrap();
        assert_eq!((sales.port_offset, sales.bootstrap_cell.as_str()), (256, "zone2"));
        cluster.state.further_databases.push(sales.clone());
        assert_eq!(cluster.database_of(&new("web", &[]), &none).unwrap().port_offset, 512);
        // Repeated, it is the same.
        assert_eq!(cluster.database_of(&new("sales", &["zone2"]), &none).unwrap(), sales);
        let stanza = NewDatabase { stanza: Some("sales".parse().unwrap()), ..new("web", &[]) };
        for (asked, said) in [(new("web", &["zone9"]), "--cells"), (stanza, "that of database sales")] {
            let refused = cluster.database_of(&asked, &none).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        }
        // A cell that is about to be added does not make it, if one of its cells is there.
        let coming = BTreeSet::from(["zone0".parse().unwrap()]);
        let web = cluster.database_of(&new("web", &["zone0", "zone2"]), &coming).unwrap();
        assert_eq!((web.bootstrap_cell.as_str(), web.cells.len()), ("zone2", 2));
        let web = cluster.database_of(&new("web", &["zone0"]), &coming).unwrap();
        assert_eq!(web.bootstrap_cell.as_str(), "zone0");
    }
}
