//! The steps of a job that multiadmin drives, in words.

use cellar_api::v1::{Job, JobState, JobStep, Progress};

use crate::render::facts::section;
use crate::render::table::Table;
use crate::render::units;
use crate::render::words::{kind_word, state_word};

/// A step's name among its siblings.
pub(crate) fn name(step: &JobStep) -> String {
    format!("{} {}", kind_word(step.kind()), step.cell)
}

fn took(step: &JobStep) -> String {
    units::took(step.start_time.as_ref(), step.end_time.as_ref())
}

/// What a step does, or how it ended.
pub(crate) fn phase(step: &JobStep) -> String {
    let after = match took(step) {
        took if took.is_empty() => took,
        took => format!(" ({took})"),
    };
    match step.state() {
        JobState::Pending => "waiting for its multipooler".to_owned(),
        JobState::Running => step
            .progress
            .as_ref()
            .map(|progress| progress.phase.clone())
            .filter(|phase| !phase.is_empty())
            .unwrap_or_else(|| "running".to_owned()),
        JobState::Lost => "its multipooler does not report; it may still run".to_owned(),
        JobState::Succeeded => format!("done{after}"),
        JobState::Failed => match &step.error {
            Some(error) => format!("failed{after}: {}", error.message),
            None => format!("failed{after}"),
        },
        JobState::Canceled => format!("canceled{after}"),
        JobState::Unspecified => "unknown".to_owned(),
    }
}

/// The phase with the bytes, where they are known.
fn progress(progress: &Progress) -> String {
    match (progress.bytes_done, progress.bytes_total) {
        (0, 0) => progress.phase.clone(),
        (done, 0) => format!("{}: {}", progress.phase, units::size(done)),
        (done, total) => {
            format!("{}: {} of {}", progress.phase, units::size(done.min(total)), units::size(total))
        }
    }
}

/// A line for each step, and below them the command that shows the log of each that failed.
pub(crate) fn render(job: &Job) -> String {
    if job.steps.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["STEP", "CELL", "STATE", "STARTED", "TOOK", "DETAIL"]);
    for step in &job.steps {
        let detail = match (&step.error, &step.progress) {
            (Some(error), _) => format!("{} ({})", error.message, error.code),
            (None, Some(now)) => progress(now),
            (None, None) => String::new(),
        };
        table.row([
            kind_word(step.kind()),
            step.cell.clone(),
            state_word(step.state()).to_owned(),
            units::time(step.start_time.as_ref()),
            took(step),
            detail,
        ]);
    }
    let mut lines: Vec<String> = table.render().lines().map(str::to_owned).collect();
    let failed = job.steps.iter().filter(|step| step.state() == JobState::Failed);
    lines.extend(failed.map(|step| format!("log of {}: cellar jobs logs {}", name(step), step.id)));
    section("steps", &lines)
}
