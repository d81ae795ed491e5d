//! One job in full: parameters, progress, steps, history and outcome.

use cellar_api::v1::Job;

use crate::render::facts::{Fact, lines, section};
use crate::render::outcome::outcome;
use crate::render::parameters::parameters;
use crate::render::progress::has_ended;
use crate::render::words::{kind_word, state_word};
use crate::render::{steps, units};

fn progress(job: &Job) -> Vec<Fact> {
    let Some(progress) = job.progress.as_ref().filter(|_| !has_ended(job)) else { return Vec::new() };
    let copied = match progress.bytes_total {
        0 => String::new(),
        total => format!("{} of {}", units::size(progress.bytes_done), units::size(total)),
    };
    vec![("phase", progress.phase.clone()), ("copied", copied)]
}

fn facts(job: &Job) -> Vec<Fact> {
    let mut facts = vec![
        ("state", state_word(job.state()).to_owned()),
        ("database", job.database.clone()),
        ("cell", job.cell.clone()),
        ("requested by", job.requested_by.clone()),
        ("requested", units::time(job.create_time.as_ref())),
        ("started", units::time(job.start_time.as_ref())),
        ("ended", units::time(job.end_time.as_ref())),
        ("deadline", units::time(job.deadline.as_ref())),
        ("request id", job.request_id.clone().unwrap_or_default()),
        ("waits for", job.waits_for.join(", ")),
    ];
    facts.extend(parameters(job));
    facts.extend(progress(job));
    if let Some(cancel) = &job.cancel {
        let when = units::time(cancel.time.as_ref());
        facts.push(("cancel", format!("requested by {} at {when}", cancel.requested_by)));
    }
    if let Some(error) = &job.error {
        facts.extend([
            ("error", error.code.clone()),
            ("message", error.message.clone()),
            ("hint", error.hint.clone()),
        ]);
    }
    facts
}

fn history(job: &Job) -> String {
    let transitions = job.history.iter().map(|transition| {
        let note = if transition.note.is_empty() { String::new() } else { format!("  {}", transition.note) };
        let time = units::time(transition.time.as_ref());
        format!("{time}  {}{note}", state_word(transition.state()))
    });
    section("history", &transitions.collect::<Vec<_>>())
}

fn tool_output(job: &Job) -> String {
    let output = job.error.as_ref().map_or("", |error| error.tool_output.trim_end());
    section("output", &output.lines().map(str::to_owned).collect::<Vec<_>>())
}

/// Everything that is known of a job.
pub(crate) fn details(job: &Job) -> String {
    let title = format!("{} {}\n", kind_word(job.kind()), job.id);
    let outcome = outcome(job).map(|text| format!("\n{text}")).unwrap_or_default();
    [title, lines(facts(job)), steps::render(job), history(job), outcome, tool_output(job)].concat()
}
