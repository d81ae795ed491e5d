//! The results of a restore and of its steps in words.

use cellar_api::v1::{FenceResult, Job, JobKind, JobState, RebuildResult, RecoveryResult, RestoreResult};

use crate::render::facts::{Fact, NOTHING, lines};
use crate::render::plan::target;
use crate::render::units;

/// What a recovery reached.
fn reached(recovery: &RecoveryResult) -> Vec<Fact> {
    let commit = units::exact(recovery.last_commit.as_ref());
    let commit = if commit.is_empty() { NOTHING.to_owned() } else { commit };
    vec![
        ("reached", format!("{} of timeline {}", recovery.lsn, recovery.from_timeline)),
        ("last commit", commit),
        ("stopped", recovery.stopped.clone()),
        ("timeline", format!("{}, which begins there", recovery.timeline)),
        ("size", units::size(recovery.size_bytes)),
        ("copying", units::millis(recovery.restore_millis)),
        ("replaying", units::millis(recovery.recovery_millis)),
    ]
}

/// The cells without the restored database, and what becomes of them.
fn left_out(cells: &[String]) -> String {
    match cells {
        [] => String::new(),
        [cell] => format!("{cell}; it rebuilds itself when it returns"),
        cells => format!("{}; they rebuild themselves when they return", cells.join(", ")),
    }
}

/// The primary that was left alone, and on whose word.
fn not_fenced(cell: &str) -> String {
    format!(
        "the primary in {cell}, which was vouched for as dead (--primary-is-dead); what it acknowledged since is in no copy"
    )
}

/// A restore or a rollback that took effect.
pub(crate) fn summary(job: &Job, result: &RestoreResult) -> String {
    let is_restore = job.kind() == JobKind::Restore;
    let mut done = if is_restore {
        format!("is restored in cell {}", result.cell)
    } else {
        format!("is in cell {} as it was before the restore", result.cell)
    };
    // It took effect, and its cell may not have come to it yet.
    let ended = match job.state() {
        JobState::Canceled => Some("was canceled"),
        JobState::Failed => Some("failed"),
        _ => None,
    };
    if let Some(ended) = ended {
        done = format!(
            "is to be the one restored in cell {}: that took effect, and the job {ended} before all that follows was done; `cellar status` shows how far the cells are",
            result.cell
        );
    }
    let kept = match (is_restore, result.kept) {
        (false, false) => "",
        (false, true) => "not deleted in every cell",
        (true, true) => "kept until the restore is confirmed",
        (true, false) => "not kept: no rollback is possible",
    };
    let requested = job.restore().map(|params| target(params.target.as_ref()));
    let mut facts = vec![("target", requested.unwrap_or_default())];
    facts.extend(result.recovery.as_ref().map(reached).unwrap_or_default());
    facts.extend([
        ("from backup", result.backup.clone().unwrap_or_default()),
        ("first backup", result.first_backup.clone().unwrap_or_else(|| NOTHING.to_owned())),
        ("incarnation", result.incarnation.to_string()),
        ("left out", left_out(&result.left_out)),
        ("not fenced", result.not_fenced.as_deref().map(not_fenced).unwrap_or_default()),
        ("old data", kept.to_owned()),
        ("took", units::took(job.start_time.as_ref(), job.end_time.as_ref())),
    ]);
    format!("database {} {done}\n{}", job.database, lines(facts))
}

/// The commands that follow a restore that kept the old data; empty for others.
fn next(job: &Job, result: &RestoreResult) -> String {
    let id = &job.id;
    if let (JobKind::Rollback, true, Some(restore)) = (job.kind(), result.kept, job.subject()) {
        return format!(
            "\nnext: when every cell is up again\n  cellar restore confirm {restore}   to delete the old data that is left\n"
        );
    }
    if job.kind() != JobKind::Restore || !result.kept {
        return String::new();
    }
    format!(
        "\nnext: check the restored data, then\n  cellar restore confirm {id}   to delete the old data\n  cellar restore rollback {id}  to go back to it\n"
    )
}

/// What a restore or a rollback did, and what comes next. One that failed after it took effect has a result too.
pub(crate) fn report(job: &Job) -> Option<String> {
    let result = job.result.as_ref()?.restore()?;
    Some(format!("{}{}", summary(job, result), next(job, result)))
}

/// A standby that was rebuilt.
pub(crate) fn rebuilt(result: &RebuildResult) -> String {
    let source = match &result.backup {
        Some(backup) if result.delta => format!("backup {backup}; files that were the same were kept"),
        Some(backup) => format!("backup {backup}"),
        None => "the old data that was kept".to_owned(),
    };
    let facts = vec![
        ("from", source),
        ("size", units::size(result.size_bytes)),
        ("copying", units::millis(result.restore_millis)),
    ];
    format!("rebuilt\n{}", lines(facts))
}

/// The result of a step that recovered a copy.
pub(crate) fn recovered(result: &RecoveryResult) -> String {
    format!("recovered\n{}", lines(reached(result)))
}

/// The result of a step that keeps a cell from taking writes.
pub(crate) fn fenced(result: &FenceResult) -> String {
    let was =
        if result.was_primary { "the primary, which is stopped" } else { "a standby, which stays read-only" };
    let facts = vec![
        ("it was", was.to_owned()),
        ("timeline", result.timeline.to_string()),
        ("last WAL", result.last_segment.clone()),
    ];
    format!("fenced\n{}", lines(facts))
}
