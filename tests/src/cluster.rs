//! One cluster of one test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_model::{CellName, Keyspace};
use cellar_topology::{EtcdKv, Store};
use serde_json::Value;
use tonic::transport::Channel;

use crate::process::{command_line, kill_hard};
use crate::run::{Finished, OsUser, as_user, binary, postgres_user, run};
use crate::sweep::{base, destroy, sweep};
use crate::{eventually, patiently};

/// A cluster that is taken down when the value goes.
#[derive(Debug)]
pub struct Cluster {
    directory: PathBuf,
    user: OsUser,
    cellar: PathBuf,
    caller: Option<OsUser>,
}

/// Where one cell's PostgreSQL is.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Directory of its socket.
    pub sockets: String,
    /// Its port.
    pub port: u32,
    /// Its data directory.
    pub data: String,
}

impl Cluster {
    /// A directory for a cluster; nothing runs yet.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = base().join(format!("{}-{n}", std::process::id()));
        Self { directory, user: postgres_user(), cellar: binary("cellar"), caller: None }
    }

    /// The same, with the programs of another build.
    #[must_use]
    pub fn with_cellar(mut self, cellar: PathBuf) -> Self {
        self.cellar = cellar;
        self
    }

    /// The same, with everything run by another user than this process's.
    #[must_use]
    pub fn as_ordinary(mut self, user: OsUser, cellar: PathBuf) -> Self {
        self.user = user.clone();
        self.caller = Some(user);
        self.cellar = cellar;
        self
    }

    /// A running cluster with the given cells.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn up(cells: &str) -> Self {
        let cluster = Self::new();
        let _ = cluster.try_up(cells).ok();
        cluster
    }

    /// `cellar up`.
    #[must_use]
    #[track_caller]
    pub fn try_up(&self, cells: &str) -> Finished {
        self.try_cellar(&["up", "--cells", cells, "--port-offset", "auto"])
    }

    /// The cluster's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `cellar ARGS --dir DIR`, ready to be started.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.caller {
            Some(user) => as_user(user, &self.cellar),
            None => Command::new(&self.cellar),
        };
        command.args(arguments).env("CELLAR_DIR", &self.directory).env_remove("CELLAR_ADMIN");
        command
    }

    /// Runs `cellar` in this cluster.
    #[must_use]
    #[track_caller]
    pub fn try_cellar(&self, arguments: &[&str]) -> Finished {
        run(&mut self.command(arguments))
    }

    /// Runs `cellar`, which must succeed.
    #[track_caller]
    pub fn cellar(&self, arguments: &[&str]) -> String {
        self.try_cellar(arguments).ok()
    }

    /// Runs `cellar --output json`, which must succeed and print one document.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.cellar(&[arguments, &["--output", "json"]].concat());
        // A watching command prints one document a line; the last is the news.
        match text.lines().last().map(serde_json::from_str) {
            Some(Ok(value)) => value,
            _ => match serde_json::from_str(&text) {
                Ok(value) => value,
                Err(error) => panic!("not JSON ({error}): {text}"),
            },
        }
    }

    /// A gRPC client made from nothing but the cluster's `client` directory.
    ///
    /// # Panics
    /// When its files are not there.
    pub async fn client(&self) -> MultiAdminClient<Channel> {
        cellar_tls::install_ring_provider();
        let directory = self.directory.join("client");
        let Ok(tls) = cellar_tls::ClientTls::from_dir(&directory) else { panic!("no client certificate") };
        let Ok(address) = std::fs::read_to_string(directory.join("endpoint")) else { panic!("no endpoint") };
        let Ok(endpoint) = tls.endpoint(address.trim(), Some(Duration::from_secs(30))) else {
            panic!("bad endpoint")
        };
        MultiAdminClient::new(endpoint.connect_lazy())
    }

    /// Asks multiadmin something, from a test that is not async.
    ///
    /// # Panics
    /// When no runtime can be made.
    pub fn ask<T>(&self, question: impl AsyncFnOnce(&mut MultiAdminClient<Channel>) -> T) -> T {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            panic!("no runtime")
        };
        runtime.block_on(async {
            let mut client = self.client().await;
            question(&mut client).await
        })
    }

    /// All poolers with their status.
    ///
    /// # Panics
    /// When multiadmin does not answer.
    #[must_use]
    pub fn poolers(&self) -> Vec<v1::PoolerView> {
        let answer = self.ask(async |client| client.list_poolers(v1::ListPoolersRequest::default()).await);
        match answer {
            Ok(response) => response.into_inner().poolers,
            Err(status) => panic!("ListPoolers: {status}"),
        }
    }

    /// The status of one cell, if its pooler lives.
    #[must_use]
    pub fn status(&self, cell: &str) -> Option<v1::PoolerStatus> {
        self.poolers().into_iter().filter_map(|view| view.status).find(|status| status.cell == cell)
    }

    /// The cell whose instance is the recorded primary.
    ///
    /// # Panics
    /// When none is recorded.
    #[must_use]
    pub fn primary(&self) -> String {
        let answer = self.ask(async |client| client.get_database(v1::GetDatabaseRequest::default()).await);
        match answer.map(|response| response.into_inner().leader) {
            Ok(Some(leader)) => leader.cell,
            other => panic!("no primary: {other:?}"),
        }
    }

    /// Where a cell's PostgreSQL is.
    ///
    /// # Panics
    /// When there is no such cell.
    #[must_use]
    pub fn instance(&self, cell: &str) -> Instance {
        let found = self.poolers().into_iter().filter_map(|view| view.pooler).find(|card| card.cell == cell);
        match found {
            Some(card) => Instance {
                sockets: card.socket_directory,
                port: card.postgres_port,
                data: card.data_directory,
            },
            None => panic!("no cell {cell}"),
        }
    }

    /// Runs SQL in a cell with psql, as the OS user of PostgreSQL.
    #[must_use]
    #[track_caller]
    pub fn try_sql(&self, cell: &str, sql: &str) -> Finished {
        let instance = self.instance(cell);
        run(as_user(&self.user, "psql").args([
            "-h",
            &instance.sockets,
            "-p",
            &instance.port.to_string(),
            "-d",
            "postgres",
            "-v",
            "ON_ERROR_STOP=1",
            "-XAtqc",
            sql,
        ]))
    }

    /// Runs SQL, which must succeed, and returns what it prints.
    #[track_caller]
    pub fn sql(&self, cell: &str, sql: &str) -> String {
        self.try_sql(cell, sql).ok().trim().to_owned()
    }

    /// A command of PostgreSQL's against a cell, as the OS user of PostgreSQL.
    #[must_use]
    pub fn tool(&self, program: &str, cell: &str, arguments: &[&str]) -> Command {
        let instance = self.instance(cell);
        let mut command = as_user(&self.user, program);
        command
            .args(["-h", &instance.sockets, "-p", &instance.port.to_string()])
            .args(arguments)
            .arg("postgres");
        command
    }

    /// Fills the primary with pgbench's tables; scale 1 is about 16 MB.
    #[track_caller]
    pub fn load(&self, scale: u32) {
        let primary = self.primary();
        let _ = run(&mut self.tool("pgbench", &primary, &["-i", "-q", "-s", &scale.to_string()])).ok();
    }

    /// Waits until a cell is a standby that streams: it says so itself, and its status in etcd, which may be a second
    /// old, says so too.
    #[track_caller]
    pub fn wait_streaming(&self, cell: &str) {
        let primary = self.primary();
        eventually(&format!("{cell} to stream from {primary}"), || {
            self.try_sql(cell, "SELECT status FROM pg_stat_wal_receiver").stdout.trim() == "streaming"
                && self.status(cell).is_some_and(|status| status.streams_from.as_ref() == Some(&primary))
        });
    }

    /// The process id in one of the cluster's pid files.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn pid(&self, file: &str) -> i32 {
        let path = self.directory.join(file);
        match std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()) {
            Some(pid) => pid,
            None => panic!("no pid in {}", path.display()),
        }
    }

    /// The pid of a cell's PostgreSQL.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    #[track_caller]
    pub fn postmaster(&self, cell: &str) -> i32 {
        let path = self.directory.join(cell).join("pg_data/postmaster.pid");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        match text.lines().next().and_then(|line| line.trim().parse().ok()) {
            Some(pid) => pid,
            None => panic!("no pid in {}", path.display()),
        }
    }

    /// Kills a cell altogether: its pooler, and PostgreSQL with all its processes.
    pub fn kill_cell(&self, cell: &str) {
        let Ok(cell_name) = cell.parse::<CellName>() else { panic!("not a cell: {cell}") };
        kill_hard(self.pid(&format!("{cell_name}/pid/multipooler.pid")));
        kill_hard(self.postmaster(cell));
    }

    /// Starts a backup without waiting; the job's id.
    ///
    /// # Panics
    /// When it is refused.
    #[must_use]
    #[track_caller]
    pub fn begin_backup(&self, cell: &str, backup_type: &str) -> String {
        let job = self.json(&["backup", "--from", cell, "--type", backup_type, "--no-wait"]);
        match job["id"].as_str() {
            Some(id) => id.to_owned(),
            None => panic!("no job: {job}"),
        }
    }

    /// A job as multiadmin shows it.
    #[must_use]
    #[track_caller]
    pub fn job(&self, id: &str) -> Value {
        self.json(&["jobs", "show", id])
    }

    /// Waits until a job has ended, and returns it.
    #[must_use]
    #[track_caller]
    pub fn ended(&self, id: &str) -> Value {
        patiently(&format!("job {id} to end"), Duration::from_secs(120), || {
            let job = self.job(id);
            let state = job["state"].as_str().unwrap_or_default();
            matches!(state, "JOB_STATE_SUCCEEDED" | "JOB_STATE_FAILED" | "JOB_STATE_CANCELED").then_some(job)
        })
    }

    /// A backup that must succeed; the ended job.
    #[must_use]
    #[track_caller]
    pub fn backup(&self, cell: &str, backup_type: &str) -> Value {
        let id = self.begin_backup(cell, backup_type);
        let job = self.ended(&id);
        assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
        job
    }

    /// pgBackRest's own output of a job, as its pooler keeps it.
    #[must_use]
    pub fn log_of(&self, cell: &str, job: &str) -> String {
        std::fs::read_to_string(self.directory.join(cell).join("jobs").join(format!("{job}.log")))
            .unwrap_or_default()
    }
}

impl Cluster {
    /// Where the cluster's etcd is, such as `https://localhost:12379`.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    #[track_caller]
    pub fn etcd_url(&self) -> String {
        patiently("etcd to run", Duration::from_secs(10), || {
            let words = command_line(self.pid("pid/etcd.pid"));
            words.iter().find_map(|word| word.strip_prefix("--advertise-client-urls=").map(str::to_owned))
        })
    }

    /// The cluster's records, with the rights of its provisioner.
    ///
    /// # Panics
    /// When there is no certificate for it.
    pub async fn store(&self) -> Store {
        cellar_tls::install_ring_provider();
        let Ok(tls) = cellar_tls::ClientTls::from_dir(&self.directory.join("state/tls")) else {
            panic!("no certificate for etcd")
        };
        let Ok(kv) = EtcdKv::connect(&[self.etcd_url()], Some(tls.tonic_config())).await else {
            panic!("bad etcd endpoint")
        };
        let Ok(cluster) = "demo".parse() else { panic!("demo is a name") };
        Store::new(Arc::new(kv), Keyspace::new(&cluster))
    }

    fn etcdctl(&self, arguments: &[&str]) -> Finished {
        self.etcdctl_as("state/tls/client.crt", "state/tls/client.key", arguments)
    }

    /// `etcdctl` with somebody's certificate: files below the cluster's directory.
    #[must_use]
    #[track_caller]
    pub fn etcdctl_as(&self, certificate: &str, key: &str, arguments: &[&str]) -> Finished {
        let file = |name: &str| self.directory.join(name).display().to_string();
        let endpoint = self.etcd_url();
        run(Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={endpoint}"))
            .arg(format!("--cacert={}", file("ca/ca.crt")))
            .arg(format!("--cert={}", file(certificate)))
            .arg(format!("--key={}", file(key)))
            .args(arguments))
    }

    /// Every key in etcd.
    #[must_use]
    #[track_caller]
    pub fn etcd_keys(&self) -> Vec<String> {
        let text = self.etcdctl(&["get", "--prefix", "--keys-only", "/cellar/"]).ok();
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// Everything in etcd, keys and values.
    #[must_use]
    #[track_caller]
    pub fn etcd_dump(&self) -> String {
        self.etcdctl(&["get", "--prefix", ""]).ok()
    }

    /// The value of a key in etcd.
    #[must_use]
    #[track_caller]
    pub fn etcd_get(&self, key: &str) -> String {
        self.etcdctl(&["get", "--print-value-only", key]).ok().trim().to_owned()
    }

    /// Sets a key in etcd behind everybody's back.
    #[track_caller]
    pub fn etcd_put(&self, key: &str, value: &str) {
        let _ = self.etcdctl(&["put", key, value]).ok();
    }

    /// Kills every process of the cluster.
    pub fn kill_everything(&self) {
        crate::sweep::kill_all(&self.directory);
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        destroy(&self.directory);
    }
}

impl Cluster {
    /// The ends of the logs of a test that failed, on its own output.
    fn show_logs(&self) {
        use std::io::Write;
        let mut err = std::io::stderr().lock();
        let tail = |path: &Path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<String> = text.lines().map(|line| line.chars().take(240).collect()).collect();
            lines[lines.len().saturating_sub(25)..].join("\n")
        };
        let mut logs = vec![self.directory.join("log/multiadmin.log"), self.directory.join("log/etcd.log")];
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            for name in ["multipooler.log", "postgres.log", "pgbackrest-server.log"] {
                logs.push(entry.path().join("log").join(name));
            }
        }
        for log in logs.iter().filter(|log| log.exists()) {
            let _ = writeln!(err, "--- {}\n{}", log.display(), tail(log));
        }
    }
}
