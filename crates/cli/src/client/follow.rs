//! Following a job until it has ended: a bar on a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cellar_api::v1::{GetJobRequest, Job, JobKind, JobState, Progress};
use indicatif::{ProgressBar, ProgressStyle};

use crate::client::target::Target;
use crate::failure::Outcome;
use crate::output;
use crate::render::{steps, units};

/// How long multiadmin may be away while a job is followed. The job does not need it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How soon to try again.
const PAUSE: Duration = Duration::from_millis(500);

/// The job that is being waited for, told when the person interrupts.
static CURRENT: Mutex<Option<String>> = Mutex::new(None);

/// The job that is being waited for.
pub(crate) fn current_job() -> Option<String> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set_current(job: Option<&str>) {
    *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = job.map(str::to_owned);
}

/// Whether it can never change again.
pub(crate) fn is_terminal(job: &Job) -> bool {
    matches!(job.state(), JobState::Succeeded | JobState::Failed | JobState::Canceled)
}

/// Whether multiadmin itself works on it.
fn is_driven(job: &Job) -> bool {
    matches!(job.kind(), JobKind::Restore | JobKind::Rollback | JobKind::Confirm)
}

/// What is happening, in words.
fn phase(job: &Job) -> String {
    let progress = job.progress.as_ref().map(|progress| progress.phase.as_str()).filter(|p| !p.is_empty());
    match job.state() {
        JobState::Pending if !job.waits_for.is_empty() => {
            format!("waiting for job {}", job.waits_for.join(", then "))
        }
        JobState::Pending if is_driven(job) => "waiting for multiadmin to begin".to_owned(),
        JobState::Pending => format!("waiting for the multipooler of cell {}", job.cell),
        JobState::Lost => {
            format!("the multipooler of cell {} does not report; its job may still run", job.cell)
        }
        JobState::Running => progress.unwrap_or("running").to_owned(),
        JobState::Succeeded => "done".to_owned(),
        JobState::Failed => "failed".to_owned(),
        JobState::Canceled => "canceled".to_owned(),
        JobState::Unspecified => "unknown".to_owned(),
    }
}

fn bytes(progress: Option<&Progress>) -> (u64, u64) {
    progress.map_or((0, 0), |progress| (progress.bytes_done, progress.bytes_total))
}

/// How far one job or step has been told of.
#[derive(Debug, Default)]
struct Told {
    phase: String,
    tenth: u64,
}

impl Told {
    /// What is new: another phase, or another tenth of the bytes.
    fn update(&mut self, phase: String, (done, total): (u64, u64)) -> Option<String> {
        let tenth = done.min(total).saturating_mul(10).checked_div(total).unwrap_or(0);
        if phase == self.phase && tenth <= self.tenth {
            return None;
        }
        let line = match total {
            0 => phase.clone(),
            total => format!(
                "{phase}: {} of {} ({} %)",
                units::size(done.min(total)),
                units::size(total),
                tenth * 10
            ),
        };
        self.tenth = if phase == self.phase { tenth.max(self.tenth) } else { tenth };
        self.phase = phase;
        Some(line)
    }
}

/// The lines for somebody who does not watch a terminal: phase changes, and every tenth of the bytes.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    job: Told,
    steps: HashMap<String, Told>,
}

impl Lines {
    /// The lines that this update is worth.
    pub(crate) fn update(&mut self, job: &Job) -> Vec<String> {
        let mut lines = Vec::new();
        for step in job.steps.iter().filter(|step| step.state() != JobState::Pending) {
            let working = matches!(step.state(), JobState::Running | JobState::Lost);
            let bytes = if working { bytes(step.progress.as_ref()) } else { (0, 0) };
            let told = self.steps.entry(step.id.clone()).or_default();
            if let Some(line) = told.update(steps::phase(step), bytes) {
                lines.push(format!("{}: {line}", steps::name(step)));
            }
        }
        // What a running job with steps does is what its steps do.
        if job.steps.is_empty() || job.state() != JobState::Running {
            lines.extend(self.job.update(phase(job), bytes(job.progress.as_ref())));
        }
        lines
    }
}

enum Display {
    Bar(ProgressBar),
    Lines(Lines),
    Silent,
}

impl Display {
    fn new(quiet: bool) -> Self {
        if quiet {
            return Self::Silent;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines(Lines::default());
        }
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(120));
        Self::Bar(bar)
    }

    fn update(&mut self, job: &Job) {
        match self {
            Self::Bar(bar) => {
                let (done, total) = bytes(job.progress.as_ref());
                if total > 0 && bar.length() != Some(total) {
                    bar.set_length(total);
                    let style =
                        "{msg}  {wide_bar} {binary_bytes} of {binary_total_bytes}  {percent} %  ETA {eta}";
                    if let Ok(style) = ProgressStyle::with_template(style) {
                        bar.set_style(style.progress_chars("=> "));
                    }
                }
                // The step after one that counted bytes may have none.
                if total == 0 && bar.length().is_some() {
                    bar.unset_length();
                    bar.set_style(ProgressStyle::default_spinner());
                }
                bar.set_position(if total > 0 { done.min(total) } else { done });
                bar.set_message(phase(job));
            }
            Self::Lines(lines) => {
                lines.update(job).iter().for_each(|line| output::note(line));
            }
            Self::Silent => {}
        }
    }

    fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Follows a job until it has ended, calling `each` with every update, through broken connections.
pub(crate) async fn follow(
    target: &Target,
    id: &str,
    quiet: bool,
    mut each: impl FnMut(&Job) -> Outcome,
) -> Outcome<Job> {
    set_current(Some(id));
    let mut display = Display::new(quiet);
    let mut client = target.streaming_client()?;
    let mut last_heard = Instant::now();
    let result = loop {
        let status = match client.watch_job(GetJobRequest { id: id.to_owned() }).await {
            Ok(updates) => {
                let mut updates = updates.into_inner();
                loop {
                    match updates.message().await {
                        Ok(Some(job)) => {
                            last_heard = Instant::now();
                            display.update(&job);
                            if let Err(failure) = each(&job) {
                                display.finish();
                                return Err(failure);
                            }
                            if is_terminal(&job) {
                                display.finish();
                                set_current(None);
                                return Ok(job);
                            }
                        }
                        Ok(None) => break tonic::Status::unavailable("multiadmin ended the stream"),
                        Err(status) => break status,
                    }
                }
            }
            Err(status) => status,
        };
        let passing = matches!(
            status.code(),
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled | tonic::Code::Internal
        );
        if !passing || last_heard.elapsed() > PATIENCE {
            break Err(target.failure(status));
        }
        tokio::time::sleep(PAUSE).await;
    };
    display.finish();
    output::note(&format!("job {id} is not followed any more; it goes on"));
    result
}
