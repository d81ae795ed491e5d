//! What a host remembers: which cell it is for, and what the cluster was created with.

use std::fs;
use std::path::{Path, PathBuf};

use cellar_model::{CellName, ClusterLayout};
use serde::{Deserialize, Serialize};

use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::ClusterState;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::replace;

/// The form of the file that this code writes; a later one is refused rather than misread.
const VERSION: u32 = 1;

/// `<dir>/state/host.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HostState {
    version: u32,
    /// The cell whose host this is.
    pub(crate) cell: CellName,
    /// The number of the bundle that was installed last.
    pub(crate) bundle: u64,
    /// What the cluster was created with.
    pub(crate) cluster: ClusterState,
}

fn path(layout: &ClusterLayout) -> PathBuf {
    layout.state().join("host.json")
}

impl HostState {
    /// What a bundle brings.
    pub(crate) fn new(cell: CellName, bundle: u64, cluster: ClusterState) -> Self {
        Self { version: VERSION, cell, bundle, cluster }
    }

    /// Whether a bundle was installed in the directory, be it readable or not.
    pub(crate) fn is_in(layout: &ClusterLayout) -> bool {
        path(layout).exists()
    }

    /// Reads it; `None` when nothing was installed in the directory.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(crate) fn load(layout: &ClusterLayout) -> Result<Option<Self>> {
        let path = path(layout);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ProvisionError::io("read", &path)(error)),
        };
        let bad = |reason| ProvisionError::Bundle {
            path: path.clone(),
            reason,
            hint: "install the host's bundle again (`cellar host install`)",
        };
        let state: Self = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if state.version != VERSION {
            return Err(bad(format!("it has version {}, and this cellar knows {VERSION}", state.version)));
        }
        Ok(Some(state))
    }

    /// Writes it whole or not at all.
    pub(crate) fn save(&self, layout: &ClusterLayout) -> Result<()> {
        let path = path(layout);
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from);
        let text = text.map_err(ProvisionError::io("write", &path))? + "\n";
        replace(&path, &text, 0o644, None)
    }
}

/// The cluster as the host whose directory this is has it, and the host's cell.
///
/// # Errors
/// When nothing was installed there, or it cannot be read.
pub(crate) fn open_host(dir: &Path) -> Result<(Cluster, CellName)> {
    let layout = ClusterLayout::new(dir);
    let host = HostState::load(&layout)?.ok_or_else(|| ProvisionError::NoHost { dir: dir.to_owned() })?;
    let cell = host.cell.clone();
    Ok((Cluster::assemble_on_host(layout, host.cluster, host.cell)?, cell))
}
