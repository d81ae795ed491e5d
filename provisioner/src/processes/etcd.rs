//! The one etcd member of a local cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_model::{CellName, OperatorRole, Ports};
use cellar_tls::{LeafRequest, REVOCATIONS};
use cellar_topology::{EtcdUser, Store};

use crate::binaries;
use crate::error::{ProvisionError, Result};
use crate::file::{log_tail, replace};
use crate::local::cluster::{Cluster, HOST, LISTEN};
use crate::local::process::{Launch, Started, command_line};

/// Largest database, in bytes: etcd's recommended default, stated so that it does not change underneath.
const QUOTA: u64 = 2 << 30;

/// Transactions between snapshots. etcd keeps that many in memory, and its default of 100,000 costs
/// hundreds of megabytes on a machine that a person works on.
const SNAPSHOT_COUNT: u32 = 10_000;

/// How often to ask whether it answers.
const POLL: Duration = Duration::from_millis(100);

impl Cluster {
    pub(crate) fn etcd_data(&self) -> PathBuf {
        self.layout.etcd().join("data")
    }

    pub(crate) fn etcd_tls(&self) -> PathBuf {
        self.layout.etcd().join("tls")
    }

    pub(crate) fn etcd_pid_file(&self) -> PathBuf {
        self.layout.pid().join("etcd.pid")
    }

    pub(crate) fn etcd_log(&self) -> PathBuf {
        self.layout.log().join("etcd.log")
    }

    /// The living etcd of this cluster, whatever the pid file says.
    #[must_use]
    pub fn etcd_pid(&self) -> Option<u32> {
        let data = self.etcd_data();
        let recorded = fs::read_to_string(self.etcd_pid_file()).ok().and_then(|t| t.trim().parse().ok());
        if let Some(pid) = recorded.filter(|pid| is_etcd_of(*pid, &data)) {
            return Some(pid);
        }
        // A `cellar up` that was killed between starting it and writing the file left it nameless.
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.find(|pid| is_etcd_of(*pid, &data))
    }

    fn etcd_arguments(&self) -> Result<Vec<String>> {
        let (client, peer) = (self.port(Ports::ETCD_CLIENT)?, self.port(Ports::ETCD_PEER)?);
        let tls = self.etcd_tls();
        let file = |name: &str| tls.join(name).display().to_string();
        let peer_url = format!("https://{HOST}:{peer}");
        let flags = [
            ("--name", HOST.to_owned()),
            ("--data-dir", self.etcd_data().display().to_string()),
            ("--listen-client-urls", format!("https://{LISTEN}:{client}")),
            ("--advertise-client-urls", format!("https://{HOST}:{client}")),
            ("--listen-peer-urls", format!("https://{LISTEN}:{peer}")),
            ("--initial-advertise-peer-urls", peer_url.clone()),
            ("--initial-cluster", format!("{HOST}={peer_url}")),
            ("--initial-cluster-token", format!("cellar-{}", self.state.cluster)),
            ("--cert-file", file("server.crt")),
            ("--key-file", file("server.key")),
            ("--trusted-ca-file", file("ca.crt")),
            ("--client-crl-file", file(REVOCATIONS)),
            ("--peer-cert-file", file("peer.crt")),
            ("--peer-key-file", file("server.key")),
            ("--peer-trusted-ca-file", file("ca.crt")),
            ("--peer-crl-file", file(REVOCATIONS)),
            // Without it whoever has any certificate of the cluster could speak as a member.
            ("--peer-cert-allowed-cn", "etcd-peer".to_owned()),
            ("--auto-compaction-mode", "periodic".to_owned()),
            ("--auto-compaction-retention", "1h".to_owned()),
            ("--quota-backend-bytes", QUOTA.to_string()),
            ("--snapshot-count", SNAPSHOT_COUNT.to_string()),
            // A single member elects itself; waiting for others would only delay every restart.
            ("--heartbeat-interval", "50".to_owned()),
            ("--election-timeout", "250".to_owned()),
            ("--logger", "zap".to_owned()),
            ("--log-level", "warn".to_owned()),
            ("--log-outputs", "stderr".to_owned()),
        ];
        let mut arguments: Vec<String> =
            flags.into_iter().map(|(flag, value)| format!("{flag}={value}")).collect();
        arguments.extend(["--client-cert-auth".to_owned(), "--peer-client-cert-auth".to_owned()]);
        Ok(arguments)
    }

    /// Starts etcd unless it runs.
    pub(crate) fn start_etcd(&self) -> Result<Option<Started>> {
        if self.etcd_pid().is_some() {
            return Ok(None);
        }
        let program = binaries::find("etcd").ok_or_else(|| ProvisionError::Start {
            what: "etcd".to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        let started = Launch {
            what: "etcd".to_owned(),
            program,
            arguments: self.etcd_arguments()?,
            directory: self.layout.root(),
            log: self.etcd_log(),
            log_owner: self.owner(),
            run_as: self.user.switch(),
        }
        .start()?;
        replace(&self.etcd_pid_file(), &format!("{}\n", started.pid()), 0o644, None)?;
        Ok(Some(started))
    }

    /// Waits until etcd answers, and gives the store.
    pub(crate) async fn wait_for_etcd(
        &self,
        mut started: Option<Started>,
        deadline: Instant,
    ) -> Result<Store> {
        let begun = Instant::now();
        let store = self.store().await?;
        let probe = cellar_model::Key::Database(self.state.database.clone());
        loop {
            if let Some(started) = &mut started {
                started.check()?;
            }
            let path = store.keys().path(&probe);
            let error = match store.kv().get(&path).await {
                Ok(_) => return Ok(store),
                Err(error) if error.is_retryable() => error,
                Err(error) => return Err(error.into()),
            };
            if Instant::now() >= deadline {
                return Err(ProvisionError::NoAnswer {
                    what: "etcd".to_owned(),
                    after: begun.elapsed(),
                    reason: error.to_string(),
                    log: self.etcd_log(),
                    tail: log_tail(&self.etcd_log()),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Cluster {
    /// The certificate with which the provisioner talks to etcd.
    pub(crate) fn provisioner_request(&self) -> Result<LeafRequest> {
        Ok(LeafRequest::operator(&self.state.cluster, OperatorRole::Admin, "provisioner")?)
    }

    /// What a cell's pooler is called whose certificates were revoked so many times.
    pub(crate) fn pooler_request(&self, cell: &CellName, revocations: u32) -> LeafRequest {
        LeafRequest::pooler(&self.state.cluster, &self.state.database, cell, HOST)
            .after_revocations(revocations)
    }

    /// How often a cell's certificates were revoked.
    pub(crate) fn revocations_of(&self, cell: &CellName) -> u32 {
        self.state.cell(cell).map_or(0, |cell| cell.revocations)
    }

    /// Lets a cell's pooler into etcd, to its own records.
    pub(crate) async fn admit_pooler(&self, cell: &CellName) -> Result<()> {
        let name = self.pooler_request(cell, self.revocations_of(cell)).common_name;
        let grants = Some(self.keys().grants_of_pooler(&self.state.database, cell));
        Ok(self.etcd().await?.ensure_user(&EtcdUser { name, grants }).await?)
    }

    /// Lets into etcd no more who was a cell's pooler before its certificates were revoked.
    pub(crate) async fn dismiss_former_poolers(&self, cell: &CellName) -> Result<()> {
        let etcd = self.etcd().await?;
        for revocations in 0..self.revocations_of(cell) {
            etcd.remove_user(&self.pooler_request(cell, revocations).common_name).await?;
        }
        Ok(())
    }

    /// Lets a cell's pooler into etcd no more.
    pub(crate) async fn dismiss_pooler(&self, cell: &CellName) -> Result<()> {
        self.dismiss_former_poolers(cell).await?;
        let name = self.pooler_request(cell, self.revocations_of(cell)).common_name;
        Ok(self.etcd().await?.remove_user(&name).await?)
    }

    /// Makes etcd hold everybody to what its certificate is for. Repeating it changes nothing.
    pub(crate) async fn ensure_permissions(&self) -> Result<()> {
        let etcd = self.etcd().await?;
        etcd.ensure_user(&EtcdUser { name: self.provisioner_request()?.common_name, grants: None }).await?;
        let multiadmin = LeafRequest::multiadmin(&self.state.cluster, HOST).common_name;
        let grants = Some(self.keys().grants_of_multiadmin());
        etcd.ensure_user(&EtcdUser { name: multiadmin, grants }).await?;
        for cell in &self.state.cells {
            self.admit_pooler(&cell.name).await?;
            self.dismiss_former_poolers(&cell.name).await?;
        }
        Ok(etcd.enable_permissions().await?)
    }
}

/// Whether the process is the etcd that has its data there.
fn is_etcd_of(pid: u32, data: &Path) -> bool {
    let arguments = command_line(pid);
    let wanted = format!("--data-dir={}", data.display());
    arguments.first().is_some_and(|program| program.ends_with("etcd")) && arguments.contains(&wanted)
}
