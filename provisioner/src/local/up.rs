//! `cellar up`: from nothing, or from whatever is there, to a cluster in which every cell streams and
//! the repo holds a full backup.
//!
//! Idempotent and safe to kill anywhere: each step looks at what is there and adds what is missing.

use std::time::{Duration, Instant};

use cellar_model::{ClusterLayout, Key};
use cellar_system::{UserError, clock};
use cellar_topology::Store;
use nix::unistd::Uid;

use crate::cluster::local_cluster::Cluster;
use crate::cluster::lock::ClusterLock;
use crate::cluster::state::ClusterState;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::make_directory;
use crate::local::down::remove_tree;
use crate::local::launch::Launched;
use crate::local::up_options::{UpOptions, resolve};
use crate::local::watch::Watcher;

/// Certificates that live shorter could end before they are renewed.
const MIN_LIFETIME: Duration = Duration::from_secs(60);

/// How often to look whether the multipoolers report to etcd.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// What `up` reached.
#[derive(Debug, Clone)]
pub struct UpOutcome {
    /// The cluster.
    pub cluster: Cluster,
    /// The cell whose instance is the primary.
    pub primary: String,
}

/// Brings the cluster up.
///
/// # Errors
/// When the checks find a problem (nothing was started then), or the cluster is not whole by the
/// deadline; then what was started goes on, and the next run continues.
pub async fn up(options: &UpOptions, steps: &Steps) -> Result<UpOutcome> {
    let deadline = Instant::now() + options.timeout;
    let layout = ClusterLayout::new(&options.dir);
    // A lock file can be taken only where a cluster is already: before the checks nothing is written.
    let early = match layout.state().is_dir() {
        true => Some(ClusterLock::acquire(&layout, options.timeout, steps).await?),
        false => None,
    };
    let (mut cluster, mut new, reservation) = resolve(&layout, options)?;
    cluster.check_is_local("cellar up")?;
    if cluster.owner().is_some() && !Uid::effective().is_root() {
        let (current, wanted) = (Uid::effective().to_string(), cluster.user.name);
        return Err(UserError::NotPermitted { current, wanted }.into());
    }
    let cells = cluster.state.cells.len();
    let findings = cluster.preflight(&cluster.state.cells, if new { cells } else { 0 })?;
    if !findings.is_empty() {
        return Err(ProvisionError::Preflight(findings));
    }
    let _lock = match early {
        Some(lock) => lock,
        None => {
            let mode = if cluster.owner().is_some() { 0o755 } else { 0o700 };
            make_directory(layout.root(), mode, None)?;
            let lock = ClusterLock::acquire(&layout, options.timeout, steps).await?;
            // Another process may have made a cluster here since the checks.
            if ClusterState::load(&layout)?.is_some() {
                (cluster, new, _) = resolve(&layout, options)?;
            }
            lock
        }
    };
    if let Some(lifetime) = options.cert_lifetime {
        if lifetime < MIN_LIFETIME {
            return Err(ProvisionError::Argument {
                argument: "--cert-lifetime",
                value: format!("{} s", lifetime.as_secs()),
                reason: format!("it must be at least {} s", MIN_LIFETIME.as_secs()),
            });
        }
        cluster.state.cert_lifetime_seconds = Some(lifetime.as_secs());
    }
    if new {
        // What is left of a cluster that was here before would be taken for its own.
        for directory in cluster.left_keys() {
            remove_tree(&directory)?;
        }
    }
    if let Some(secret) = options.passphrase.as_ref().filter(|_| new) {
        cluster.remember_passphrase(secret)?;
    }
    if let Some(renews) = options.renews {
        cluster.state.renews = renews;
    }
    if options.retention_full.is_some() {
        cluster.state.retention_full = options.retention_full;
    }
    cluster.state.save(&layout)?;
    steps.step(&format!(
        "cluster {} in {}: {} cells, port offset {}",
        cluster.state.cluster,
        layout.root().display(),
        cluster.state.cells.len(),
        cluster.state.port_offset
    ));
    let primary = cluster.bring_up(steps, deadline).await?;
    cluster.ensure_route(steps, deadline).await?;
    drop(reservation);
    Ok(UpOutcome { cluster, primary })
}

impl Cluster {
    async fn bring_up(&mut self, steps: &Steps, deadline: Instant) -> Result<String> {
        let cells = self.state.cells.clone();
        let mut launched = self.launch(&cells, true).await?;
        let count = launched.poolers.len()
            + usize::from(launched.etcd.is_some())
            + usize::from(launched.admin.is_some());
        steps.step(&match count {
            0 => "every process runs already".to_owned(),
            1 => "certificates are in place, 1 process started".to_owned(),
            n => format!("certificates are in place, {n} processes started"),
        });
        self.converge(&mut launched, steps, deadline).await
    }

    /// From processes that run, on this machine or on their hosts, to a cluster in which every cell streams and the
    /// repository holds a full backup; gives the primary.
    pub(crate) async fn converge(
        &mut self,
        launched: &mut Launched,
        steps: &Steps,
        deadline: Instant,
    ) -> Result<String> {
        let store = self.wait_for_etcd(launched.etcd.take(), deadline).await?;
        steps.step("etcd answers");
        let reconciled = self.write_records(&store).await?;
        for cell in reconciled.removed {
            if !self.is_local() {
                return Err(ProvisionError::HalfRemoved { cell: cell.to_string() });
            }
            steps.step(&format!("cell {cell} was removed: ending what is left of it"));
            self.stop_cell(&cell, steps).await?;
            self.dismiss_pooler(&cell).await?;
            self.state.remove_cell(&cell);
            launched.poolers.remove(&cell);
            self.state.save(&self.layout)?;
        }
        if !reconciled.added.is_empty() {
            for cell in &reconciled.added {
                self.state.add_cell(cell.name.clone(), cell.index);
            }
            self.state.save(&self.layout)?;
            launched.poolers.extend(self.launch(&reconciled.added, false).await?.poolers);
        }
        let this = self.clone();
        // Beside the cluster's coming up, which does not wait for it, but `up` does.
        let permissions = tokio::spawn({
            let this = self.clone();
            async move {
                this.ensure_permissions().await?;
                // What an etcd that was lost, or away when something was revoked, does not know.
                this.publish_revoked().await
            }
        });
        let mut watcher = Watcher::new(&this, launched, steps, deadline).await?;
        let primary = watcher.wait_for_primary().await?;
        if !watcher.holds_full_backup().await? {
            let name = *self.state.first_backup.get_or_insert_with(clock::new_id);
            self.state.save(&self.layout)?;
            let ended = watcher.ensure_first_backup(&primary, name).await;
            // After a failure the next `up` begins with new attempts.
            self.state.first_backup = None;
            self.state.save(&self.layout)?;
            ended?;
        }
        steps.step("the repository holds a full backup");
        let cells = watcher.cell_names();
        let primary = loop {
            let primary = watcher.wait_until_well(&cells).await?;
            // What multiadmin shows may be from before etcd was started: one whose data was lost knows nobody yet.
            if self.all_report_to(&store).await? {
                break primary;
            }
            if Instant::now() >= deadline {
                let cells = Vec::new();
                let what = "the multipoolers do not report to etcd".to_owned();
                return Err(ProvisionError::NotStreaming { what, after: watcher.begun.elapsed(), cells });
            }
            tokio::time::sleep(REPORT_INTERVAL).await;
        };
        permissions
            .await
            .map_err(std::io::Error::from)
            .map_err(ProvisionError::io("set permissions for", &self.layout.etcd()))??;
        if let (Some(revoking), false) = (&self.state.revoking, self.is_local()) {
            // It waits for people, who install bundles.
            let serial = revoking.serials.iter().next().map_or("SERIAL", String::as_str);
            steps.step(&format!("a revocation is not finished: `cellar certs revoke {serial}` goes on"));
        } else if self.state.revoking.is_some() {
            steps.step("a revocation was interrupted: going on");
            self.finish_revocation(deadline, steps).await?;
        } else {
            self.finish_name_change(&store, deadline).await?;
        }
        self.record_retention(&store).await?;
        Ok(primary)
    }

    /// Whether every cell's multipooler has its status in etcd now.
    async fn all_report_to(&self, store: &Store) -> Result<bool> {
        for cell in &self.state.cells {
            let key = Key::Status(self.state.database.clone(), cell.name.clone());
            match store.kv().get(&store.keys().path(&key)).await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(false),
                Err(error) if error.is_retryable() => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}
