//! Stable reasons for refusals and failures.
//!
//! A code is part of the API: programs branch on it, runbooks are indexed by
//! it. Codes may be added; one is never renamed and never means something else.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why something was refused or failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The stable text.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// An argument does not parse or breaks a rule.
    InvalidArgument = "INVALID_ARGUMENT",
    /// No cell of that name.
    UnknownCell = "UNKNOWN_CELL",
    /// No database of that name.
    UnknownDatabase = "UNKNOWN_DATABASE",
    /// No job of that id.
    UnknownJob = "UNKNOWN_JOB",
    /// No schedule of that name.
    UnknownSchedule = "UNKNOWN_SCHEDULE",
    /// No backup of that label.
    UnknownBackup = "UNKNOWN_BACKUP",
    /// No role of that name that applications connect as.
    UnknownRole = "UNKNOWN_ROLE",
    /// Something depends on it.
    InUse = "IN_USE",
    /// It exists already.
    AlreadyExists = "ALREADY_EXISTS",
    /// The same request id came with other parameters.
    RequestIdReused = "REQUEST_ID_REUSED",
    /// The cell's pooler or instance is down.
    CellDown = "CELL_DOWN",
    /// The named cell is the primary and that was not allowed.
    IsPrimary = "IS_PRIMARY",
    /// The named cell is not the primary.
    NotPrimary = "NOT_PRIMARY",
    /// The standby lags too much.
    Lagging = "LAGGING",
    /// It would lose acknowledged commits, and nobody has accepted that.
    DataLoss = "DATA_LOSS",
    /// The standby does not stream from the recorded primary.
    WrongPrimary = "WRONG_PRIMARY",
    /// More than one instance says that it is the primary.
    TwoPrimaries = "TWO_PRIMARIES",
    /// No primary is recorded or it does not answer.
    NoPrimary = "NO_PRIMARY",
    /// The instance is not the one that the topology describes.
    WrongInstance = "WRONG_INSTANCE",
    /// Another job holds the stanza.
    Busy = "BUSY",
    /// The last cell cannot be removed.
    LastCell = "LAST_CELL",
    /// Too many jobs wait.
    QueueFull = "QUEUE_FULL",
    /// etcd's database is full.
    EtcdFull = "ETCD_FULL",
    /// There is no room on the disk.
    DiskFull = "DISK_FULL",
    /// The backup ran but its source could not be proven.
    ProofFailed = "PROOF_FAILED",
    /// The backup was made, and pages with wrong checksums were found while it was taken.
    PageErrors = "PAGE_ERRORS",
    /// pgBackRest ended with an error.
    PgbackrestFailed = "PGBACKREST_FAILED",
    /// PostgreSQL did not do what it was asked.
    PostgresFailed = "POSTGRES_FAILED",
    /// The pooler restarted in the middle and the work was lost.
    PoolerRestarted = "POOLER_RESTARTED",
    /// No backup and WAL lead to the target of a restore.
    TargetUnreachable = "TARGET_UNREACHABLE",
    /// A WAL segment that is needed is not in the archive.
    WalMissing = "WAL_MISSING",
    /// A file of the repo is damaged.
    RepoDamaged = "REPO_DAMAGED",
    /// There is not enough memory.
    MemoryShort = "MEMORY_SHORT",
    /// A restore waits to be confirmed or rolled back.
    RestoreOpen = "RESTORE_OPEN",
    /// No backup would be left that leads to the present.
    LastBackup = "LAST_BACKUP",
    /// There is nothing to confirm or to roll back to any more.
    NothingKept = "NOTHING_KEPT",
    /// A drill restored the backup, and a check of the copy did not hold.
    CheckFailed = "CHECK_FAILED",
    /// Cellar does not do this for such a database.
    Unsupported = "UNSUPPORTED",
    /// The deadline passed.
    DeadlineExceeded = "DEADLINE_EXCEEDED",
    /// Somebody asked for it to be canceled.
    Canceled = "CANCELED",
    /// The job has ended already.
    AlreadyEnded = "ALREADY_ENDED",
    /// etcd or another service could not be reached.
    Unavailable = "UNAVAILABLE",
    /// The caller may not do this.
    PermissionDenied = "PERMISSION_DENIED",
    /// A bug.
    Internal = "INTERNAL",
}

/// A code that a newer build wrote counts as [`Code::Internal`]: the record that it stands in is readable all the same.
impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Ok(Self::ALL.iter().copied().find(|code| code.as_str() == text).unwrap_or(Self::Internal))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request that cannot be done as things are. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The stable reason.
    pub code: Code,
    /// What is the matter, with names.
    pub message: String,
    /// What to do next; empty when there is nothing useful to say.
    pub hint: String,
    /// What it is about: `cell`, `database`, `job`, `field`.
    pub about: BTreeMap<&'static str, String>,
}

impl Refusal {
    /// A refusal without hint or subject.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: String::new(), about: BTreeMap::new() }
    }

    /// Says what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Says what it is about.
    #[must_use]
    pub fn about(mut self, what: &'static str, value: impl fmt::Display) -> Self {
        self.about.insert(what, value.to_string());
        self
    }
}
