//! What came of a job: in full, as the command that begins it shows it, and in a few words for a column.

use cellar_api::v1::{Job, JobResult, RecoveryResult};

use crate::render::{backup, drill, plan, repository, restore, units};

/// The result in full; `None` if there is none.
pub(crate) fn outcome(job: &Job) -> Option<String> {
    let result = job.result.as_ref()?;
    let JobResult { backup, plan, fence, recovery, restore, rebuild, drill, expire, verify, check } = result;
    let parts = [
        backup.as_ref().map(|backup| backup::summary(job, backup, None)),
        plan.as_ref().map(|plan| plan::plan(job, plan)),
        fence.as_ref().map(restore::fenced),
        recovery.as_ref().map(restore::recovered),
        restore.as_ref().map(|restore| restore::summary(job, restore)),
        rebuild.as_ref().map(restore::rebuilt),
        drill.as_ref().map(|drill| drill::report(job, drill)),
        expire.as_ref().map(|expire| repository::expired(job, expire)),
        verify.as_ref().map(|verify| repository::verified(job, verify)),
        check.as_ref().map(|check| repository::checked(job, check)),
    ];
    parts.into_iter().flatten().next()
}

/// The result in a few words; `None` if there is none, or nothing to say about it.
pub(crate) fn outcome_in_short(job: &Job) -> Option<String> {
    let reached = |recovery: &RecoveryResult| {
        format!("reached {} of timeline {}", recovery.lsn, recovery.from_timeline)
    };
    let result = job.result.as_ref()?;
    let JobResult { backup, plan, fence: _, recovery, restore, rebuild, drill, expire, verify, check } =
        result;
    None.or_else(|| backup.as_ref().map(|backup| backup.label.clone()))
        .or_else(|| restore.as_ref().and_then(|restore| restore.recovery.as_ref().map(reached)))
        .or_else(|| recovery.as_ref().map(reached))
        .or_else(|| plan.as_ref().map(|plan| format!("to {}", plan::target(plan.target.as_ref()))))
        .or_else(|| {
            rebuild.as_ref().and_then(|rebuild| rebuild.backup.as_ref().map(|from| format!("from {from}")))
        })
        .or_else(|| {
            let drill = drill.as_ref()?;
            Some(format!("{} readable after {}", drill.backup, units::millis(drill.readable_millis)))
        })
        .or_else(|| {
            let expire = expire.as_ref()?;
            let deleted = if expire.dry_run { "would be deleted" } else { "deleted" };
            Some(format!("{} {deleted}, {} kept", expire.backups.len(), expire.kept.len()))
        })
        .or_else(|| verify.as_ref().map(|verify| format!("{} backups read", verify.backups.len())))
        .or_else(|| check.as_ref().map(|check| format!("{} arrived", check.segment)))
}
