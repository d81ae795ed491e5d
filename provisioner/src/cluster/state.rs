//! What the provisioner remembers of a local cluster.
//!
//! `<dir>/state/cluster.json` holds what a second `cellar up` needs before etcd runs. Which cells
//! there are is decided by etcd once it does; the list here only decides whose processes to start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use cellar_model::{
    CellName, ClusterLayout, ClusterName, DatabaseName, PgbackrestName, RepoCipher, Repository, StanzaName,
};
use cellar_system::{clock, is_same_place};
use serde::{Deserialize, Serialize};

use crate::cluster::cell_host::CellHost;
use crate::cluster::database::ClusterDatabase;
use crate::cluster::etcd_origin::{EtcdOrigin, FormerEtcd};
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::replace;

/// The form of the file that this code writes; a later form is refused rather than misread.
const VERSION: u32 = 1;

/// A cell of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalCell {
    /// Its name.
    pub name: CellName,
    /// Its index, which its ports derive from.
    pub index: u32,
    /// How often its certificates were revoked.
    #[serde(default, skip_serializing_if = "is_none")]
    pub revocations: u32,
    /// Its host; none when it is on this machine, as all cells of `cellar up` are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<CellHost>,
}

impl LocalCell {
    /// A cell of this machine of which nothing was revoked.
    #[must_use]
    pub fn new(name: CellName, index: u32) -> Self {
        Self { name, index, revocations: 0, host: None }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_none(revocations: &u32) -> bool {
    *revocations == 0
}

/// What a local cluster was created with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StateFile", into = "StateFile")]
pub struct ClusterState {
    version: u32,
    /// The cluster's name.
    pub cluster: ClusterName,
    /// What tells it from every other cluster of that name; none when it was made before clusters had ids.
    pub id: Option<uuid::Uuid>,
    /// Moves every port.
    pub port_offset: u16,
    /// Its first database.
    pub first_database: ClusterDatabase,
    /// Its other databases, whose names are in the directories of their members and in their certificates.
    pub further_databases: Vec<ClusterDatabase>,
    /// Where its backups go.
    pub repo: Repository,
    /// As whom PostgreSQL and everything beside it runs.
    pub os_user: String,
    /// How long its certificates are valid, in seconds; a year unless it was chosen.
    pub cert_lifetime_seconds: Option<u64>,
    /// Whether its multiadmin renews certificates by itself.
    pub renews: bool,
    /// Whether an HAProxy routes clients of a local cluster.
    pub route: bool,
    /// Whether each cell of a local cluster has a PgBouncer.
    pub pool: bool,
    /// Its cells.
    pub cells: Vec<LocalCell>,
    /// How its repository is encrypted; the passphrase is not here but in a file of its own.
    pub repo_cipher: Option<RepoCipher>,
    /// The name that its certificates for pgBackRest carry.
    pub pgbackrest_name: PgbackrestName,
    /// How often the certificates of cells that were removed were revoked: one that is added again must not get a name
    /// that was revoked.
    pub revocations_of_removed: BTreeMap<CellName, u32>,
    /// A revocation that has begun and not ended.
    pub revoking: Option<Revoking>,
    /// Cells whose hosts were off when a certificate was revoked, and have not been seen since to use new ones.
    pub not_waited_for: BTreeSet<CellName>,
    /// How the etcd members came by their data.
    pub etcd_origins: BTreeMap<CellName, EtcdOrigin>,
    /// The last restore of etcd on hosts: what runs there and knows of the time before it is ended when it is installed.
    pub etcd_restore: Option<uuid::Uuid>,
    /// What the members began with before each restore of etcd that was prepared since etcd was seen to work.
    pub former_etcd: Vec<FormerEtcd>,
    /// How many sets of bundles were issued for hosts.
    pub bundles: u64,
}

/// The state as its file has it. The first database stands in fields of the cluster's, as the only one always has: an older
/// release reads the file of a cluster that has no other, and says of any other file that a newer one wrote it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StateFile {
    version: u32,
    cluster: ClusterName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<uuid::Uuid>,
    port_offset: u16,
    database: DatabaseName,
    stanza: StanzaName,
    /// It has one field for each kind, as in etcd: a build that does not know one says that a newer release wrote the file.
    /// Once the first two kinds had this one.
    #[serde(alias = "repoInCell", alias = "repoUrl", with = "as_text", skip_serializing_if = "is_elsewhere")]
    repo: Repository,
    /// The repository on the host of one cell, only while this is written.
    #[serde(rename = "repoInCell", skip_deserializing, skip_serializing_if = "Option::is_none")]
    written_in_cell: Option<String>,
    /// The repository in a store, only while this is written.
    #[serde(rename = "repoUrl", skip_deserializing, skip_serializing_if = "Option::is_none")]
    written_url: Option<String>,
    os_user: String,
    bootstrap_cell: CellName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cert_lifetime_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    renews: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    route: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pool: bool,
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

fn is_elsewhere(repo: &Repository) -> bool {
    is_in_cell(repo) || repo.store().is_some()
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
            written_url: state.repo.store().map(ToString::to_string),
            repo: state.repo,
            os_user: state.os_user,
            bootstrap_cell,
            cert_lifetime_seconds: state.cert_lifetime_seconds,
            renews: state.renews,
            route: state.route,
            pool: state.pool,
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
            route: file.route,
            pool: file.pool,
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

/// All that is asked of a file of which nothing else may be understood.
#[derive(Deserialize)]
struct Form {
    version: u64,
}

/// The field or value that is not known here, if that is why a text cannot be read: it is JSON as it should be then.
fn unknown_word(error: &serde_json::Error) -> Option<String> {
    let text = error.is_data().then(|| error.to_string())?;
    let rest =
        ["unknown field ", "unknown variant "].into_iter().find_map(|start| text.strip_prefix(start))?;
    Some(rest.split(',').next().unwrap_or(rest).to_owned())
}

/// Whether both are the same repository, also if the paths to it differ.
pub(crate) fn is_same_repository(one: &Repository, other: &Repository) -> bool {
    match (one.local_directory(), other.local_directory()) {
        (Some(one), Some(other)) => is_same_place(one, other),
        _ => one == other,
    }
}

/// What is left to do of a revocation is known from this and from what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Revoking {
    /// What is revoked: the certificate that was named, and all that its key had.
    pub serials: BTreeSet<String>,
    /// The name that pgBackRest's servers must no longer accept, if one of these certificates has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_name: Option<PgbackrestName>,
    /// The public keys whose private halves are taken to be stolen. A renewal gives a key other certificates, so what is
    /// to be replaced is found by its key and not by its certificates.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keys: BTreeSet<String>,
    /// The directories whose key and certificates were replaced, or were about to be: until the end of the revocation
    /// the old key lies beside each.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub replaced: BTreeSet<PathBuf>,
}

impl ClusterState {
    /// A new cluster; cells get their indexes in alphabetical order. `cells` must not be empty.
    pub(crate) fn new(
        cluster: ClusterName,
        port_offset: u16,
        database: DatabaseName,
        stanza: StanzaName,
        repo: Repository,
        os_user: String,
        mut cells: Vec<CellName>,
    ) -> Option<Self> {
        cells.sort();
        let bootstrap_cell = cells.first()?.clone();
        let cells = (0..).zip(cells).map(|(index, name)| LocalCell::new(name, index)).collect();
        let version = VERSION;
        Some(Self {
            version,
            cluster,
            id: None,
            port_offset,
            first_database: ClusterDatabase {
                name: database,
                stanza,
                bootstrap_cell,
                cells: Vec::new(),
                port_offset,
                retention_full: None,
                first_backup: None,
            },
            further_databases: Vec::new(),
            repo,
            os_user,
            cert_lifetime_seconds: None,
            renews: false,
            route: false,
            pool: false,
            cells,
            repo_cipher: None,
            pgbackrest_name: PgbackrestName::default(),
            revocations_of_removed: BTreeMap::new(),
            revoking: None,
            not_waited_for: BTreeSet::new(),
            etcd_origins: BTreeMap::new(),
            etcd_restore: None,
            former_etcd: Vec::new(),
            bundles: 0,
        })
    }

    /// The state of a cluster that is made now.
    pub(crate) fn with_new_id(self) -> Self {
        Self { id: Some(clock::new_id()), ..self }
    }

    /// How long certificates are valid when that was chosen.
    pub(crate) fn cert_lifetime(&self) -> Option<Duration> {
        self.cert_lifetime_seconds.map(Duration::from_secs)
    }

    /// What hosts are given of it: all but what only the operator's directory needs, so that an older cellar on a host can
    /// read it longer.
    pub(crate) fn for_hosts(&self) -> Self {
        Self { not_waited_for: BTreeSet::new(), former_etcd: Vec::new(), ..self.clone() }
    }

    pub(crate) fn path(layout: &ClusterLayout) -> PathBuf {
        layout.state().join("cluster.json")
    }

    /// The same once more, for the day on which somebody loses the other.
    pub(crate) fn copy_path(layout: &ClusterLayout) -> PathBuf {
        layout.root().join("cluster.json.copy")
    }

    /// Reads it; `None` when there is no cluster in the directory.
    ///
    /// # Errors
    /// When it is there and cannot be read, or is missing although there is a cluster: a new one beside it would have
    /// other ports and another authority.
    pub fn load(layout: &ClusterLayout) -> Result<Option<Self>> {
        let path = Self::path(layout);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // It is the first file that `up` writes, and the last that `down --destroy` removes.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !layout.etcd().exists() => {
                return Ok(None);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let reason = format!("it is missing, and {} is there", layout.etcd().display());
                return Err(Self::bad(layout, reason));
            }
            Err(error) => return Err(ProvisionError::io("read", &path)(error)),
        };
        let newer = |reason: String| {
            let version = env!("CARGO_PKG_VERSION");
            ProvisionError::NewerState { path: path.clone(), reason, version }
        };
        let form = serde_json::from_str::<Form>(&text).map(|form| form.version);
        if let Some(version) = form.ok().filter(|version| *version > u64::from(VERSION)) {
            return Err(newer(format!("its form is {version}, and {VERSION} is the last that is known")));
        }
        match serde_json::from_str::<Self>(&text) {
            Ok(state) => Ok(Some(state)),
            Err(error) => match unknown_word(&error) {
                Some(word) => Err(newer(format!("{word} in it is not known"))),
                None => Err(Self::bad(layout, error.to_string())),
            },
        }
    }

    /// Writes it whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn save(&self, layout: &ClusterLayout) -> Result<()> {
        let text =
            serde_json::to_string_pretty(self).map_err(|error| Self::bad(layout, error.to_string()))? + "\n";
        replace(&Self::path(layout), &text, 0o644, None)?;
        replace(&Self::copy_path(layout), &text, 0o644, None)
    }

    fn bad(layout: &ClusterLayout, reason: String) -> ProvisionError {
        let copy = Some(Self::copy_path(layout)).filter(|copy| copy.exists());
        ProvisionError::BadState { path: Self::path(layout), reason, copy }
    }

    /// How often the certificates of a cell were revoked, which may have been removed.
    #[must_use]
    pub fn revocations_of(&self, name: &CellName) -> u32 {
        let removed = || self.revocations_of_removed.get(name).copied();
        self.cell(name).map(|cell| cell.revocations).or_else(removed).unwrap_or_default()
    }

    /// Counts a revocation of a cell's certificates.
    pub(crate) fn count_revocation(&mut self, name: &CellName) {
        match self.cells.iter_mut().find(|cell| cell.name == *name) {
            Some(cell) => cell.revocations += 1,
            None => *self.revocations_of_removed.entry(name.clone()).or_default() += 1,
        }
    }

    /// Takes in a cell that has a host, in the place of an entry of its name.
    pub(crate) fn add_cell_on_host(&mut self, name: CellName, index: u32, host: CellHost) {
        self.add_cell(name, index);
        if let Some(added) = self.cells.last_mut() {
            added.host = Some(host);
        }
    }

    /// Takes a cell in, in the place of an entry of its name.
    pub(crate) fn add_cell(&mut self, name: CellName, index: u32) {
        let revocations = self.revocations_of(&name);
        let host = self.cell(&name).and_then(|cell| cell.host.clone());
        self.revocations_of_removed.remove(&name);
        self.cells.retain(|known| known.name != name);
        self.cells.push(LocalCell { name, index, revocations, host });
    }

    /// Forgets a cell, but not how often its certificates were revoked.
    pub(crate) fn remove_cell(&mut self, name: &CellName) {
        let revocations = self.revocations_of(name);
        self.cells.retain(|known| known.name != *name);
        self.etcd_origins.remove(name);
        self.not_waited_for.remove(name);
        if revocations > 0 {
            self.revocations_of_removed.insert(name.clone(), revocations);
        }
    }

    /// The cell of that name.
    #[must_use]
    pub fn cell(&self, name: &CellName) -> Option<&LocalCell> {
        self.cells.iter().find(|cell| cell.name == *name)
    }
}

#[cfg(test)]
mod tests;
