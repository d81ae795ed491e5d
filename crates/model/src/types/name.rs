//! Names of clusters, cells, databases, stanzas and schedules.
//!
//! They become directory names, etcd key segments, certificate subjects and
//! pgBackRest section headers, so one narrow alphabet serves all of them:
//! lower-case letters, digits, `-` and `_`, starting with a letter or digit.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest accepted name in bytes. DNS labels end at 63 and cell names become host names.
const MAX_LEN: usize = 63;

/// Directories a local cluster keeps beside its cells; a cell of that name would collide.
const RESERVED_CELLS: [&str; 9] =
    ["ca", "client", "etcd", "log", "multiadmin", "pid", "repo", "signing", "state"];

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {reason}")]
pub struct NameError {
    /// The kind of name, such as `cell`.
    pub what: &'static str,
    /// What was given.
    pub text: String,
    /// The rule that it breaks.
    pub reason: &'static str,
}

fn check(what: &'static str, text: &str) -> Result<(), NameError> {
    let fail = |reason| Err(NameError { what, text: text.chars().take(80).collect(), reason });
    if text.is_empty() {
        return fail("it is empty");
    }
    if text.len() > MAX_LEN {
        return fail("it is longer than 63 bytes");
    }
    if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_') {
        return fail("only lower-case letters, digits, '-' and '_' are allowed");
    }
    if !text.as_bytes()[0].is_ascii_alphanumeric() {
        return fail("it must start with a letter or a digit");
    }
    if what == "stanza" && text == "global" {
        return fail("pgBackRest's file has a section of that name for all stanzas");
    }
    if what == "cell" && RESERVED_CELLS.contains(&text) {
        return fail("a cluster keeps a directory of that name beside its cells");
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check($what, text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                check($what, &text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// A cluster: one etcd keyspace and one certificate authority.
    ClusterName, "cluster"
);
name_type!(
    /// A cell (failure domain, availability zone).
    CellName, "cell"
);
name_type!(
    /// A database: one replication group.
    DatabaseName, "database"
);
name_type!(
    /// A pgBackRest stanza.
    StanzaName, "stanza"
);
name_type!(
    /// A schedule of a database.
    ScheduleName, "schedule"
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_names_are_accepted() {
        for text in ["zone1", "eu-west-1a", "a", "9lives", "my_cell"] {
            assert_eq!(text.parse::<CellName>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn names_that_could_escape_are_refused() {
        for text in
            ["", "-rf", ".", "..", "a/b", "a b", "Zone1", "a\n", "a;b", "a#", "[x]", "é", "ca", "repo"]
        {
            assert!(text.parse::<CellName>().is_err(), "{text:?}");
        }
        assert!("a".repeat(64).parse::<CellName>().is_err());
        // Only cells share a directory with the cluster's own files.
        assert!("repo".parse::<DatabaseName>().is_ok());
        assert!("global".parse::<StanzaName>().is_err());
    }

    proptest! {
        #[test]
        fn no_accepted_name_needs_quoting(text in ".{0,70}") {
            if let Ok(name) = text.parse::<DatabaseName>() {
                prop_assert!(!name.as_str().contains(['/', ' ', '\\', '"', '\'', ';', '#', '[', ']', '=', '\n', '.']));
                prop_assert!(!name.as_str().starts_with('-'));
            }
        }
    }
}
