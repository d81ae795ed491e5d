//! The kinds of jobs, and what follows from the kind.
//!
//! A new kind of job is added in three places: a variant and a line in `JobKind::facts` here, a variant with its
//! parameters in [`JobSpec`], and what it produces in
//! [`JobOutcome`]. The compiler then names every place that has to decide something
//! about it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::role::OperatorRole;

/// The name of what a job does: a [`JobSpec`] without its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobKind {
    /// Back up the named cell.
    #[serde(rename = "JOB_KIND_BACKUP")]
    Backup,
    /// Rebuild the named standby from the repo.
    #[serde(rename = "JOB_KIND_REBUILD")]
    Rebuild,
    /// Bring the whole database back to a point in time. Driven by multiadmin; its steps are jobs.
    #[serde(rename = "JOB_KIND_RESTORE")]
    Restore,
    /// Bring the database back to what it was before a restore. Driven, too.
    #[serde(rename = "JOB_KIND_ROLLBACK")]
    Rollback,
    /// Delete what a restore kept of the old data. Driven, too.
    #[serde(rename = "JOB_KIND_CONFIRM")]
    Confirm,
    /// Find out what a restore would do.
    #[serde(rename = "JOB_KIND_PLAN")]
    Plan,
    /// Step of a restore: no more writes here.
    #[serde(rename = "JOB_KIND_FENCE")]
    Fence,
    /// Step of a restore: restore and recover, beside the data that is there.
    #[serde(rename = "JOB_KIND_RECOVER")]
    Recover,
    /// Step of a restore: put what was recovered in place of the old data and start it.
    #[serde(rename = "JOB_KIND_SWAP")]
    Swap,
    /// Step of a confirmation or a rollback: delete what was kept.
    #[serde(rename = "JOB_KIND_DISCARD")]
    Discard,
    /// Prove that a backup can be restored.
    #[serde(rename = "JOB_KIND_DRILL")]
    Drill,
    /// Delete the backups and WAL that retention does not keep.
    #[serde(rename = "JOB_KIND_EXPIRE")]
    Expire,
    /// Read the whole repo.
    #[serde(rename = "JOB_KIND_VERIFY")]
    Verify,
    /// See that WAL arrives in the repo.
    #[serde(rename = "JOB_KIND_CHECK")]
    Check,
}

/// What follows from the kind of a job.
struct KindFacts {
    name: &'static str,
    driven: bool,
    takes_lock: bool,
    role: OperatorRole,
}

/// A job that writes to the stanza or to a standby, run by one pooler.
const WRITES: KindFacts =
    KindFacts { name: "", driven: false, takes_lock: true, role: OperatorRole::Operator };

/// A job that only reads: any number of them run beside others.
const READS: KindFacts = KindFacts { takes_lock: false, ..WRITES };

/// A job that multiadmin drives. All of them change which data is the database's.
const DRIVEN: KindFacts = KindFacts { driven: true, role: OperatorRole::Admin, ..WRITES };

/// A step that is part of driven jobs only.
const STEP: KindFacts = KindFacts { driven: false, ..DRIVEN };

impl JobKind {
    /// All kinds.
    pub const ALL: [Self; 14] = [
        Self::Backup,
        Self::Rebuild,
        Self::Restore,
        Self::Rollback,
        Self::Confirm,
        Self::Plan,
        Self::Fence,
        Self::Recover,
        Self::Swap,
        Self::Discard,
        Self::Drill,
        Self::Expire,
        Self::Verify,
        Self::Check,
    ];

    const fn facts(self) -> KindFacts {
        match self {
            Self::Backup => KindFacts { name: "backup", ..WRITES },
            Self::Rebuild => KindFacts { name: "rebuild", ..WRITES },
            Self::Restore => KindFacts { name: "restore", ..DRIVEN },
            Self::Rollback => KindFacts { name: "rollback", ..DRIVEN },
            Self::Confirm => KindFacts { name: "confirm", ..DRIVEN },
            Self::Plan => KindFacts { name: "plan", ..READS },
            Self::Fence => KindFacts { name: "fence", ..STEP },
            Self::Recover => KindFacts { name: "recover", ..STEP },
            Self::Swap => KindFacts { name: "swap", ..STEP },
            Self::Discard => KindFacts { name: "discard", ..STEP },
            Self::Drill => KindFacts { name: "drill", ..READS },
            Self::Expire => KindFacts { name: "expire", role: OperatorRole::Admin, ..WRITES },
            Self::Verify => KindFacts { name: "verify", ..READS },
            Self::Check => KindFacts { name: "check", ..READS },
        }
    }

    /// One word for tables and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.facts().name
    }

    /// Whether multiadmin drives it and poolers run only its steps.
    #[must_use]
    pub const fn is_driven(self) -> bool {
        self.facts().driven
    }

    /// Whether it writes to the stanza or to the data of a member, and so excludes all others that do.
    #[must_use]
    pub const fn takes_lock(self) -> bool {
        self.facts().takes_lock
    }

    /// The role that an operator needs to ask for such a job, to schedule it, or to cancel it.
    #[must_use]
    pub const fn role(self) -> OperatorRole {
        self.facts().role
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
