//! `cellar jobs`.

use cellar_api::v1::job_result::Outcome as JobOutcome;
use cellar_api::v1::{
    CancelJobRequest, GetJobRequest, Job, JobKind, JobState, ListJobsRequest, ListJobsResponse,
    RecoveryResult, TailJobLogRequest,
};
use cellar_model::JobId;
use clap::Subcommand;

use crate::arguments::{Form, Global};
use crate::client::follow::{follow, is_terminal};
use crate::client::retry::call;
use crate::client::submit::judge;
use crate::failure::Outcome;
use crate::output;
use crate::render::proof::summary;
use crate::render::table::Table;
use crate::render::{drill, maintenance, restore, steps, units};

/// How many jobs are asked for at once at least when some of them are going to be hidden.
const LEAST_PAGE: u32 = 100;

/// Backups, restores, drills, rebuilds: what was asked, and what came of it
#[derive(Debug, Subcommand)]
pub(crate) enum Jobs {
    /// List jobs, newest first
    #[command(after_help = "Examples:
  cellar jobs list
  cellar jobs list --steps
  cellar jobs list --limit 5 --output json | jq -r '.jobs[].state'")]
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Also the steps of restores, rollbacks and confirmations
        #[arg(long)]
        steps: bool,
    },
    /// Show one job: parameters, steps, progress, result or error with the tool's output
    #[command(after_help = "Example:
  cellar jobs show 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00")]
    Show {
        /// Its id
        #[arg(value_name = "ID")]
        id: JobId,
    },
    /// Follow a job until it has ended; exit code 1 when it failed
    #[command(after_help = "Example:
  cellar jobs watch 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00")]
    Watch {
        /// Its id
        #[arg(value_name = "ID")]
        id: JobId,
    },
    /// Print what the job's tools wrote
    #[command(after_help = "Examples:
  cellar jobs logs 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00
  cellar jobs logs -f 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00")]
    Logs {
        /// Its id
        #[arg(value_name = "ID")]
        id: JobId,
        /// Go on until the job has ended
        #[arg(long, short)]
        follow: bool,
    },
    /// Ask a job to end early; pgBackRest ends cleanly and the stanza is released
    #[command(after_help = "Example:
  cellar jobs cancel 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00")]
    Cancel {
        /// Its id
        #[arg(value_name = "ID")]
        id: JobId,
    },
}

/// The word for a kind of job.
pub(crate) fn kind_word(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Backup => "backup",
        JobKind::Rebuild => "rebuild",
        JobKind::Restore => "restore",
        JobKind::Rollback => "rollback",
        JobKind::Confirm => "confirm",
        JobKind::Plan => "plan",
        JobKind::Fence => "fence",
        JobKind::Recover => "recover",
        JobKind::Swap => "swap",
        JobKind::Discard => "discard",
        JobKind::Drill => "drill",
        JobKind::Expire => "expire",
        JobKind::Verify => "verify",
        JobKind::Check => "check",
        JobKind::Unspecified => "job",
    }
}

/// The word for a state.
pub(crate) fn state_word(state: JobState) -> &'static str {
    match state {
        JobState::Pending => "pending",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Canceled => "canceled",
        JobState::Lost => "lost",
        JobState::Unspecified => "unknown",
    }
}

/// The most telling thing about an outcome, short.
fn outcome_detail(outcome: &JobOutcome) -> Option<String> {
    let reached = |recovery: &RecoveryResult| {
        format!("reached {} of timeline {}", recovery.lsn, recovery.from_timeline)
    };
    Some(match outcome {
        JobOutcome::Backup(backup) => backup.label.clone(),
        JobOutcome::Plan(plan) => format!("to {}", restore::target(plan.target.as_ref())),
        JobOutcome::Fence(_) => return None,
        JobOutcome::Recovery(recovery) => reached(recovery),
        JobOutcome::Restore(restore) => reached(restore.recovery.as_ref()?),
        JobOutcome::Rebuild(rebuild) => format!("from {}", rebuild.backup.as_ref()?),
        JobOutcome::Drill(drill) => {
            format!("{} readable after {}", drill.backup, units::millis(drill.readable_millis))
        }
        JobOutcome::Expire(expire) => {
            let goes = if expire.dry_run { "would go" } else { "gone" };
            format!("{} {goes}, {} kept", expire.backups.len(), expire.kept.len())
        }
        JobOutcome::Verify(verify) => format!("{} backups read", verify.backups.len()),
        JobOutcome::Check(check) => format!("{} arrived", check.segment),
    })
}

/// The most telling thing about a job, short.
fn detail(job: &Job) -> String {
    if let Some(error) = &job.error {
        return error.code.clone();
    }
    if let Some(detail) = outcome(job).and_then(outcome_detail) {
        return detail;
    }
    if let Some(first) = job.waits_for.first() {
        return format!("waits for {first}");
    }
    let progress = job.progress.clone().unwrap_or_default();
    match (progress.bytes_total, job.subject()) {
        (0, Some(subject)) if progress.phase.is_empty() || is_terminal(job) => {
            format!("of restore {subject}")
        }
        (0, _) => progress.phase,
        (total, _) => {
            format!("{} {} %", progress.phase, progress.bytes_done.min(total).saturating_mul(100) / total)
        }
    }
}

/// The jobs; with `steps` also to which job each of them belongs.
pub(crate) fn render_list(answer: &ListJobsResponse, steps: bool) -> String {
    if answer.jobs.is_empty() {
        return "there are no jobs\n".to_owned();
    }
    let columns = ["ID", "KIND", "CELL", "STATE", "ASKED", "TOOK"];
    let mut table = if steps {
        Table::new(&[&columns[..], &["STEP OF", "DETAIL"]].concat())
    } else {
        Table::new(&[&columns[..], &["DETAIL"]].concat())
    };
    for job in &answer.jobs {
        let took = units::between(job.start_time.as_ref(), job.end_time.as_ref());
        let row = [
            job.id.clone(),
            kind_word(job.kind()).to_owned(),
            job.cell.clone(),
            state_word(job.state()).to_owned(),
            units::time(job.create_time.as_ref()),
            took.map(units::duration).unwrap_or_default(),
        ];
        let [id, kind, cell, state, asked, took] = row;
        if steps {
            let parent = job.parent.clone().unwrap_or_default();
            table.row([id, kind, cell, state, asked, took, parent, detail(job)]);
        } else {
            table.row([id, kind, cell, state, asked, took, detail(job)]);
        }
    }
    table.render()
}

/// What was asked of a job, beside who, where and when.
fn parameters(job: &Job) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("step of", job.parent.clone().unwrap_or_default()),
        ("of restore", job.subject().cloned().unwrap_or_default()),
    ];
    let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
    let flag = |is_set: bool, words: &str| if is_set { words.to_owned() } else { String::new() };
    if let Some(backup) = job.backup() {
        lines.push(("type", crate::render::proof::type_word(backup.r#type()).to_owned()));
        lines.push(("primary", flag(backup.allow_primary, "allowed as source")));
    }
    if let Some(rebuild) = job.rebuild() {
        let kept = rebuild.keep_for.as_ref().map(|id| format!("kept for restore {id}"));
        lines.push(("old data", kept.unwrap_or_default()));
        let put_back = rebuild.put_back.as_ref().map(|id| format!("what was kept for restore {id}"));
        lines.push(("put back", put_back.unwrap_or_default()));
    }
    if let Some(restore) = job.restore() {
        lines.push(("target", restore::target(restore.target.as_ref())));
        lines.push(("timeline", number(restore.timeline)));
        lines.push(("onto", restore.onto.clone().unwrap_or_default()));
        lines.push(("in place", flag(restore.in_place, "yes: the old data is not kept")));
    }
    if let Some(recover) = job.recover() {
        let kept = recover.kept.as_ref().map(|id| format!("what was kept for restore {id}"));
        lines.push(("target", restore::target(recover.target.as_ref())));
        lines.push(("timeline", recover.timeline.to_string()));
        lines.push(("from", recover.set.clone().or(kept).unwrap_or_default()));
        lines.push(("last WAL", recover.last_segment.clone().unwrap_or_default()));
        lines.push(("incarnation", recover.incarnation.to_string()));
        lines.push(("in place", flag(recover.in_place, "yes: the old data is not kept")));
    }
    if let Some(drill) = job.drill() {
        lines.push(("backup", drill.backup.clone().unwrap_or_else(|| "the newest".to_owned())));
        lines.extend(
            drill
                .checks
                .iter()
                .map(|check| ("check", check.split_whitespace().collect::<Vec<_>>().join(" "))),
        );
        lines.push(("checked in", flag(!drill.checks.is_empty(), &drill.check_database)));
        lines.push(("pg_amcheck", flag(drill.skip_amcheck, "left out")));
        lines.push(("nice", drill.nice.to_string()));
        let rate = match drill.max_bytes_per_second {
            0 => "no limit".to_owned(),
            rate => format!("at most {} a second", units::size(rate)),
        };
        lines.push(("rate", rate));
    }
    if let Some(expire) = job.expire() {
        let what = expire.backup.clone().unwrap_or_else(|| "what the retention does not keep".to_owned());
        lines.push(("expires", what));
        lines.push(("dry run", flag(expire.dry_run, "yes: nothing goes")));
    }
    lines
}

fn outcome(job: &Job) -> Option<&JobOutcome> {
    job.result.as_ref()?.outcome.as_ref()
}

/// What came of a job, as the command that asks for it shows it.
fn result(job: &Job) -> String {
    let Some(outcome) = outcome(job) else { return String::new() };
    let shown = match outcome {
        JobOutcome::Backup(backup) => summary(job, backup, None),
        JobOutcome::Plan(plan) => restore::plan(job, plan),
        JobOutcome::Fence(fence) => restore::fenced(fence),
        JobOutcome::Recovery(recovery) => restore::recovered(recovery),
        JobOutcome::Restore(restore) => restore::summary(job, restore),
        JobOutcome::Rebuild(rebuild) => restore::rebuilt(rebuild),
        JobOutcome::Drill(drill) => drill::report(job, drill),
        JobOutcome::Expire(expire) => maintenance::expired(job, expire),
        JobOutcome::Verify(verify) => maintenance::verified(job, verify),
        JobOutcome::Check(check) => maintenance::checked(job, check),
    };
    format!("\n{shown}")
}

pub(crate) fn render_one(job: &Job) -> String {
    let mut lines: Vec<(&str, String)> = vec![
        ("state", state_word(job.state()).to_owned()),
        ("database", job.database.clone()),
        ("cell", job.cell.clone()),
        ("asked by", job.requested_by.clone()),
        ("asked", units::time(job.create_time.as_ref())),
        ("began", units::time(job.start_time.as_ref())),
        ("ended", units::time(job.end_time.as_ref())),
        ("given up", units::time(job.deadline.as_ref())),
        ("request id", job.request_id.clone().unwrap_or_default()),
        ("waits for", job.waits_for.join(", ")),
    ];
    lines.extend(parameters(job));
    if let Some(progress) = job.progress.as_ref().filter(|_| !is_terminal(job)) {
        lines.push(("phase", progress.phase.clone()));
        if progress.bytes_total > 0 {
            let (done, total) = (units::size(progress.bytes_done), units::size(progress.bytes_total));
            lines.push(("copied", format!("{done} of {total}")));
        }
    }
    if let Some(cancel) = &job.cancel {
        let when = units::time(cancel.time.as_ref());
        lines.push(("cancel", format!("asked by {} at {when}", cancel.requested_by)));
    }
    if let Some(error) = &job.error {
        lines.push(("error", error.code.clone()));
        lines.push(("message", error.message.clone()));
        lines.push(("hint", error.hint.clone()));
    }
    let mut text = format!("{} {}\n", kind_word(job.kind()), job.id);
    for (name, value) in lines.into_iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("  {name:<12}{value}\n"));
    }
    text.push_str(&steps::render(job));
    if !job.history.is_empty() {
        text.push_str("\nhistory:\n");
        for step in &job.history {
            let note = if step.note.is_empty() { String::new() } else { format!("  {}", step.note) };
            text.push_str(&format!(
                "  {}  {}{note}\n",
                units::time(step.time.as_ref()),
                state_word(step.state())
            ));
        }
    }
    text.push_str(&result(job));
    if let Some(error) = job.error.as_ref().filter(|error| !error.tool_output.is_empty()) {
        text.push_str("\noutput:\n");
        error.tool_output.trim_end().lines().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text
}

impl Jobs {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::List { limit, steps } => list(global, limit, steps).await,
            Self::Show { id } => show(global, id).await,
            Self::Watch { id } => watch(global, id).await,
            Self::Logs { id, follow } => logs(global, id, follow).await,
            Self::Cancel { id } => cancel(global, id).await,
        }
    }
}

/// Steps are hidden here and not by multiadmin, so more pages may be needed for as many jobs.
async fn list(global: &Global, limit: u32, steps: bool) -> Outcome {
    let target = global.target()?;
    let client = target.client()?;
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut answer = ListJobsResponse::default();
    loop {
        let page = call(&target, || {
            let mut client = client.clone();
            let request = ListJobsRequest {
                database: super::database(global),
                page_size: if steps { limit } else { limit.max(LEAST_PAGE) },
                page_token: answer.next_page_token.clone(),
            };
            async move { client.list_jobs(request).await }
        })
        .await?;
        answer.next_page_token = page.next_page_token;
        answer.jobs.extend(page.jobs.into_iter().filter(|job| steps || job.parent.is_none()));
        if steps || answer.jobs.len() >= wanted || answer.next_page_token.is_empty() {
            break;
        }
    }
    if answer.jobs.len() > wanted {
        // The token is of the page's end, which is not where this list ends.
        answer.jobs.truncate(wanted);
        answer.next_page_token.clear();
    }
    match global.output {
        Form::Json => output::json(&answer),
        Form::Human => output::print(&render_list(&answer, steps)),
    }
}

async fn show(global: &Global, id: JobId) -> Outcome {
    let target = global.target()?;
    let client = target.client()?;
    let job = call(&target, || {
        let mut client = client.clone();
        async move { client.get_job(GetJobRequest { id: id.to_string() }).await }
    })
    .await?;
    match global.output {
        Form::Json => output::json(&job),
        Form::Human => output::print(&render_one(&job)),
    }
}

async fn watch(global: &Global, id: JobId) -> Outcome {
    let target = global.target()?;
    let json = global.output == Form::Json;
    let each = |job: &Job| if json { output::json_line(job) } else { Ok(()) };
    let job = follow(&target, &id.to_string(), json, each).await?;
    if json {
        return judge(job).map(drop);
    }
    if job.result.is_some() {
        // What was found out before it failed is worth seeing: a drill's checks, a restore that took effect.
        output::print(&render_one(&job))?;
        return judge(job).map(drop);
    }
    let job = judge(job)?;
    output::print(&render_one(&job))
}

async fn logs(global: &Global, id: JobId, follow: bool) -> Outcome {
    let target = global.target()?;
    let mut client = target.streaming_client()?;
    let request = TailJobLogRequest { id: id.to_string(), follow };
    let failed = |status| target.failure(status);
    let mut chunks = client.tail_job_log(request).await.map_err(failed)?.into_inner();
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        match global.output {
            Form::Json => output::json_line(&chunk)?,
            Form::Human => output::write(&chunk.data)?,
        }
    }
    Ok(())
}

async fn cancel(global: &Global, id: JobId) -> Outcome {
    let target = global.target()?;
    let client = target.client()?;
    // A second request to cancel changes nothing, so this may be repeated.
    let job = call(&target, || {
        let mut client = client.clone();
        async move { client.cancel_job(CancelJobRequest { id: id.to_string() }).await }
    })
    .await?;
    match global.output {
        Form::Json => output::json(&job),
        Form::Human if is_terminal(&job) => {
            output::print(&format!("job {id} has ended: {}", state_word(job.state())))
        }
        Form::Human => {
            output::note(&format!("see it end with `cellar jobs watch {id}`"));
            output::print(&format!("job {id} has been asked to end"))
        }
    }
}
