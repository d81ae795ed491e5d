//! What an operator's certificate permits.

use std::collections::BTreeSet;
use std::fmt;

use crate::types::name::DatabaseName;

/// What a person or program may do through multiadmin. Each may do all that the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OperatorRole {
    /// Reads.
    Viewer,
    /// Also backs up, drills, plans and rebuilds standbys: nothing that could lose data.
    Operator,
    /// Everything.
    Admin,
}

impl OperatorRole {
    /// The role as it stands in a certificate's URI.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl std::str::FromStr for OperatorRole {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Viewer, Self::Operator, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a role: viewer, operator or admin"))
    }
}

impl fmt::Display for OperatorRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The databases that somebody may see and work with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DatabaseScope {
    /// All that the cluster has, and will have.
    #[default]
    All,
    /// These, whether the cluster has them or not.
    Only(BTreeSet<DatabaseName>),
}

impl DatabaseScope {
    /// Whether it has a database.
    #[must_use]
    pub fn contains(&self, database: &DatabaseName) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(database),
        }
    }
}
