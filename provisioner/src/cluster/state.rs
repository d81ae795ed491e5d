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
use crate::cluster::state_file::StateFile;
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
    pub(super) version: u32,
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
mod tests {
    use super::*;
    use crate::file::make_directory;

    fn state() -> ClusterState {
        let cells = ["zone2", "zone1"].map(|name| name.parse().unwrap()).to_vec();
        ClusterState::new(
            "demo".parse().unwrap(),
            700,
            "app".parse().unwrap(),
            "app".parse().unwrap(),
            "/c/repo".parse().unwrap(),
            "postgres".into(),
            cells,
        )
        .unwrap()
    }

    #[test]
    fn state_reads_back_and_indexes_are_alphabetical() {
        let dir = tempfile::tempdir().unwrap();
        let layout = ClusterLayout::new(dir.path());
        assert_eq!(ClusterState::load(&layout).unwrap(), None);
        make_directory(&layout.state(), 0o755, None).unwrap();
        state().save(&layout).unwrap();
        let read = ClusterState::load(&layout).unwrap().unwrap();
        assert_eq!(read, state());
        assert_eq!(read.cell(&"zone1".parse().unwrap()).unwrap().index, 0);
        assert_eq!(read.first_database.bootstrap_cell.as_str(), "zone1");
    }

    #[test]
    fn cell_that_comes_back_remembers_its_revocations() {
        let (mut state, zone2) = (state(), "zone2".parse().unwrap());
        let plain = serde_json::to_string(&state).unwrap();
        state.count_revocation(&zone2);
        state.add_cell(zone2.clone(), 1);
        assert_eq!(state.revocations_of(&zone2), 1, "finishing one that was interrupted");
        state.remove_cell(&zone2);
        assert_eq!((state.cell(&zone2), state.revocations_of(&zone2)), (None, 1));
        state.count_revocation(&zone2);
        state.add_cell(zone2.clone(), 4);
        let expected = LocalCell { revocations: 2, ..LocalCell::new(zone2.clone(), 4) };
        assert_eq!(state.cell(&zone2), Some(&expected));
        assert!(!plain.contains("revocationsOfRemoved"), "an older build reads it: {plain}");
    }

    /// The repository as builds had it that knew one kind only.
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[expect(dead_code, reason = "it is only read")]
    struct Before {
        version: u32,
        cluster: String,
        port_offset: u16,
        database: String,
        stanza: String,
        repo: cellar_model::RepoPath,
        os_user: String,
        bootstrap_cell: String,
        cells: Vec<LocalCell>,
    }

    #[test]
    fn a_repository_on_one_host_is_a_word_that_an_older_build_does_not_know() {
        let plain = serde_json::to_string(&state()).unwrap();
        assert!(plain.contains(r#""repo":"/c/repo""#), "{plain}");
        let _: Before = serde_json::from_str(&plain).unwrap();
        let there = ClusterState { repo: Repository::parse_shown("zone1:/c/repo").unwrap(), ..state() };
        let text = serde_json::to_string_pretty(&there).unwrap();
        let unknown = unknown_word(&serde_json::from_str::<Before>(&text).unwrap_err());
        assert_eq!(unknown.as_deref(), Some("`repoInCell`"), "{text}");
        assert_eq!(serde_json::from_str::<ClusterState>(&text).unwrap(), there);
        let once = text.replace("repoInCell", "repo");
        assert_eq!(serde_json::from_str::<ClusterState>(&once).unwrap(), there);
        let both = text.replacen('{', r#"{ "repo": "/c/repo","#, 1);
        assert!(serde_json::from_str::<ClusterState>(&both).is_err(), "a cluster has one");
    }

    #[test]
    fn half_a_file_is_damaged_and_what_a_newer_release_wrote_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let layout = ClusterLayout::new(dir.path());
        make_directory(&layout.state(), 0o755, None).unwrap();
        state().save(&layout).unwrap();
        let path = ClusterState::path(&layout);
        let text = fs::read_to_string(&path).unwrap();
        for bad in
            [text[..40].to_owned(), String::new(), text.replace("\"database\"", "\"database\": 7, \"x\"")]
        {
            fs::write(&path, bad).unwrap();
            assert!(matches!(ClusterState::load(&layout), Err(ProvisionError::BadState { .. })));
        }
        for newer in [
            text.replace("\"version\": 1", "\"version\": 2"),
            text.replacen('{', "{ \"rack\": { \"of\": 7 },", 1),
            text.replacen(
                '{',
                "{ \"etcdOrigins\": { \"zone1\": { \"from\": \"cloud\", \"id\": \"7\" } },",
                1,
            ),
        ] {
            fs::write(&path, &newer).unwrap();
            let error = ClusterState::load(&layout).unwrap_err();
            assert!(error.to_string().contains("written by a newer release of cellar"), "{error}: {newer}");
            let hint = error.hint().unwrap();
            assert!(hint.contains("newer release") && !hint.contains("copy"), "{hint}");
        }
    }

    #[test]
    fn lost_state_of_a_cluster_is_no_empty_directory() {
        let dir = tempfile::tempdir().unwrap();
        let layout = ClusterLayout::new(dir.path());
        make_directory(&layout.state(), 0o755, None).unwrap();
        state().save(&layout).unwrap();
        make_directory(&layout.etcd(), 0o700, None).unwrap();
        fs::remove_file(ClusterState::path(&layout)).unwrap();
        let error = ClusterState::load(&layout).unwrap_err();
        let hint = error.hint().unwrap();
        let (program, arguments) =
            hint.strip_prefix("put its copy there: ").unwrap().split_once(' ').unwrap();
        let done = std::process::Command::new(program).args(arguments.split(' ')).status().unwrap();
        assert!(done.success(), "{hint}");
        assert_eq!(ClusterState::load(&layout).unwrap(), Some(state()));
    }
}
