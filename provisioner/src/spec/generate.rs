//! `cellar config generate`: from a specification to one `pgbackrest.conf` per cell, touching nothing else.

use std::path::{Path, PathBuf};

use cellar_model::{CellName, Pooler};
use cellar_pgbackrest::{ConfigInput, render_full};

use crate::error::provision_error::Result;
use crate::error::spec_error::SpecError;
use crate::file::{make_directory, replace};
use crate::spec::cluster_spec::ClusterSpec;

/// Renders every cell's file.
///
/// # Errors
/// When a value cannot stand in the file.
pub fn render_configs(spec: &ClusterSpec) -> Result<Vec<(CellName, String)>> {
    if let Some(further) = spec.databases.get(1) {
        return Err(SpecError::Field {
            field: "databases".to_owned(),
            value: further.name.to_string(),
            reason: "configs are generated for `[database]` alone: leave the others out".to_owned(),
        }
        .into());
    }
    if !spec.database.cells.is_empty() {
        return Err(SpecError::Field {
            field: "database.cells".to_owned(),
            value: String::new(),
            reason: "configs are generated for every cell: leave it out".to_owned(),
        }
        .into());
    }
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
