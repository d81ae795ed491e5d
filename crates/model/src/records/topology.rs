//! Cells and databases.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::records::repository::location::Repository;
use crate::types::code::{Code, Refusal};
use crate::types::host::HostName;
use crate::types::json;
use crate::types::name::{CellName, DatabaseName, StanzaName};
use crate::types::pgbackrest_name::PgbackrestName;
use crate::types::protocol::Protocol;

/// A failure domain. Its index never changes and every port derives from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cell {
    /// Its name.
    pub name: CellName,
    /// Position that its ports derive from, from 0.
    #[serde(default)]
    pub index: u32,
    /// DNS name under which the other cells reach it.
    pub host: HostName,
    /// Directory on that host that holds the cell's files.
    pub directory: String,
}

/// The next free index: one above the highest in use, so that an index is not
/// handed to a new cell while certificates and configs of an old one are still about.
#[must_use]
pub fn next_index<'a>(cells: impl IntoIterator<Item = &'a Cell>) -> u32 {
    cells.into_iter().map(|cell| cell.index + 1).max().unwrap_or(0)
}

/// How many backups are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Full backups kept, `repo1-retention-full`.
    #[serde(default)]
    pub full: u32,
}

/// How a repository is encrypted, before anything leaves the host that writes it. The passphrase is in no record:
/// it lies in a file beside each pooler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RepoCipher {
    /// pgBackRest's only one.
    #[serde(rename = "REPO_CIPHER_AES_256_CBC")]
    Aes256Cbc,
}

impl RepoCipher {
    /// The value of `repo1-cipher-type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aes256Cbc => "aes-256-cbc",
        }
    }
}

/// What an acknowledged commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Durability {
    /// The loss of no member but standbys: a commit is acknowledged when the primary has it. Nobody is promoted without a person.
    #[default]
    #[serde(rename = "DURABILITY_ASYNC")]
    Async,
    /// The loss of any minority of the members: a commit is acknowledged when a majority has it, and when the primary is
    /// lost a standby that has every acknowledged commit takes its place.
    #[serde(rename = "DURABILITY_QUORUM")]
    Quorum,
}

impl Durability {
    /// As commands and specifications say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Quorum => "quorum",
        }
    }

    // serde hands a reference over.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    fn is_async(&self) -> bool {
        *self == Self::Async
    }
}

impl std::str::FromStr for Durability {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        match text {
            "async" => Ok(Self::Async),
            "quorum" => Ok(Self::Quorum),
            other => Err(Refusal::new(
                Code::InvalidArgument,
                format!("durability {other:?} is neither \"async\" nor \"quorum\""),
            )),
        }
    }
}

/// A person works on the database: nothing is done by itself meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// Since when, by multiadmin's clock.
    #[serde(with = "json::time")]
    pub since: Timestamp,
    /// Who asked for it.
    pub by: String,
    /// Why, as they said; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// One replication group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// Its name.
    pub name: DatabaseName,
    /// pgBackRest's name for its lineage.
    pub stanza: StanzaName,
    /// Where its backups and its WAL are kept.
    #[serde(flatten)]
    pub repository: Repository,
    /// What is kept there.
    #[serde(default)]
    pub retention: Retention,
    /// The cell that runs initdb when nothing exists yet. Says nothing about roles afterwards.
    pub bootstrap_cell: CellName,
    /// Added to every port of this database's poolers.
    #[serde(default)]
    pub port_offset: u32,
    /// How its repository is encrypted; none when it is not. Fixed when the database is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo_cipher: Option<RepoCipher>,
    /// The names that pgBackRest's servers let in, the one first that certificates carry from now on. Empty for
    /// `pgbackrest` alone, which is how it is until a certificate is revoked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pgbackrest_names: Vec<PgbackrestName>,
    /// The least that a process must speak to do anything for this database but keep PostgreSQL running.
    #[serde(default, skip_serializing_if = "Protocol::is_unnumbered")]
    pub minimum_protocol: Protocol,
    /// Which cluster of that name it belongs to; none when the cluster was made before clusters had ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<Uuid>,
    /// The cells in which it is to have members, whether they are there or not; empty for all that there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<CellName>,
    /// Whether its name is in the directories of its members and in the names of their certificates, as it is of every
    /// database of a cluster but the first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_qualified: bool,
    /// What an acknowledged commit survives.
    #[serde(default, skip_serializing_if = "Durability::is_async")]
    pub durability: Durability,
    /// PostgreSQL's settings in every member, besides Cellar's own: values by names in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// Whether nothing is to be done by itself: no failover, no start of a PostgreSQL that ended, no scheduled job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
}

impl Database {
    /// Whether it is to have a member in a cell.
    #[must_use]
    pub fn is_wanted_in(&self, cell: &CellName) -> bool {
        self.cells.is_empty() || self.cells.contains(cell)
    }

    /// Its name, where it stands in directories and certificates.
    #[must_use]
    pub fn qualifier(&self) -> Option<&DatabaseName> {
        self.is_qualified.then_some(&self.name)
    }

    /// The name that certificates for pgBackRest carry from now on.
    #[must_use]
    pub fn pgbackrest_name(&self) -> PgbackrestName {
        self.pgbackrest_names.first().copied().unwrap_or_default()
    }

    /// Why a process must not work with this record: another cluster of the same name, of which no process of the cluster
    /// `own` may change anything, has it. Clusters from before there were ids are not told apart.
    ///
    /// # Errors
    /// When both ids are known and differ.
    pub fn check_cluster(&self, own: Option<Uuid>) -> Result<(), Refusal> {
        match (self.cluster_id, own) {
            (Some(recorded), Some(own)) if recorded != own => Err(Refusal::new(
                Code::WrongInstance,
                format!(
                    "etcd has the records of another cluster of this name: its id is {recorded}, and this process is of the one with the id {own}; nothing is done"
                ),
            )
            .hint("put this cluster's own etcd back, or install the bundles of the other one after `cellar host remove`")
            .about("database", &self.name)),
            _ => Ok(()),
        }
    }

    /// The names that pgBackRest's servers let in.
    #[must_use]
    pub fn accepted_names(&self) -> Vec<PgbackrestName> {
        match self.pgbackrest_names.as_slice() {
            [] => vec![PgbackrestName::default()],
            names => names.to_vec(),
        }
    }
}

/// The serial numbers of revoked certificates, as the cluster's authorities signed them.
///
/// Readers trust the signatures and not this record: writing here neither revokes a certificate nor reinstates one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevocationList {
    /// Certificate revocation lists in PEM, one of each authority, the newest authority's first.
    pub pem: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(name: &str, index: u32) -> Cell {
        Cell {
            name: name.parse().unwrap(),
            index,
            host: "localhost".parse().unwrap(),
            directory: "/c".into(),
        }
    }

    #[test]
    fn record_of_another_cluster_is_refused_and_one_from_before_there_were_ids_is_not() {
        let text = r#"{"name":"app","stanza":"app","repoPath":"/r","bootstrapCell":"zone1"}"#;
        let old: Database = serde_json::from_str(text).unwrap();
        assert!(!serde_json::to_string(&old).unwrap().contains("clusterId"), "an older build reads it");
        let (ours, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let new = Database { cluster_id: Some(ours), ..old.clone() };
        for (record, own, is_fine) in [
            (&old, None, true),
            (&old, Some(ours), true),
            (&new, None, true),
            (&new, Some(ours), true),
            (&new, Some(other), false),
        ] {
            assert_eq!(record.check_cluster(own).is_ok(), is_fine, "{record:?} {own:?}");
        }
        let refusal = new.check_cluster(Some(other)).unwrap_err();
        assert!(refusal.message.contains(&ours.to_string()) && refusal.message.contains(&other.to_string()));
    }

    #[test]
    fn new_cell_gets_the_index_above_the_highest() {
        assert_eq!(next_index(&[]), 0);
        assert_eq!(next_index(&[cell("zone1", 0), cell("zone3", 2)]), 3);
    }
}
