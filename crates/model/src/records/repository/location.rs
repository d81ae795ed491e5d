//! The kinds of repository, and how records hold them.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::records::repository::error::RepositoryError;
use crate::records::repository::repo_path::RepoPath;
use crate::records::repository::store::Store;
use crate::records::repository::store_url::scheme;
use crate::types::name::CellName;

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
    /// A store that every host reaches over the network by itself.
    Store(Store),
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
            Self::InCell { .. } | Self::Store(_) => None,
        }
    }

    /// The directory that holds it, as the host of `cell` sees it; none when the repository is elsewhere.
    #[must_use]
    pub fn directory_in(&self, cell: &CellName) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(Path::new(path.as_str())),
            Self::InCell { cell: home, path } => (home == cell).then(|| Path::new(path.as_str())),
            Self::Store(_) => None,
        }
    }

    /// The directory that holds it, on whatever host that is; none when it is no directory.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) | Self::InCell { path, .. } => Some(Path::new(path.as_str())),
            Self::Store(_) => None,
        }
    }

    /// The store, when it is in one.
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        match self {
            Self::Store(store) => Some(store),
            Self::Directory(_) | Self::InCell { .. } => None,
        }
    }

    /// The only cell whose host has it; none when all have it, or reach it alike.
    #[must_use]
    pub fn home(&self) -> Option<&CellName> {
        match self {
            Self::Directory(_) | Self::Store(_) => None,
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

/// For people: the path, with the cell before it when only one has it; or the URL.
impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => f.pad(path.as_str()),
            Self::InCell { cell, path } => f.pad(&format!("{cell}:{}", path.as_str())),
            Self::Store(store) => store.fmt(f),
        }
    }
}

/// The absolute path of a directory that all hosts see, as it is or as `file:///path`; or the URL of a store.
impl FromStr for Repository {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self, RepositoryError> {
        match text.strip_prefix("file://") {
            Some(path) => Ok(Self::Directory(path.parse()?)),
            None if scheme(text).is_some() => Ok(Self::Store(text.parse()?)),
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repo_url: Option<Store>,
}

impl Serialize for Repository {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let none = RepositoryFields::default();
        let fields = match self.clone() {
            Self::Directory(path) => RepositoryFields { repo_path: Some(path), ..none },
            Self::InCell { cell, path } => {
                RepositoryFields { repo_in_cell: Some(InCell { cell, path }), ..none }
            }
            Self::Store(store) => RepositoryFields { repo_url: Some(store), ..none },
        };
        fields.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Repository {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let RepositoryFields { repo_path, repo_in_cell, repo_url } =
            RepositoryFields::deserialize(deserializer)?;
        match (repo_path, repo_in_cell, repo_url) {
            (Some(path), None, None) => Ok(Self::Directory(path)),
            (None, Some(InCell { cell, path }), None) => Ok(Self::InCell { cell, path }),
            (None, None, Some(store)) => Ok(Self::Store(store)),
            (None, None, None) => Err(serde::de::Error::custom(RepositoryError::Missing)),
            _ => Err(serde::de::Error::custom(RepositoryError::TwoKinds)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_cell() -> Repository {
        Repository::InCell { cell: "zone3".parse().unwrap(), path: "/mnt/repo".parse().unwrap() }
    }

    const URL: &str = "s3://backups/demo?endpoint=minio.example&region=us-east-1";

    fn in_store() -> Repository {
        URL.parse().unwrap()
    }

    #[test]
    fn store_is_a_directory_of_nobody() {
        let (repository, zone1) = (in_store(), "zone1".parse().unwrap());
        assert_eq!((repository.local_directory(), repository.directory_in(&zone1)), (None, None));
        assert_eq!((repository.directory(), repository.home()), (None, None));
        assert_eq!(repository.reached_through(&zone1), None);
        assert_eq!(repository.store().map(ToString::to_string).as_deref(), Some(URL));
    }

    #[test]
    fn directory_is_named_by_its_path() {
        assert_eq!("file:///mnt/repo".parse(), "/mnt/repo".parse::<Repository>());
        assert!("file://mnt/repo".parse::<Repository>().is_err());
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
        for repository in [directory, in_cell(), in_store()] {
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
        assert_eq!("tls://b/p".parse::<Repository>(), Err(RepositoryError::UnknownKind("tls".to_owned())));
        let error = serde_json::from_str::<Repository>(r#"{"repoOther": {}}"#).unwrap_err().to_string();
        assert!(error.contains("repoPath"), "{error}");
    }

    #[test]
    fn record_has_one_field_for_each_kind() {
        for (repository, json) in [
            ("/mnt/repo".parse().unwrap(), r#"{"repoPath":"/mnt/repo"}"#),
            (in_cell(), r#"{"repoInCell":{"cell":"zone3","path":"/mnt/repo"}}"#),
            (in_store(), &format!(r#"{{"repoUrl":"{URL}"}}"#)),
        ] {
            assert_eq!(serde_json::to_string(&repository).unwrap(), json);
            assert_eq!(serde_json::from_str::<Repository>(json).unwrap(), repository);
        }
        for bad in [
            r#"{"repoPath":"/a;b"}"#,
            r#"{"repoInCell":{"cell":"zone3","path":"a"}}"#,
            r#"{"repoPath":"/a","repoInCell":{"cell":"zone3","path":"/a"}}"#,
            r#"{"repoPath":"/a","repoUrl":"s3://backups/demo?region=r"}"#,
            r#"{"repoUrl":"s3://backups/demo"}"#,
            r#"{"repoUrl":"/a"}"#,
        ] {
            assert!(serde_json::from_str::<Repository>(bad).is_err(), "{bad}");
        }
    }
}
