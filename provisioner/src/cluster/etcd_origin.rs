//! How a member of etcd came by its data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a member's first data was from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EtcdBeginning {
    /// It was added to members that ran, and they gave it their data.
    Joined,
    /// All members began with the same snapshot of etcd.
    Restored,
}

/// How a member of etcd came by its data, when it did not begin with the cluster. Its host keeps this beside the data, so
/// that other data is never taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EtcdOrigin {
    /// Where its first data was from.
    pub from: EtcdBeginning,
    /// The id that etcd gave the member that joined, in hexadecimal digits; or that of the restore.
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

/// What is written beside the data.
impl fmt::Display for EtcdOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = match self.from {
            EtcdBeginning::Joined => "joined",
            EtcdBeginning::Restored => "restored",
        };
        write!(f, "{from} {}", self.id)
    }
}
