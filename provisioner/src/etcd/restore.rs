//! Putting a snapshot back in place of the data of a local cluster's one etcd member.
//!
//! All is done beside the old data, with an etcd of its own that nobody else knows the ports of; only when the restored
//! records fit what is there do the two directories change places, in one step. Killed anywhere before that, nothing
//! has changed, and the command can be repeated.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cellar_model::{Key, Ports};
use cellar_system::{AtomicFile, OpenDirectory, Process, clock};
use cellar_tls::ClientTls;
use cellar_topology::{EtcdKv, Kv, Store};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::{Deserialize, Serialize};

use crate::binaries;
use crate::cluster::blocking::blocking;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::loopback::{HOST, loopback};
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::etcd::records::RepairedRecords;
use crate::etcd::snapshot::{check_file, write_snapshot};
use crate::etcd::tool::{self, NewMember, SnapshotContent};
use crate::file::{log_tail, make_directory};
use crate::local::down::remove_tree;
use crate::processes::etcd_arguments::{EtcdInitialState, EtcdMemberOptions, EtcdPeer, etcd_arguments};
use crate::processes::process::{Launch, Started, end};

/// The last reason for which an etcd that nobody ends any more ends by itself.
const MAX_LIFE: &str = "600";

/// How often to ask whether it answers.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// The name of the data in the directory where a snapshot is unpacked.
const DATA: &str = "data";

/// How long it may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// What a restore of etcd has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredEtcd {
    /// What the snapshot holds.
    pub content: SnapshotContent,
    /// Where the data is that was there before; `None` when there was none.
    pub kept: Option<PathBuf>,
    /// What was changed in the restored records.
    pub repaired: RepairedRecords,
}

/// Which restore etcd's data is of: a record in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RestoreMark {
    pub(crate) id: uuid::Uuid,
}

/// Puts a snapshot back into the etcd of the cluster in `dir`, whose etcd must not run. multiadmin and the poolers are
/// ended, PostgreSQL goes on; `cellar up` starts what was ended.
///
/// # Errors
/// When etcd runs, the file is no whole snapshot, or a step fails. The old data is in its place then.
pub async fn restore_etcd(
    dir: &Path,
    snapshot: &Path,
    timeout: Duration,
    steps: &Steps,
) -> Result<RestoredEtcd> {
    let deadline = Instant::now() + timeout;
    let (cluster, _lock) = Cluster::open_locked(dir, timeout, steps).await?;
    cluster.check_is_local("cellar etcd restore")?;
    if let Some(pid) = cluster.etcd_pid() {
        return Err(ProvisionError::EtcdRuns { dir: dir.to_owned(), pid });
    }
    let file = snapshot.to_owned();
    blocking(move || check_whole(&file)).await?;
    cluster.end_daemons(steps).await?;
    let (content, restored) = cluster.make_restored_data(snapshot, deadline).await?;
    steps.step(&format!("the snapshot is in {} (revision {})", restored.display(), content.revision));
    let repaired = cluster.repair_restored(&restored, None, deadline).await?;
    steps.step("its records fit the cells and data that are there");
    let this = cluster.clone();
    let kept = blocking(move || this.exchange_data(this.name_for_old_data()?)).await?;
    steps.step("it is in the place of etcd's data");
    Ok(RestoredEtcd { content, kept, repaired })
}

/// Refuses a file that is no whole snapshot; the SHA-256 of the data in it.
pub(crate) fn check_whole(snapshot: &Path) -> Result<String> {
    let checked = check_file(snapshot).map_err(ProvisionError::io("read", snapshot))?;
    checked.map_err(|reason| ProvisionError::Argument {
        argument: "FILE",
        value: snapshot.display().to_string(),
        reason: format!("it is no whole snapshot of etcd: {reason}"),
    })
}

/// What is left of the time, for a step that has its own deadline.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

impl Cluster {
    /// Where a snapshot is unpacked.
    pub(crate) fn restored_etcd(&self) -> PathBuf {
        self.layout.etcd().join("restored")
    }

    /// Ends what would go on with what it knows from before: it compares with revisions that will come again.
    pub(crate) async fn end_daemons(&self, steps: &Steps) -> Result<()> {
        let mut ended = 0;
        for member in self.members_on_disk() {
            ended += usize::from(self.stop_pooler(&member).await?);
        }
        ended += usize::from(self.stop_admin().await?);
        steps.step(&format!("{ended} processes that use etcd have ended; PostgreSQL goes on"));
        Ok(())
    }

    /// A data directory with what the snapshot holds, for a member that is alone.
    pub(crate) async fn make_restored_data(
        &self,
        snapshot: &Path,
        deadline: Instant,
    ) -> Result<(SnapshotContent, PathBuf)> {
        let only = EtcdPeer { name: HOST.to_owned(), peer_url: self.etcd_peer_url()? };
        let members = std::slice::from_ref(&only);
        self.make_data_of(snapshot, &only, members, &self.etcd_token(), deadline).await
    }

    /// A data directory with what the snapshot holds, for one of these members.
    pub(crate) async fn make_data_of(
        &self,
        snapshot: &Path,
        member: &EtcdPeer,
        members: &[EtcdPeer],
        token: &str,
        deadline: Instant,
    ) -> Result<(SnapshotContent, PathBuf)> {
        let (directory, owner) = (self.restored_etcd(), self.owner());
        let copy = directory.join("snapshot");
        {
            let (directory, copy, snapshot) = (directory.clone(), copy.clone(), snapshot.to_owned());
            let etcd = self.layout.etcd();
            blocking(move || {
                make_directory(&etcd, 0o700, owner)?;
                // What an interrupted restore left.
                remove_tree(&directory)?;
                make_directory(&directory, 0o700, owner)?;
                // The user who runs etcd may not be able to read the file where it is.
                let mut from = fs::File::open(&snapshot).map_err(ProvisionError::io("read", &snapshot))?;
                let mut to = AtomicFile::new(&copy)
                    .owner(owner)
                    .begin()
                    .map_err(ProvisionError::io("write", &copy))?;
                std::io::copy(&mut from, &mut to).map_err(ProvisionError::io("write", &copy))?;
                to.finish().map_err(ProvisionError::io("write", &copy))
            })
            .await?;
        }
        let data = directory.join(DATA);
        let user = self.user.switch();
        let content = tool::content(&copy, user, left(deadline)).await?;
        let EtcdPeer { name, peer_url } = member;
        let member = NewMember { name, peer_url, members, token, data: &data };
        tool::restore(&copy, &member, user, left(deadline)).await?;
        fs::remove_file(&copy).map_err(ProvisionError::io("remove", &copy))?;
        Ok((content, data))
    }

    /// Runs an etcd on the restored data, on ports that nobody else uses, and changes the records in it; what comes of it
    /// is written as a snapshot, too, if that is asked for, with the restore of which it is.
    pub(crate) async fn repair_restored(
        &self,
        data: &Path,
        snapshot: Option<(&Path, &RestoreMark)>,
        deadline: Instant,
    ) -> Result<RepairedRecords> {
        let port = free_port()?;
        let mut started = self.start_private_etcd(data, port)?;
        let repaired = async {
            self.renew_operators();
            let tls = ClientTls::from_dir(&self.etcd_client_tls())?;
            let endpoint = format!("https://{HOST}:{port}");
            let kv = EtcdKv::connect(&[endpoint], Some(tls.tonic_config())).await?;
            wait_until_it_answers(&kv, &mut started, &self.etcd_log(), deadline).await?;
            let store = Store::new(Arc::new(kv.clone()), self.keys());
            let repaired = self.repair_records(&store).await?;
            for cell in &repaired.removed_cells {
                self.dismiss_from(&kv, cell).await?;
            }
            // The snapshot may know them: their certificates were revoked after it.
            for cell in &self.state.cells {
                self.dismiss_former_users(&kv, &cell.name).await?;
            }
            if let Some((path, mark)) = snapshot {
                store.transaction().put(&Key::EtcdRestore, mark).commit().await?;
                write_snapshot(&kv, path).await?;
            }
            Ok(repaired)
        };
        let repaired = repaired.await;
        let process = Process::find(started.pid().cast_signed());
        end("the etcd of the restore", process, STOP_TIMEOUT).await?;
        repaired
    }

    fn start_private_etcd(&self, data: &Path, client_port: u16) -> Result<Started> {
        let not_found =
            |what: &str| ProvisionError::Start { what: what.to_owned(), source: ErrorKind::NotFound.into() };
        let program = binaries::find("timeout").ok_or_else(|| not_found("timeout"))?;
        let etcd = binaries::find("etcd").ok_or_else(|| not_found("etcd"))?;
        let members = [EtcdPeer { name: HOST.to_owned(), peer_url: self.etcd_peer_url()? }];
        let mut arguments = vec![MAX_LIFE.to_owned(), etcd.display().to_string()];
        arguments.extend(etcd_arguments(&EtcdMemberOptions {
            name: HOST,
            host: HOST,
            listen: &loopback(),
            client_port,
            // Any: it has no peers.
            peer_port: 0,
            tls: &self.etcd_tls(),
            data,
            members: &members,
            token: &self.etcd_token(),
            state: EtcdInitialState::New,
        }));
        Launch {
            what: "the etcd of the restore".to_owned(),
            program,
            arguments,
            environment: None,
            directory: self.layout.root(),
            log: self.etcd_log(),
            log_owner: self.owner(),
            run_as: self.user.switch(),
        }
        .start()
    }

    /// Gives the directory of the restored data the name that the old data is to be found under. What stands under the other
    /// name is removed by the next restore, and from the exchange on that would be the only old data.
    fn name_for_old_data(&self) -> Result<PathBuf> {
        let (draft, kept) =
            (self.restored_etcd(), self.layout.etcd().join(format!("before-{}", clock::new_id())));
        let directory = OpenDirectory::parent_of(&kept).map_err(ProvisionError::io("open", &kept))?;
        fs::rename(&draft, &kept)
            .and_then(|()| directory.sync())
            .map_err(ProvisionError::io("rename", &draft))?;
        Ok(kept)
    }

    /// Exchanges the restored data, which is in `kept` now, with etcd's. Where the old data is then.
    fn exchange_data(&self, kept: PathBuf) -> Result<Option<PathBuf>> {
        let (data, restored) = (self.etcd_data(), kept.join(DATA));
        let directory = OpenDirectory::parent_of(&data).map_err(ProvisionError::io("open", &data))?;
        let from = OpenDirectory::parent_of(&restored).map_err(ProvisionError::io("open", &restored))?;
        let is_there = data.exists();
        let flags = if is_there { RenameFlags::RENAME_EXCHANGE } else { RenameFlags::RENAME_NOREPLACE };
        let exchange = || -> std::io::Result<()> {
            renameat2(AT_FDCWD, &from.entry(&restored), AT_FDCWD, &directory.entry(&data), flags)?;
            directory.sync()?;
            from.sync()
        };
        exchange().map_err(ProvisionError::io("exchange", &data))?;
        if !is_there {
            remove_tree(&kept)?;
        }
        Ok(is_there.then_some(kept))
    }

    fn etcd_peer_url(&self) -> Result<String> {
        Ok(format!("https://{HOST}:{}", self.port(Ports::ETCD_PEER)?))
    }
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    let bind = || Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port());
    bind().map_err(|source: std::io::Error| ProvisionError::Start {
        what: "the etcd of the restore".to_owned(),
        source,
    })
}

async fn wait_until_it_answers(
    kv: &EtcdKv,
    started: &mut Started,
    log: &Path,
    deadline: Instant,
) -> Result<()> {
    let begun = Instant::now();
    loop {
        started.check()?;
        let error = match kv.get("cellar").await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_retryable() => error,
            Err(error) => return Err(error.into()),
        };
        if Instant::now() >= deadline {
            return Err(ProvisionError::NoAnswer {
                what: "the etcd of the restore".to_owned(),
                after: begun.elapsed(),
                reason: error.to_string(),
                log: log.to_owned(),
                tail: log_tail(log),
            });
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}
