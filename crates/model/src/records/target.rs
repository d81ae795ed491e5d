//! Where a restore goes to.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::records::backup::BackupLabel;
use crate::types::json;
use crate::types::json::timestamp_text;
use crate::types::lsn::Lsn;

/// The name of a restore point, as `pg_create_restore_point` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RestorePointName(String);

/// The text cannot be the name of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a restore point: 1 to 63 bytes without control characters")]
pub struct RestorePointError(String);

impl RestorePointName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RestorePointName {
    type Err = RestorePointError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // MAXFNAMELEN in PostgreSQL's xlog_internal.h is 64 with the final NUL.
        if text.is_empty() || text.len() > 63 || text.chars().any(char::is_control) {
            return Err(RestorePointError(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for RestorePointName {
    type Error = RestorePointError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RestorePointName> for String {
    fn from(name: RestorePointName) -> String {
        name.0
    }
}

impl fmt::Display for RestorePointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a restore goes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The end of what is archived.
    #[serde(rename = "latest")]
    Latest {},
    /// Everything that was committed at this time or before.
    #[serde(rename = "time")]
    Time(#[serde(with = "json::time")] Timestamp),
    /// The record at this position, included.
    #[serde(rename = "lsn")]
    Lsn(Lsn),
    /// The newest restore point of this name.
    #[serde(rename = "name")]
    Name(RestorePointName),
    /// The commit of this transaction, included. The low 32 bits count, as PostgreSQL's own target does.
    #[serde(rename = "xid")]
    Xid(#[serde(with = "json::u64_text")] u64),
    /// The end of this backup, the earliest moment that it can give.
    #[serde(rename = "backup")]
    Backup(BackupLabel),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest {} => f.write_str("the end of the archive"),
            Self::Time(time) => write!(f, "time {}", timestamp_text(*time)),
            Self::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Self::Name(name) => write!(f, "restore point {name:?}", name = name.as_str()),
            Self::Xid(xid) => write!(f, "transaction {xid}"),
            Self::Backup(label) => write!(f, "the end of backup {label}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_a_oneof_in_json() {
        let json = |target: &Target| serde_json::to_string(target).unwrap();
        assert_eq!(json(&Target::Latest {}), r#"{"latest":{}}"#);
        assert_eq!(json(&Target::Xid(742)), r#"{"xid":"742"}"#);
        let time = Target::Time("2026-03-01T10:00:00.123456Z".parse().unwrap());
        assert_eq!(json(&time), r#"{"time":"2026-03-01T10:00:00.123456Z"}"#);
        assert_eq!(serde_json::from_str::<Target>(&json(&time)).unwrap(), time);
    }

    #[test]
    fn restore_point_is_one_line() {
        assert!("before the change".parse::<RestorePointName>().is_ok());
        assert!("it's".parse::<RestorePointName>().is_ok());
        for bad in ["", "a\nb", &"x".repeat(64)] {
            assert!(bad.parse::<RestorePointName>().is_err());
        }
    }
}
