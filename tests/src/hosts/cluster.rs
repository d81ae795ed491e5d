//! A cluster whose cells are on hosts of their own, made as the guide says: by a specification, bundles, and commands on each
//! host.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_model::Keyspace;
use cellar_topology::{EtcdKv, Store};
use serde_json::Value;
use tonic::transport::Channel;

use crate::hosts::set::Hosts;
use crate::machine::etcdctl::etcdctl;
use crate::machine::hold::hold_backup;
use crate::machine::run::{Finished, postgres_user, run};
use crate::machine::wait::{eventually, wait_until};

/// How long one answer of multiadmin may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// PostgreSQL's port in the first cell, less one.
const PORT_BEFORE_FIRST: u16 = 25431;

/// The cell of a database host: `db1` has `zone1`.
#[must_use]
pub fn cell_of(host: &str) -> String {
    host.replace("db", "zone")
}

/// Such a cluster, with the hosts that it runs on.
#[derive(Debug)]
pub struct HostsCluster {
    /// Its hosts, and the operator's.
    pub hosts: Hosts,
    count: u8,
    /// The only host that has the repository; none when all have.
    repository_on: Option<&'static str>,
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl HostsCluster {
    /// A cluster of so many cells that is specified; nothing is issued yet. None without root.
    ///
    /// # Panics
    /// When the hosts cannot be made.
    #[must_use]
    #[track_caller]
    pub fn specified(count: u8) -> Option<Self> {
        Self::specified_of(count, count, None)
    }

    #[track_caller]
    fn specified_of(count: u8, hosts: u8, repository_on: Option<&'static str>) -> Option<Self> {
        let mut cluster = Self { hosts: Hosts::new(hosts)?, count, repository_on };
        let (repo, user) = (cluster.repo(), postgres_user());
        let made = std::fs::create_dir_all(&repo)
            .and_then(|()| std::os::unix::fs::chown(&repo, Some(user.uid), Some(user.gid)));
        if let Err(error) = made {
            panic!("{}: {error}", repo.display());
        }
        if let Some(host) = repository_on {
            cluster.hosts.keep_to(host, repo);
        }
        cluster.write_specification("");
        Some(cluster)
    }

    /// A cluster that is well.
    ///
    /// # Panics
    /// When it does not become so.
    #[must_use]
    #[track_caller]
    pub fn well(count: u8) -> Option<Self> {
        Self::well_of(count, count)
    }

    /// The same with more hosts than cells.
    #[must_use]
    #[track_caller]
    pub fn well_of(count: u8, hosts: u8) -> Option<Self> {
        Some(Self::specified_of(count, hosts, None)?.started())
    }

    /// The same with the repository on one host, which no other one sees.
    #[must_use]
    #[track_caller]
    pub fn well_with_repository_on(host: &'static str, count: u8, hosts: u8) -> Option<Self> {
        Some(Self::specified_of(count, hosts, Some(host))?.started())
    }

    #[track_caller]
    fn started(self) -> Self {
        let cluster = self;
        let _ = cluster.init().ok();
        cluster.start_all();
        cluster
    }

    /// Installs the bundle of every host and starts what runs there, until the cluster is well.
    #[track_caller]
    pub fn start_all(&self) {
        for host in self.database_hosts() {
            let _ = self.install(&host).ok();
            let _ = self.on(&host, &["start"]).ok();
        }
        let _ = self.wait().ok();
    }

    /// The repository, which all hosts see, or one.
    #[must_use]
    pub fn repo(&self) -> PathBuf {
        self.hosts.directory(self.repository_on.unwrap_or("operator")).join("repo")
    }

    /// The operator's directory of the cluster.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.hosts.directory("operator").join("demo")
    }

    /// The cluster's directory on a host.
    #[must_use]
    pub fn host_directory(&self, host: &str) -> PathBuf {
        self.hosts.directory(host).join("demo")
    }

    /// The specification.
    #[must_use]
    pub fn specification(&self) -> PathBuf {
        self.hosts.directory("operator").join("cluster.toml")
    }

    /// The hosts that have cells.
    #[must_use]
    pub fn database_hosts(&self) -> Vec<String> {
        (1..=self.count).map(|n| format!("db{n}")).collect()
    }

    /// Writes the specification, with these lines in its last cell.
    #[track_caller]
    pub fn write_specification(&self, more: &str) {
        let repo = text(&self.repo());
        let mut lines =
            format!("cluster = \"demo\"\n[database]\nname = \"app\"\n[repo]\npath = \"{repo}\"\n");
        if let Some(host) = self.repository_on {
            lines.push_str(&format!("host = \"{host}.test\"\n"));
        }
        for host in self.database_hosts() {
            lines.push_str(&format!(
                "[[cells]]\nname = \"{}\"\nhost = \"{host}.test\"\ndirectory = \"{}\"\n",
                cell_of(&host),
                text(&self.host_directory(&host))
            ));
        }
        if let Err(error) = std::fs::write(self.specification(), lines + more) {
            panic!("the specification: {error}");
        }
    }

    /// `cellar ARGUMENTS` on the operator's machine.
    #[must_use]
    #[track_caller]
    pub fn cellar(&self, arguments: &[&str]) -> Finished {
        let directory = text(&self.directory());
        self.hosts.run("operator", &[&["cellar", "--dir", &directory], arguments].concat())
    }

    /// The JSON that such a command prints.
    #[must_use]
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let printed = self.cellar(&[arguments, &["--output", "json"]].concat()).ok();
        match serde_json::from_str(&printed) {
            Ok(value) => value,
            Err(error) => panic!("{error}: {printed}"),
        }
    }

    /// `cellar cluster init`.
    #[must_use]
    #[track_caller]
    pub fn init(&self) -> Finished {
        self.cellar(&["cluster", "init", "--spec", &text(&self.specification())])
    }

    /// `cellar cluster wait`.
    #[must_use]
    #[track_caller]
    pub fn wait(&self) -> Finished {
        self.cellar(&["cluster", "wait", "--timeout", "120s"])
    }

    /// A host's bundle on the operator's machine.
    #[must_use]
    pub fn bundle(&self, host: &str) -> PathBuf {
        self.directory().join(format!("bundles/{}.bundle", cell_of(host)))
    }

    /// Installs a host's own bundle there.
    #[must_use]
    #[track_caller]
    pub fn install(&self, host: &str) -> Finished {
        self.install_from(host, &self.bundle(host))
    }

    /// Installs any bundle on a host.
    #[must_use]
    #[track_caller]
    pub fn install_from(&self, host: &str, bundle: &Path) -> Finished {
        self.hosts.run(host, &["cellar", "host", "install", &text(bundle)])
    }

    /// `cellar host ARGUMENTS` on a host.
    #[must_use]
    #[track_caller]
    pub fn on(&self, host: &str, arguments: &[&str]) -> Finished {
        let directory = text(&self.host_directory(host));
        self.hosts.run(host, &[&["cellar", "host", "--dir", &directory], arguments].concat())
    }

    /// A program of PostgreSQL's for the instance on a host, as its OS user; it is told where that is.
    #[must_use]
    #[track_caller]
    pub fn tool(&self, host: &str, program: &str) -> Command {
        let number: u16 = match host.trim_start_matches("db").parse() {
            Ok(number) => number,
            Err(error) => panic!("{host} is no host of a database: {error}"),
        };
        let sockets = self.host_directory(host).join(cell_of(host)).join("pg_sockets");
        let mut command = self.hosts.command_as(host, &postgres_user(), program);
        command.arg("-h").arg(sockets).args(["-p", &(PORT_BEFORE_FIRST + number).to_string()]);
        command
    }

    /// SQL in the PostgreSQL of a host, as its OS user.
    #[must_use]
    #[track_caller]
    pub fn sql(&self, host: &str, statement: &str) -> Finished {
        let mut command = self.tool(host, "psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement]);
        run(&mut command)
    }

    /// The cluster's records, with the rights of its provisioner. To be called [inside](Hosts::inside) of a host.
    ///
    /// # Panics
    /// When there is no certificate for it.
    pub async fn store(&self) -> Store {
        cellar_tls::install_ring_provider();
        let Ok(tls) = cellar_tls::ClientTls::from_dir(&self.directory().join("state/tls")) else {
            panic!("no certificate for etcd")
        };
        let endpoints: Vec<String> =
            self.database_hosts().iter().map(|host| format!("https://{host}.test:12379")).collect();
        let Ok(kv) = EtcdKv::connect(&endpoints, Some(tls.tonic_config())).await else {
            panic!("bad etcd endpoints")
        };
        let Ok(cluster) = "demo".parse() else { panic!("demo is a name") };
        Store::new(Arc::new(kv), Keyspace::new(&cluster))
    }

    /// A client of a host's multiadmin, with the operator's certificate. To be called [inside](Hosts::inside) of a host.
    ///
    /// # Panics
    /// When there is no such certificate.
    #[must_use]
    pub fn client(&self, host: &str) -> MultiAdminClient<Channel> {
        cellar_tls::install_ring_provider();
        let Ok(tls) = cellar_tls::ClientTls::from_dir(&self.directory().join("client")) else {
            panic!("no client certificate")
        };
        match tls.endpoint(&format!("{host}.test:15070"), Some(ANSWER_TIMEOUT)) {
            Ok(endpoint) => MultiAdminClient::new(endpoint.connect_lazy()),
            Err(error) => panic!("bad endpoint: {error}"),
        }
    }

    /// `etcdctl` with the operator's certificate, asking the members on these hosts.
    #[must_use]
    #[track_caller]
    pub fn etcdctl(&self, hosts: &[&str], arguments: &[&str]) -> Finished {
        let files = ["ca/ca.crt", "state/tls/client.crt", "state/tls/client.key"];
        self.etcdctl_as(files.map(|name| self.directory().join(name)), hosts, arguments)
    }

    /// The same with somebody's certificate: the files of the authority, of the certificate and of its key.
    #[must_use]
    #[track_caller]
    pub fn etcdctl_as(&self, tls: [PathBuf; 3], hosts: &[&str], arguments: &[&str]) -> Finished {
        let endpoints: Vec<String> = hosts.iter().map(|host| format!("https://{host}.test:12379")).collect();
        etcdctl(self.hosts.command("operator", "etcdctl"), &endpoints, Some(tls), arguments)
    }

    /// What a cell's pooler reports, if it does and multiadmin answers.
    #[must_use]
    #[track_caller]
    pub fn status(&self, cell: &str) -> Option<Value> {
        let answer = self.cellar(&["status", "--output", "json"]);
        let answer: Value = serde_json::from_str(&answer.stdout).ok()?;
        let poolers = answer["poolers"].as_array().cloned().unwrap_or_default();
        let view = poolers.into_iter().find(|view| view["pooler"]["cell"] == cell)?;
        view.get("status").filter(|status| !status.is_null()).cloned()
    }

    /// A table `ledger` with the rows 1 to `count`, in the primary on `db1`.
    #[track_caller]
    pub fn create_rows(&self, count: usize) {
        let _ = self.sql("db1", "CREATE TABLE ledger (id int PRIMARY KEY)").ok();
        let _ = self.sql("db1", &format!("INSERT INTO ledger SELECT generate_series(1, {count})")).ok();
    }

    /// Waits until a host has as many rows of the ledger.
    #[track_caller]
    pub fn wait_for_rows(&self, host: &str, count: usize) {
        eventually(&format!("{host} to have {count} rows"), || {
            self.sql(host, "SELECT count(*) FROM ledger").stdout.trim() == count.to_string()
        });
    }

    /// Backs a cell up, and checks where the files came from; the job.
    #[track_caller]
    pub fn back_up(&self, cell: &str) -> Value {
        let job = self.json(&["backup", "--from", cell, "--type", "full"]);
        let source = &job["result"]["backup"]["source"];
        assert_eq!(
            (source["cell"].as_str(), source["verified"].as_bool()),
            (Some(cell), Some(true)),
            "{job}"
        );
        let files = |from: &str| source[from].as_str().and_then(|count| count.parse::<u64>().ok());
        assert!(files("filesFromSource") > files("filesFromPrimary"), "{job}");
        job
    }

    /// A backup of a host's cell that has begun to copy and is stopped there: its job, and pgBackRest's processes.
    #[must_use]
    #[track_caller]
    pub fn hold_backup(&self, host: &str) -> (String, Vec<i32>) {
        let cell = cell_of(host);
        let job = self.json(&["backup", "--from", &cell, "--type", "full", "--no-wait"]);
        let Some(id) = job["id"].as_str() else { panic!("no job: {job}") };
        let log = self.host_directory(host).join(&cell).join(format!("jobs/{id}.log"));
        let held = hold_backup(&format!("{id}.conf"), || std::fs::read_to_string(&log).unwrap_or_default());
        (id.to_owned(), held)
    }

    /// A job as it is shown now.
    ///
    /// # Errors
    /// When it is not: with what was said.
    pub fn job(&self, id: &str) -> Result<Value, String> {
        let shown = self.cellar(&["jobs", "show", id, "--output", "json"]);
        serde_json::from_str(&shown.stdout).map_err(|_| format!("{shown:?}"))
    }

    /// Waits until a job has ended, at most for this time; the job.
    #[must_use]
    #[track_caller]
    pub fn ended(&self, id: &str, timeout: Duration) -> Value {
        wait_until(&format!("job {id} to end"), timeout, || {
            let job = self.job(id)?;
            if has_ended(&job) { Ok(job) } else { Err(format!("{job:#}")) }
        })
    }

    /// A backup that has ended is what its job says: it succeeded, is of that cell and in the repository, or it failed with
    /// a message and names no backup.
    #[track_caller]
    pub fn check_backup(&self, host: &str, job: &Value) {
        let backup = &job["result"]["backup"];
        let (label, message) = (backup["label"].as_str(), job["error"]["message"].as_str());
        match (job["state"].as_str(), label) {
            (Some("JOB_STATE_SUCCEEDED"), Some(label)) => {
                assert_eq!(backup["source"]["cell"], cell_of(host), "{job:#}");
                let shown = self.json(&["backups", "show", label]).to_string();
                assert!(job["id"].as_str().is_some_and(|id| shown.contains(id)), "{shown} is not of {job:#}");
            }
            (Some("JOB_STATE_FAILED"), None) => {
                assert!(message.is_some_and(|message| !message.is_empty()), "{job:#}");
            }
            _ => panic!("neither succeeded nor failed: {job:#}"),
        }
    }
}

/// Whether a job has ended.
#[must_use]
pub fn has_ended(job: &Value) -> bool {
    ["SUCCEEDED", "FAILED", "CANCELED"].iter().any(|state| job["state"] == format!("JOB_STATE_{state}"))
}
