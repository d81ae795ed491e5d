//! etcd's members: who they are, how each is, taking them in and out, and a copy of all data.

use std::time::Duration;

use etcd_client::{AlarmAction, AlarmType, SnapshotStreaming};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream};
use tokio::time::{Instant, timeout};

use crate::error::StoreError;
use crate::etcd::client::{EtcdKv, alarm_name};
use crate::etcd::connection::{Connection, EtcdTls};
use crate::etcd::errors::classify;

/// How long a member may take to tell how it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a member may take to send the next part of a snapshot.
const PART_TIMEOUT: Duration = Duration::from_secs(30);

/// A member of the etcd cluster, as the cluster lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdMember {
    /// Its id.
    pub id: u64,
    /// Its name; empty until it has been started for the first time.
    pub name: String,
    /// Where the other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; none until it has been started for the first time.
    pub client_urls: Vec<String>,
    /// Whether it has no vote yet.
    pub learner: bool,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdMemberStatus {
    /// Its id.
    pub id: u64,
    /// The leader that it knows; 0 when it knows none.
    pub leader: u64,
    /// etcd's version.
    pub version: String,
    /// The size of its database's file, bytes.
    pub database_bytes: u64,
    /// How far its log of changes goes.
    pub raft_index: u64,
    /// How much of it has been applied; 0 when its version does not say.
    pub raft_applied_index: u64,
    /// The number of the election that made the present leader.
    pub raft_term: u64,
    /// Whether it has no vote yet.
    pub learner: bool,
    /// The alarms that are set for it, such as `NOSPACE`.
    pub alarms: Vec<String>,
}

/// An endpoint of etcd and how the member there is.
#[derive(Debug, Clone)]
pub struct EtcdEndpoint {
    /// Its URL.
    pub url: String,
    /// What the member there says, or why there is no answer.
    pub status: Result<EtcdMemberStatus, String>,
    /// How long the answer took, with connecting.
    pub took: Duration,
}

/// The bytes of a snapshot, in parts. The last 32 bytes of all are the SHA-256 of those before them.
pub type SnapshotParts = BoxStream<'static, Result<Vec<u8>, StoreError>>;

async fn status_of(url: &str, tls: Option<&EtcdTls>) -> Result<EtcdMemberStatus, StoreError> {
    let mut to = Connection::new(url, tls).await?;
    let status = to.maintenance.status().await.map_err(|error| classify(&error))?;
    let id = status.header().map_or(0, etcd_client::ResponseHeader::member_id);
    // A member that has no leader cannot say; what it says of itself is wanted all the same.
    let alarms = match status.leader() {
        0 => Vec::new(),
        _ => {
            let asked = to.maintenance.alarm(AlarmAction::Get, AlarmType::None, None).await;
            let set = asked.map_err(|error| classify(&error))?;
            let own = set.alarms().iter().filter(|alarm| alarm.member_id() == id);
            own.map(|alarm| alarm_name(alarm.alarm())).collect()
        }
    };
    Ok(EtcdMemberStatus {
        id,
        leader: status.leader(),
        version: status.version().to_owned(),
        database_bytes: u64::try_from(status.db_size()).unwrap_or_default(),
        raft_index: status.raft_index(),
        raft_applied_index: status.raft_applied_index(),
        raft_term: status.raft_term(),
        learner: status.is_learner(),
        alarms,
    })
}

impl EtcdKv {
    /// Asks the member at each endpoint how it is, all at once; one that does not answer holds nobody up.
    pub async fn endpoints(&self) -> Vec<EtcdEndpoint> {
        let tls = self.connections().tls();
        let ask = |url: &String| {
            let (url, tls) = (url.clone(), tls.clone());
            async move {
                let begun = Instant::now();
                let status = match timeout(STATUS_TIMEOUT, status_of(&url, tls.as_ref())).await {
                    Ok(answer) => answer.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("no answer within {} s", STATUS_TIMEOUT.as_secs())),
                };
                EtcdEndpoint { url, status, took: begun.elapsed() }
            }
        };
        join_all(self.connections().endpoints().iter().map(ask)).await
    }

    /// The members of the cluster.
    ///
    /// # Errors
    /// When etcd does not answer, or this client may not ask.
    pub async fn members(&self) -> Result<Vec<EtcdMember>, StoreError> {
        let list = |mut to: Connection| async move { to.cluster.member_list().await };
        let answer = self.repeatable(list).await?;
        let member = |member: &etcd_client::Member| EtcdMember {
            id: member.id(),
            name: member.name().to_owned(),
            peer_urls: member.peer_urls().to_vec(),
            client_urls: member.client_urls().to_vec(),
            learner: member.is_learner(),
        };
        Ok(answer.members().iter().map(member).collect())
    }

    /// Adds a member, which must then be started with the state `existing`. It counts for the majority from now on.
    ///
    /// # Errors
    /// When etcd does not answer, refuses (too few members would be healthy), or this client may not do it. After
    /// [`StoreError::Retryable`] look at [`EtcdKv::members`]: it may have been added.
    pub async fn add_member(&self, peer_urls: Vec<String>) -> Result<u64, StoreError> {
        let answer = self.once(|mut to| async move { to.cluster.member_add(peer_urls, None).await }).await?;
        Ok(answer.member().map_or(0, etcd_client::Member::id))
    }

    /// Removes a member; it ends when it learns of it, and its data is of no more use. Removing one that is not there
    /// changes nothing.
    ///
    /// # Errors
    /// When etcd does not answer, refuses (too few members would be healthy), or this client may not do it.
    pub async fn remove_member(&self, id: u64) -> Result<(), StoreError> {
        let remove = |mut to: Connection| async move {
            match to.cluster.member_remove(id).await {
                Err(error) if !error.to_string().contains("member not found") => Err(error),
                _ => Ok(()),
            }
        };
        self.repeatable(remove).await
    }

    /// A copy of all data at one moment, from the member in use. It has the keys and certificates' permissions of
    /// everybody: keep it as secret as etcd's own directory.
    ///
    /// # Errors
    /// When etcd does not answer, or this client may not have it.
    pub async fn snapshot(&self) -> Result<SnapshotParts, StoreError> {
        let begin = |mut to: Connection| async move { to.maintenance.snapshot().await };
        Ok(parts_of(self.repeatable(begin).await?))
    }

    /// The same of the member at this endpoint, which needs no majority for it: it may lack what the others took last.
    ///
    /// # Errors
    /// When that member does not answer, or this client may not have it.
    pub async fn snapshot_of(&self, url: &str) -> Result<SnapshotParts, StoreError> {
        let tls = self.connections().tls();
        let begun = timeout(PART_TIMEOUT, async {
            let mut to = Connection::with(url, tls.as_ref(), false).await?;
            to.maintenance.snapshot().await.map_err(|error| classify(&error))
        });
        match begun.await {
            Ok(parts) => Ok(parts_of(parts?)),
            Err(_) => Err(StoreError::Retryable(format!(
                "{url} did not begin a snapshot within {} s",
                PART_TIMEOUT.as_secs()
            ))),
        }
    }
}

/// A snapshot as it arrives.
fn parts_of(parts: SnapshotStreaming) -> SnapshotParts {
    let next = |parts: Option<SnapshotStreaming>| async move {
        let mut parts = parts?;
        match timeout(PART_TIMEOUT, parts.message()).await {
            Ok(Ok(Some(part))) => Some((Ok(part.blob().to_vec()), Some(parts))),
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some((Err(classify(&error)), None)),
            Err(_) => {
                let late = format!("no part of the snapshot within {} s", PART_TIMEOUT.as_secs());
                Some((Err(StoreError::Retryable(late)), None))
            }
        }
    };
    stream::unfold(Some(parts), next).boxed()
}
