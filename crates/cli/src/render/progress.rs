//! What a job does at the moment: in words, and as plain lines for those who do not watch a terminal.

use std::collections::HashMap;

use cellar_api::v1::{Job, JobKind, JobState, Progress};

use crate::render::{steps, units};

/// Whether the job can never change again.
pub(crate) fn has_ended(job: &Job) -> bool {
    matches!(job.state(), JobState::Succeeded | JobState::Failed | JobState::Canceled)
}

/// Whether multiadmin itself works on the job, and not a multipooler.
fn is_driven(job: &Job) -> bool {
    matches!(job.kind(), JobKind::Restore | JobKind::Rollback | JobKind::Confirm)
}

/// A file of this size takes long enough to be named: the bytes that are done move only when it is complete.
const LARGE_FILE_BYTES: u64 = 256 << 20;

/// The file that is being copied, with its size, if it has at least `min` bytes.
fn file(progress: &Progress, min: u64) -> Option<String> {
    (!progress.file.is_empty() && progress.file_bytes >= min)
        .then(|| format!("{} ({})", progress.file, units::size(progress.file_bytes)))
}

/// What is happening, in words.
pub(crate) fn phase(job: &Job) -> String {
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
        JobState::Running => {
            let file = job.progress.as_ref().and_then(|progress| file(progress, LARGE_FILE_BYTES));
            let phase = progress.unwrap_or("running");
            file.map_or_else(|| phase.to_owned(), |file| format!("{phase} {file}"))
        }
        JobState::Succeeded => "done".to_owned(),
        JobState::Failed => "failed".to_owned(),
        JobState::Canceled => "canceled".to_owned(),
        JobState::Unspecified => "unknown".to_owned(),
    }
}

/// The bytes that are done, and all there are; 0 where they are not known.
pub(crate) fn bytes(progress: Option<&Progress>) -> (u64, u64) {
    progress.map_or((0, 0), |progress| (progress.bytes_done, progress.bytes_total))
}

/// The newest line that was shown of one job or step.
#[derive(Debug, Default)]
struct Shown {
    phase: String,
    tenth: u64,
}

impl Shown {
    /// The line for another phase, or for another tenth of the bytes.
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

/// The progress of a job and its steps as lines: one for each phase, and one for each tenth of the bytes.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    job: Shown,
    steps: HashMap<String, Shown>,
}

impl Lines {
    /// The new lines after an update of the job.
    pub(crate) fn update(&mut self, job: &Job) -> Vec<String> {
        let mut lines = Vec::new();
        for step in job.steps.iter().filter(|step| step.state() != JobState::Pending) {
            let is_working = matches!(step.state(), JobState::Running | JobState::Lost);
            let bytes = if is_working { bytes(step.progress.as_ref()) } else { (0, 0) };
            let shown = self.steps.entry(step.id.clone()).or_default();
            if let Some(line) = shown.update(steps::phase(step), bytes) {
                lines.push(format!("{}: {line}", steps::name(step)));
            }
        }
        // The phase of a running job with steps repeats that of its steps.
        if job.steps.is_empty() || job.state() != JobState::Running {
            lines.extend(self.job.update(phase(job), bytes(job.progress.as_ref())));
        }
        lines
    }
}
