//! What can be observed of one PostgreSQL instance.

use serde::{Deserialize, Serialize};

use crate::types::lsn::Lsn;

/// The role an instance is observed in. Never configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Role {
    /// It did not answer, or does not run: not a primary, and not a standby either.
    #[default]
    #[serde(rename = "ROLE_UNKNOWN")]
    Unknown,
    /// `pg_is_in_recovery()` is false.
    #[serde(rename = "ROLE_PRIMARY")]
    Primary,
    /// `pg_is_in_recovery()` is true.
    #[serde(rename = "ROLE_STANDBY")]
    Standby,
}

impl Role {
    /// One word for tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Primary => "primary",
            Self::Standby => "standby",
        }
    }
}

/// Where an instance is in its life, as its pooler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum InstanceState {
    /// The pooler has only just begun to look.
    #[default]
    #[serde(rename = "INSTANCE_STATE_UNKNOWN")]
    Unknown,
    /// No data yet: waits for the database's first backup.
    #[serde(rename = "INSTANCE_STATE_WAITING")]
    Waiting,
    /// initdb or a restore is filling the data directory.
    #[serde(rename = "INSTANCE_STATE_SEEDING")]
    Seeding,
    /// PostgreSQL is being started.
    #[serde(rename = "INSTANCE_STATE_STARTING")]
    Starting,
    /// It answers queries.
    #[serde(rename = "INSTANCE_STATE_RUNNING")]
    Running,
    /// It does not run, or does not answer; the pooler tries again.
    #[serde(rename = "INSTANCE_STATE_DOWN")]
    Down,
    /// It cannot run until somebody acts; the status message says why and what to do.
    #[serde(rename = "INSTANCE_STATE_BROKEN")]
    Broken,
}

impl InstanceState {
    /// One word for tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Waiting => "waiting",
            Self::Seeding => "seeding",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Down => "down",
            Self::Broken => "broken",
        }
    }
}

/// How far a standby is behind, coarse enough that a busy database does not rewrite its status
/// every second. Exact bytes are asked of the pooler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum LagClass {
    /// Not a standby, or not known.
    #[default]
    #[serde(rename = "LAG_CLASS_UNKNOWN")]
    Unknown,
    /// Less than 1 MiB.
    #[serde(rename = "LAG_CLASS_CURRENT")]
    Current,
    /// Less than 16 MiB, one WAL segment.
    #[serde(rename = "LAG_CLASS_SEGMENT")]
    Segment,
    /// Less than 1 GiB.
    #[serde(rename = "LAG_CLASS_BEHIND")]
    Behind,
    /// 1 GiB or more.
    #[serde(rename = "LAG_CLASS_FAR")]
    Far,
}

impl LagClass {
    /// The class of a standby at `at` when the primary is known to be at `target`.
    #[must_use]
    pub fn of(target: Lsn, at: Lsn) -> Self {
        match target.bytes_ahead_of(at) {
            bytes if bytes < 1 << 20 => Self::Current,
            bytes if bytes < 16 << 20 => Self::Segment,
            bytes if bytes < 1 << 30 => Self::Behind,
            _ => Self::Far,
        }
    }

    /// Short text for tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "-",
            Self::Current => "<1MiB",
            Self::Segment => "<16MiB",
            Self::Behind => "<1GiB",
            Self::Far => ">=1GiB",
        }
    }
}
