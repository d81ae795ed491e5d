//! What a person asks `cellar up` for, against what the cluster was created with; and the state of a new cluster.

use std::path::PathBuf;
use std::time::Duration;

use cellar_model::{CellName, ClusterLayout, ClusterName, DatabaseName, RepoCipher, Repository, Secret};
use cellar_system::OsUser;

use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::{ClusterState, is_same_repository};
use crate::error::provision_error::{ProvisionError, Result};
use crate::local::port_offset::{self, PortOffset, Reservation};
use crate::local::secrets::{self, GivenCredentials};

/// The cluster's name unless one is given.
pub const DEFAULT_CLUSTER: &str = "demo";

/// The database's name unless one is given.
pub const DEFAULT_DATABASE: &str = "app";

/// The cells unless some are given.
pub const DEFAULT_CELLS: [&str; 3] = ["zone1", "zone2", "zone3"];

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
    /// Where backups go.
    pub repo: Option<Repository>,
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
    /// Where the credentials of the repository's store are taken from. They replace those that the cluster has.
    pub credentials: GivenCredentials,
    /// Whether an HAProxy routes clients; unchanged when absent.
    pub route: Option<bool>,
    /// Whether each cell has a PgBouncer; unchanged when absent.
    pub pool: Option<bool>,
    /// When to give up.
    pub timeout: Duration,
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
    contradicts(layout, "database", options.database.as_ref(), &state.first_database.name)?;
    contradicts(layout, "OS user", options.os_user.as_ref(), &state.os_user)?;
    if let Some(PortOffset::Fixed(offset)) = options.port_offset {
        contradicts(layout, "port offset", Some(&offset), &state.port_offset)?;
    }
    let other_repo = options.repo.as_ref().filter(|wanted| !is_same_repository(wanted, &state.repo));
    contradicts(layout, "repository", other_repo, &state.repo)?;
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
        return Err(bad_cells("at most 256 cells are possible"));
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
    let repo = match &options.repo {
        Some(repo) => repo.clone(),
        None => parse("--dir", &layout.repo().display().to_string())?,
    };
    let user = OsUser::resolve(options.os_user.as_deref())?.name;
    let mut state = ClusterState::new(cluster, offset, database, stanza, repo, user, cells.clone())
        .ok_or_else(|| bad_cells("at least one cell is needed"))?;
    state.repo_cipher = options.passphrase.is_some().then_some(RepoCipher::Aes256Cbc);
    Ok((state.with_new_id(), reservation))
}

/// Refuses a repository that overlaps with what the cluster has for itself: it would be deleted with it.
fn check_repository(cluster: &Cluster) -> Result<()> {
    let members = cluster.state.members();
    let members = members.iter().map(|member| cluster.layout_of(member).root().to_owned());
    match cluster.overlapping_repository(members.chain(cluster.own_directories())) {
        None => Ok(()),
        Some(overlapping) => Err(ProvisionError::Argument {
            argument: "--repo",
            value: cluster.state.repo.to_string(),
            reason: format!(
                "it and {}, which the cluster has for itself, lie in one another: choose a directory apart from it, such as {}",
                overlapping.display(),
                cluster.layout.repo().display()
            ),
        }),
    }
}

/// The cluster as it is remembered, or a new one.
pub(crate) fn resolve(
    layout: &ClusterLayout,
    options: &UpOptions,
) -> Result<(Cluster, bool, Option<Reservation>)> {
    if let Some(mut state) = ClusterState::load(layout)? {
        check_agreement(layout, options, &state)?;
        state.route = options.route.unwrap_or(state.route);
        state.pool = options.pool.unwrap_or(state.pool);
        return Ok((Cluster::assemble(layout.clone(), state)?, false, None));
    }
    let (mut state, reservation) = create(layout, options)?;
    state.route = options.route.unwrap_or_default();
    state.pool = options.pool.unwrap_or_default();
    let cluster = Cluster::assemble(layout.clone(), state)?;
    check_repository(&cluster)?;
    Ok((cluster, true, reservation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn repository_and_what_the_cluster_has_for_itself_are_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (root, link) = (dir.path().join("demo"), dir.path().join("link"));
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(&root, &link).unwrap();
        let layout = ClusterLayout::new(&root);
        let resolved = |repo: &Path| {
            let options = UpOptions {
                dir: root.clone(),
                cluster: None,
                cells: Some(vec!["zone1".parse().unwrap(), "zone2".parse().unwrap()]),
                port_offset: None,
                repo: Some(repo.to_str().unwrap().parse().unwrap()),
                database: None,
                os_user: None,
                cert_lifetime: None,
                renews: None,
                retention_full: None,
                passphrase: None,
                credentials: GivenCredentials::default(),
                route: None,
                pool: None,
                timeout: Duration::ZERO,
            };
            resolve(&layout, &options).map(|_| ())
        };
        let refused = |repo: PathBuf| {
            let error = resolved(&repo).unwrap_err().to_string();
            assert!(error.contains("--repo") && error.contains("lie in one another"), "{error}");
        };
        // Before and after the directories are there.
        for _ in 0..2 {
            for inside in ["zone1", "zone2/pg_data/repo", "etcd", "ca/issued", "ca.previous/x", "state/r"] {
                refused(root.join(inside));
                refused(link.join(inside));
            }
            refused(root.clone());
            refused(link.clone());
            refused(dir.path().to_owned());
            for apart in [root.join("repo"), link.join("repo"), root.join("zone3"), dir.path().join("repo")] {
                resolved(&apart).unwrap();
            }
            std::fs::create_dir_all(root.join("zone2/pg_data/deep")).unwrap();
            std::fs::create_dir_all(root.join("ca")).unwrap();
        }
        let into = dir.path().join("into");
        std::os::unix::fs::symlink(root.join("zone2/pg_data/deep"), &into).unwrap();
        refused(into.join("repo"));
    }
}
