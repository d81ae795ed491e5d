//! A cluster whose cells are on hosts of their own, made as the guide says: by a specification, bundles, and commands on each
//! host.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_tests::{Finished, Hosts, eventually, postgres_user};
use serde_json::Value;

/// The cell of a database host: `db1` has `zone1`.
pub(crate) fn cell_of(host: &str) -> String {
    host.replace("db", "zone")
}

/// Such a cluster, with the hosts that it runs on.
#[derive(Debug)]
pub(crate) struct HostsCluster {
    pub(crate) hosts: Hosts,
    count: u8,
}

impl HostsCluster {
    /// A cluster of so many cells that is specified; nothing is issued yet. None without root.
    #[track_caller]
    pub(crate) fn specified(count: u8) -> Option<Self> {
        Self::specified_of(count, count)
    }

    #[track_caller]
    fn specified_of(count: u8, hosts: u8) -> Option<Self> {
        let cluster = Self { hosts: Hosts::new(hosts)?, count };
        let repo = cluster.repo();
        std::fs::create_dir_all(&repo).unwrap();
        let user = postgres_user();
        std::os::unix::fs::chown(&repo, Some(user.uid), Some(user.gid)).unwrap();
        cluster.write_specification("");
        Some(cluster)
    }

    /// A cluster that is well.
    #[track_caller]
    pub(crate) fn well(count: u8) -> Option<Self> {
        Self::well_of(count, count)
    }

    /// The same with more hosts than cells.
    #[track_caller]
    pub(crate) fn well_of(count: u8, hosts: u8) -> Option<Self> {
        let cluster = Self::specified_of(count, hosts)?;
        let _ = cluster.init().ok();
        for host in cluster.database_hosts() {
            let _ = cluster.install(&host).ok();
            let _ = cluster.on(&host, &["start"]).ok();
        }
        let _ = cluster.wait().ok();
        Some(cluster)
    }

    /// The repository, which all hosts see.
    pub(crate) fn repo(&self) -> PathBuf {
        self.hosts.directory("operator").join("repo")
    }

    /// The operator's directory of the cluster.
    pub(crate) fn directory(&self) -> PathBuf {
        self.hosts.directory("operator").join("demo")
    }

    /// The cluster's directory on a host.
    pub(crate) fn host_directory(&self, host: &str) -> PathBuf {
        self.hosts.directory(host).join("demo")
    }

    pub(crate) fn specification(&self) -> PathBuf {
        self.hosts.directory("operator").join("cluster.toml")
    }

    pub(crate) fn database_hosts(&self) -> Vec<String> {
        (1..=self.count).map(|n| format!("db{n}")).collect()
    }

    /// Writes the specification, with these lines in its last cell.
    pub(crate) fn write_specification(&self, more: &str) {
        let repo = self.repo();
        let mut text = format!(
            "cluster = \"demo\"\n[database]\nname = \"app\"\n[repo]\npath = \"{}\"\n",
            repo.display()
        );
        for host in self.database_hosts() {
            text.push_str(&format!(
                "[[cells]]\nname = \"{}\"\nhost = \"{host}.test\"\ndirectory = \"{}\"\n",
                cell_of(&host),
                self.host_directory(&host).display()
            ));
        }
        std::fs::write(self.specification(), text + more).unwrap();
    }

    /// `cellar ARGUMENTS` on the operator's machine.
    #[track_caller]
    pub(crate) fn cellar(&self, arguments: &[&str]) -> Finished {
        let directory = self.directory();
        let words = ["cellar", "--dir", directory.to_str().unwrap()];
        self.hosts.run("operator", &[&words, arguments].concat())
    }

    /// The JSON that such a command prints.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let printed = self.cellar(&[arguments, &["--output", "json"]].concat()).ok();
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    }

    #[track_caller]
    pub(crate) fn init(&self) -> Finished {
        self.cellar(&["cluster", "init", "--spec", self.specification().to_str().unwrap()])
    }

    #[track_caller]
    pub(crate) fn wait(&self) -> Finished {
        self.cellar(&["cluster", "wait", "--timeout", "120s"])
    }

    pub(crate) fn bundle(&self, host: &str) -> PathBuf {
        self.directory().join(format!("bundles/{}.bundle", cell_of(host)))
    }

    /// Installs a host's own bundle there.
    #[track_caller]
    pub(crate) fn install(&self, host: &str) -> Finished {
        self.install_from(host, &self.bundle(host))
    }

    #[track_caller]
    pub(crate) fn install_from(&self, host: &str, bundle: &Path) -> Finished {
        self.hosts.run(host, &["cellar", "host", "install", bundle.to_str().unwrap()])
    }

    /// `cellar host ARGUMENTS` on a host.
    #[track_caller]
    pub(crate) fn on(&self, host: &str, arguments: &[&str]) -> Finished {
        let directory = self.host_directory(host);
        let words = ["cellar", "host", "--dir", directory.to_str().unwrap()];
        self.hosts.run(host, &[&words, arguments].concat())
    }

    /// SQL in the PostgreSQL of a host, as its OS user.
    #[track_caller]
    pub(crate) fn sql(&self, host: &str, statement: &str) -> Finished {
        let n: u16 = host.trim_start_matches("db").parse().unwrap();
        let sockets = self.host_directory(host).join(cell_of(host)).join("pg_sockets");
        let mut command = self.hosts.command_as(host, &postgres_user(), "psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement]);
        command.arg("-h").arg(sockets).args(["-p", &(25431 + n).to_string()]);
        cellar_tests::run(&mut command)
    }

    /// What a cell's pooler reports, if it does.
    #[track_caller]
    pub(crate) fn status(&self, cell: &str) -> Option<Value> {
        let answer = self.json(&["status"]);
        let poolers = answer["poolers"].as_array().cloned().unwrap_or_default();
        let view = poolers.into_iter().find(|view| view["pooler"]["cell"] == cell)?;
        view.get("status").cloned()
    }

    /// Waits until a host's standby has as many rows of the ledger.
    #[track_caller]
    pub(crate) fn wait_for_rows(&self, host: &str, count: usize) {
        eventually(&format!("{host} to have {count} rows"), || {
            let rows = self.sql(host, "SELECT count(*) FROM ledger");
            rows.stdout.trim() == count.to_string()
        });
    }

    /// Backs a cell up, and checks where the files came from.
    #[track_caller]
    pub(crate) fn back_up(&self, cell: &str) -> Value {
        let job = self.json(&["backup", "--from", cell, "--type", "full"]);
        let source = &job["result"]["backup"]["source"];
        assert_eq!(
            (source["cell"].as_str(), source["verified"].as_bool()),
            (Some(cell), Some(true)),
            "{job}"
        );
        let files = |from: &str| {
            source[from].as_str().and_then(|count| count.parse::<u64>().ok()).unwrap_or_default()
        };
        assert!(files("filesFromSource") > files("filesFromPrimary"), "{job}");
        job
    }
}

/// Longer than a lease, an election of etcd and the first look after it take on a busy machine.
pub(crate) const SETTLED: Duration = Duration::from_secs(60);
