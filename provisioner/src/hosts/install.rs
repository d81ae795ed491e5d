//! `cellar host install`: puts what a bundle holds in its places. Nothing is started, and what runs takes up new
//! certificates by itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{CellName, ClusterLayout};
use cellar_system::{Owner, addresses_of, clock, has_address, read_text};
use cellar_tls::{CA_CERTIFICATE, CLOCK_SKEW, REVOCATIONS, exchange, forget_previous, read_revocations};

use crate::binaries;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::lock::ClusterLock;
use crate::cluster::state::ClusterState;
use crate::cluster::steps::Steps;
use crate::error::finding::Finding;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::{correct_directory, make_directory, put};
use crate::hosts::bundle::{Bundle, BundledFile};
use crate::hosts::host::HostState;
use crate::hosts::made_by::UPDATE;
use crate::preflight::port::check_port;
use crate::preflight::{access, disk, store};

/// How long another `cellar` on the same directory is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Mode of the directories of what a bundle brings.
const DIRECTORY_MODE: u32 = 0o700;

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
    let mut findings = cluster.check_host(&bundle, snapshot)?;
    findings.extend(cluster.etcd_has_begun(&bundle).await?);
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
    cluster.make_host_directories()?;
    changed.extend(cluster.write_drop_ins()?);
    Ok(Installed { cell: bundle.cell, directory: host.directory, changed })
}

/// Why a bundle may not follow what is in the directory, and what to do. One whose record cannot be read is followed by
/// any, unless a newer version wrote it.
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
    let before = match HostState::load(layout) {
        Ok(Some(before)) => before,
        // Whether this bundle is older is not known here.
        Err(ProvisionError::Bundle { reason, hint: UPDATE, .. }) => return Err((reason, UPDATE)),
        Ok(None) | Err(_) => return Ok(()),
    };
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
    // Another cluster of the same name has other keys, another database, and bundles that count from 1 again.
    if before.cluster.id != bundle.cluster.id {
        let shown =
            |id: Option<uuid::Uuid>| id.map_or_else(|| "no id".to_owned(), |id| format!("the id {id}"));
        return Err((
            format!(
                "it is of another cluster that has the name {is}, too: that one has {}, and the cluster in {root} has {}",
                shown(bundle.cluster.id),
                shown(before.cluster.id)
            ),
            "install the bundle of the cluster that is here; or remove what is installed (`cellar host remove --delete-data`) if this host is to leave that cluster",
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
    for (parent, mut files) in directories {
        let directory = layout.root().join(&parent);
        // The host's own multipooler writes newer ones there.
        let trusted =
            files.iter().find(|(name, _)| *name == CA_CERTIFICATE).map(|(_, file)| file.text.clone());
        files.retain(|(name, file)| {
            *name != REVOCATIONS
                || !revokes_more(&directory.join(name), &file.text, trusted.as_deref().unwrap_or_default())
        });
        let above = directory.parent().filter(|above| *above != layout.root());
        above.map_or(Ok(()), |above| make_directory(above, 0o750, owner))?;
        make_directory(&directory, DIRECTORY_MODE, owner)?;
        let has_keys = files.iter().any(|(name, _)| *name == CA_CERTIFICATE);
        // Lists of certificates, which lie beside keys, are no reason to exchange these.
        let is_new = |(name, file): &(&str, &BundledFile)| {
            (name.ends_with(".key") || name.ends_with(".crt"))
                && read_text(&directory.join(name)).map_or(true, |text| text != file.text)
        };
        let mut is_changed = has_keys && files.iter().any(is_new);
        if is_changed {
            exchange(&directory, owner, |next| -> Result<()> { put_all(next, &files, owner).map(drop) })?;
            // What it replaced may be what a thief has.
            forget_previous(&directory)?;
        }
        // Also what somebody else has touched: servers refuse keys of another mode, and cannot read another user's.
        is_changed |= correct_directory(&directory, DIRECTORY_MODE, owner)?;
        is_changed |= put_all(&directory, &files, owner)?;
        if is_changed {
            changed.push(parent);
        }
    }
    Ok(changed)
}

/// Whether the lists in a file revoke all that these do, and more.
fn revokes_more(present: &Path, lists: &str, trusted: &str) -> bool {
    let revoked = |lists: &str| read_revocations(lists, trusted).map(|(serials, _)| serials).ok();
    let present = read_text(present).ok().and_then(|lists| revoked(&lists));
    match (present, revoked(lists)) {
        (Some(present), Some(other)) => {
            present.len() > other.len() && other.keys().all(|serial| present.contains_key(serial))
        }
        _ => false,
    }
}

/// Makes files what they are to be: text, mode and owner; tells whether one was not.
fn put_all(directory: &Path, files: &[(&str, &BundledFile)], owner: Option<Owner>) -> Result<bool> {
    let mut is_changed = false;
    for (name, file) in files {
        is_changed |= put(&directory.join(name), &file.text, file.mode, owner)?;
    }
    Ok(is_changed)
}

impl Cluster {
    /// What keeps this host from running what the bundle is for. Nothing was started or written.
    fn check_host(&self, bundle: &Bundle, snapshot: Option<&Path>) -> Result<Vec<Finding>> {
        let mut findings = binaries::missing();
        findings.extend(store::check(&self.state.repo));
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
        let members: Vec<_> = self.members_here().iter().map(|member| self.layout_of(member)).collect();
        if let Some(repo) = self.repository_here() {
            if !repo.is_dir() {
                let hint = match self.state.repo.home() {
                    None => "mount it, or make the directory: all hosts must see the same one",
                    Some(_) => {
                        "make the directory, or mount its file system: the other hosts reach it through this one"
                    }
                };
                findings.push(Finding {
                    message: format!("the repository {} is not there on this host", repo.display()),
                    hint: Some(hint.to_owned()),
                });
            } else {
                findings.extend(access::check(repo, &self.user));
            }
            let own = members.iter().map(|layout| layout.root().to_owned());
            if let Some(overlapping) = self.overlapping_repository(own) {
                findings.push(Finding {
                    message: format!(
                        "the repository {} and the cell's directory {} lie in one another",
                        repo.display(),
                        overlapping.display()
                    ),
                    hint: Some("name a directory apart from it in the specification (`repo.path`): what removes the cell's data must spare the backups".to_owned()),
                });
            }
        }
        for layout in &members {
            findings.extend(access::check(layout.root(), &self.user));
        }
        let new = members.iter().filter(|layout| !layout.data().exists()).count();
        if new > 0 {
            findings.extend(disk::check(self.layout.root(), new));
        }
        for need in self.ports(&cells)? {
            findings.extend(check_port(&need, &self.listen_at(need.port), Some(self.layout.root())));
        }
        Ok(findings)
    }

    /// Certificates are valid from [`CLOCK_SKEW`] before they were made: a clock that is further behind refuses them.
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn files() -> BTreeMap<String, BundledFile> {
        let file =
            |name: &str, mode| (format!("zone1/tls/{name}"), BundledFile { mode, text: format!("{name}\n") });
        [file("ca.crt", 0o644), file("server.key", 0o600), file("known-certificates", 0o644)].into()
    }

    #[test]
    fn what_somebody_has_changed_is_corrected_and_reported() {
        let root = tempfile::tempdir().unwrap();
        let layout = ClusterLayout::new(root.path());
        let install = |files: &BTreeMap<String, BundledFile>| install_files(&layout, files, None).unwrap();
        let wanted = files();
        let tls = root.path().join("zone1/tls");
        assert_eq!(install(&wanted), [PathBuf::from("zone1/tls")]);
        assert_eq!(install(&wanted), [""; 0].map(PathBuf::from));
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
        for (path, bad, good) in [
            (tls.join("server.key"), 0o644, 0o600),
            (tls.join("ca.crt"), 0o600, 0o644),
            (tls.clone(), 0o755, 0o700),
        ] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bad)).unwrap();
            assert_eq!(install(&wanted).len(), 1, "{}", path.display());
            assert_eq!(mode(&path), good, "{}", path.display());
        }
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let owner = Some(Owner { uid: 1, gid: 1 });
        for path in [tls.join("server.key"), tls.clone()] {
            assert_eq!(install_files(&layout, &wanted, owner).unwrap().len(), 1);
            assert_eq!((path.metadata().unwrap().uid(), path.metadata().unwrap().gid()), (1, 1));
            std::os::unix::fs::chown(&path, Some(2), Some(2)).unwrap();
        }
    }

    #[test]
    fn list_of_what_is_revoked_is_not_replaced_by_one_that_lacks_some() {
        let root = tempfile::tempdir().unwrap();
        let layout = ClusterLayout::new(root.path());
        let ca = cellar_tls::generate_ca(&root.path().join("ca"), &"demo".parse().unwrap()).unwrap();
        let list = |serials: &[&str]| {
            let since = std::time::SystemTime::UNIX_EPOCH;
            let serials = serials.iter().map(|serial| ((*serial).to_owned(), since)).collect();
            cellar_tls::sign_revocations(&ca, &serials).unwrap()
        };
        let there = root.path().join("etcd/tls").join(REVOCATIONS);
        let install = |serials: &[&str]| {
            let file = |text: String| BundledFile { mode: 0o644, text };
            let files = BTreeMap::from([
                (format!("etcd/tls/{CA_CERTIFICATE}"), file(ca.pem().to_owned())),
                (format!("etcd/tls/{REVOCATIONS}"), file(list(serials))),
            ]);
            let _ = install_files(&layout, &files, None).unwrap();
            let read = read_revocations(&std::fs::read_to_string(&there).unwrap(), ca.pem()).unwrap().0;
            read.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(install(&[]), [""; 0]);
        assert_eq!(install(&["a1"]), ["a1"]);
        std::fs::write(&there, list(&["a1", "b2"])).unwrap();
        assert_eq!(install(&["a1"]), ["a1", "b2"], "an older bundle");
        assert_eq!(install(&["c3"]).len(), 1, "neither has all: the newer bundle's");
        std::fs::write(&there, "damaged").unwrap();
        assert_eq!(install(&["a1"]), ["a1"]);
    }

    #[test]
    fn keys_are_exchanged_only_for_others() {
        let root = tempfile::tempdir().unwrap();
        let layout = ClusterLayout::new(root.path());
        let tls = root.path().join("zone1/tls");
        let inode = || tls.metadata().unwrap().ino();
        let mut wanted = files();
        let _ = install_files(&layout, &wanted, None).unwrap();
        let first = inode();
        wanted.get_mut("zone1/tls/known-certificates").unwrap().text.push_str("more\n");
        assert_eq!(install_files(&layout, &wanted, None).unwrap().len(), 1);
        assert_eq!(inode(), first, "a list is replaced in its place");
        wanted.get_mut("zone1/tls/server.key").unwrap().text.push_str("more\n");
        assert_eq!(install_files(&layout, &wanted, None).unwrap().len(), 1);
        assert_ne!(inode(), first);
        assert!(!cellar_tls::previous(&tls).exists(), "the old key is gone");
    }
}
