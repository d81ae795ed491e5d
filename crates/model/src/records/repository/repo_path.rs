//! The path of a repository, in a file system or in a store.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::records::repository::error::RepositoryError;
use crate::types::path_rule::path_fault;

/// The absolute path of a repository, which may stand in `pgbackrest.conf` as it is.
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
