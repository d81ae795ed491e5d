//! Adding a cell that has a host of its own, and removing one. The host itself is prepared with the bundle, as every other.

use std::path::Path;
use std::time::Duration;

use cellar_api::v1::{AddCellRequest, Cell, ListCellsRequest, RemoveCellRequest};
use cellar_model::{CellName, Code};
use cellar_tls::remember_certificates;

use crate::cluster::cell_host::CellHost;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::LocalCell;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::hosts::init::{Bundles, check_names};
use crate::local::cells::RemovedCell;
use crate::local::down::remove_tree;

/// How long another `cellar` on the same cluster is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Adds a cell on a host of its own to the topology and issues the host's bundle. Repeating it finishes one that was
/// interrupted, and issues the bundle again.
///
/// # Errors
/// When the host cannot be resolved or has a cell already, or multiadmin refuses.
pub async fn add_cell_on_host(
    dir: &Path,
    name: &CellName,
    host: CellHost,
    steps: &Steps,
) -> Result<(Cell, Bundles)> {
    let (mut cluster, _lock) = Cluster::open_locked(dir, LOCK_TIMEOUT, steps).await?;
    cluster.require_settled_restore(steps).await?;
    // What is known of the cell stands: whether etcd has a member there is not this command's to change.
    let host = match cluster.state.cell(name) {
        None => host,
        Some(known) => match known.host.clone() {
            Some(known) if (&known.host, &known.directory) == (&host.host, &host.directory) => known,
            known => {
                let shown = |host: &CellHost| format!("{} on {}", host.directory.display(), host.host);
                return Err(ProvisionError::Contradiction {
                    what: "the cell",
                    wanted: shown(&host),
                    recorded: known.as_ref().map_or_else(|| "on this machine".to_owned(), shown),
                    dir: cluster.layout.root().to_owned(),
                });
            }
        },
    };
    let mut admin = cluster.admin().await?;
    let cells = admin.list_cells(ListCellsRequest {}).await?.into_inner().cells;
    let existing = cells.iter().find(|cell| cell.name == name.as_str()).cloned();
    let next = cells.iter().map(|cell| cell.index + 1).max().unwrap_or(0);
    let index = existing.as_ref().map_or(next, |cell| cell.index);
    let mut added = LocalCell { host: Some(host.clone()), ..LocalCell::new(name.clone(), index) };
    added.revocations = cluster.state.revocations_of(name);
    let wanted = cluster.cell(&added);
    let mut state = cluster.state.clone();
    state.cells.retain(|cell| cell.name != *name);
    state.cells.push(added.clone());
    let findings = check_names(&state, cellar_system::addresses_of);
    if !findings.is_empty() {
        return Err(ProvisionError::Preflight(findings));
    }
    // Its ports, and paths that pgBackRest would misread.
    cluster.check_configs(&cluster.poolers(&state.cells)?)?;
    cluster.check_ports_of_hosts(std::slice::from_ref(&added))?;
    if cluster.state.members_in(name).is_empty() {
        return Err(ProvisionError::Argument {
            argument: "the cell",
            value: name.to_string(),
            reason: "no database is to have a member there: every database was given cells of its own"
                .to_owned(),
        });
    }
    let cell = match existing {
        Some(cell)
            if (cell.host.as_str(), cell.directory.as_str())
                == (&*wanted.host, wanted.directory.as_str()) =>
        {
            steps.step(&format!("cell {name} is in the topology already: finishing it"));
            cell
        }
        Some(cell) => {
            return Err(ProvisionError::RecordDiffers {
                key: format!("cells/{name}"),
                found: format!("{} on {}", cell.directory, cell.host),
                wanted: format!("{} on {}", wanted.directory, wanted.host),
            });
        }
        None => {
            let request = AddCellRequest {
                name: name.to_string(),
                host: wanted.host.to_string(),
                directory: wanted.directory,
                listen: host.listen.to_string(),
            };
            let cell = admin.add_cell(request).await?.into_inner();
            steps.step(&format!("cell {name} is in the topology with index {}", cell.index));
            cell
        }
    };
    cluster.state.add_cell_on_host(name.clone(), cell.index, host);
    cluster.state.save(&cluster.layout)?;
    cluster.admit_poolers(name).await?;
    cluster.admit_multiadmin(name).await?;
    cluster.rename_users(&cluster.store().await?).await?;
    let bundles = cluster.issue_bundles(std::slice::from_ref(name), false)?;
    Ok((cell, Bundles { cluster, bundles }))
}

/// A cell that was removed, and the bundles of all other hosts if etcd had a member on its host: they name those that are
/// left.
#[derive(Debug, Clone)]
pub struct RemovedHost {
    /// The cell.
    pub removed: RemovedCell,
    /// Where each other cell's new bundle is.
    pub bundles: Option<Bundles>,
}

/// Removes a cell that has a host of its own from the topology, its etcd member from etcd, and its keys from the operator's
/// directory. What runs on its host is ended there. Repeating it finishes one that was interrupted.
///
/// # Errors
/// When multiadmin refuses (the last cell, the primary), or too few of the other members of etcd are healthy. Nothing was
/// changed then.
pub async fn remove_cell_on_host(dir: &Path, name: &CellName, steps: &Steps) -> Result<RemovedHost> {
    let (mut cluster, _lock) = Cluster::open_locked(dir, LOCK_TIMEOUT, steps).await?;
    cluster.require_settled_restore(steps).await?;
    let host = cluster.state.cell(name).and_then(|cell| cell.host.clone());
    let other_admin =
        |cell: &LocalCell| cell.name != *name && cell.host.as_ref().is_some_and(|host| host.multiadmin);
    if !cluster.state.cells.iter().any(other_admin) {
        return Err(ProvisionError::Argument {
            argument: "the cell",
            value: name.to_string(),
            reason: "its host has the only multiadmin".to_owned(),
        });
    }
    // First: what multiadmin has removed does not come back.
    cluster.check_etcd_without(name).await?;
    let request = RemoveCellRequest { name: name.to_string() };
    let cell = match cluster.admin().await?.remove_cell(request).await {
        Ok(cell) => Some(cell.into_inner()),
        // An earlier run got this far and no further.
        Err(status)
            if cellar_api::reason_of(&status) == Some(Code::UnknownCell)
                && cluster.state.cell(name).is_some() =>
        {
            None
        }
        Err(status) => return Err(status.into()),
    };
    steps.step(&format!("cell {name} has left the topology"));
    let had_member = cluster.remove_etcd_of(name, steps).await?;
    cluster.dismiss_host(name).await?;
    // Multipoolers, multiadmins and etcd's members go by certificates, not by etcd's users: what the host still has is to open
    // nothing. Before its directory is removed, so that a run that ends in between is repeated.
    let serials = cluster.serials_of_host(name)?;
    if !serials.is_empty() {
        cluster.sign_revoked(&serials)?;
        cluster.publish_revoked().await?;
        steps.step(&format!("the {} certificates of its host are revoked", serials.len()));
    }
    // Its host keeps its keys: a cell of this name that is added later gets others, and another user of etcd.
    for member in cluster.state.members_in(name) {
        let tls = cluster.keys_of(&member).tls();
        // An earlier run may have removed them.
        if tls.exists() {
            remember_certificates(&tls, &cluster.layout.ca(), None)?;
        }
    }
    // Before the state forgets the cell: a run that ends in between is repeated.
    remove_tree(cluster.for_host(name).root())?;
    cluster.remove_bundle(name)?;
    cluster.state.count_revocation(name);
    cluster.state.remove_cell(name);
    cluster.state.save(&cluster.layout)?;
    cluster.issue_client(&cluster.authority()?)?;
    let removed = RemovedCell { cell, kept: host.map(|host| host.directory) };
    if !had_member {
        return Ok(RemovedHost { removed, bundles: None });
    }
    let others: Vec<CellName> = cluster.state.cells.iter().map(|cell| cell.name.clone()).collect();
    let bundles = cluster.issue_bundles(&others, false)?;
    Ok(RemovedHost { removed, bundles: Some(Bundles { cluster, bundles }) })
}
