//! Where the backups and the WAL of a database are kept.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::name::CellName;
use crate::types::path_rule::path_fault;

/// Why a text names no repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryError {
    /// It is a path that cannot be used.
    #[error("the repository {text:?} is not usable: {reason}")]
    Path {
        /// What was given, cut to 200 characters.
        text: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// It is a URL of a kind of store that is not known.
    #[error("repositories of kind {0} are not supported yet")]
    UnknownKind(String),
    /// A record names no kind of store that is known.
    #[error(
        "the record has neither `repoPath` nor `repoInCell`, and no other kind of repository is known to this version"
    )]
    Missing,
    /// A record names two.
    #[error("the record has both `repoPath` and `repoInCell`, and a database has one repository")]
    TwoKinds,
}

/// The absolute path of a directory that holds a repository, which may stand in `pgbackrest.conf` as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepoPath(String);

impl RepoPath {
    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepoPath {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self, RepositoryError> {
        match path_fault(text) {
            None => Ok(Self(text.to_owned())),
            Some(reason) => Err(RepositoryError::Path { text: text.chars().take(200).collect(), reason }),
        }
    }
}

impl TryFrom<String> for RepoPath {
    type Error = RepositoryError;

    fn try_from(text: String) -> Result<Self, RepositoryError> {
        text.parse()
    }
}

impl From<RepoPath> for String {
    fn from(path: RepoPath) -> String {
        path.0
    }
}

/// Where a database's repository is: one variant for each kind of store.
///
/// Only `crates/pgbackrest` and `pooler/src/repository` look at the variants. All others use the methods: the location
/// for messages, and the directory on this host for what has to be created, checked for access or measured here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repository {
    /// A directory that every host of the database reaches under the same path.
    Directory(RepoPath),
    /// A directory that only the host of one cell has. The other hosts reach it through pgBackRest's TLS server there.
    InCell {
        /// The cell.
        cell: CellName,
        /// The directory on its host.
        path: RepoPath,
    },
}

impl Repository {
    /// One that only the host of this cell has.
    #[must_use]
    pub fn in_cell(cell: CellName, path: RepoPath) -> Self {
        Self::InCell { cell, path }
    }

    /// The directory that holds it, if each process of the database sees the same one under this path; none when that
    /// depends on the host. See [`Repository::directory_in`].
    #[must_use]
    pub fn local_directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(Path::new(path.as_str())),
            Self::InCell { .. } => None,
        }
    }

    /// The directory that holds it, as the host of `cell` sees it; none when the repository is elsewhere.
    #[must_use]
    pub fn directory_in(&self, cell: &CellName) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(Path::new(path.as_str())),
            Self::InCell { cell: home, path } => (home == cell).then(|| Path::new(path.as_str())),
        }
    }

    /// The directory that holds it, on whatever host that is; none when it is no directory.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) | Self::InCell { path, .. } => Some(Path::new(path.as_str())),
        }
    }

    /// The only cell whose host has it; none when all have.
    #[must_use]
    pub fn home(&self) -> Option<&CellName> {
        match self {
            Self::Directory(_) => None,
            Self::InCell { cell, .. } => Some(cell),
        }
    }

    /// The cell whose host `cell` reaches it through; none when it has it itself.
    #[must_use]
    pub fn reached_through(&self, cell: &CellName) -> Option<&CellName> {
        self.home().filter(|home| *home != cell)
    }

    /// Reads what [`fmt::Display`] wrote.
    ///
    /// # Errors
    /// When it names no repository.
    pub fn parse_shown(text: &str) -> Result<Self, RepositoryError> {
        match text.split_once(":/") {
            Some((cell, path)) if !text.starts_with('/') && !path.starts_with('/') => {
                let cell = cell.parse().map_err(|_| RepositoryError::Path {
                    text: text.chars().take(200).collect(),
                    reason: "it begins with no name of a cell",
                })?;
                Ok(Self::InCell { cell, path: format!("/{path}").parse()? })
            }
            _ => text.parse(),
        }
    }
}

/// For people: the path, and the cell before it when only one has it.
impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => f.pad(path.as_str()),
            Self::InCell { cell, path } => f.pad(&format!("{cell}:{}", path.as_str())),
        }
    }
}

/// The absolute path of a directory that all hosts see; a URL is refused with the kind of store that it names.
impl FromStr for Repository {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self, RepositoryError> {
        match text.split_once("://") {
            Some((kind, _)) => Err(RepositoryError::UnknownKind(kind.chars().take(80).collect())),
            None => Ok(Self::Directory(text.parse()?)),
        }
    }
}

/// A repository on the host of one cell, as records have it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InCell {
    cell: CellName,
    path: RepoPath,
}

/// The fields of a record that hold its repository: exactly one of them is there. So a process that does not know the
/// one that is there does nothing for the database, rather than taking it for another.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RepositoryFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repo_path: Option<RepoPath>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repo_in_cell: Option<InCell>,
}

impl Serialize for Repository {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let none = RepositoryFields::default();
        let fields = match self.clone() {
            Self::Directory(path) => RepositoryFields { repo_path: Some(path), ..none },
            Self::InCell { cell, path } => {
                RepositoryFields { repo_in_cell: Some(InCell { cell, path }), ..none }
            }
        };
        fields.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Repository {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let RepositoryFields { repo_path, repo_in_cell } = RepositoryFields::deserialize(deserializer)?;
        match (repo_path, repo_in_cell) {
            (Some(path), None) => Ok(Self::Directory(path)),
            (None, Some(InCell { cell, path })) => Ok(Self::InCell { cell, path }),
            (None, None) => Err(serde::de::Error::custom(RepositoryError::Missing)),
            (Some(_), Some(_)) => Err(serde::de::Error::custom(RepositoryError::TwoKinds)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_cell() -> Repository {
        Repository::InCell { cell: "zone3".parse().unwrap(), path: "/mnt/repo".parse().unwrap() }
    }

    #[test]
    fn directory_is_named_by_its_path() {
        let repository: Repository = "/mnt/repo".parse().unwrap();
        assert_eq!(repository.to_string(), "/mnt/repo");
        assert_eq!(repository.local_directory(), Some(Path::new("/mnt/repo")));
        let zone1 = "zone1".parse().unwrap();
        assert_eq!(repository.directory_in(&zone1), Some(Path::new("/mnt/repo")));
        assert_eq!((repository.home(), repository.reached_through(&zone1)), (None, None));
    }

    #[test]
    fn directory_of_one_cell_is_there_for_no_other() {
        let (repository, zone1, zone3) = (in_cell(), "zone1".parse().unwrap(), "zone3".parse().unwrap());
        assert_eq!(repository.local_directory(), None);
        assert_eq!(repository.directory_in(&zone3), Some(Path::new("/mnt/repo")));
        assert_eq!(repository.directory_in(&zone1), None);
        assert_eq!(repository.reached_through(&zone1), Some(&zone3));
        assert_eq!((repository.home(), repository.reached_through(&zone3)), (Some(&zone3), None));
    }

    #[test]
    fn what_is_shown_is_read_again() {
        let directory: Repository = "/mnt/a:/b".parse().unwrap();
        for repository in [directory, in_cell()] {
            assert_eq!(Repository::parse_shown(&repository.to_string()), Ok(repository));
        }
        assert_eq!(in_cell().to_string(), "zone3:/mnt/repo");
        // A person names a directory that all hosts see.
        assert!("zone3:/mnt/repo".parse::<Repository>().is_err());
        for text in ["Zone 3:/mnt/repo", ":/mnt", "s3://b/p", "zone3:/a;b", "zone3:mnt"] {
            assert!(Repository::parse_shown(text).is_err(), "{text}");
        }
    }

    #[test]
    fn path_that_pgbackrest_would_misread_is_refused() {
        for text in ["", "repo", "/repo ; note", "/a/../b", "/a/", "/a\n"] {
            assert!(matches!(text.parse::<Repository>(), Err(RepositoryError::Path { .. })), "{text:?}");
        }
    }

    #[test]
    fn unknown_kind_of_store_is_refused_by_name() {
        assert_eq!("s3://b/p".parse::<Repository>(), Err(RepositoryError::UnknownKind("s3".to_owned())));
        let error = serde_json::from_str::<Repository>(r#"{"repoOther": {}}"#).unwrap_err().to_string();
        assert!(error.contains("repoPath"), "{error}");
    }

    #[test]
    fn record_has_one_field_for_each_kind() {
        for (repository, json) in [
            ("/mnt/repo".parse().unwrap(), r#"{"repoPath":"/mnt/repo"}"#),
            (in_cell(), r#"{"repoInCell":{"cell":"zone3","path":"/mnt/repo"}}"#),
        ] {
            assert_eq!(serde_json::to_string(&repository).unwrap(), json);
            assert_eq!(serde_json::from_str::<Repository>(json).unwrap(), repository);
        }
        for bad in [
            r#"{"repoPath":"/a;b"}"#,
            r#"{"repoInCell":{"cell":"zone3","path":"a"}}"#,
            r#"{"repoPath":"/a","repoInCell":{"cell":"zone3","path":"/a"}}"#,
        ] {
            assert!(serde_json::from_str::<Repository>(bad).is_err(), "{bad}");
        }
    }
}
