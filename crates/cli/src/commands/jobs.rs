//! `cellar jobs`.

use cellar_api::v1::{
    CancelJobRequest, GetJobRequest, Job, JobKind, JobState, ListJobsRequest, ListJobsResponse,
    TailJobLogRequest,
};
use cellar_model::JobId;
use clap::Subcommand;

use crate::arguments::{Form, Global};
use crate::commands::backup::judge;
use crate::failure::Outcome;
use crate::follow::{follow, is_terminal};
use crate::output;
use crate::proof::summary;
use crate::retry::call;
use crate::table::Table;
use crate::units;

/// Backups and rebuilds: what was asked, and what came of it
#[derive(Debug, Subcommand)]
pub(crate) enum Jobs {
    /// List jobs, newest first
    #[command(after_help = "Examples:
  cellar jobs list
  cellar jobs list --limit 5 --output json | jq -r '.jobs[].state'")]
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show one job: parameters, progress, result or error with the tool's output
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
pub(crate) fn kind(job: &Job) -> &'static str {
    match job.kind() {
        JobKind::Backup => "backup",
        JobKind::Rebuild => "rebuild",
        JobKind::Unspecified => "job",
    }
}

fn state_word(state: JobState) -> &'static str {
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

/// The most telling thing about a job, short.
fn detail(job: &Job) -> String {
    if let Some(error) = &job.error {
        return error.code.clone();
    }
    if let Some(backup) = job.result.as_ref().and_then(|result| result.backup.as_ref()) {
        return backup.label.clone();
    }
    if let Some(first) = job.waits_for.first() {
        return format!("waits for {first}");
    }
    let progress = job.progress.clone().unwrap_or_default();
    match progress.bytes_total {
        0 => progress.phase,
        total => {
            format!("{} {} %", progress.phase, progress.bytes_done.min(total).saturating_mul(100) / total)
        }
    }
}

pub(crate) fn render_list(answer: &ListJobsResponse) -> String {
    if answer.jobs.is_empty() {
        return "there are no jobs\n".to_owned();
    }
    let mut table = Table::new(&["ID", "KIND", "CELL", "STATE", "ASKED", "TOOK", "DETAIL"]);
    for job in &answer.jobs {
        let took = units::between(job.start_time.as_ref(), job.end_time.as_ref());
        table.row([
            job.id.clone(),
            kind(job).to_owned(),
            job.cell.clone(),
            state_word(job.state()).to_owned(),
            units::time(job.create_time.as_ref()),
            took.map(units::duration).unwrap_or_default(),
            detail(job),
        ]);
    }
    table.render()
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
    if let Some(backup) = &job.backup {
        lines.push(("type", crate::proof::type_word(backup.r#type()).to_owned()));
        if backup.allow_primary {
            lines.push(("primary", "allowed as source".to_owned()));
        }
    }
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
    let mut text = format!("{} {}\n", kind(job), job.id);
    for (name, value) in lines.into_iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("  {name:<12}{value}\n"));
    }
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
    if let Some(backup) = job.result.as_ref().and_then(|result| result.backup.as_ref()) {
        text.push_str(&format!("\n{}", summary(job, backup, None)));
    }
    if let Some(error) = job.error.as_ref().filter(|error| !error.tool_output.is_empty()) {
        text.push_str("\noutput:\n");
        error.tool_output.trim_end().lines().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text
}

impl Jobs {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::List { limit } => list(global, limit).await,
            Self::Show { id } => show(global, id).await,
            Self::Watch { id } => watch(global, id).await,
            Self::Logs { id, follow } => logs(global, id, follow).await,
            Self::Cancel { id } => cancel(global, id).await,
        }
    }
}

async fn list(global: &Global, limit: u32) -> Outcome {
    let target = global.target()?;
    let client = target.client()?;
    let answer = call(&target, || {
        let mut client = client.clone();
        let request =
            ListJobsRequest { database: super::database(global), page_size: limit, ..Default::default() };
        async move { client.list_jobs(request).await }
    })
    .await?;
    match global.output {
        Form::Json => output::json(&answer),
        Form::Human => output::print(&render_list(&answer)),
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
