//! Where a cell is that has a host of its own.

use std::net::IpAddr;
use std::path::PathBuf;

use cellar_model::HostName;
use serde::{Deserialize, Serialize};

/// The host of a cell. Everything of the cluster on it lies below one directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CellHost {
    /// The name under which the other hosts reach it. Certificates name it.
    pub host: HostName,
    /// What its servers listen on.
    pub listen: IpAddr,
    /// The cluster's directory there.
    pub directory: PathBuf,
    /// Whether an etcd member runs there.
    pub etcd: bool,
    /// Whether a multiadmin runs there.
    pub multiadmin: bool,
}
