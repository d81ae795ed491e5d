//! What a job does, with its parameters.
//!
//! In JSON a spec is `kind` with the parameters in a field beside it (`"kind": "JOB_KIND_DRILL", "drill": {...}`).
//! The protobuf message has the same fields, in a `oneof`.

use serde::de;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::records::backup::BackupParams;
use crate::records::drill::DrillParams;
use crate::records::job::id::JobId;
use crate::records::job::kind::JobKind;
use crate::records::maintenance::ExpireParams;
use crate::records::rebuild::RebuildParams;
use crate::records::recovery::RecoverParams;
use crate::records::restore::RestoreParams;
use crate::types::role::OperatorRole;

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
                (&recorded.target, recorded.timeline, recorded.in_place)
                    == (&asked.target, asked.timeline, asked.in_place)
                    && (asked.onto.is_none() || asked.onto == recorded.onto)
            }
            // The drills under way are multiadmin's to add.
            (Self::Expire(recorded), Self::Expire(asked)) => {
                (&recorded.backup, recorded.dry_run) == (&asked.backup, asked.dry_run)
            }
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
        })
    }
}
