//! What a job does: its kind, its parameters, and what follows from the kind.
//!
//! A new kind of job is added here: a variant of [`JobKind`], a line in `JobKind::facts`, and a variant of [`JobSpec`].
//! What it produces, if anything, is a variant of `JobOutcome`. The compiler then names every place that has to decide
//! something about it.
//!
//! In JSON a spec is `kind` with the parameters in a field beside it (`"kind": "JOB_KIND_DRILL", "drill": {...}`).
//! The protobuf message has the same fields, in a `oneof`.

use std::fmt;

use serde::de;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::records::backup::BackupParams;
use crate::records::drill::DrillParams;
use crate::records::job::id::JobId;
use crate::records::maintenance::{ExpireParams, RestartParams};
use crate::records::rebuild::RebuildParams;
use crate::records::recovery::RecoverParams;
use crate::records::restore::RestoreParams;
use crate::types::role::OperatorRole;

/// The name of what a job does: a [`JobSpec`] without its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// Stop the named cell's PostgreSQL cleanly and start it again.
    #[serde(rename = "JOB_KIND_RESTART")]
    Restart,
}

/// What follows from the kind of a job.
struct KindFacts {
    name: &'static str,
    driven: bool,
    step: bool,
    takes_lock: bool,
    role: OperatorRole,
}

/// A job that writes to the stanza or to a standby, run by one pooler.
const WRITES: KindFacts =
    KindFacts { name: "", driven: false, step: false, takes_lock: true, role: OperatorRole::Operator };

/// A job that only reads: any number of them run beside others.
const READS: KindFacts = KindFacts { takes_lock: false, ..WRITES };

/// A job that multiadmin drives. All of them change which data is the database's.
const DRIVEN: KindFacts = KindFacts { driven: true, role: OperatorRole::Admin, ..WRITES };

/// A step that is part of driven jobs only.
const STEP: KindFacts = KindFacts { driven: false, step: true, ..DRIVEN };

impl JobKind {
    /// All kinds.
    pub const ALL: [Self; 15] = [
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
        Self::Restart,
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
            // It ends sessions; and the lock, so that it ends no backup.
            Self::Restart => KindFacts { name: "restart", role: OperatorRole::Admin, ..WRITES },
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

    /// Whether it is a step, which only driven jobs have.
    #[must_use]
    pub const fn is_step(self) -> bool {
        self.facts().step
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

/// What a job does, with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobSpec {
    /// Back up the job's cell.
    Backup(BackupParams),
    /// Rebuild the job's cell from the repo.
    Rebuild(RebuildParams),
    /// Restore the whole database to a point in time.
    Restore(RestoreParams),
    /// Return to the data from before this restore.
    Rollback(JobId),
    /// Delete what this restore kept of the old data.
    Confirm(JobId),
    /// Find out what a restore would do.
    Plan(RestoreParams),
    /// Step: stop writes in the job's cell.
    Fence,
    /// Step: restore and recover beside the data that is there.
    Recover(RecoverParams),
    /// Step: put what was recovered in place of the old data and start it.
    Swap,
    /// Step: delete what this restore kept in the job's cell.
    Discard(JobId),
    /// Prove that a backup can be restored.
    Drill(DrillParams),
    /// Delete the backups and WAL that retention does not keep.
    Expire(ExpireParams),
    /// Read the whole repo.
    Verify,
    /// See that WAL arrives in the repo.
    Check,
    /// Stop the job's cell's PostgreSQL cleanly and start it again.
    Restart(RestartParams),
}

impl JobSpec {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Backup(_) => JobKind::Backup,
            Self::Rebuild(_) => JobKind::Rebuild,
            Self::Restore(_) => JobKind::Restore,
            Self::Rollback(_) => JobKind::Rollback,
            Self::Confirm(_) => JobKind::Confirm,
            Self::Plan(_) => JobKind::Plan,
            Self::Fence => JobKind::Fence,
            Self::Recover(_) => JobKind::Recover,
            Self::Swap => JobKind::Swap,
            Self::Discard(_) => JobKind::Discard,
            Self::Drill(_) => JobKind::Drill,
            Self::Expire(_) => JobKind::Expire,
            Self::Verify => JobKind::Verify,
            Self::Check => JobKind::Check,
            Self::Restart(_) => JobKind::Restart,
        }
    }

    /// The role that an operator needs to request this job: that of its kind, but a dry run of an expiry deletes nothing.
    #[must_use]
    pub fn role(&self) -> OperatorRole {
        match self {
            Self::Expire(params) if params.dry_run => OperatorRole::Operator,
            _ => self.kind().role(),
        }
    }

    /// The restore that a rollback, a confirmation or a discarding step is about.
    #[must_use]
    pub fn subject(&self) -> Option<JobId> {
        match self {
            Self::Rollback(restore) | Self::Confirm(restore) | Self::Discard(restore) => Some(*restore),
            _ => None,
        }
    }

    /// Whether this is what `asked` became when it was recorded: what a request left open was decided then, and would
    /// perhaps be decided otherwise now.
    #[must_use]
    pub fn answers(&self, asked: &Self) -> bool {
        match (self, asked) {
            (Self::Backup(recorded), Self::Backup(asked)) => *recorded == asked.clone().with_defaults(),
            // How a rebuild is done is not the caller's to say.
            (Self::Rebuild(_), Self::Rebuild(_)) => true,
            (Self::Restore(recorded), Self::Restore(asked)) | (Self::Plan(recorded), Self::Plan(asked)) => {
                (&recorded.target, recorded.timeline, recorded.in_place, &recorded.backup)
                    == (&asked.target, asked.timeline, asked.in_place, &asked.backup)
                    && (asked.onto.is_none() || asked.onto == recorded.onto)
            }
            // The drills under way are multiadmin's to add.
            (Self::Expire(recorded), Self::Expire(asked)) => {
                (&recorded.backup, recorded.dry_run) == (&asked.backup, asked.dry_run)
            }
            // Who was the primary is multiadmin's to say.
            (Self::Restart(_), Self::Restart(_)) => true,
            (recorded, asked) => recorded == asked,
        }
    }
}

impl Serialize for JobSpec {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("kind", &self.kind())?;
        match self {
            Self::Backup(params) => map.serialize_entry("backup", params)?,
            Self::Rebuild(params) => map.serialize_entry("rebuild", params)?,
            Self::Restore(params) | Self::Plan(params) => map.serialize_entry("restore", params)?,
            Self::Rollback(restore) | Self::Confirm(restore) | Self::Discard(restore) => {
                map.serialize_entry("subject", restore)?;
            }
            Self::Recover(params) => map.serialize_entry("recover", params)?,
            Self::Drill(params) => map.serialize_entry("drill", params)?,
            Self::Expire(params) => map.serialize_entry("expire", params)?,
            Self::Restart(params) => map.serialize_entry("restart", params)?,
            Self::Fence | Self::Swap | Self::Verify | Self::Check => {}
        }
        map.end()
    }
}

/// The fields of a spec as they stand in JSON.
#[derive(Deserialize)]
struct SpecFields {
    kind: JobKind,
    backup: Option<BackupParams>,
    rebuild: Option<RebuildParams>,
    restore: Option<RestoreParams>,
    recover: Option<RecoverParams>,
    drill: Option<DrillParams>,
    expire: Option<ExpireParams>,
    restart: Option<RestartParams>,
    subject: Option<JobId>,
}

impl<'de> Deserialize<'de> for JobSpec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let fields = SpecFields::deserialize(from)?;
        let missing = |field| move || de::Error::missing_field(field);
        Ok(match fields.kind {
            JobKind::Backup => Self::Backup(fields.backup.ok_or_else(missing("backup"))?),
            // All its parameters have defaults.
            JobKind::Rebuild => Self::Rebuild(fields.rebuild.unwrap_or_default()),
            JobKind::Restore => Self::Restore(fields.restore.ok_or_else(missing("restore"))?),
            JobKind::Rollback => Self::Rollback(fields.subject.ok_or_else(missing("subject"))?),
            JobKind::Confirm => Self::Confirm(fields.subject.ok_or_else(missing("subject"))?),
            JobKind::Plan => Self::Plan(fields.restore.ok_or_else(missing("restore"))?),
            JobKind::Fence => Self::Fence,
            JobKind::Recover => Self::Recover(fields.recover.ok_or_else(missing("recover"))?),
            JobKind::Swap => Self::Swap,
            JobKind::Discard => Self::Discard(fields.subject.ok_or_else(missing("subject"))?),
            JobKind::Drill => Self::Drill(fields.drill.ok_or_else(missing("drill"))?),
            JobKind::Expire => Self::Expire(fields.expire.ok_or_else(missing("expire"))?),
            JobKind::Verify => Self::Verify,
            JobKind::Check => Self::Check,
            JobKind::Restart => Self::Restart(fields.restart.unwrap_or_default()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::target::Target;

    #[test]
    fn request_for_another_backup_is_another_request() {
        let from = |backup: Option<&str>| {
            JobSpec::Restore(RestoreParams {
                target: Target::Latest {},
                timeline: None,
                in_place: false,
                onto: None,
                backup: backup.map(|label| label.parse().unwrap()),
            })
        };
        let (first, second) = (from(Some("20260301-101500F")), from(Some("20260302-101500F")));
        assert!(first.answers(&first) && !first.answers(&second) && !first.answers(&from(None)));
    }
}
