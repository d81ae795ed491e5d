//! Schedules: what they request, when, and how the last run ended.

use cellar_api::v1::{ListSchedulesResponse, Schedule, ScheduleView, ScheduledDrill, scheduled_work::Work};

use crate::render::table::Table;
use crate::render::units;
use crate::render::words::{kind_word, state_word, type_word};

/// What a schedule requests, in words.
pub(crate) fn work(schedule: &Schedule) -> String {
    match schedule.work.as_ref().and_then(|work| work.work.as_ref()) {
        Some(Work::Backup(backup)) => {
            format!("backup {} of {}", type_word(backup.r#type()), backup.cells.join(", else "))
        }
        Some(Work::Expire(_)) => "expire".to_owned(),
        Some(Work::Verify(_)) => "verify".to_owned(),
        Some(Work::Check(_)) => "check".to_owned(),
        Some(Work::Drill(ScheduledDrill { cell: Some(cell), .. })) => format!("drill in {cell}"),
        Some(Work::Drill(_)) => "drill".to_owned(),
        None => String::new(),
    }
}

/// How the last due time went.
fn last(view: &ScheduleView, schedule: &Schedule) -> String {
    let Some(run) = &schedule.last else { return String::new() };
    let due = units::minute(run.due.as_ref());
    match (&run.error, &view.last_job) {
        (Some(error), _) => {
            let is_over =
                schedule.settled.map(|at| (at.seconds, at.nanos)) >= run.due.map(|at| (at.seconds, at.nanos));
            let word = if is_over { "missed" } else { "refused so far" };
            format!("{due} {word}: {} ({})", error.message, error.code)
        }
        (None, Some(job)) => format!("{due} {} {}", kind_word(job.kind()), state_word(job.state())),
        // The history has a limit.
        (None, None) => format!("{due} job {}", run.job.as_deref().unwrap_or_default()),
    }
}

/// The schedules as a table.
pub(crate) fn list(answer: &ListSchedulesResponse) -> String {
    let mut text = String::new();
    if answer.schedules.is_empty() {
        text.push_str("there are no schedules\n");
    } else {
        let mut table = Table::new(&["DATABASE", "NAME", "WHAT", "WHEN", "NEXT", "LAST"]);
        for view in &answer.schedules {
            let Some(schedule) = &view.schedule else { continue };
            let calendar = schedule.calendar.clone().unwrap_or_default();
            let next =
                if schedule.paused { "paused".to_owned() } else { units::minute(view.next_time.as_ref()) };
            table.row([
                schedule.database.clone(),
                schedule.name.clone(),
                work(schedule),
                format!("{} {}", calendar.cron, calendar.time_zone),
                next,
                last(view, schedule),
            ]);
        }
        text.push_str(&table.render());
    }
    for path in &answer.unreadable_records {
        text.push_str(&format!("cannot be read, and is skipped: {path}\n"));
    }
    text
}
