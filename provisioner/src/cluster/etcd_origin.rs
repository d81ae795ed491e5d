//! How a member of etcd came by its data.

use std::collections::BTreeMap;
use std::fmt;

use cellar_model::CellName;

use serde::{Deserialize, Serialize};

/// Where a member's first data was from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EtcdBeginning {
    /// It began with the cluster, with nothing.
    Cluster,
    /// It was added to members that ran, and they gave it their data.
    Joined,
    /// All members began with the same snapshot of etcd.
    Restored,
}

/// How a member of etcd came by its data; none is recorded for one that begins with the cluster and has not been seen to run.
/// Its host keeps this beside the data of one that did not begin with the cluster, so that other data is never taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EtcdOrigin {
    /// Where its first data was from.
    pub from: EtcdBeginning,
    /// The id that etcd gave the member, in hexadecimal digits; or that of the restore.
    pub id: String,
    /// The SHA-256 of the data in the snapshot that all began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Whether it has been seen to run. From then on it must not begin anew any more: it would have forgotten what it has
    /// promised to the others, and they would count on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub started: bool,
}

impl EtcdOrigin {
    /// That of a member that began with the cluster, and has been seen to run.
    pub(crate) fn of_cluster(id: String) -> Self {
        Self { from: EtcdBeginning::Cluster, id, snapshot: None, started: true }
    }

    /// What the member's host keeps beside the data.
    pub(crate) fn mark(&self) -> Option<String> {
        (self.from != EtcdBeginning::Cluster).then(|| self.to_string())
    }

    /// That of a member that was added and has not run yet.
    pub(crate) fn joined(id: String) -> Self {
        Self { from: EtcdBeginning::Joined, id, snapshot: None, started: false }
    }

    /// Whether it was added, and has not been seen to run yet.
    pub(crate) fn waits_to_join(&self) -> bool {
        self.from == EtcdBeginning::Joined && !self.started
    }

    /// That of a member that is to begin with this snapshot.
    pub(crate) fn restored(restore: String, sha256: String) -> Self {
        Self { from: EtcdBeginning::Restored, id: restore, snapshot: Some(sha256), started: false }
    }
}

/// What etcd's members began with before a restore was prepared that may never be installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FormerEtcd {
    /// The restore that their data was of; none when it was of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<uuid::Uuid>,
    /// How each came by its data.
    pub origins: BTreeMap<CellName, EtcdOrigin>,
}

impl fmt::Display for EtcdOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = match self.from {
            EtcdBeginning::Cluster => "began with the cluster as",
            EtcdBeginning::Joined => "joined",
            EtcdBeginning::Restored => "restored",
        };
        write!(f, "{from} {}", self.id)
    }
}
