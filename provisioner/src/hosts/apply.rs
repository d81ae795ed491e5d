//! `cellar cluster diff` and `cellar cluster apply`: a running cluster on hosts becomes as its specification says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_api::v1::{GetDatabaseRequest, ListCellsRequest};
use cellar_model::{CellName, Code, DatabaseName};

use crate::cluster::database::ClusterDatabase;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::LocalCell;
use crate::cluster::steps::Steps;
use crate::error::finding::Finding;
use crate::error::provision_error::{ProvisionError, Result};
use crate::hosts::cells::{add_cell_on_host, remove_cell_on_host};
use crate::hosts::databases::create_database;
use crate::hosts::differences::{Change, Differences, differences};
use crate::hosts::init::{Bundles, check_names, state_of};
use crate::spec::cluster_spec::ClusterSpec;

/// How long another `cellar` on the same cluster is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// What was done.
#[derive(Debug)]
pub struct Applied {
    /// The cluster as it is now, and the bundles that are to be installed.
    pub issued: Bundles,
    /// The cells that were removed: what runs on their hosts is to be ended there.
    pub removed: Vec<CellName>,
    /// Why the next change was not made, and with it those after it.
    pub failed: Option<ProvisionError>,
}

/// How a specification differs from the cluster in the operator's directory. Changes nothing.
///
/// # Errors
/// When the specification cannot be, the cluster is not one on hosts, or no multiadmin answers.
pub async fn compare_hosts_with(dir: &Path, spec: &ClusterSpec) -> Result<Differences> {
    let cluster = Cluster::open(dir)?;
    if cluster.is_local() {
        return Err(ProvisionError::Argument {
            argument: "--dir",
            value: dir.display().to_string(),
            reason: "the cluster there is on this machine: `cellar up` and `cellar cells` change it"
                .to_owned(),
        });
    }
    let wanted = state_of(spec, Some(&cluster.state))?;
    let mut admin = cluster.admin().await?;
    let cells = admin.list_cells(ListCellsRequest {}).await?.into_inner().cells;
    let topology: BTreeSet<CellName> = cells.iter().filter_map(|cell| cell.name.parse().ok()).collect();
    // What counts is the record, and a run that was interrupted has written it and not the state, or neither.
    let (mut present, mut primaries) = (cluster.state.clone(), Vec::new());
    for ClusterDatabase { name, .. } in cluster.state.databases() {
        let view = match admin.get_database(GetDatabaseRequest { name: name.to_string() }).await {
            Ok(view) => view.into_inner(),
            // Its creation was interrupted, and goes on.
            Err(status)
                if cellar_api::reason_of(&status) == Some(Code::UnknownDatabase)
                    && *name != cluster.state.first_database.name =>
            {
                present.further_databases.retain(|database| database.name != *name);
                continue;
            }
            Err(status) => return Err(status.into()),
        };
        let primary: Option<CellName> = view.leader.and_then(|leader| leader.cell.parse().ok());
        primaries.extend(primary.map(|primary| (name.clone(), primary)));
        if let Some(known) = present.database_mut(name) {
            let retention = view.database.and_then(|database| database.retention);
            known.retention_full = retention.map(|retention| retention.full);
        }
    }
    Ok(differences(&wanted, &spec.says_etcd, &present, &topology, &primaries))
}

/// Makes the cluster so. Repeating it, after a comparison, finishes one that was interrupted.
///
/// # Errors
/// Before anything is changed: when a difference cannot be removed, a host's name leads nowhere, or etcd needs the member of a
/// cell that is to leave. When the first change fails: as the command that makes it on its own; a later failure comes with
/// what was done before.
pub async fn apply_to_hosts(dir: &Path, wanted: &Differences, steps: &Steps) -> Result<Applied> {
    if !wanted.refused.is_empty() {
        return Err(ProvisionError::Preflight(wanted.refused.iter().map(Finding::from).collect()));
    }
    let cluster = Cluster::open(dir)?;
    check_new_names(&cluster, wanted)?;
    for change in &wanted.changes {
        if let Change::RemoveCell { cell } = change {
            cluster.check_etcd_without(cell).await?;
        }
    }
    let mut done = Done { coming: new_cells(wanted), ..Done::default() };
    let mut failed = None;
    for change in &wanted.changes {
        if let Err(error) = done.make(dir, change, steps).await {
            failed = Some(error);
            break;
        }
    }
    done.end(dir, failed)
}

/// What was done so far.
#[derive(Default)]
struct Done {
    /// The cells that are to be added.
    coming: BTreeSet<CellName>,
    bundles: BTreeMap<CellName, PathBuf>,
    removed: Vec<CellName>,
}

impl Done {
    async fn make(&mut self, dir: &Path, change: &Change, steps: &Steps) -> Result<()> {
        match change {
            Change::CreateDatabase(new) => {
                let issued = create_database(dir, new, &self.coming, steps).await?;
                self.bundles.extend(issued.bundles);
            }
            Change::Retention { database, to, .. } => {
                keep_full_backups(dir, database.as_ref(), *to, steps).await?;
                let of_database = database.as_ref().map(|database| format!(" of database {database}"));
                steps.step(&format!("an expiry keeps {to} full backups{}", of_database.unwrap_or_default()));
            }
            Change::AddCell { cell, host } => {
                let (_, issued) = add_cell_on_host(dir, cell, host.clone(), steps).await?;
                self.bundles.extend(issued.bundles);
            }
            Change::RemoveCell { cell } => {
                let done = remove_cell_on_host(dir, cell, steps).await?;
                self.bundles.extend(done.bundles.into_iter().flat_map(|issued| issued.bundles));
                self.removed.push(cell.clone());
            }
        }
        Ok(())
    }

    /// The result. What people are to do on hosts is told also when a later change has failed.
    fn end(self, dir: &Path, failed: Option<ProvisionError>) -> Result<Applied> {
        let Self { mut bundles, removed, coming: _ } = self;
        let (cluster, failed) = match (Cluster::open(dir), failed) {
            (_, Some(error)) if bundles.is_empty() && removed.is_empty() => return Err(error),
            (Ok(cluster), failed) => (cluster, failed),
            (Err(_), Some(error)) | (Err(error), None) => return Err(error),
        };
        // A bundle may have been issued for a host that left afterwards.
        bundles.retain(|cell, _| cluster.state.cell(cell).is_some());
        Ok(Applied { issued: Bundles { cluster, bundles }, removed, failed })
    }
}

fn new_cells(wanted: &Differences) -> BTreeSet<CellName> {
    let new = wanted.changes.iter().filter_map(|change| match change {
        Change::AddCell { cell, .. } => Some(cell.clone()),
        _ => None,
    });
    new.collect()
}

/// All new hosts are looked up before the first change.
fn check_new_names(cluster: &Cluster, wanted: &Differences) -> Result<()> {
    let mut state = cluster.state.clone();
    for change in &wanted.changes {
        if let Change::AddCell { cell, host } = change {
            // Its index plays no part here.
            state.cells.push(LocalCell { host: Some(host.clone()), ..LocalCell::new(cell.clone(), 0) });
        }
    }
    let findings = check_names(&state, cellar_system::addresses_of);
    if findings.is_empty() { Ok(()) } else { Err(ProvisionError::Preflight(findings)) }
}

/// `database` is none where there is one only.
async fn keep_full_backups(
    dir: &Path,
    database: Option<&DatabaseName>,
    count: u32,
    steps: &Steps,
) -> Result<()> {
    let (mut cluster, _lock) = Cluster::open_locked(dir, LOCK_TIMEOUT, steps).await?;
    let name = database.unwrap_or(&cluster.state.first_database.name).clone();
    if let Some(database) = cluster.state.database_mut(&name) {
        database.retention_full = Some(count);
    }
    // First the state: from it `cellar cluster wait` writes the record, and would undo what only that has. A comparison goes
    // by the record, so an interruption hides nothing.
    cluster.state.save(&cluster.layout)?;
    cluster.record_retention(&cluster.store().await?).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::ClusterState;

    #[test]
    fn what_was_done_is_told_also_when_a_later_change_fails() {
        let dir = tempfile::tempdir().unwrap();
        let _ = Cluster::on_hosts(dir.path(), &["zone1", "zone2"]);
        let error = || ProvisionError::HalfRemoved { cell: "zone3".to_owned() };
        let bundles = ["zone2", "zone3"].map(|cell| (cell.parse().unwrap(), PathBuf::from(cell)));
        let done =
            Done { bundles: bundles.into(), removed: vec!["zone3".parse().unwrap()], ..Done::default() };
        let applied = done.end(dir.path(), Some(error())).unwrap();
        assert!(matches!(applied.failed, Some(ProvisionError::HalfRemoved { .. })), "{applied:?}");
        let cells: Vec<_> = applied.issued.bundles.keys().map(CellName::as_str).collect();
        assert_eq!(cells, ["zone2"], "zone3 is not in the cluster");
        assert_eq!(applied.removed.len(), 1);
        Done::default().end(dir.path(), Some(error())).unwrap_err();
    }

    #[tokio::test]
    async fn change_of_the_retention_that_is_interrupted_is_not_undone_by_the_next_wait() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::on_hosts(dir.path(), &["zone1", "zone2"]);
        cluster.state.first_database.retention_full = Some(7);
        cluster.state.save(&cluster.layout).unwrap();
        // No etcd answers.
        keep_full_backups(dir.path(), None, 14, &Steps::new(|_, _| {})).await.unwrap_err();
        let state = ClusterState::load(&cluster.layout).unwrap().unwrap();
        assert_eq!(
            state.first_database.retention_full,
            Some(14),
            "the next wait records what the state says"
        );
    }
}
