//! `cellar host install`: puts what a bundle holds in its places. Nothing is started, and what runs takes up new
//! certificates by itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{CellName, ClusterLayout};
use cellar_system::{Owner, addresses_of, clock, has_address};
use cellar_tls::{CA_CERTIFICATE, CLOCK_SKEW, exchange, forget_previous};

use crate::binaries;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::lock::ClusterLock;
use crate::cluster::state::ClusterState;
use crate::cluster::steps::Steps;
use crate::error::finding::Finding;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::{make_directory, replace};
use crate::hosts::bundle::{Bundle, BundledFile};
use crate::hosts::host::HostState;
use crate::preflight::port::check_port;
use crate::preflight::{access, disk};

/// How long another `cellar` on the same directory is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// What was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The cell whose host this is.
    pub cell: CellName,
    /// The cluster's directory here.
    pub directory: PathBuf,
    /// What changed, from the directory; empty when all was there already.
    pub changed: Vec<PathBuf>,
}

/// Installs a bundle on the host that it is for. Repeating it changes nothing, and finishes one that was interrupted.
///
/// `snapshot` is what etcd's data here is made from, when the bundle says so; it is not looked at otherwise. After a restore
/// of etcd multiadmin and multipooler are ended, which know of the time before.
///
/// # Errors
/// When it is for another host or older than what is here, when it is not whole, or when this host is not ready.
pub async fn install_host(path: &Path, snapshot: Option<&Path>, steps: &Steps) -> Result<Installed> {
    let bundle = Bundle::read(path)?;
    let refused = |reason: String, hint| ProvisionError::Bundle { path: path.to_owned(), reason, hint };
    let host = bundle.host().cloned().ok_or_else(|| {
        refused("its cell has no host".to_owned(), "issue it again (`cellar cluster bundle`)")
    })?;
    let here = addresses_of(&host.host).unwrap_or_default();
    if !here.iter().any(|address| has_address(*address) && !address.is_loopback()) {
        let shown: Vec<String> = here.iter().map(ToString::to_string).collect();
        let leads = if shown.is_empty() { "nowhere".to_owned() } else { format!("to {}", shown.join(", ")) };
        return Err(refused(
            format!(
                "it is for the host {} of cell {}, and here that name leads {leads}, which is no address of this machine",
                host.host, bundle.cell
            ),
            "copy it to that host; if this is the one, let its name lead to its address in the network (Debian's hosts file often has 127.0.1.1)",
        ));
    }
    let layout = ClusterLayout::new(&host.directory);
    let cluster = Cluster::assemble_on_host(layout.clone(), bundle.cluster.clone(), bundle.cell.clone())?;
    let check = || check_predecessor(&layout, &bundle).map_err(|(reason, hint)| refused(reason, hint));
    check()?;
    let findings = cluster.check_host(&bundle, snapshot)?;
    if !findings.is_empty() {
        return Err(ProvisionError::Preflight(findings));
    }
    let mode = if cluster.owner().is_some() { 0o755 } else { 0o700 };
    make_directory(layout.root(), mode, None)?;
    let _lock = ClusterLock::acquire(&layout, LOCK_TIMEOUT, steps).await?;
    // Another one may have been installed since.
    check()?;
    if let Ok(Some(before)) = HostState::load(&layout)
        && before.cluster.etcd_restore != bundle.cluster.etcd_restore
    {
        cluster.end_daemons(steps).await?;
    }
    // First: after an interrupted installation none that is older is taken.
    HostState::new(bundle.cell.clone(), bundle.number, bundle.cluster.clone()).save(&layout)?;
    let kept = cluster.prepare_etcd_data(snapshot).await?;
    if let Some(kept) = &kept {
        steps.step(&format!(
            "etcd's data that was here is of another member, and is in {} now",
            kept.display()
        ));
    }
    let mut changed = install_files(&layout, &bundle.files, cluster.owner())?;
    changed.extend(kept.map(|_| cluster.etcd_data()));
    // Also here: a service manager may start the programs as a user who may make none in the cluster's directory.
    cluster.make_host_directories(&bundle.cell)?;
    changed.extend(cluster.write_drop_ins()?);
    Ok(Installed { cell: bundle.cell, directory: host.directory, changed })
}

/// Why a bundle may not follow what is in the directory, and what to do. One whose record cannot be read is followed by
/// any.
fn check_predecessor(
    layout: &ClusterLayout,
    bundle: &Bundle,
) -> std::result::Result<(), (String, &'static str)> {
    let root = layout.root().display();
    if ClusterState::path(layout).exists() {
        return Err((
            format!("{root} is the operator's directory of a cluster, and a host's must be another one"),
            "give the hosts another `directory` in the specification, or keep the operator's elsewhere (--dir)",
        ));
    }
    let Ok(Some(before)) = HostState::load(layout) else { return Ok(()) };
    let (was, is) = (&before.cluster.cluster, &bundle.cluster.cluster);
    if (was, &before.cell) != (is, &bundle.cell) {
        return Err((
            format!(
                "it is for cell {} of cluster {is}, and {root} has cell {} of cluster {was}",
                bundle.cell, before.cell
            ),
            "remove what is installed first (`cellar host remove`), or give the other cluster another `directory`",
        ));
    }
    if bundle.number < before.bundle {
        return Err((
            format!(
                "it has number {}, and a newer one with number {} was installed here: what it brings may be revoked",
                bundle.number, before.bundle
            ),
            "install the newest one: `cellar cluster bundle` on the operator's machine issues it",
        ));
    }
    Ok(())
}

/// Puts files in their places: a directory at a time, so that nobody finds a key with another one's certificate.
fn install_files(
    layout: &ClusterLayout,
    files: &BTreeMap<String, BundledFile>,
    owner: Option<Owner>,
) -> Result<Vec<PathBuf>> {
    let mut directories: BTreeMap<PathBuf, Vec<(&str, &BundledFile)>> = BTreeMap::new();
    for (path, file) in files {
        let path = Path::new(path);
        let parent = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        directories.entry(parent.to_owned()).or_default().push((name, file));
    }
    let mut changed = Vec::new();
    for (parent, files) in directories {
        let directory = layout.root().join(&parent);
        let is_there = |(name, file): &(&str, &BundledFile)| {
            std::fs::read_to_string(directory.join(name)).is_ok_and(|text| text == file.text)
        };
        if files.iter().all(is_there) {
            continue;
        }
        let above = directory.parent().filter(|above| *above != layout.root());
        above.map_or(Ok(()), |above| make_directory(above, 0o750, owner))?;
        make_directory(&directory, 0o700, owner)?;
        let has_keys = files.iter().any(|(name, _)| *name == CA_CERTIFICATE);
        if has_keys {
            exchange(&directory, owner, |next| -> Result<()> { write_all(next, &files, owner) })?;
            // What it replaced may be what a thief has.
            forget_previous(&directory)?;
        } else {
            write_all(&directory, &files, owner)?;
        }
        changed.push(parent);
    }
    Ok(changed)
}

fn write_all(directory: &Path, files: &[(&str, &BundledFile)], owner: Option<Owner>) -> Result<()> {
    files.iter().try_for_each(|(name, file)| replace(&directory.join(name), &file.text, file.mode, owner))
}

impl Cluster {
    /// What keeps this host from running what the bundle is for. Nothing was started or written.
    fn check_host(&self, bundle: &Bundle, snapshot: Option<&Path>) -> Result<Vec<Finding>> {
        let mut findings = binaries::missing();
        findings.extend(self.check_clock(bundle));
        for cell in &self.state.cells {
            let Some(host) = &cell.host else { continue };
            if addresses_of(&host.host).unwrap_or_default().is_empty() {
                findings.push(Finding {
                    message: format!("the host {} of cell {} has no address here", host.host, cell.name),
                    hint: Some("let DNS or /etc/hosts of this host name it".to_owned()),
                });
            }
        }
        findings.extend(self.etcd_data_obstacle(snapshot)?);
        let cells: Vec<_> = self.cells_here().cloned().collect();
        if let Some(repo) = self.state.repo.local_directory() {
            if !repo.is_dir() {
                findings.push(Finding {
                    message: format!("the repository {} is not there on this host", repo.display()),
                    hint: Some("mount it, or make the directory: all hosts must see the same one".to_owned()),
                });
            } else {
                findings.extend(access::check(repo, &self.user));
            }
        }
        for cell in &cells {
            findings.extend(access::check(self.layout.cell(&cell.name).root(), &self.user));
            if !self.layout.cell(&cell.name).data().exists() {
                findings.extend(disk::check(self.layout.root(), 1));
            }
        }
        for need in self.ports(&cells)? {
            findings.extend(check_port(&need, &self.listen_at(need.port), Some(self.layout.root())));
        }
        Ok(findings)
    }

    /// Certificates are valid from five minutes before they were made: a clock that is further behind refuses them.
    fn check_clock(&self, bundle: &Bundle) -> Option<Finding> {
        let behind = Duration::try_from(bundle.issued.duration_since(clock::now())).ok()?;
        (behind > CLOCK_SKEW).then(|| Finding {
            message: format!(
                "the clock of this host is {} s behind that of the operator's machine, so the certificates are not valid here yet",
                behind.as_secs()
            ),
            hint: Some("set the clock (timedatectl set-ntp true), then repeat the command".to_owned()),
        })
    }
}
