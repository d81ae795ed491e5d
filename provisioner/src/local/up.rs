//! `cellar up`: from nothing, or from whatever is there, to a cluster in which every cell streams and
//! the repo holds a full backup.
//!
//! Idempotent and safe to kill anywhere: each step looks at what is there and adds what is missing.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use cellar_model::{ClusterLayout, DatabaseName, Key};
use cellar_system::{UserError, clock};
use cellar_topology::Store;
use futures_util::future::try_join_all;
use nix::unistd::Uid;

use crate::cluster::local_cluster::Cluster;
use crate::cluster::lock::ClusterLock;
use crate::cluster::state::ClusterState;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::make_directory;
use crate::local::down::remove_tree;
use crate::local::launch::Launched;
use crate::local::secrets::credentials_of;
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
    /// The cell whose instance is the primary, of each database in the order of [`ClusterState::databases`].
    pub primaries: Vec<(DatabaseName, String)>,
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
    let credentials = credentials_of(&layout, &cluster.state, &options.credentials)?;
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
    if let Some(credentials) = &credentials {
        cluster.remember_credentials(credentials)?;
    }
    if let Some(renews) = options.renews {
        cluster.state.renews = renews;
    }
    if options.retention_full.is_some() {
        cluster.state.first_database.retention_full = options.retention_full;
    }
    cluster.state.save(&layout)?;
    steps.step(&format!(
        "cluster {} in {}: {} cells, port offset {}",
        cluster.state.cluster,
        layout.root().display(),
        cluster.state.cells.len(),
        cluster.state.port_offset
    ));
    let primaries = cluster.bring_up(steps, deadline).await?;
    cluster.ensure_route(steps, deadline).await?;
    cluster.ensure_pool(steps, deadline).await?;
    drop(reservation);
    Ok(UpOutcome { cluster, primaries })
}

impl Cluster {
    async fn bring_up(&mut self, steps: &Steps, deadline: Instant) -> Result<Vec<(DatabaseName, String)>> {
        let cells = self.state.cells.clone();
        let launched = self.launch(&cells, true).await?;
        let count = launched.poolers.len()
            + usize::from(launched.etcd.is_some())
            + usize::from(launched.admin.is_some());
        steps.step(&match count {
            0 => "every process runs already".to_owned(),
            1 => "certificates are in place, 1 process started".to_owned(),
            n => format!("certificates are in place, {n} processes started"),
        });
        self.converge(launched, steps, deadline).await
    }

    /// From processes that run, on this machine or on their hosts, to a cluster in which every cell streams and the
    /// repository holds a full backup of each database; gives the primaries.
    pub(crate) async fn converge(
        &mut self,
        mut launched: Launched,
        steps: &Steps,
        deadline: Instant,
    ) -> Result<Vec<(DatabaseName, String)>> {
        let store = self.wait_for_etcd(launched.etcd.take(), deadline).await?;
        steps.step("etcd answers");
        let reconciled = self.write_records(&store).await?;
        for cell in reconciled.removed {
            if !self.is_local() {
                return Err(ProvisionError::HalfRemoved { cell: cell.to_string() });
            }
            steps.step(&format!("cell {cell} was removed: ending what is left of it"));
            self.stop_cell(&cell, steps).await?;
            self.dismiss_poolers(&cell).await?;
            self.state.remove_cell(&cell);
            launched.poolers.retain(|member, _| member.cell != cell);
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
        let (launched, shared) = (Mutex::new(launched), tokio::sync::Mutex::new(&mut *self));
        // All databases at once: what one waits for is none of the others' business.
        let reached = this.state.databases().map(|database| async {
            let mut watcher = Watcher::new(&this, &database.name, &launched, steps, deadline).await?;
            let primary = watcher.reach(&store, &shared).await?;
            Ok::<_, ProvisionError>((database.name.clone(), primary))
        });
        let primaries = try_join_all(reached).await?;
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
        Ok(primaries)
    }

    /// Whether every multipooler of a database has its status in etcd now.
    async fn all_report_to(&self, store: &Store, database: &DatabaseName) -> Result<bool> {
        for member in self.state.members_of(database) {
            let key = Key::Status(member.database, member.cell);
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

impl Watcher<'_> {
    /// Waits until every member of the database streams and the repository holds a full backup of it; gives the primary.
    /// The first backup's name is kept in `cluster`.
    async fn reach(&mut self, store: &Store, cluster: &tokio::sync::Mutex<&mut Cluster>) -> Result<String> {
        let database = self.database.clone();
        let primary = self.wait_for_primary().await?;
        if !self.holds_full_backup().await? {
            let name = {
                let mut cluster = cluster.lock().await;
                let name = clock::new_id();
                let recorded = cluster.state.database_mut(&database).map(|one| &mut one.first_backup);
                let name = recorded.map_or(name, |recorded| *recorded.get_or_insert(name));
                cluster.state.save(&cluster.layout)?;
                name
            };
            let ended = self.ensure_first_backup(&primary, name).await;
            // After a failure the next `up` begins with new attempts.
            let mut cluster = cluster.lock().await;
            if let Some(recorded) = cluster.state.database_mut(&database) {
                recorded.first_backup = None;
            }
            cluster.state.save(&cluster.layout)?;
            ended?;
        }
        self.tell("the repository holds a full backup");
        let cells = self.cell_names();
        loop {
            let primary = self.wait_until_well(&cells).await?;
            // What multiadmin shows may be from before etcd was started: one whose data was lost knows nobody yet.
            if self.cluster.all_report_to(store, &database).await? {
                return Ok(primary);
            }
            if Instant::now() >= self.deadline {
                let cells = Vec::new();
                let what = "the multipoolers do not report to etcd".to_owned();
                return Err(ProvisionError::NotStreaming { what, after: self.begun.elapsed(), cells });
            }
            tokio::time::sleep(REPORT_INTERVAL).await;
        }
    }
}
