//! `cellar up`: from nothing, or from whatever is there, to a cluster in which every cell streams and
//! the repo holds a full backup.
//!
//! Idempotent and safe to kill anywhere: each step looks at what is there and adds what is missing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cellar_model::{CellName, ClusterLayout, ClusterName, DatabaseName, RepoCipher, Secret};
use cellar_system::{OsUser, UserError};
use nix::unistd::Uid;

use crate::error::{ProvisionError, Result};
use crate::file::make_directory;
use crate::local::cluster::Cluster;
use crate::local::launch::blocking;
use crate::local::port_offset::{self, PortOffset, Reservation};
use crate::local::secrets;
use crate::local::state::{ClusterState, StateLock};
use crate::local::steps::Steps;
use crate::local::watch::Watcher;

/// The cluster's name when nobody gives one.
pub const DEFAULT_CLUSTER: &str = "demo";

/// The database's name when nobody gives one.
pub const DEFAULT_DATABASE: &str = "app";

/// The cells when nobody gives any.
pub const DEFAULT_CELLS: [&str; 3] = ["zone1", "zone2", "zone3"];

/// Certificates that live shorter could end before they are renewed.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(60);

/// What a person asks `up` for. What is absent is taken from the cluster, or its default.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// The cluster's directory; absolute.
    pub dir: PathBuf,
    /// Its name.
    pub cluster: Option<ClusterName>,
    /// Its cells.
    pub cells: Option<Vec<CellName>>,
    /// Moves every port.
    pub port_offset: Option<PortOffset>,
    /// Where backups go; absolute.
    pub repo: Option<PathBuf>,
    /// Its database.
    pub database: Option<DatabaseName>,
    /// As whom PostgreSQL runs.
    pub os_user: Option<String>,
    /// How long certificates are valid that are issued from now on.
    pub cert_lifetime: Option<Duration>,
    /// Whether multiadmin is given a pair to renew them with; unchanged when absent.
    pub renews: Option<bool>,
    /// How many full backups an expiry keeps from now on; unchanged when absent.
    pub retention_full: Option<u32>,
    /// Encrypts the repository of a new cluster; of one that is there it must be its own.
    pub passphrase: Option<Secret>,
    /// When to give up.
    pub timeout: Duration,
}

/// What `up` reached.
#[derive(Debug, Clone)]
pub struct UpOutcome {
    /// The cluster.
    pub cluster: Cluster,
    /// The cell whose instance is the primary.
    pub primary: String,
}

fn contradicts<T: std::fmt::Display + PartialEq>(
    layout: &ClusterLayout,
    what: &'static str,
    wanted: Option<&T>,
    recorded: &T,
) -> Result<()> {
    match wanted {
        Some(wanted) if wanted != recorded => Err(ProvisionError::Contradiction {
            what,
            wanted: wanted.to_string(),
            recorded: recorded.to_string(),
            dir: layout.root().to_owned(),
        }),
        _ => Ok(()),
    }
}

fn joined(mut cells: Vec<CellName>) -> String {
    cells.sort();
    cells.iter().map(CellName::as_str).collect::<Vec<_>>().join(",")
}

/// Refuses flags that do not agree with what the cluster was created with.
fn check_agreement(layout: &ClusterLayout, options: &UpOptions, state: &ClusterState) -> Result<()> {
    contradicts(layout, "cluster name", options.cluster.as_ref(), &state.cluster)?;
    contradicts(layout, "database", options.database.as_ref(), &state.database)?;
    contradicts(layout, "OS user", options.os_user.as_ref(), &state.os_user)?;
    if let Some(PortOffset::Fixed(offset)) = options.port_offset {
        contradicts(layout, "port offset", Some(&offset), &state.port_offset)?;
    }
    let shown = |path: &PathBuf| path.display().to_string();
    contradicts(layout, "repository", options.repo.as_ref().map(shown).as_ref(), &shown(&state.repo))?;
    let cells = options.cells.clone().map(joined);
    let recorded = joined(state.cells.iter().map(|cell| cell.name.clone()).collect());
    contradicts(layout, "cells", cells.as_ref(), &recorded)?;
    secrets::check_agreement(layout, state, options.passphrase.as_ref())
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(argument: &'static str, text: &str) -> Result<T> {
    text.parse().map_err(|error: T::Err| ProvisionError::Argument {
        argument,
        value: text.to_owned(),
        reason: error.to_string(),
    })
}

/// A new cluster's state, with a reservation of its ports when they were to be chosen.
fn create(layout: &ClusterLayout, options: &UpOptions) -> Result<(ClusterState, Option<Reservation>)> {
    let cells = match &options.cells {
        Some(cells) => cells.clone(),
        None => DEFAULT_CELLS.iter().map(|cell| parse("--cells", cell)).collect::<Result<_>>()?,
    };
    let bad_cells = |reason: &str| ProvisionError::Argument {
        argument: "--cells",
        value: cells.iter().map(CellName::as_str).collect::<Vec<_>>().join(","),
        reason: reason.to_owned(),
    };
    let distinct: std::collections::BTreeSet<&CellName> = cells.iter().collect();
    if distinct.len() != cells.len() {
        return Err(bad_cells("a cell is named twice"));
    }
    if cells.len() > usize::from(cellar_model::PORT_SPAN) {
        return Err(bad_cells("256 cells are the most"));
    }
    let reservation = match options.port_offset {
        Some(PortOffset::Auto) => Some(port_offset::find(cells.len())?),
        _ => None,
    };
    let offset = match (options.port_offset, &reservation) {
        (_, Some(reservation)) => reservation.offset,
        (Some(PortOffset::Fixed(offset)), None) => offset,
        _ => 0,
    };
    let cluster = match &options.cluster {
        Some(cluster) => cluster.clone(),
        None => parse("--cluster", DEFAULT_CLUSTER)?,
    };
    let database = match &options.database {
        Some(database) => database.clone(),
        None => parse("--database", DEFAULT_DATABASE)?,
    };
    let stanza = parse("--database", database.as_str())?;
    let repo = options.repo.clone().unwrap_or_else(|| layout.repo());
    let user = OsUser::resolve(options.os_user.as_deref())?.name;
    let mut state = ClusterState::new(cluster, offset, database, stanza, repo, user, cells.clone())
        .ok_or_else(|| bad_cells("at least one cell is needed"))?;
    state.repo_cipher = options.passphrase.is_some().then_some(RepoCipher::Aes256Cbc);
    Ok((state, reservation))
}

/// The cluster as it is remembered, or a new one.
fn resolve(layout: &ClusterLayout, options: &UpOptions) -> Result<(Cluster, bool, Option<Reservation>)> {
    if let Some(state) = ClusterState::load(layout)? {
        check_agreement(layout, options, &state)?;
        return Ok((Cluster::assemble(layout.clone(), state)?, false, None));
    }
    let (state, reservation) = create(layout, options)?;
    Ok((Cluster::assemble(layout.clone(), state)?, true, reservation))
}

/// Brings the cluster up.
///
/// # Errors
/// When something is in the way (nothing was started then), or the cluster is not whole by the
/// deadline; then what was started goes on, and the next run continues.
pub async fn up(options: &UpOptions, steps: &Steps) -> Result<UpOutcome> {
    let deadline = Instant::now() + options.timeout;
    let layout = ClusterLayout::new(&options.dir);
    let waiting = |holder: &str| steps.step(&format!("waiting for another cellar ({holder})"));
    // A lock file can be taken only where a cluster is already: before the checks nothing is written.
    let early = match layout.state().is_dir() {
        true => Some(StateLock::acquire(&layout, options.timeout, waiting).await?),
        false => None,
    };
    let (mut cluster, mut new, reservation) = resolve(&layout, options)?;
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
            let lock = StateLock::acquire(&layout, options.timeout, waiting).await?;
            // Somebody else may have made a cluster here while we looked.
            if ClusterState::load(&layout)?.is_some() {
                (cluster, new, _) = resolve(&layout, options)?;
            }
            lock
        }
    };
    if let Some(lifetime) = options.cert_lifetime {
        if lifetime < SHORTEST_LIFETIME {
            return Err(ProvisionError::Argument {
                argument: "--cert-lifetime",
                value: format!("{} s", lifetime.as_secs()),
                reason: format!("{} s are the least", SHORTEST_LIFETIME.as_secs()),
            });
        }
        cluster.state.cert_lifetime_seconds = Some(lifetime.as_secs());
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
        let store = self.wait_for_etcd(launched.etcd.take(), deadline).await?;
        steps.step("etcd answers");
        let reconciled = self.seed(&store).await?;
        for cell in reconciled.removed {
            steps.step(&format!("cell {cell} was removed: ending what is left of it"));
            self.stop_cell(&cell, steps).await?;
            self.state.cells.retain(|local| local.name != cell);
            launched.poolers.remove(&cell);
            self.state.save(&self.layout)?;
        }
        if !reconciled.added.is_empty() {
            self.state.cells.extend(reconciled.added.iter().cloned());
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
        let mut watcher = Watcher::new(&this, &mut launched, steps, deadline)?;
        let primary = watcher.wait_for_primary().await?;
        watcher.ensure_first_backup(&primary).await?;
        steps.step("the repository holds a full backup");
        let cells = watcher.cell_names();
        let primary = watcher.wait_until_well(&cells).await?;
        permissions
            .await
            .map_err(std::io::Error::from)
            .map_err(ProvisionError::io("set permissions for", &self.layout.etcd()))??;
        if self.state.revoking.is_some() {
            steps.step("a revocation was interrupted: going on");
            self.finish_revocation(deadline, steps).await?;
        } else {
            self.settle_names(&store, deadline).await?;
        }
        self.settle_retention(&store).await?;
        Ok(primary)
    }

    /// The cluster's state as it is on disk now, with the right to change it.
    pub(crate) async fn locked(
        dir: &std::path::Path,
        patience: Duration,
        steps: &Steps,
    ) -> Result<(Self, StateLock)> {
        let layout = ClusterLayout::new(dir);
        // Nothing is written into a directory that is no cluster's.
        Self::open(dir)?;
        let lock = StateLock::acquire(&layout, patience, |holder| {
            steps.step(&format!("waiting for another cellar ({holder})"));
        })
        .await?;
        let dir = dir.to_owned();
        Ok((blocking(move || Self::open(dir)).await?, lock))
    }
}
