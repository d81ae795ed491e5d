//! The name by which pgBackRest's servers know each other.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::name::DatabaseName;

/// The common name of a cell's certificate for pgBackRest.
///
/// All cells have the same. pgBackRest knows no revocation, and what its servers are told is names: so when a
/// certificate is revoked, all cells change theirs (`pgbackrest`, `pgbackrest:1`, `pgbackrest:2` …), and nobody listens
/// to the old one any more. The colon keeps it apart from the names of poolers, `<database>.<cell>`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PgbackrestName(u32);

impl PgbackrestName {
    const STEM: &'static str = "pgbackrest";

    /// The one that takes its place.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A name in a certificate, qualified by a database if there is one: pgBackRest's servers, and the instances of PostgreSQL, of
/// that database let in whom they know by it, and those of other databases do not.
#[must_use]
pub fn qualified_name(name: &str, qualifier: Option<&DatabaseName>) -> String {
    qualifier.map_or_else(|| name.to_owned(), |database| format!("{name}@{database}"))
}

/// A name in a certificate without its database.
#[must_use]
pub fn unqualified_name(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

impl fmt::Display for PgbackrestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str(Self::STEM),
            n => write!(f, "{}:{n}", Self::STEM),
        }
    }
}

/// A text is no name of pgBackRest's certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither pgbackrest nor pgbackrest:N")]
pub struct PgbackrestNameError(String);

impl FromStr for PgbackrestName {
    type Err = PgbackrestNameError;

    fn from_str(text: &str) -> Result<Self, PgbackrestNameError> {
        let number = match text.strip_prefix(Self::STEM) {
            Some("") => Some(0),
            Some(rest) => rest.strip_prefix(':').and_then(|number| number.parse().ok()),
            None => None,
        };
        // One spelling each: what is compared as text must be what is meant.
        number
            .map(Self)
            .filter(|name| name.to_string() == text)
            .ok_or_else(|| PgbackrestNameError(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for PgbackrestName {
    type Error = PgbackrestNameError;

    fn try_from(text: String) -> Result<Self, PgbackrestNameError> {
        text.parse()
    }
}

impl From<PgbackrestName> for String {
    fn from(name: PgbackrestName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_one_spelling_and_none_is_a_poolers() {
        let first = PgbackrestName::default();
        for (name, text) in
            [(first, "pgbackrest"), (first.next(), "pgbackrest:1"), (first.next().next(), "pgbackrest:2")]
        {
            assert_eq!((name.to_string().as_str(), text.parse()), (text, Ok(name)));
        }
        for text in [
            "",
            "pgbackres",
            "pgbackrest:",
            "pgbackrest:0",
            "pgbackrest:01",
            "pgbackrest:+1",
            "pgbackrest.1",
            "pgbackrest:1\n",
            "pgbackrest=*",
            "pgbackrest:4294967296",
        ] {
            assert!(text.parse::<PgbackrestName>().is_err(), "{text:?}");
        }
        let database: DatabaseName = "sales".parse().unwrap();
        let qualified = qualified_name(&first.next().to_string(), Some(&database));
        assert_eq!(qualified, "pgbackrest:1@sales");
        assert_eq!(unqualified_name(&qualified).parse(), Ok(first.next()));
        assert!(qualified.parse::<PgbackrestName>().is_err() && "a@b".parse::<DatabaseName>().is_err());
        // A pooler's has a dot, which none of these has.
        assert!(!first.next().to_string().contains('.'));
    }
}
