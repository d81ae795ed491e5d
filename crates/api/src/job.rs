//! The parameters and the outcome of a job by name: prost keeps a `oneof` as an enum.

use crate::v1;

macro_rules! fields_of_oneof {
    ($message:ty, $oneof:ident: $variants:path { $($(#[$doc:meta])* $name:ident: $variant:ident($field:ty)),+ $(,)? }) => {
        impl $message {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(&self) -> Option<&$field> {
                use $variants as Variants;
                match &self.$oneof {
                    Some(Variants::$variant(field)) => Some(field),
                    _ => None,
                }
            })+
        }
    };
}

fields_of_oneof!(v1::Job, spec: v1::job::Spec {
    /// Parameters of a backup.
    backup: Backup(v1::BackupParams),
    /// Parameters of a rebuild.
    rebuild: Rebuild(v1::RebuildParams),
    /// Parameters of a restore or its plan.
    restore: Restore(v1::RestoreParams),
    /// Parameters of a recovery.
    recover: Recover(v1::RecoverParams),
    /// Parameters of a drill.
    drill: Drill(v1::DrillParams),
    /// Parameters of an expiry.
    expire: Expire(v1::ExpireParams),
    /// Parameters of a restart.
    restart: Restart(v1::RestartParams),
    /// The restore that a rollback, a confirmation or a discarding step is about.
    subject: Subject(String),
});

fields_of_oneof!(v1::JobResult, outcome: v1::job_result::Outcome {
    /// Of a backup.
    backup: Backup(v1::BackupResult),
    /// Of a plan.
    plan: Plan(v1::RestorePlan),
    /// Of a fence.
    fence: Fence(v1::FenceResult),
    /// Of a recovery.
    recovery: Recovery(v1::RecoveryResult),
    /// Of a restore or a rollback.
    restore: Restore(v1::RestoreResult),
    /// Of a rebuild.
    rebuild: Rebuild(v1::RebuildResult),
    /// Of a drill, also of one that failed.
    drill: Drill(v1::DrillResult),
    /// Of an expiry.
    expire: Expire(v1::ExpireResult),
    /// Of reading the whole repo, also of one that found damage.
    verify: Verify(v1::VerifyResult),
    /// Of a check of archiving.
    check: Check(v1::CheckResult),
});
