//! `cellar config generate`: from a specification to one `pgbackrest.conf` per cell, touching nothing else.

use std::path::{Path, PathBuf};

use cellar_model::{CellName, Pooler};
use cellar_pgbackrest::{ConfigInput, render_full};

use crate::error::Result;
use crate::file::{make_directory, replace};
use crate::spec::ClusterSpec;

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
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const SPEC: &str = include_str!("../tests/reference.toml");

    /// Sections of a file with their keys; a key that stands twice is an error here.
    fn sections(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut section = String::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']').to_owned();
                continue;
            }
            let (key, value) = line.split_once('=').unwrap();
            let previous = all.entry(section.clone()).or_default().insert(key.into(), value.into());
            assert_eq!(previous, None, "{key} stands twice");
        }
        all
    }

    /// What the reference page demands of zone `own` (counted from 1).
    fn reference(own: usize) -> BTreeMap<String, BTreeMap<String, String>> {
        let tls = "/backup/repo/tls";
        let pair = |key: &str, value: String| (key.to_owned(), value);
        let global = BTreeMap::from([
            pair("repo1-path", "/backup/repo".into()),
            pair("repo1-retention-full", "7".into()),
            pair("tls-server-cert-file", format!("{tls}/server.crt")),
            pair("tls-server-key-file", format!("{tls}/server.key")),
            pair("tls-server-ca-file", format!("{tls}/ca.crt")),
            pair("tls-server-address", "0.0.0.0".into()),
            pair("tls-server-port", (8431 + own).to_string()),
            pair("tls-server-auth", "pgbackrest=*".into()),
        ]);
        let mut stanza = BTreeMap::from([
            pair("pg1-path", format!("/zone{own}/pg_data")),
            pair("pg1-socket-path", format!("/zone{own}/pg_sockets")),
            pair("pg1-port", (5431 + own).to_string()),
            pair("pg1-user", "postgres".into()),
            pair("pg1-database", "postgres".into()),
        ]);
        for (at, zone) in (1..=3).filter(|zone| *zone != own).enumerate() {
            let key = |name: &str| format!("pg{}-{name}", at + 2);
            stanza.extend([
                (key("host"), "localhost".to_owned()),
                (key("host-type"), "tls".to_owned()),
                (key("host-port"), (8431 + zone).to_string()),
                (key("host-ca-file"), format!("{tls}/ca.crt")),
                (key("host-cert-file"), format!("{tls}/server.crt")),
                (key("host-key-file"), format!("{tls}/server.key")),
                (key("port"), (5431 + zone).to_string()),
                (key("user"), "postgres".to_owned()),
                (key("database"), "postgres".to_owned()),
            ]);
        }
        BTreeMap::from([("global".to_owned(), global), ("multigres".to_owned(), stanza)])
    }

    #[test]
    fn every_key_of_the_reference_page_is_there() {
        let out = tempfile::tempdir().unwrap();
        let written = generate_configs(&ClusterSpec::parse(SPEC).unwrap(), out.path()).unwrap();
        assert_eq!(written.len(), 3);
        for own in 1..=3 {
            let path = out.path().join(format!("zone{own}/pgbackrest.conf"));
            let found = sections(&std::fs::read_to_string(&path).unwrap());
            for (section, wanted) in reference(own) {
                for (key, value) in wanted {
                    assert_eq!(found[&section].get(&key), Some(&value), "zone{own} [{section}] {key}");
                }
            }
            // pgBackRest needs these beyond the page.
            assert_eq!(
                found["multigres"]["pg2-path"],
                format!("/zone{}/pg_data", if own == 1 { 2 } else { 1 })
            );
            assert!(found["multigres"].contains_key("pg3-host-config"));
            assert!(!found["multigres"].contains_key("pg4-host"));
        }
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 3, "nothing else is written");
    }

    #[test]
    fn the_same_specification_gives_the_same_bytes() {
        let spec = ClusterSpec::parse(SPEC).unwrap();
        assert_eq!(render_configs(&spec).unwrap(), render_configs(&spec).unwrap());
    }
}
