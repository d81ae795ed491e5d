//! What a job produced.
//!
//! In JSON an outcome is an object with one field (`{"backup": {...}}`), and no outcome is an empty one. The protobuf
//! message has the same fields, in a `oneof`.

use serde::{Deserialize, Serialize};

use crate::records::backup::BackupResult;
use crate::records::drill::DrillResult;
use crate::records::maintenance::{CheckResult, ExpireResult, VerifyResult};
use crate::records::rebuild::RebuildResult;
use crate::records::recovery::{FenceResult, RecoveryResult};
use crate::records::restore::{RestorePlan, RestoreResult};

/// What a job produced. Jobs of some kinds produce nothing, and some that failed have an outcome too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum JobOutcome {
    /// Of a backup.
    Backup(BackupResult),
    /// Of a plan.
    Plan(RestorePlan),
    /// Of a fence.
    Fence(FenceResult),
    /// Of a recovery.
    Recovery(RecoveryResult),
    /// Of a restore or a rollback.
    Restore(RestoreResult),
    /// Of a rebuild.
    Rebuild(RebuildResult),
    /// Of a drill, also of one that failed.
    Drill(DrillResult),
    /// Of an expiry.
    Expire(ExpireResult),
    /// Of reading the whole repo, also of one that found damage.
    Verify(VerifyResult),
    /// Of a check of archiving.
    Check(CheckResult),
}

/// The fields of an outcome as they stand in JSON. One of a newer version that is not here is no outcome.
#[derive(Default, Deserialize)]
#[serde(default)]
struct OutcomeFields {
    backup: Option<BackupResult>,
    plan: Option<RestorePlan>,
    fence: Option<FenceResult>,
    recovery: Option<RecoveryResult>,
    restore: Option<RestoreResult>,
    rebuild: Option<RebuildResult>,
    drill: Option<DrillResult>,
    expire: Option<ExpireResult>,
    verify: Option<VerifyResult>,
    check: Option<CheckResult>,
}

impl From<OutcomeFields> for Option<JobOutcome> {
    fn from(fields: OutcomeFields) -> Self {
        None.or_else(|| fields.backup.map(JobOutcome::Backup))
            .or_else(|| fields.plan.map(JobOutcome::Plan))
            .or_else(|| fields.fence.map(JobOutcome::Fence))
            .or_else(|| fields.recovery.map(JobOutcome::Recovery))
            .or_else(|| fields.restore.map(JobOutcome::Restore))
            .or_else(|| fields.rebuild.map(JobOutcome::Rebuild))
            .or_else(|| fields.drill.map(JobOutcome::Drill))
            .or_else(|| fields.expire.map(JobOutcome::Expire))
            .or_else(|| fields.verify.map(JobOutcome::Verify))
            .or_else(|| fields.check.map(JobOutcome::Check))
    }
}

/// The field `result` of records: `{}` stands for no outcome.
pub(crate) mod json {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{JobOutcome, OutcomeFields};

    pub(crate) fn serialize<S: Serializer>(outcome: &Option<JobOutcome>, to: S) -> Result<S::Ok, S::Error> {
        match outcome {
            Some(outcome) => outcome.serialize(to),
            None => BTreeMap::<(), ()>::new().serialize(to),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<JobOutcome>, D::Error> {
        Ok(Option::<OutcomeFields>::deserialize(from)?.and_then(Into::into))
    }
}

impl JobOutcome {
    /// Of a backup.
    #[must_use]
    pub fn backup(&self) -> Option<&BackupResult> {
        if let Self::Backup(backup) = self { Some(backup) } else { None }
    }

    /// Of a plan.
    #[must_use]
    pub fn plan(&self) -> Option<&RestorePlan> {
        if let Self::Plan(plan) = self { Some(plan) } else { None }
    }

    /// Of a fence.
    #[must_use]
    pub fn fence(&self) -> Option<&FenceResult> {
        if let Self::Fence(fence) = self { Some(fence) } else { None }
    }

    /// Of a recovery.
    #[must_use]
    pub fn recovery(&self) -> Option<&RecoveryResult> {
        if let Self::Recovery(recovery) = self { Some(recovery) } else { None }
    }

    /// Of a restore or a rollback.
    #[must_use]
    pub fn restore(&self) -> Option<&RestoreResult> {
        if let Self::Restore(restore) = self { Some(restore) } else { None }
    }

    /// Of a drill.
    #[must_use]
    pub fn drill(&self) -> Option<&DrillResult> {
        if let Self::Drill(drill) = self { Some(drill) } else { None }
    }
}
