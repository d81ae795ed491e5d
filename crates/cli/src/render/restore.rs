//! Restores in words: where they go, what they would do, and what came of them.

use cellar_api::v1::restore_target::Target;
use cellar_api::v1::{
    FenceResult, Job, JobKind, RebuildResult, RecoveryResult, RecoveryWindow, RestorePlan, RestoreResult,
    RestoreTarget,
};

use crate::render::table::{NOTHING, Table};
use crate::render::units;

/// A target in words, as the model says it.
pub(crate) fn target(target: Option<&RestoreTarget>) -> String {
    match target.and_then(|target| target.target.as_ref()) {
        Some(Target::Latest(_)) => "the end of the archive".to_owned(),
        Some(Target::Time(time)) => format!("time {}", units::exact(Some(time))),
        Some(Target::Lsn(lsn)) => format!("LSN {lsn}"),
        Some(Target::Name(name)) => format!("restore point {name:?}"),
        Some(Target::Xid(xid)) => format!("transaction {xid}"),
        Some(Target::Backup(label)) => format!("the end of backup {label}"),
        None => "an unknown target".to_owned(),
    }
}

/// `name  value` lines, without those that say nothing.
fn facts(lines: Vec<(&str, String)>) -> String {
    let lines = lines.into_iter().filter(|(_, value)| !value.is_empty());
    lines.map(|(name, value)| format!("  {name:<12}  {value}\n")).collect()
}

fn cells(plan: &RestorePlan) -> String {
    let mut table = Table::new(&["CELL", "ACTION", "NEEDS", "FREE"]);
    for cell in &plan.cells {
        let free = if cell.free_bytes == 0 { String::new() } else { units::size(cell.free_bytes) };
        table.row([cell.cell.clone(), cell.action.clone(), units::size(cell.needed_bytes), free]);
    }
    table.render()
}

/// From where to where each backup can be taken.
pub(crate) fn windows(windows: &[RecoveryWindow]) -> String {
    let mut table = Table::new(&["BACKUP", "TIMELINE", "FROM", "TO", "FROM LSN", "TO LSN", "WAL MISSING AT"]);
    for window in windows {
        table.row([
            window.backup.clone(),
            window.timeline.to_string(),
            units::time(window.from_time.as_ref()),
            units::time(window.to_time.as_ref()),
            window.from_lsn.clone(),
            window.to_lsn.clone(),
            window.gap.clone(),
        ]);
    }
    table.render()
}

/// What a restore would do.
pub(crate) fn plan(job: &Job, plan: &RestorePlan) -> String {
    let (asked, told) = (target(plan.target.as_ref()), target(plan.resolved.as_ref()));
    let estimate = match plan.estimated_seconds {
        0 => "not known: no restore was measured here yet".to_owned(),
        seconds => format!("about {}", units::millis(u64::from(seconds) * 1000)),
    };
    let segments = if plan.wal_segments == 1 { "segment" } else { "segments" };
    let mut text = format!("restore of database {} to {asked}\n", job.database);
    text.push_str(&facts(vec![
        ("found", plan.found.clone()),
        ("stops at", if asked == told { String::new() } else { told }),
        ("timeline", plan.timeline.to_string()),
        ("backup", plan.backup.clone()),
        ("", plan.why.clone()),
        ("WAL", format!("{} to {}, {} {segments}", plan.wal_start, plan.wal_stop, plan.wal_segments)),
        ("size", units::size(plan.size_bytes)),
        ("takes", estimate),
    ]));
    if !plan.cells.is_empty() {
        text.push_str(&format!("\n{}", cells(plan)));
    }
    if !plan.windows.is_empty() {
        text.push_str(&format!("\nrecovery windows:\n{}", windows(&plan.windows)));
    }
    if !plan.warnings.is_empty() {
        text.push_str("\nwarnings:\n");
        plan.warnings.iter().for_each(|warning| text.push_str(&format!("  {warning}\n")));
    }
    text
}

/// What a recovery reached.
fn reached(recovery: &RecoveryResult) -> Vec<(&'static str, String)> {
    let commit = units::exact(recovery.last_commit.as_ref());
    let commit = if commit.is_empty() { NOTHING.to_owned() } else { commit };
    let (copied, replayed) = (recovery.restore_millis, recovery.recovery_millis);
    vec![
        ("reached", format!("{} of timeline {}", recovery.lsn, recovery.from_timeline)),
        ("last commit", commit),
        ("stopped", recovery.stopped.clone()),
        ("timeline", format!("{}, which begins there", recovery.timeline)),
        ("size", units::size(recovery.size_bytes)),
        ("copying", units::millis(copied)),
        ("replaying", units::millis(replayed)),
    ]
}

/// A restore or a rollback that took effect.
pub(crate) fn summary(job: &Job, result: &RestoreResult) -> String {
    let is_restore = job.kind() == JobKind::Restore;
    let done = if is_restore {
        format!("is restored in cell {}", result.cell)
    } else {
        format!("is in cell {} as it was before the restore", result.cell)
    };
    let mut lines =
        vec![("target", job.restore().map(|params| target(params.target.as_ref())).unwrap_or_default())];
    lines.extend(result.recovery.as_ref().map(reached).unwrap_or_default());
    let kept = match (is_restore, result.kept) {
        (false, _) => "",
        (true, true) => "kept until the restore is confirmed",
        (true, false) => "not kept: no rollback is possible",
    };
    let rebuild = if result.left_out.len() == 1 {
        "it rebuilds itself when it returns"
    } else {
        "they rebuild themselves when they return"
    };
    lines.extend([
        ("from backup", result.backup.clone().unwrap_or_default()),
        ("first backup", result.first_backup.clone().unwrap_or_else(|| NOTHING.to_owned())),
        ("incarnation", result.incarnation.to_string()),
        (
            "left out",
            match result.left_out.as_slice() {
                [] => String::new(),
                cells => format!("{}; {rebuild}", cells.join(", ")),
            },
        ),
        ("old data", kept.to_owned()),
        (
            "took",
            units::between(job.start_time.as_ref(), job.end_time.as_ref())
                .map(units::duration)
                .unwrap_or_default(),
        ),
    ]);
    format!("database {} {done}\n{}", job.database, facts(lines))
}

/// The commands that come after a restore that kept the old data; empty for others.
pub(crate) fn next(job: &Job, result: &RestoreResult) -> String {
    if job.kind() != JobKind::Restore || !result.kept {
        return String::new();
    }
    let id = &job.id;
    format!(
        "\nlook at what was restored, then\n  cellar restore confirm {id}   to delete the old data\n  cellar restore rollback {id}  to go back to it\n"
    )
}

/// A standby that was made anew.
pub(crate) fn rebuilt(result: &RebuildResult) -> String {
    let source = match &result.backup {
        Some(backup) if result.delta => format!("backup {backup}; files that were the same were kept"),
        Some(backup) => format!("backup {backup}"),
        None => "the old data that was kept".to_owned(),
    };
    let lines = vec![
        ("from", source),
        ("size", units::size(result.size_bytes)),
        ("copying", units::millis(result.restore_millis)),
    ];
    format!("rebuilt\n{}", facts(lines))
}

/// The result of a restore's step that recovered a copy.
pub(crate) fn recovered(result: &RecoveryResult) -> String {
    format!("recovered\n{}", facts(reached(result)))
}

/// The result of a restore's step that keeps a member from taking writes.
pub(crate) fn fenced(result: &FenceResult) -> String {
    let was =
        if result.was_primary { "the primary, which is stopped" } else { "a standby, which goes on reading" };
    let lines = vec![
        ("it was", was.to_owned()),
        ("timeline", result.timeline.to_string()),
        ("last WAL", result.last_segment.clone()),
    ];
    format!("fenced\n{}", facts(lines))
}
