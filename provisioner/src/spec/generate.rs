//! `cellar config generate`: from a specification to one `pgbackrest.conf` per cell, touching nothing else.

use std::path::{Path, PathBuf};

use cellar_model::{CellName, Pooler};
use cellar_pgbackrest::{ConfigInput, render_full};

use crate::error::provision_error::Result;
use crate::file::{make_directory, replace};
use crate::spec::cluster_spec::ClusterSpec;

/// Renders every cell's file.
///
/// # Errors
/// When a value cannot stand in the file.
pub fn render_configs(spec: &ClusterSpec) -> Result<Vec<(CellName, String)>> {
    let render = |local: &Pooler| {
        let others: Vec<&Pooler> = spec.poolers.iter().filter(|other| other.cell != local.cell).collect();
        let input = ConfigInput {
            database: &spec.database,
            local,
            others: &others,
            tls_server_auth: &spec.server_auth,
            passphrase: None,
        };
        Ok((local.cell.clone(), render_full(&input)?))
    };
    spec.poolers.iter().map(render).collect()
}

/// Writes `OUT/<cell>/pgbackrest.conf` for every cell, each whole or not at all, and tells where.
/// Everything is rendered before anything is written.
///
/// # Errors
/// When a value cannot stand in a file, or a file cannot be written.
pub fn generate_configs(spec: &ClusterSpec, out: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for (cell, text) in render_configs(spec)? {
        let directory = out.join(cell.as_str());
        make_directory(&directory, 0o755, None)?;
        let path = directory.join("pgbackrest.conf");
        replace(&path, &text, 0o644, None)?;
        written.push(path);
    }
    Ok(written)
}

#[cfg(test)]
mod tests;
