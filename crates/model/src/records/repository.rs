//! Where the backups and the WAL of a database are kept.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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
    #[error("the record has no `repoPath`, and no other kind of repository is known to this version")]
    Missing,
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
}

impl Repository {
    /// Where it is, for people.
    #[must_use]
    pub fn location(&self) -> &str {
        match self {
            Self::Directory(path) => path.as_str(),
        }
    }

    /// The directory on this host that holds it; none when the store is elsewhere.
    #[must_use]
    pub fn local_directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(Path::new(path.as_str())),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.location())
    }
}

/// The absolute path of a directory; a URL is refused with the kind of store that it names.
impl FromStr for Repository {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self, RepositoryError> {
        match text.split_once("://") {
            Some((kind, _)) => Err(RepositoryError::UnknownKind(kind.chars().take(80).collect())),
            None => Ok(Self::Directory(text.parse()?)),
        }
    }
}

/// The fields of a record that hold its repository: exactly one of them is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RepositoryFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repo_path: Option<RepoPath>,
}

impl Serialize for Repository {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = match self {
            Self::Directory(path) => RepositoryFields { repo_path: Some(path.clone()) },
        };
        fields.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Repository {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let RepositoryFields { repo_path } = RepositoryFields::deserialize(deserializer)?;
        repo_path.map(Self::Directory).ok_or_else(|| serde::de::Error::custom(RepositoryError::Missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_is_named_by_its_path() {
        let repository: Repository = "/mnt/repo".parse().unwrap();
        assert_eq!(repository.location(), "/mnt/repo");
        assert_eq!(repository.local_directory(), Some(Path::new("/mnt/repo")));
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
        let repository: Repository = "/mnt/repo".parse().unwrap();
        let json = r#"{"repoPath":"/mnt/repo"}"#;
        assert_eq!(serde_json::to_string(&repository).unwrap(), json);
        assert_eq!(serde_json::from_str::<Repository>(json).unwrap(), repository);
        assert!(serde_json::from_str::<Repository>(r#"{"repoPath":"/a;b"}"#).is_err());
    }
}
