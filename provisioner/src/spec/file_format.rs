//! The tables and keys of `cluster.toml`, before any rule is checked.

use serde::Deserialize;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpecFile {
    pub(super) cluster: String,
    pub(super) port_offset: Option<u16>,
    pub(super) os_user: Option<String>,
    pub(super) database: DatabaseTable,
    #[serde(default)]
    pub(super) databases: Vec<FurtherDatabaseTable>,
    pub(super) repo: RepoTable,
    #[serde(default)]
    pub(super) tls: TlsTable,
    pub(super) cells: Vec<CellTable>,
}

/// `[database]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DatabaseTable {
    pub(super) name: String,
    pub(super) stanza: Option<String>,
    pub(super) cells: Option<Vec<String>>,
}

/// One of `[[databases]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FurtherDatabaseTable {
    pub(super) name: String,
    pub(super) stanza: Option<String>,
    pub(super) cells: Option<Vec<String>>,
    pub(super) port_offset: Option<u16>,
    pub(super) retention_full: Option<u32>,
}

/// `[repo]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RepoTable {
    pub(super) path: Option<String>,
    pub(super) url: Option<String>,
    pub(super) host: Option<String>,
    pub(super) retention_full: Option<u32>,
}

/// `[tls]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsTable {
    pub(super) dir: Option<String>,
    pub(super) listen: Option<String>,
    pub(super) server_auth: Option<String>,
}

/// One of `[[cells]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CellTable {
    pub(super) name: String,
    pub(super) host: String,
    pub(super) directory: Option<String>,
    pub(super) listen: Option<String>,
    pub(super) etcd: Option<bool>,
    pub(super) multiadmin: Option<bool>,
    pub(super) pg_data: Option<String>,
    pub(super) pg_sockets: Option<String>,
    pub(super) postgres_port: Option<u16>,
    pub(super) config: Option<String>,
    pub(super) log: Option<String>,
    pub(super) lock: Option<String>,
    pub(super) spool: Option<String>,
}
