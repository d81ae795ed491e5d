//! What a host's systemd units need to know of its cluster: a drop-in for each that differs from what the package has.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cellar_model::ClusterName;

use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::{make_directory, replace};

/// The units of the package `cellar-server`, and the directory below which they expect a cluster's.
const UNITS: &str = "usr/lib/systemd/system";
const CLUSTERS: &str = "/var/lib/cellar";

/// Where an administrator's drop-ins are.
const DROP_INS: &str = "etc/systemd/system";

/// The file's name; files of other names beside it are the administrator's.
const FILE: &str = "cellar.conf";

/// The user that the units of the package run as.
const USER: &str = "postgres";

const SERVICES: [&str; 3] = ["etcd", "multiadmin", "multipooler"];

/// What a service's drop-in says; nothing when the unit is right as it is.
fn text(service: &str, user: &str, repository: Option<&Path>) -> String {
    let repository = repository.filter(|_| service == "multipooler");
    let mut lines = Vec::new();
    if repository.is_some() {
        // Waited for, and not required: PostgreSQL runs without its repository.
        lines.extend(["[Unit]", "Wants=remote-fs.target", "After=remote-fs.target"].map(str::to_owned));
    }
    if repository.is_some() || user != USER {
        lines.push("[Service]".to_owned());
    }
    if let Some(path) = repository {
        lines.push(format!("ReadWritePaths=-\"{}\"", path.display()));
    }
    if user != USER {
        lines.push(format!("User={user}"));
    }
    if lines.is_empty() {
        return String::new();
    }
    lines.insert(
        0,
        "# By `cellar host install`, which writes it again. Your own settings belong into another file."
            .to_owned(),
    );
    lines.join("\n") + "\n"
}

fn path_below(root: &Path, service: &str, cluster: &ClusterName) -> PathBuf {
    root.join(DROP_INS).join(format!("cellar-{service}@{cluster}.service.d")).join(FILE)
}

/// Writes the drop-ins of a cluster's units below `root`, and removes those that say nothing; gives what changed.
fn write(root: &Path, cluster: &ClusterName, text_of: impl Fn(&str) -> String) -> Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    for service in SERVICES {
        let (path, wanted) = (path_below(root, service, cluster), text_of(service));
        if std::fs::read_to_string(&path).unwrap_or_default() == wanted {
            continue;
        }
        let directory = path.parent().unwrap_or(root);
        if wanted.is_empty() {
            std::fs::remove_file(&path).map_err(ProvisionError::io("remove", &path))?;
            // An administrator's files may be beside it.
            let _ = std::fs::remove_dir(directory);
        } else {
            make_directory(directory, 0o755, None)?;
            replace(&path, &wanted, 0o644, None)?;
        }
        changed.push(path);
    }
    Ok(changed)
}

impl Cluster {
    /// Whether this host's units are those that run this cluster: the package is installed, the directory is where its
    /// units look, and this process may write for all.
    pub(super) fn has_units(&self, root: &Path) -> bool {
        nix::unistd::geteuid().is_root()
            && root.join(UNITS).join("cellar-multipooler@.service").exists()
            && self.layout.root() == Path::new(CLUSTERS).join(self.state.cluster.as_str())
    }

    /// Makes the units of this host fit the cluster; gives the drop-ins that changed.
    ///
    /// # Errors
    /// When one cannot be written.
    pub(super) fn write_drop_ins(&self) -> Result<Vec<PathBuf>> {
        let repository = self.repository_here().filter(|path| !path.starts_with(self.layout.root()));
        self.change_drop_ins(|service| text(service, &self.user.name, repository))
    }

    /// Removes what [`Cluster::write_drop_ins`] wrote.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub(super) fn remove_drop_ins(&self) -> Result<()> {
        self.change_drop_ins(|_| String::new()).map(drop)
    }

    fn change_drop_ins(&self, text_of: impl Fn(&str) -> String) -> Result<Vec<PathBuf>> {
        let root = Path::new("/");
        if !self.has_units(root) {
            return Ok(Vec::new());
        }
        let changed = write(root, &self.state.cluster, text_of)?;
        if !changed.is_empty() {
            // Without a systemd that runs there is none to be told, and it reads them when it does.
            let _ = Command::new("systemctl").arg("daemon-reload").stderr(Stdio::null()).status();
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_told_what_differs_from_the_packages() {
        let repository = Some(Path::new("/srv/my repo"));
        for service in SERVICES {
            assert_eq!(text(service, USER, None), "", "{service}");
        }
        assert_eq!(text("etcd", USER, repository), "");
        let whole = text("multipooler", USER, repository);
        let (first, rest) = whole.split_once('\n').unwrap();
        assert!(first.starts_with("# By `cellar host install`"), "{first}");
        let expected = "[Unit]\nWants=remote-fs.target\nAfter=remote-fs.target\n[Service]\nReadWritePaths=-\"/srv/my repo\"\n";
        assert_eq!(rest, expected);
        assert!(
            text("multipooler", "dba", repository).ends_with("ReadWritePaths=-\"/srv/my repo\"\nUser=dba\n")
        );
        assert!(text("etcd", "dba", repository).ends_with("[Service]\nUser=dba\n"));
    }

    #[test]
    fn drop_ins_are_written_once_and_leave_what_is_beside_them() {
        let root = tempfile::tempdir().unwrap();
        let cluster: ClusterName = "demo".parse().unwrap();
        std::fs::create_dir_all(root.path().join(DROP_INS)).unwrap();
        let with = |service: &str| text(service, USER, Some(Path::new("/srv/repo")));
        let path = path_below(root.path(), "multipooler", &cluster);
        assert_eq!(write(root.path(), &cluster, with).unwrap(), std::slice::from_ref(&path));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), with("multipooler"));
        assert_eq!(write(root.path(), &cluster, with).unwrap(), [""; 0].map(PathBuf::from));
        let own = path.with_file_name("own.conf");
        std::fs::write(&own, "").unwrap();
        assert_eq!(write(root.path(), &cluster, |_| String::new()).unwrap(), std::slice::from_ref(&path));
        assert!(!path.exists() && own.exists());
    }
}
