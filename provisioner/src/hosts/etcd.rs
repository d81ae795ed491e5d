//! Members of etcd that come and go with hosts, as the operator's machine makes it: a lost one is replaced, and that of a
//! removed cell is taken out.

use std::path::Path;
use std::time::Duration;

use cellar_model::{CellName, Ports};

use crate::cluster::etcd_origin::{EtcdBeginning, EtcdOrigin};
use crate::cluster::local_cluster::Cluster;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::etcd::replace::{add_etcd_member, check_removable, remove_etcd_member, replace_etcd_member};
use crate::hosts::bundle::Bundle;
use crate::hosts::init::Bundles;
use crate::processes::etcd_arguments::EtcdPeer;

/// How long another `cellar` on the same cluster is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

fn refused(cell: &CellName, reason: &str) -> ProvisionError {
    ProvisionError::Argument { argument: "the cell", value: cell.to_string(), reason: reason.to_owned() }
}

/// Replaces the etcd member of a cell whose host has lost its disk, or is another machine now: takes the old one out and a
/// new one in, and issues the host's bundle again, with which the new one joins. Repeating it finishes one that was
/// interrupted, and issues the bundle again until the new member has been started.
///
/// # Errors
/// When the cell has no member, the member answers and `although_it_answers` is not set, or etcd has no majority without it.
pub async fn replace_etcd_on_host(
    dir: &Path,
    cell: &CellName,
    although_it_answers: bool,
    steps: &Steps,
) -> Result<Bundles> {
    let (mut cluster, _lock) = Cluster::open_locked(dir, LOCK_TIMEOUT, steps).await?;
    if cluster.is_local() {
        return Err(refused(
            cell,
            "the cluster is on this machine and has one etcd member; `cellar etcd restore` puts its data back",
        ));
    }
    if cluster.state.cell(cell).is_none() {
        return Err(refused(cell, "the cluster has no cell of that name"));
    }
    let Some(member) = cluster.etcd_peer(cell)? else {
        return Err(refused(cell, "its host has no etcd member; `cellar etcd status` lists them"));
    };
    cluster.require_settled_restore(steps).await?;
    let etcd = cluster.etcd().await?;
    let joining = replace_etcd_member(&etcd, &member, although_it_answers).await?;
    let id = format!("{:x}", joining.id);
    steps.step(&format!("etcd expects the new member {id} in cell {cell}, in the place of the old one"));
    cluster.state.etcd_origins.insert(cell.clone(), EtcdOrigin::joined(id));
    cluster.state.save(&cluster.layout)?;
    let bundles = cluster.issue_bundles(std::slice::from_ref(cell), false)?;
    Ok(Bundles { cluster, bundles })
}

/// Gives the host of a cell an etcd member, which joins the others; issues the bundles of all hosts again, because each names
/// all members. Repeating it finishes one that was interrupted.
///
/// # Errors
/// When the host has a member, or too few of the others answer.
pub async fn add_etcd_on_host(dir: &Path, cell: &CellName, steps: &Steps) -> Result<Bundles> {
    let (mut cluster, _lock) = Cluster::open_locked(dir, LOCK_TIMEOUT, steps).await?;
    cluster.require_settled_restore(steps).await?;
    let port = cluster.port(Ports::ETCD_PEER)?;
    let etcd = cluster.etcd().await?;
    let Some(host) = cluster.state.cells.iter_mut().find(|known| known.name == *cell) else {
        return Err(refused(cell, "the cluster has no cell of that name"));
    };
    let Some(host) = &mut host.host else {
        return Err(refused(cell, "the cluster is on this machine, and has one etcd member"));
    };
    let waits = cluster.state.etcd_origins.get(cell).is_some_and(EtcdOrigin::waits_to_join);
    if host.etcd && !waits {
        return Err(refused(cell, "its host has an etcd member; `cellar etcd replace` replaces a lost one"));
    }
    let new = EtcdPeer { name: cell.to_string(), peer_url: format!("https://{}:{port}", host.host) };
    let joining = add_etcd_member(&etcd, &new).await?;
    host.etcd = true;
    let id = format!("{:x}", joining.id);
    let count = joining.members.len();
    steps.step(&format!(
        "etcd expects the new member {id} in cell {cell}, and goes on while {} of {count} work",
        count / 2 + 1
    ));
    cluster.state.etcd_origins.insert(cell.clone(), EtcdOrigin::joined(id));
    cluster.state.save(&cluster.layout)?;
    let all: Vec<CellName> = cluster.state.cells.iter().map(|cell| cell.name.clone()).collect();
    let bundles = cluster.issue_bundles(&all, false)?;
    Ok(Bundles { cluster, bundles })
}

impl Cluster {
    /// The etcd member on a cell's host as the others know it, if there is one.
    pub(super) fn etcd_peer(&self, cell: &CellName) -> Result<Option<EtcdPeer>> {
        let port = self.port(Ports::ETCD_PEER)?;
        let host = self.etcd_hosts().into_iter().find(|(name, _)| *name == cell);
        Ok(host
            .map(|(_, host)| EtcdPeer { name: cell.to_string(), peer_url: format!("https://{host}:{port}") }))
    }

    /// Refuses, before anything is changed, to remove a cell without whose etcd member the others would be too few.
    pub(super) async fn check_etcd_without(&self, cell: &CellName) -> Result<()> {
        match self.etcd_peer(cell)? {
            Some(member) => check_removable(&self.etcd().await?, &member).await,
            None => Ok(()),
        }
    }

    /// Takes the etcd member of a cell that is being removed out of etcd; whether it had one.
    pub(super) async fn remove_etcd_of(&self, cell: &CellName, steps: &Steps) -> Result<bool> {
        let Some(member) = self.etcd_peer(cell)? else { return Ok(false) };
        let left = remove_etcd_member(&self.etcd().await?, &member).await?;
        steps.step(&format!(
            "etcd has {left} {} without cell {cell}, and goes on while {} of them work",
            if left == 1 { "member" } else { "members" },
            left / 2 + 1
        ));
        Ok(true)
    }

    /// Notes which members have been seen to run, by their cells and the ids that they say they have; whether that is new of
    /// one. From then on its bundle must not let it begin anew.
    pub(super) fn note_started_members(&mut self, seen: &[(CellName, u64)]) -> bool {
        // While that is so it is not known whether etcd's data is of the restore.
        let is_restored = self.state.former_etcd.is_empty();
        let mut is_new = false;
        for (cell, id) in seen {
            let id = format!("{id:x}");
            match self.state.etcd_origins.get_mut(cell) {
                None => {
                    self.state.etcd_origins.insert(cell.clone(), EtcdOrigin::of_cluster(id));
                    is_new = true;
                }
                Some(origin) if !origin.started => {
                    origin.started = match origin.from {
                        EtcdBeginning::Cluster => true,
                        EtcdBeginning::Joined => origin.id == id,
                        EtcdBeginning::Restored => is_restored,
                    };
                    is_new |= origin.started;
                }
                Some(_) => {}
            }
        }
        is_new
    }

    /// The cells whose bundles here would let a member begin anew that has been seen to run.
    pub(super) fn bundles_that_begin_anew(&self) -> Vec<CellName> {
        let started = self.state.etcd_origins.iter().filter(|(_, origin)| origin.started);
        let started = started.filter(|(cell, _)| self.state.cell(cell).is_some());
        let begins_anew = |cell: &CellName, origin: &EtcdOrigin| {
            let path = self.bundle_path(cell);
            // One that cannot be read is issued again, too.
            path.exists()
                && !Bundle::read(&path)
                    .is_ok_and(|bundle| bundle.cluster.etcd_origins.get(cell) == Some(origin))
        };
        started.filter(|(cell, origin)| begins_anew(cell, origin)).map(|(cell, _)| cell.clone()).collect()
    }
}
