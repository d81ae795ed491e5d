//! The result of a drill in words.

use cellar_api::v1::{DrillResult, Job, JobState, LastDrill};

use crate::render::facts::{NOTHING, lines};
use crate::render::table::Table;
use crate::render::units;

/// So many characters of a check's SQL are shown; `jobs show` shows all.
const MAX_NAME_WIDTH: usize = 60;

fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= MAX_NAME_WIDTH {
        return line;
    }
    line.chars().take(MAX_NAME_WIDTH - 1).chain(['…']).collect()
}

/// What a drill that has ended means for the backup, in one line.
fn verdict(job: &Job, result: &DrillResult) -> String {
    let backup = &result.backup;
    if job.state() == JobState::Succeeded {
        return format!(
            "backup {backup} is restorable: readable after {}\n",
            units::millis(result.readable_millis)
        );
    }
    let failed = result.checks.iter().filter(|check| !check.passed && !check.could_not_run).count();
    let not_run = result.checks.iter().filter(|check| check.could_not_run).count();
    match failed {
        0 if not_run > 0 => format!(
            "backup {backup} was restored, and {not_run} of {} checks could not be run\n",
            result.checks.len()
        ),
        0 => format!("backup {backup} is NOT proven to be restorable\n"),
        failed => {
            format!("backup {backup} did NOT pass: {failed} of {} checks failed\n", result.checks.len())
        }
    }
}

/// Everything that a drill measured and checked.
pub(crate) fn report(job: &Job, result: &DrillResult) -> String {
    // A step that was not reached has no duration.
    let after = |millis: u64| {
        if millis == 0 { NOTHING.to_owned() } else { format!("after {}", units::millis(millis)) }
    };
    let commit = units::exact(result.last_commit.as_ref());
    let commit = if commit.is_empty() { String::new() } else { format!(", last commit {commit}") };
    let lsn = if result.lsn.is_empty() { NOTHING } else { &result.lsn };
    let facts = vec![
        (
            "restored",
            format!("{} in {}", units::size(result.size_bytes), units::millis(result.restore_millis)),
        ),
        ("readable", after(result.readable_millis)),
        ("replayed", after(result.replayed_millis)),
        ("reached", format!("{lsn}{commit}")),
    ];
    let mut text = format!(
        "drill of backup {} of database {} in cell {}\n{}",
        result.backup,
        job.database,
        job.cell,
        lines(facts)
    );
    if !result.checks.is_empty() {
        let mut table = Table::new(&["CHECK", "RESULT", "DETAIL"]);
        for check in &result.checks {
            let word = match (check.passed, check.could_not_run) {
                (true, _) => "ok",
                (false, true) => "could not check",
                (false, false) => "FAILED",
            };
            table.row([shortened(&check.name), word.to_owned(), check.detail.clone()]);
        }
        text.push_str(&format!("\n{}\n", table.render()));
    }
    text.push_str(&verdict(job, result));
    text
}

/// The last drill of a backup, for a column.
pub(crate) fn column(last: Option<&LastDrill>) -> String {
    match last {
        None => "never".to_owned(),
        Some(drill) if drill.passed => {
            let readable = units::millis(drill.readable_millis).replace(' ', "");
            format!("{} ok {readable}", units::minute(drill.time.as_ref()))
        }
        Some(drill) => format!("{} FAILED", units::minute(drill.time.as_ref())),
    }
}

/// The last drill of a backup, in full.
pub(crate) fn full(last: Option<&LastDrill>) -> String {
    let Some(drill) = last else { return "never".to_owned() };
    let went = if drill.passed {
        format!("passed, readable after {}", units::millis(drill.readable_millis))
    } else {
        "FAILED".to_owned()
    };
    format!("{} in cell {}: {went}; job {}", units::time(drill.time.as_ref()), drill.cell, drill.job)
}
