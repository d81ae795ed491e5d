//! What a host remembers: which cell it is for, and what the cluster was created with.

use std::fs;
use std::path::{Path, PathBuf};

use cellar_model::{CellName, ClusterLayout};
use serde::{Deserialize, Serialize};

use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::ClusterState;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::replace;
use crate::hosts::made_by;

/// The form of the file that this code writes; a later one is refused rather than misread.
const VERSION: u32 = 1;

/// `<dir>/state/host.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HostState {
    version: u32,
    /// The version of Cellar that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made_by: Option<String>,
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

/// Why the file cannot be read. What a newer version wrote is not damaged.
fn bad(path: &Path, text: &str, why: &str) -> ProvisionError {
    let by: Option<MadeBy> = serde_json::from_str(text).ok();
    let (reason, hint) = match by.and_then(|by| by.made_by).filter(|version| !made_by::is_older(version)) {
        Some(version) => (format!("{} ({why})", made_by::newer(Some(&version))), made_by::UPDATE),
        None => (why.to_owned(), "install the host's bundle again (`cellar host install`)"),
    };
    ProvisionError::Bundle { path: path.to_owned(), reason, hint }
}

/// All that is asked of a file of which nothing else is understood.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MadeBy {
    made_by: Option<String>,
}

impl HostState {
    /// What a bundle brings.
    pub(crate) fn new(cell: CellName, bundle: u64, cluster: ClusterState) -> Self {
        Self { version: VERSION, made_by: Some(made_by::VERSION.to_owned()), cell, bundle, cluster }
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
        let state: Self =
            serde_json::from_str(&text).map_err(|error| bad(&path, &text, &error.to_string()))?;
        if state.version != VERSION {
            let reason = format!("it has version {}, and this cellar knows {VERSION}", state.version);
            return Err(bad(&path, &text, &reason));
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

impl Cluster {
    /// The cluster as the host whose directory this is has it.
    ///
    /// # Errors
    /// When nothing was installed there, or it cannot be read.
    pub fn open_on_host(dir: &Path) -> Result<Self> {
        open_host(dir).map(|(cluster, _)| cluster)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_version_has_installed_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let layout = ClusterLayout::new(dir.path());
        fs::create_dir(layout.state()).unwrap();
        let cluster = Cluster::sample(dir.path(), &["zone1"]);
        let state = HostState::new("zone1".parse().unwrap(), 3, cluster.state);
        state.save(&layout).unwrap();
        assert_eq!(HostState::load(&layout).unwrap(), Some(state));
        let text = fs::read_to_string(path(&layout)).unwrap();
        let refusal = |text: String| {
            fs::write(path(&layout), text).unwrap();
            let error = HostState::load(&layout).unwrap_err();
            (error.to_string(), error.hint().unwrap())
        };
        let unknown = text.replacen('{', "{ \"rack\": 7,", 1);
        let (reason, hint) = refusal(unknown.replacen(made_by::VERSION, "9.1.0", 1));
        assert!(reason.contains("newer cellar, version 9.1.0") && reason.contains("rack"), "{reason}");
        assert!(hint.contains("update this host's programs"), "{hint}");
        let (_, hint) = refusal(unknown.replacen(made_by::VERSION, "0.0.1", 1));
        assert!(hint.contains("cellar host install"), "{hint}");
        let (_, hint) = refusal("{".to_owned());
        assert!(hint.contains("cellar host install"), "{hint}");
    }
}
