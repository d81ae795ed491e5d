//! The plan of a restore in words: the target, what is restored from where, and what each cell does.

use cellar_api::v1::restore_target::Target;
use cellar_api::v1::{Job, RecoveryWindow, RestorePlan, RestoreTarget};

use crate::render::facts::{lines, section};
use crate::render::table::Table;
use crate::render::units;

/// A recovery target, in the model's words.
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

/// The question before a restore.
pub(crate) fn question(job: &Job, plan: &RestorePlan) -> String {
    let cell = job.restore().and_then(|params| params.onto.as_deref()).unwrap_or(&job.cell);
    format!("Restore database {} in cell {cell} to {}?", job.database, target(plan.target.as_ref()))
}

fn cells(plan: &RestorePlan) -> String {
    let mut table = Table::new(&["CELL", "ACTION", "NEEDS", "FREE"]);
    for cell in &plan.cells {
        let free = if cell.free_bytes == 0 { String::new() } else { units::size(cell.free_bytes) };
        table.row([cell.cell.clone(), cell.action.clone(), units::size(cell.needed_bytes), free]);
    }
    table.render()
}

/// Says how many more there are than a result lists, and where they are; empty when there are no more.
pub(crate) fn more_line(job: &Job, more: u32, what: &str) -> String {
    if more == 0 {
        String::new()
    } else {
        format!("… and {more} more {what}: `cellar jobs logs {}` has them all\n", job.id)
    }
}

/// From where to where each backup can be restored, as a section of its own; empty without backups.
pub(crate) fn windows_section(job: &Job, windows: &[RecoveryWindow], more: u32) -> String {
    if windows.is_empty() {
        return String::new();
    }
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
    format!("\nrecovery windows:\n{}{}", table.render(), more_line(job, more, "windows"))
}

/// What a restore would do.
pub(crate) fn plan(job: &Job, plan: &RestorePlan) -> String {
    let (requested, resolved) = (target(plan.target.as_ref()), target(plan.resolved.as_ref()));
    let estimate = match plan.estimated_seconds {
        0 => "not known: no restore was measured here yet".to_owned(),
        seconds => format!("about {}", units::millis(u64::from(seconds) * 1000)),
    };
    let segments = if plan.wal_segments == 1 { "segment" } else { "segments" };
    let facts = vec![
        ("found", plan.found.clone()),
        ("stops at", if requested == resolved { String::new() } else { resolved }),
        ("timeline", plan.timeline.to_string()),
        ("backup", plan.backup.clone()),
        ("", plan.why.clone()),
        ("WAL", format!("{} to {}, {} {segments}", plan.wal_start, plan.wal_stop, plan.wal_segments)),
        ("size", units::size(plan.size_bytes)),
        ("takes", estimate),
    ];
    let mut text = format!("restore of database {} to {requested}\n{}", job.database, lines(facts));
    if !plan.cells.is_empty() {
        text.push_str(&format!("\n{}", cells(plan)));
    }
    // Before the list of windows, which may be long.
    text.push_str(&section("warnings", &plan.warnings));
    text.push_str(&windows_section(job, &plan.windows, plan.more_windows));
    text
}
