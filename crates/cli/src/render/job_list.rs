//! Jobs as a table.

use cellar_api::v1::{Job, ListJobsResponse};

use crate::render::outcome::outcome_in_short;
use crate::render::progress::has_ended;
use crate::render::table::Table;
use crate::render::units;
use crate::render::words::{kind_word, state_word};

/// The most important thing about a job in a few words: why it failed, its outcome, what it waits for, or what it does.
fn detail(job: &Job) -> String {
    if let Some(error) = &job.error {
        return error.code.clone();
    }
    if let Some(outcome) = outcome_in_short(job) {
        return outcome;
    }
    if let Some(first) = job.waits_for.first() {
        return format!("waits for {first}");
    }
    let progress = job.progress.clone().unwrap_or_default();
    match (progress.bytes_total, job.subject()) {
        (0, Some(subject)) if progress.phase.is_empty() || has_ended(job) => format!("of restore {subject}"),
        (0, _) => progress.phase,
        (total, _) => {
            format!("{} {} %", progress.phase, progress.bytes_done.min(total).saturating_mul(100) / total)
        }
    }
}

/// The jobs; with `steps` also the job that each of them is a step of.
pub(crate) fn list(answer: &ListJobsResponse, steps: bool) -> String {
    if answer.jobs.is_empty() {
        return "there are no jobs\n".to_owned();
    }
    let columns = ["ID", "KIND", "CELL", "STATE", "REQUESTED", "TOOK"];
    let last: &[&str] = if steps { &["STEP OF", "DETAIL"] } else { &["DETAIL"] };
    let mut table = Table::new(&[&columns[..], last].concat());
    for job in &answer.jobs {
        let [id, kind, cell, state, requested, took] = [
            job.id.clone(),
            kind_word(job.kind()),
            job.cell.clone(),
            state_word(job.state()).to_owned(),
            units::time(job.create_time.as_ref()),
            units::took(job.start_time.as_ref(), job.end_time.as_ref()),
        ];
        if steps {
            let parent = job.parent.clone().unwrap_or_default();
            table.row([id, kind, cell, state, requested, took, parent, detail(job)]);
        } else {
            table.row([id, kind, cell, state, requested, took, detail(job)]);
        }
    }
    table.render()
}
