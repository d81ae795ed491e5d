//! The etcd member on this machine: the only one of a local cluster, or one of several on hosts.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_model::Ports;
use cellar_system::{Process, is_same_place, recorded_pid, sync_directory};
use cellar_topology::Store;

use crate::binaries;
use crate::cluster::etcd_origin::EtcdBeginning;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::loopback::HOST;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::{log_tail, replace};
use crate::processes::etcd_arguments::{EtcdInitialState, EtcdMemberOptions, EtcdPeer, etcd_arguments};
use crate::processes::process::{Launch, Started, end};

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

    /// The command line of the member on this machine.
    pub(crate) fn etcd_arguments(&self) -> Result<Vec<String>> {
        let (client_port, peer_port) = (self.port(Ports::ETCD_CLIENT)?, self.port(Ports::ETCD_PEER)?);
        let ((name, host), _) = self.etcd_members()?;
        let (_, members) = self.etcd_peers()?;
        let listen: Vec<IpAddr> = self.listen_at(client_port).iter().map(SocketAddr::ip).collect();
        Ok(etcd_arguments(&EtcdMemberOptions {
            name: &name,
            host: &host,
            listen: &listen,
            client_port,
            peer_port,
            tls: &self.etcd_tls(),
            data: &self.etcd_data(),
            members: &members,
            token: &self.etcd_token(),
            state: self.etcd_initial_state(),
        }))
    }

    /// Whether the member on this machine was added to others that ran.
    fn etcd_initial_state(&self) -> EtcdInitialState {
        match self.own_etcd_origin() {
            Some(origin) if origin.from == EtcdBeginning::Joined => EtcdInitialState::Existing,
            _ => EtcdInitialState::New,
        }
    }

    /// The member on this machine, and all members, as they know each other.
    pub(crate) fn etcd_peers(&self) -> Result<(EtcdPeer, Vec<EtcdPeer>)> {
        let port = self.port(Ports::ETCD_PEER)?;
        let peer = |(name, host): Member| EtcdPeer { name, peer_url: format!("https://{host}:{port}") };
        let (own, all) = self.etcd_members()?;
        Ok((peer(own), all.into_iter().map(peer).collect()))
    }

    /// What tells this cluster's etcd from any other.
    pub(crate) fn etcd_token(&self) -> String {
        match &self.state.id {
            Some(id) => format!("cellar-{}-{id}", self.state.cluster),
            None => format!("cellar-{}", self.state.cluster),
        }
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
        if self.is_local() {
            self.begin_etcd_data()?;
        }
        let program = binaries::find("etcd").ok_or_else(|| ProvisionError::Start {
            what: "etcd".to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        let started = Launch {
            what: "etcd".to_owned(),
            program,
            arguments: self.etcd_arguments()?,
            environment: None,
            directory: self.layout.root(),
            log: self.etcd_log(),
            log_owner: self.owner(),
            run_as: self.user.switch(),
        }
        .start()?;
        replace(&self.etcd_pid_file(), &format!("{}\n", started.pid()), 0o644, None)?;
        Ok(Some(started))
    }

    /// Begins anew when etcd's first start was interrupted. One that was killed as it wrote its first file never elects itself
    /// again (3.4.23), and answers nobody: there is nothing in it yet.
    fn begin_etcd_data(&self) -> Result<()> {
        let (first_start, data) = (self.etcd_first_start(), self.etcd_data().join("member"));
        if !first_start.exists() {
            return if data.exists() { Ok(()) } else { replace(&first_start, "", 0o600, None) };
        }
        // Whoever has data has had an etcd that answered, whatever the mark says.
        let has_data = |member| self.layout_of(&member).data().join("PG_VERSION").exists();
        if data.exists() && !self.members_on_disk().into_iter().any(has_data) {
            std::fs::remove_dir_all(&data).map_err(ProvisionError::io("remove", &data))?;
        }
        Ok(())
    }

    /// Before anything is recorded in it: from now on its data is kept.
    fn note_etcd_answered(&self) -> Result<()> {
        let first_start = self.etcd_first_start();
        match std::fs::remove_file(&first_start) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed
                .and_then(|()| sync_directory(&self.layout.etcd()))
                .map_err(ProvisionError::io("remove", &first_start)),
        }
    }

    /// The mark of an etcd that has not answered yet.
    fn etcd_first_start(&self) -> PathBuf {
        self.layout.etcd().join("first-start")
    }

    /// Waits until etcd answers, and gives the store.
    pub(crate) async fn wait_for_etcd(
        &self,
        mut started: Option<Started>,
        deadline: Instant,
    ) -> Result<Store> {
        let begun = Instant::now();
        let store = self.store().await?;
        let probe = cellar_model::Key::Database(self.state.first_database.name.clone());
        loop {
            if let Some(started) = &mut started {
                started.check()?;
            }
            let path = store.keys().path(&probe);
            let error = match store.kv().get(&path).await {
                Ok(_) => {
                    self.note_etcd_answered()?;
                    return Ok(store);
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_etcd_that_never_answered_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::sample(dir.path(), &["zone1"]);
        let member = cluster.etcd_data().join("member");
        let begin = || {
            std::fs::create_dir_all(&member).unwrap();
            cluster.begin_etcd_data().unwrap();
            member.exists()
        };
        std::fs::create_dir_all(cluster.layout.etcd()).unwrap();
        assert!(begin(), "one of before is kept");
        std::fs::remove_dir_all(&member).unwrap();
        cluster.begin_etcd_data().unwrap();
        assert!(!begin(), "it was killed before it answered");
        let data = cluster.layout_of(&cluster.state.members()[0]).data();
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("PG_VERSION"), "15\n").unwrap();
        assert!(begin(), "a database was made with it");
        std::fs::remove_dir_all(&data).unwrap();
        cluster.note_etcd_answered().unwrap();
        cluster.note_etcd_answered().unwrap();
        assert!(begin(), "it has answered");
    }
}
