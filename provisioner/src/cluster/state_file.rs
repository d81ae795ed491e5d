//! The state as its file has it. The first database stands in fields of the cluster's, as the only one always has: an older
//! release reads the file of a cluster that has no other, and says of any other file that a newer one wrote it.

use std::collections::{BTreeMap, BTreeSet};

use cellar_model::{CellName, ClusterName, DatabaseName, PgbackrestName, RepoCipher, Repository, StanzaName};
use serde::{Deserialize, Serialize};

use crate::cluster::database::ClusterDatabase;
use crate::cluster::etcd_origin::{EtcdOrigin, FormerEtcd};
use crate::cluster::state::{ClusterState, LocalCell, Revoking};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StateFile {
    version: u32,
    cluster: ClusterName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<uuid::Uuid>,
    port_offset: u16,
    database: DatabaseName,
    stanza: StanzaName,
    /// It has one field for each kind, as in etcd: a build that does not know one says that a newer release wrote the file.
    /// Once both kinds had this one.
    #[serde(alias = "repoInCell", with = "as_text", skip_serializing_if = "is_in_cell")]
    repo: Repository,
    /// The repository on the host of one cell, only while this is written.
    #[serde(rename = "repoInCell", skip_deserializing, skip_serializing_if = "Option::is_none")]
    written_in_cell: Option<String>,
    os_user: String,
    bootstrap_cell: CellName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cert_lifetime_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    renews: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retention_full: Option<u32>,
    cells: Vec<LocalCell>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repo_cipher: Option<RepoCipher>,
    #[serde(default, skip_serializing_if = "is_first")]
    pgbackrest_name: PgbackrestName,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    revocations_of_removed: BTreeMap<CellName, u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoking: Option<Revoking>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    not_waited_for: BTreeSet<CellName>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    etcd_origins: BTreeMap<CellName, EtcdOrigin>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etcd_restore: Option<uuid::Uuid>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former_etcd: Vec<FormerEtcd>,
    #[serde(default, skip_serializing_if = "is_zero")]
    bundles: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_backup: Option<uuid::Uuid>,
    /// The cells in which the first database is to have members; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    database_cells: Vec<CellName>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    further_databases: Vec<ClusterDatabase>,
}

fn is_in_cell(repo: &Repository) -> bool {
    repo.home().is_some()
}

fn is_first(name: &PgbackrestName) -> bool {
    *name == PgbackrestName::default()
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl From<ClusterState> for StateFile {
    fn from(state: ClusterState) -> Self {
        let ClusterDatabase {
            name,
            stanza,
            bootstrap_cell,
            cells,
            port_offset: _,
            retention_full,
            first_backup,
        } = state.first_database;
        Self {
            version: state.version,
            cluster: state.cluster,
            id: state.id,
            port_offset: state.port_offset,
            database: name,
            stanza,
            written_in_cell: is_in_cell(&state.repo).then(|| state.repo.to_string()),
            repo: state.repo,
            os_user: state.os_user,
            bootstrap_cell,
            cert_lifetime_seconds: state.cert_lifetime_seconds,
            renews: state.renews,
            retention_full,
            cells: state.cells,
            repo_cipher: state.repo_cipher,
            pgbackrest_name: state.pgbackrest_name,
            revocations_of_removed: state.revocations_of_removed,
            revoking: state.revoking,
            not_waited_for: state.not_waited_for,
            etcd_origins: state.etcd_origins,
            etcd_restore: state.etcd_restore,
            former_etcd: state.former_etcd,
            bundles: state.bundles,
            first_backup,
            database_cells: cells,
            further_databases: state.further_databases,
        }
    }
}

impl From<StateFile> for ClusterState {
    fn from(file: StateFile) -> Self {
        Self {
            version: file.version,
            cluster: file.cluster,
            id: file.id,
            port_offset: file.port_offset,
            first_database: ClusterDatabase {
                name: file.database,
                stanza: file.stanza,
                bootstrap_cell: file.bootstrap_cell,
                cells: file.database_cells,
                port_offset: file.port_offset,
                retention_full: file.retention_full,
                first_backup: file.first_backup,
            },
            further_databases: file.further_databases,
            repo: file.repo,
            os_user: file.os_user,
            cert_lifetime_seconds: file.cert_lifetime_seconds,
            renews: file.renews,
            cells: file.cells,
            repo_cipher: file.repo_cipher,
            pgbackrest_name: file.pgbackrest_name,
            revocations_of_removed: file.revocations_of_removed,
            revoking: file.revoking,
            not_waited_for: file.not_waited_for,
            etcd_origins: file.etcd_origins,
            etcd_restore: file.etcd_restore,
            former_etcd: file.former_etcd,
            bundles: file.bundles,
        }
    }
}

/// The repository as the text that names it.
mod as_text {
    use cellar_model::Repository;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(repo: &Repository, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(repo)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Repository, D::Error> {
        Repository::parse_shown(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
