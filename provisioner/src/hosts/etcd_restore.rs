//! Putting a snapshot back into the etcd of a cluster on hosts that has lost its majority. On the operator's machine the
//! snapshot's records are brought up to the present with an etcd that nobody else sees, and become another snapshot; all
//! members then begin with that one, each when its bundle is installed.
//!
//! A majority of the hosts must have begun with it before anything can be written, so members with the old data, wherever
//! they come back, are too few for a majority of their own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_system::clock;
use cellar_tls::install_revocations;

use crate::cluster::blocking::blocking;
use crate::cluster::etcd_origin::EtcdOrigin;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::etcd::records::RepairedRecords;
use crate::etcd::restore::check_whole;
use crate::etcd::status::{EtcdHealth, etcd_health};
use crate::etcd::tool::SnapshotContent;
use crate::file::make_directory;
use crate::hosts::init::Bundles;
use crate::local::down::remove_tree;

/// What was prepared for the hosts.
#[derive(Debug, Clone)]
pub struct PreparedEtcd {
    /// What the snapshot holds that was given.
    pub content: SnapshotContent,
    /// What was changed in its records.
    pub repaired: RepairedRecords,
    /// The snapshot that all members begin with.
    pub snapshot: PathBuf,
    /// Where each host's bundle is.
    pub bundles: Bundles,
}

/// Prepares a snapshot and all bundles, with which the members of etcd begin anew. Nothing is changed on any host. Repeating
/// it prepares another restore, and what was installed of the earlier one is to be installed again.
///
/// # Errors
/// When etcd has a majority, the file is no whole snapshot, or its records cannot be brought up to the present.
pub async fn restore_etcd_on_hosts(
    dir: &Path,
    snapshot: &Path,
    timeout: Duration,
    steps: &Steps,
) -> Result<PreparedEtcd> {
    let deadline = Instant::now() + timeout;
    let (mut cluster, _lock) = Cluster::open_locked(dir, timeout, steps).await?;
    let endpoints = cluster.etcd_status().await?;
    if !matches!(etcd_health(&endpoints), EtcdHealth::Lost(_)) {
        return Err(ProvisionError::EtcdWorks { dir: dir.to_owned() });
    }
    let file = snapshot.to_owned();
    blocking(move || check_whole(&file)).await?;
    cluster.issue_private_etcd()?;
    let (content, restored) = cluster.make_restored_data(snapshot, deadline).await?;
    steps.step(&format!("the snapshot can be read (revision {})", content.revision));
    let prepared = cluster.layout.root().join("bundles").join("etcd.db");
    make_directory(&cluster.layout.root().join("bundles"), 0o700, None)?;
    let repaired = cluster.repair_restored(&restored, Some(&prepared), deadline).await?;
    steps.step("its records fit the cells that are there");
    remove_tree(&cluster.layout.etcd())?;
    let file = prepared.clone();
    let sha256 = blocking(move || check_whole(&file)).await?;
    let restore = clock::new_id();
    let members: Vec<_> = cluster.etcd_hosts().into_iter().map(|(cell, _)| cell.clone()).collect();
    cluster.state.etcd_origins = members
        .into_iter()
        .map(|cell| (cell, EtcdOrigin::restored(restore.to_string(), sha256.clone())))
        .collect();
    cluster.state.etcd_restore = Some(restore);
    cluster.state.save(&cluster.layout)?;
    let cells: Vec<_> = cluster.state.cells.iter().map(|cell| cell.name.clone()).collect();
    let bundles = cluster.issue_bundles(&cells, false)?;
    Ok(PreparedEtcd { content, repaired, snapshot: prepared, bundles: Bundles { cluster, bundles } })
}

impl Cluster {
    /// The certificates of an etcd that runs here for a moment.
    fn issue_private_etcd(&self) -> Result<()> {
        // What an interrupted restore left.
        remove_tree(&self.layout.etcd())?;
        make_directory(&self.layout.log(), 0o750, None)?;
        self.private_etcd_set().ensure(&self.authority()?, &self.trusted()?)?;
        let lists = self.sign_revoked(&std::collections::BTreeSet::new())?;
        install_revocations(&self.etcd_tls(), &lists, None)?;
        Ok(())
    }
}
