//! What a host's systemd units need to know of its cluster: a drop-in for each that differs from what the package has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cellar_model::{CellName, ClusterName, DatabaseName};

use crate::certificates::sets::POOLER_CERTIFICATE;
use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::{make_directory, replace};
use crate::hosts::units::service_name;

/// The units of the package `cellar-server`, and the directory below which they expect a cluster's.
const UNITS: &str = "usr/lib/systemd/system";
const CLUSTERS: &str = "/var/lib/cellar";

/// Where an administrator's drop-ins are.
const DROP_INS: &str = "etc/systemd/system";

/// The file's name; files of other names beside it are the administrator's.
const FILE: &str = "cellar.conf";

/// The service that moves the primaries away when the host is shut down.
const HANDOVER: &str = "handover";

/// The user that the units of the package run as.
const USER: &str = "postgres";

/// What systemd has to be told of a multipooler where its cluster has several databases.
struct OfDatabase<'a> {
    cluster: &'a ClusterName,
    /// The cluster's directory.
    directory: &'a Path,
    database: &'a DatabaseName,
    /// Whether it is not the first one, so that the unit's instance is not the cluster's name.
    is_further: bool,
    /// The certificate without which this host has no member of it.
    certificate: PathBuf,
}

/// The lines for a unit's sections.
#[derive(Default)]
struct Lines {
    unit: Vec<String>,
    service: Vec<String>,
}

impl Lines {
    /// What a service's drop-in says; nothing when the unit is right as it is.
    fn of(user: &str, repository: Option<&Path>, of_database: Option<&OfDatabase<'_>>) -> Self {
        let mut lines = Self::default();
        if let Some(of) = of_database {
            lines.of_database(of);
        }
        if let Some(path) = repository {
            // Waited for, and not required: PostgreSQL runs without its repository.
            lines.unit.extend(["Wants=remote-fs.target", "After=remote-fs.target"].map(str::to_owned));
            lines.service.push(format!("ReadWritePaths=-\"{}\"", path.display()));
        }
        if user != USER {
            lines.service.push(format!("User={user}"));
        }
        lines
    }

    fn of_database(&mut self, of: &OfDatabase<'_>) {
        let OfDatabase { cluster, database, certificate, .. } = of;
        let directory = of.directory.display();
        self.unit.push(format!("Description=multipooler of Cellar cluster {cluster}, database {database}"));
        if of.is_further {
            self.unit.push(format!("PartOf=cellar@{cluster}.target"));
            // Stopped after it: see the unit.
            self.unit.push(format!("Before={}", service_name(HANDOVER, cluster, None)));
            self.unit.push("AssertPathExists=".to_owned());
            self.service.extend(["ReadWritePaths=".to_owned(), format!("ReadWritePaths={directory}")]);
        }
        self.unit.push(format!("ConditionPathExists={}", certificate.display()));
        self.service.push("ExecStart=".to_owned());
        self.service.push(format!(
            "ExecStart=/usr/bin/cellar host exec --dir {directory} multipooler --database {database}"
        ));
    }

    fn text(self) -> String {
        let mut all = Vec::new();
        for (section, lines) in [("[Unit]", self.unit), ("[Service]", self.service)] {
            if !lines.is_empty() {
                all.push(section.to_owned());
                all.extend(lines);
            }
        }
        if all.is_empty() {
            return String::new();
        }
        let first =
            "# By `cellar host install`, which writes it again. Your own settings belong into another file.";
        format!("{first}\n{}\n", all.join("\n"))
    }
}

fn path_below(root: &Path, unit: &str) -> PathBuf {
    root.join(DROP_INS).join(format!("{unit}.d")).join(FILE)
}

/// The units below `root` that have a drop-in because this cluster has, or had, several databases.
fn further_units(root: &Path, cluster: &ClusterName) -> Vec<String> {
    let prefix = format!("cellar-multipooler@{cluster}:");
    let entries = std::fs::read_dir(root.join(DROP_INS)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let names = names.filter(|name| name.starts_with(&prefix));
    names.filter_map(|name| Some(name.strip_suffix(".d")?.to_owned())).collect()
}

/// Writes the drop-ins of units below `root`, and removes those that say nothing; gives what changed.
fn write(root: &Path, wanted: &BTreeMap<String, String>) -> Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    for (unit, wanted) in wanted {
        let path = path_below(root, unit);
        if std::fs::read_to_string(&path).unwrap_or_default() == *wanted {
            continue;
        }
        let directory = path.parent().unwrap_or(root);
        if wanted.is_empty() {
            std::fs::remove_file(&path).map_err(ProvisionError::io("remove", &path))?;
            // An administrator's files may be beside it.
            let _ = std::fs::remove_dir(directory);
        } else {
            make_directory(directory, 0o755, None)?;
            replace(&path, wanted, 0o644, None)?;
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

    /// The drop-ins of this host's units by their names; empty for a unit that needs none.
    fn drop_ins(&self) -> BTreeMap<String, String> {
        let (cluster, user) = (&self.state.cluster, self.user.name.as_str());
        let repository = self.repository_here().filter(|path| !path.starts_with(self.layout.root()));
        let mut all: BTreeMap<String, String> = ["etcd", "multiadmin", HANDOVER]
            .map(|service| (service_name(service, cluster, None), Lines::of(user, None, None).text()))
            .into();
        let mut wants = Vec::new();
        let here: Vec<CellName> = self.cells_here().map(|cell| cell.name.clone()).collect();
        for (database, cell) in
            self.state.databases().flat_map(|one| here.iter().map(move |cell| (one, cell)))
        {
            let further = self.state.qualifier(&database.name);
            let member = Member { cell: cell.clone(), database: database.name.clone() };
            let of_database = self.state.has_several_databases().then(|| OfDatabase {
                cluster,
                directory: self.layout.root(),
                database: &database.name,
                is_further: further.is_some(),
                certificate: self.layout_of(&member).tls().join(POOLER_CERTIFICATE),
            });
            let unit = service_name("multipooler", cluster, further);
            wants.extend(further.map(|_| format!("Wants={unit}")));
            all.insert(unit, Lines::of(user, repository, of_database.as_ref()).text());
        }
        all.insert(format!("cellar@{cluster}.target"), Lines { unit: wants, ..Lines::default() }.text());
        all
    }

    /// Makes the units of this host fit the cluster; gives the drop-ins that changed.
    ///
    /// # Errors
    /// When one cannot be written.
    pub(super) fn write_drop_ins(&self) -> Result<Vec<PathBuf>> {
        self.change_drop_ins(self.drop_ins())
    }

    /// Removes what [`Cluster::write_drop_ins`] wrote.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub(super) fn remove_drop_ins(&self) -> Result<()> {
        let none = self.drop_ins().into_keys().map(|unit| (unit, String::new()));
        self.change_drop_ins(none.collect()).map(drop)
    }

    fn change_drop_ins(&self, mut wanted: BTreeMap<String, String>) -> Result<Vec<PathBuf>> {
        let root = Path::new("/");
        if !self.has_units(root) {
            return Ok(Vec::new());
        }
        for unit in further_units(root, &self.state.cluster) {
            wanted.entry(unit).or_default();
        }
        let changed = write(root, &wanted)?;
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
    use crate::cluster::database::ClusterDatabase;

    fn text(user: &str, repository: Option<&Path>) -> String {
        Lines::of(user, repository, None).text()
    }

    #[test]
    fn a_unit_is_told_what_differs_from_the_packages() {
        let repository = Some(Path::new("/srv/my repo"));
        assert_eq!(text(USER, None), "");
        let whole = text(USER, repository);
        let (first, rest) = whole.split_once('\n').unwrap();
        assert!(first.starts_with("# By `cellar host install`"), "{first}");
        let expected = "[Unit]\nWants=remote-fs.target\nAfter=remote-fs.target\n[Service]\nReadWritePaths=-\"/srv/my repo\"\n";
        assert_eq!(rest, expected);
        assert!(text("dba", repository).ends_with("ReadWritePaths=-\"/srv/my repo\"\nUser=dba\n"));
        assert!(text("dba", None).ends_with("[Service]\nUser=dba\n"));
    }

    #[test]
    fn a_cluster_of_one_database_has_drop_ins_for_its_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::sample(dir.path(), &["zone1"]);
        cluster.user.name = USER.to_owned();
        assert!(cluster.drop_ins().values().all(String::is_empty));
        let units: Vec<String> = cluster.drop_ins().into_keys().collect();
        let expected = [
            "cellar-etcd@demo.service",
            "cellar-handover@demo.service",
            "cellar-multiadmin@demo.service",
            "cellar-multipooler@demo.service",
            "cellar@demo.target",
        ];
        assert_eq!(units, expected);
    }

    #[test]
    fn each_further_database_has_a_unit_that_is_skipped_where_it_has_no_member() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::sample(dir.path(), &["zone1"]);
        cluster.user.name = USER.to_owned();
        for (name, cells) in [("sales", vec![]), ("web", vec!["zone2".parse().unwrap()])] {
            let first = cluster.state.first_database.clone();
            let further = ClusterDatabase { name: name.parse().unwrap(), cells, ..first };
            cluster.state.further_databases.push(further);
        }
        let drop_ins = cluster.drop_ins();
        let root = dir.path().display();
        let sales = &drop_ins["cellar-multipooler@demo:sales.service"];
        let lines: Vec<&str> = sales.lines().skip(1).collect();
        let expected = format!(
            "[Unit]\nDescription=multipooler of Cellar cluster demo, database sales\nPartOf=cellar@demo.target\n\
             Before=cellar-handover@demo.service\nAssertPathExists=\nConditionPathExists={root}/sales.zone1/tls/pooler.crt\n[Service]\nReadWritePaths=\n\
             ReadWritePaths={root}\nExecStart=\nExecStart=/usr/bin/cellar host exec --dir {root} multipooler --database sales"
        );
        assert_eq!(lines.join("\n"), expected);
        let web = &drop_ins["cellar-multipooler@demo:web.service"];
        assert!(web.contains(&format!("ConditionPathExists={root}/web.zone1/tls/pooler.crt\n")), "{web}");
        let first = &drop_ins["cellar-multipooler@demo.service"];
        assert!(first.contains(&format!("ConditionPathExists={root}/zone1/tls/pooler.crt\n")), "{first}");
        assert!(first.contains("multipooler --database app\n") && !first.contains("PartOf="), "{first}");
        let target = &drop_ins["cellar@demo.target"];
        assert!(
            target.ends_with(
                "[Unit]\nWants=cellar-multipooler@demo:sales.service\nWants=cellar-multipooler@demo:web.service\n"
            ),
            "{target}"
        );
    }

    #[test]
    fn drop_ins_are_written_once_and_leave_what_is_beside_them() {
        let root = tempfile::tempdir().unwrap();
        let cluster: ClusterName = "demo".parse().unwrap();
        std::fs::create_dir_all(root.path().join(DROP_INS)).unwrap();
        let unit = service_name("multipooler", &cluster, Some(&"sales".parse().unwrap()));
        let with = |text: String| BTreeMap::from([(unit.clone(), text)]);
        let wanted = text(USER, Some(Path::new("/srv/repo")));
        let path = path_below(root.path(), &unit);
        assert_eq!(write(root.path(), &with(wanted.clone())).unwrap(), std::slice::from_ref(&path));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), wanted);
        assert_eq!(write(root.path(), &with(wanted)).unwrap(), [""; 0].map(PathBuf::from));
        assert_eq!(further_units(root.path(), &cluster), std::slice::from_ref(&unit));
        let own = path.with_file_name("own.conf");
        std::fs::write(&own, "").unwrap();
        assert_eq!(write(root.path(), &with(String::new())).unwrap(), std::slice::from_ref(&path));
        assert!(!path.exists() && own.exists());
    }
}
