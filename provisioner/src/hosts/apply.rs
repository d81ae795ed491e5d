//! `cellar cluster diff` and `cellar cluster apply`: a running cluster on hosts becomes as its specification says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use cellar_api::v1::{GetDatabaseRequest, ListCellsRequest};
use cellar_model::CellName;

use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::LocalCell;
use crate::cluster::steps::Steps;
use crate::error::finding::Finding;
use crate::error::provision_error::{ProvisionError, Result};
use crate::hosts::cells::{add_cell_on_host, remove_cell_on_host};
use crate::hosts::differences::{Change, Differences, differences};
use crate::hosts::init::{Bundles, check_names, state_of};
use crate::spec::cluster_spec::ClusterSpec;

/// How long another `cellar` on the same cluster is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// What was done.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The cluster as it is now, and the bundles that are to be installed.
    pub issued: Bundles,
    /// The cells that were removed: what runs on their hosts is to be ended there.
    pub removed: Vec<CellName>,
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
    let wanted = state_of(spec)?;
    let mut admin = cluster.admin().await?;
    let cells = admin.list_cells(ListCellsRequest {}).await?.into_inner().cells;
    let topology: BTreeSet<CellName> = cells.iter().filter_map(|cell| cell.name.parse().ok()).collect();
    // What counts is the record, and a run that was interrupted has written it and not the state, or neither.
    let request = GetDatabaseRequest { name: cluster.state.database.to_string() };
    let database = admin.get_database(request).await?.into_inner().database;
    let retention = database.and_then(|database| database.retention).map(|retention| retention.full);
    let mut present = cluster.state;
    present.retention_full = retention;
    Ok(differences(&wanted, &spec.says_etcd, &present, &topology))
}

/// Makes the cluster so. Repeating it, after a comparison, finishes one that was interrupted.
///
/// # Errors
/// Before anything is changed: when a difference cannot be removed, or a host's name leads nowhere. Later: as the command
/// that makes the change on its own.
pub async fn apply_to_hosts(dir: &Path, wanted: &Differences, steps: &Steps) -> Result<Applied> {
    if !wanted.refused.is_empty() {
        return Err(ProvisionError::Preflight(wanted.refused.iter().map(Finding::from).collect()));
    }
    check_new_names(&Cluster::open(dir)?, wanted)?;
    let (mut bundles, mut removed) = (BTreeMap::new(), Vec::new());
    for change in &wanted.changes {
        match change {
            Change::Retention { to, .. } => {
                keep_full_backups(dir, *to, steps).await?;
                steps.step(&format!("an expiry keeps {to} full backups"));
            }
            Change::AddCell { cell, host } => {
                let (_, issued) = add_cell_on_host(dir, cell, host.clone(), steps).await?;
                bundles.extend(issued.bundles);
            }
            Change::RemoveCell { cell } => {
                let done = remove_cell_on_host(dir, cell, steps).await?;
                bundles.extend(done.bundles.into_iter().flat_map(|issued| issued.bundles));
                removed.push(cell.clone());
            }
        }
    }
    let cluster = Cluster::open(dir)?;
    // A bundle may have been issued for a host that left afterwards.
    bundles.retain(|cell, _| cluster.state.cell(cell).is_some());
    Ok(Applied { issued: Bundles { cluster, bundles }, removed })
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

async fn keep_full_backups(dir: &Path, count: u32, steps: &Steps) -> Result<()> {
    let (mut cluster, _lock) = Cluster::open_locked(dir, LOCK_TIMEOUT, steps).await?;
    cluster.state.retention_full = Some(count);
    // First the record, which counts: the state alone would hide that there is still a difference.
    cluster.record_retention(&cluster.store().await?).await?;
    cluster.state.save(&cluster.layout)
}
