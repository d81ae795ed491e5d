//! The etcd member on this machine: the only one of a local cluster, or one of several on hosts.

use std::path::Path;
use std::time::{Duration, Instant};

use cellar_model::Ports;
use cellar_system::{Process, is_same_place, recorded_pid};
use cellar_tls::REVOCATIONS;
use cellar_topology::Store;

use crate::binaries;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::loopback::HOST;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::{log_tail, replace};
use crate::processes::process::{Launch, Started, end};

/// Largest database, in bytes: etcd's recommended default, set here so that another version cannot change it.
const MAX_DATABASE_BYTES: u64 = 2 << 30;

/// Transactions between snapshots. etcd keeps that many in memory, and its default of 100,000 costs
/// hundreds of megabytes on a machine that a person works on.
const SNAPSHOT_COUNT: u32 = 10_000;

/// Milliseconds between heartbeats, and without one until an election. A single member elects itself; waiting for others
/// would only delay every restart.
const LONE_MEMBER: (u32, u32) = (50, 250);

/// The same for members on several hosts: etcd's defaults, which allow for a round trip of 100 ms between them.
const SEVERAL_MEMBERS: (u32, u32) = (100, 1000);

/// How often to ask whether it answers.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// How long it may take to end after SIGTERM; it takes a second.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// The name and the host of an etcd member.
type Member = (String, String);

impl Cluster {
    /// The process id of this cluster's etcd, whatever the pid file says.
    #[must_use]
    pub fn etcd_pid(&self) -> Option<u32> {
        self.etcd_process().map(|process| process.pid.cast_unsigned())
    }

    /// This cluster's etcd, if it runs.
    pub(crate) fn etcd_process(&self) -> Option<Process> {
        let data = self.etcd_data();
        let recorded = recorded_pid(&self.etcd_pid_file()).and_then(|pid| i32::try_from(pid).ok());
        if let Some(process) = recorded.and_then(Process::find).filter(|process| is_etcd_of(process, &data)) {
            return Some(process);
        }
        // A `cellar up` that was killed between starting it and writing the file left it without one.
        Process::all().into_iter().find(|process| is_etcd_of(process, &data))
    }

    /// etcd's command line.
    pub(crate) fn etcd_arguments(&self) -> Result<Vec<String>> {
        let (client, peer) = (self.port(Ports::ETCD_CLIENT)?, self.port(Ports::ETCD_PEER)?);
        let tls = self.etcd_tls();
        let file = |name: &str| tls.join(name).display().to_string();
        let listen = |port| {
            let urls = self.listen_at(port).into_iter().map(|address| format!("https://{address}"));
            urls.collect::<Vec<_>>().join(",")
        };
        let ((name, host), members) = self.etcd_members()?;
        let peer_url = format!("https://{host}:{peer}");
        let members = members.into_iter().map(|(name, host)| format!("{name}=https://{host}:{peer}"));
        let (heartbeat, election) = if self.is_local() { LONE_MEMBER } else { SEVERAL_MEMBERS };
        let flags = [
            ("--name", name.clone()),
            ("--data-dir", self.etcd_data().display().to_string()),
            ("--listen-client-urls", listen(client)),
            ("--advertise-client-urls", format!("https://{host}:{client}")),
            ("--listen-peer-urls", listen(peer)),
            ("--initial-advertise-peer-urls", peer_url.clone()),
            ("--initial-cluster", members.collect::<Vec<_>>().join(",")),
            ("--initial-cluster-token", format!("cellar-{}", self.state.cluster)),
            ("--cert-file", file("server.crt")),
            ("--key-file", file("server.key")),
            ("--trusted-ca-file", file("ca.crt")),
            ("--client-crl-file", file(REVOCATIONS)),
            ("--peer-cert-file", file("peer.crt")),
            ("--peer-key-file", file("server.key")),
            ("--peer-trusted-ca-file", file("ca.crt")),
            ("--peer-crl-file", file(REVOCATIONS)),
            // Without it any certificate of the cluster could be used as a member's.
            ("--peer-cert-allowed-cn", "etcd-peer".to_owned()),
            ("--auto-compaction-mode", "periodic".to_owned()),
            ("--auto-compaction-retention", "1h".to_owned()),
            ("--quota-backend-bytes", MAX_DATABASE_BYTES.to_string()),
            ("--snapshot-count", SNAPSHOT_COUNT.to_string()),
            ("--heartbeat-interval", heartbeat.to_string()),
            ("--election-timeout", election.to_string()),
            ("--logger", "zap".to_owned()),
            ("--log-level", "warn".to_owned()),
            ("--log-outputs", "stderr".to_owned()),
        ];
        let mut arguments: Vec<String> =
            flags.into_iter().map(|(flag, value)| format!("{flag}={value}")).collect();
        arguments.extend(["--client-cert-auth".to_owned(), "--peer-client-cert-auth".to_owned()]);
        Ok(arguments)
    }

    /// The member on this machine, and all members, each with its name and host.
    fn etcd_members(&self) -> Result<(Member, Vec<Member>)> {
        if self.is_local() {
            let only = (HOST.to_owned(), HOST.to_owned());
            return Ok((only.clone(), vec![only]));
        }
        let all = self.etcd_hosts().into_iter();
        let all: Vec<_> = all.map(|(cell, host)| (cell.to_string(), host.to_string())).collect();
        let own = self
            .cells_here()
            .next()
            .and_then(|cell| all.iter().find(|(name, _)| *name == cell.name.as_str()));
        let own = own.cloned().ok_or_else(|| ProvisionError::Start {
            what: "etcd, of which this host has no member".to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        Ok((own, all))
    }

    /// Ends etcd; tells whether it ran.
    pub(crate) async fn stop_etcd(&self) -> Result<bool> {
        end("etcd", self.etcd_process(), STOP_TIMEOUT).await
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
            // What ran when it was to be started may have been about to end.
            if started.is_none() && self.has_etcd() && self.etcd_pid().is_none() {
                started = self.start_etcd()?;
            }
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
    }
}

/// Whether the process is the etcd whose data is there.
fn is_etcd_of(process: &Process, data: &Path) -> bool {
    let arguments = process.arguments();
    let names_data = |argument: &String| {
        argument.strip_prefix("--data-dir=").is_some_and(|named| is_same_place(Path::new(named), data))
    };
    arguments.first().is_some_and(|program| program.ends_with("etcd")) && arguments.iter().any(names_data)
}
