//! Adding cells to a running local cluster and removing them.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cellar_api::v1::{AddCellRequest, Cell, ListCellsRequest, RemoveCellRequest};
use cellar_model::{CellName, Code};
use cellar_system::is_same_place;
use cellar_tls::remember_certificates;

use crate::cluster::local_cluster::Cluster;
use crate::cluster::loopback::{HOST, LISTEN};
use crate::cluster::state::LocalCell;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::local::down::{remove_all_but, remove_tree};
use crate::local::secrets;
use crate::local::watch::Watcher;

/// How long another `cellar` on the same cluster is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// How long HAProxy may take to reach the primary.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(60);

/// A cell that was added.
#[derive(Debug, Clone, PartialEq)]
pub struct AddedCell {
    /// Its record.
    pub cell: Cell,
    /// The primary that it streams from.
    pub primary: String,
    /// Whether it was in the topology already, as of a run that was interrupted, or one that had finished.
    pub was_there: bool,
}

/// A cell that was removed.
#[derive(Debug, Clone, PartialEq)]
pub struct RemovedCell {
    /// Its record as it was; absent when an earlier run had removed it from the topology.
    pub cell: Option<Cell>,
    /// Its directory, when it was kept.
    pub kept: Option<PathBuf>,
}

/// Adds a cell to the cluster in `dir` and waits until it streams. Repeating it finishes one that was
/// interrupted.
///
/// # Errors
/// When the checks find a problem, multiadmin refuses, or it does not stream within `timeout`.
pub async fn add_cell(dir: &Path, name: &CellName, timeout: Duration, steps: &Steps) -> Result<AddedCell> {
    let deadline = Instant::now() + timeout;
    let (mut cluster, _lock) = Cluster::open_locked(dir, timeout, steps).await?;
    cluster.check_is_local("cellar cells add")?;
    secrets::check_agreement(&cluster.layout, &cluster.state, None)?;
    let mut admin = cluster.admin().await?;
    let cells = admin.list_cells(ListCellsRequest {}).await?.into_inner().cells;
    let existing = cells.iter().find(|cell| cell.name == name.as_str()).cloned();
    // A new cell gets the next free index; multiadmin decides in its transaction, and this is what the
    // checks before it go by.
    let next = cells.iter().map(|cell| cell.index + 1).max().unwrap_or(0);
    let mut local = LocalCell::new(name.clone(), existing.as_ref().map_or(next, |cell| cell.index));
    let findings = cluster.preflight(std::slice::from_ref(&local), usize::from(existing.is_none()))?;
    if !findings.is_empty() {
        return Err(ProvisionError::Preflight(findings));
    }
    let directory = cluster.cell(&local).directory;
    let overlapping = cluster.overlapping_repository([PathBuf::from(&directory)]);
    if let (Some(overlapping), None) = (overlapping, &existing) {
        return Err(ProvisionError::Argument {
            argument: "the cell's name",
            value: name.to_string(),
            reason: format!(
                "its directory would be {}, and that and the repository {} lie in one another: choose another name",
                overlapping.display(),
                cluster.state.repo
            ),
        });
    }
    let was_there = existing.is_some();
    let cell = match existing {
        Some(cell) if is_same_place(Path::new(&cell.directory), Path::new(&directory)) => {
            steps.step(&format!("cell {name} is in the topology already: finishing what is left to do"));
            cell
        }
        Some(cell) => {
            return Err(ProvisionError::RecordDiffers {
                key: format!("cells/{name}"),
                found: cell.directory,
                wanted: directory,
            });
        }
        None => {
            let request = AddCellRequest {
                name: name.to_string(),
                host: HOST.to_owned(),
                directory,
                listen: LISTEN.to_string(),
            };
            let cell = admin.add_cell(request).await?.into_inner();
            steps.step(&format!("cell {name} is in the topology with index {}", cell.index));
            cell
        }
    };
    local.index = cell.index;
    cluster.state.add_cell(name.clone(), cell.index);
    cluster.state.save(&cluster.layout)?;
    cluster.admit_poolers(name).await?;
    cluster.rename_users(&cluster.store().await?).await?;
    let launched = Mutex::new(cluster.launch(&[local], false).await?);
    let database = &cluster.state.first_database.name;
    let mut watcher = Watcher::new(&cluster, database, &launched, steps, deadline).await?;
    let primary = watcher.wait_until_well(std::slice::from_ref(name)).await?;
    cluster.ensure_route(steps, deadline).await?;
    cluster.ensure_pool(steps, deadline).await?;
    Ok(AddedCell { cell, primary, was_there })
}

/// Removes a cell from the cluster in `dir`: from the topology first, so that nothing relies on it any
/// more, then its processes. Its directory is kept unless `delete_data`.
///
/// # Errors
/// When multiadmin refuses (the last cell, the primary), or a process does not end.
pub async fn remove_cell(
    dir: &Path,
    name: &CellName,
    delete_data: bool,
    steps: &Steps,
) -> Result<RemovedCell> {
    let (mut cluster, _lock) = Cluster::open_locked(dir, LOCK_TIMEOUT, steps).await?;
    cluster.check_is_local("cellar cells remove")?;
    let directory = cluster.layout.cell(name).root().to_owned();
    if delete_data {
        cluster.check_spares_repository([&directory])?;
    }
    let mut admin = cluster.admin().await?;
    let cell = match admin.remove_cell(RemoveCellRequest { name: name.to_string() }).await {
        Ok(cell) => {
            steps.step(&format!("cell {name} has left the topology"));
            Some(cell.into_inner())
        }
        // An earlier run got this far and no further, or kept the data.
        Err(status)
            if cellar_api::reason_of(&status) == Some(Code::UnknownCell)
                && (cluster.state.cell(name).is_some()
                    || delete_data
                        && cluster.members_on_disk().iter().any(|member| member.cell == *name)) =>
        {
            None
        }
        Err(status) => return Err(status.into()),
    };
    cluster.stop_cell(name, steps).await?;
    cluster.dismiss_poolers(name).await?;
    let mut emptied = None;
    if delete_data {
        // Once more: a link may lead elsewhere since.
        cluster.check_spares_repository([&directory])?;
        // By its key a run that goes on after this one was interrupted knows the directory as a cell's.
        remove_all_but(&directory, "tls")?;
        // What its key was given is valid as before: whoever revokes one of them revokes all.
        remember_certificates(&cluster.layout.cell(name).tls(), &cluster.layout.ca(), None)?;
        emptied = remove_tree(&directory)?;
        steps.step(&format!("{} is deleted", directory.display()));
    }
    cluster.state.remove_cell(name);
    cluster.state.save(&cluster.layout)?;
    cluster.ensure_route(steps, Instant::now() + ROUTE_TIMEOUT).await?;
    Ok(RemovedCell { cell, kept: emptied.or_else(|| directory.exists().then_some(directory)) })
}
