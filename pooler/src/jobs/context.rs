//! What every job works with: its record, its log, its progress, and the question whether it must end early.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{JobOutcome, Progress, Repository};
use cellar_pgbackrest::{Failure, Invocation, Running};
use cellar_system::Process;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::jobs::claim::ClaimedJob;
use crate::jobs::control::Control;
use crate::jobs::failure::JobFailure;
use crate::repository::tool_failure::{Disks, failure_here, read_log};

/// How a job ends: successfully, with an outcome if its kind has one, or with the reason why not.
pub(crate) type JobResult = Result<Option<JobOutcome>, JobFailure>;

/// How often a running pgBackRest is watched.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// How often the progress of a long phase is written to etcd, at most.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How long writing progress may take.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(2);

/// Niceness of commands that only maintain the repo: the lowest priority, so that the live instance goes first.
const MAINTENANCE_NICE: u32 = 19;

/// A running job.
pub(crate) struct JobContext<'a> {
    /// The agent that runs it.
    pub(crate) agent: &'a Agent,
    /// Its record and its run in etcd.
    pub(crate) job: &'a mut ClaimedJob,
    control: &'a Control,
    effect: &'static str,
    last_progress: Option<(String, Instant)>,
}

/// A pgBackRest command that failed.
pub(crate) struct FailedCommand {
    /// What its exit code and its messages mean.
    pub(crate) failure: Failure,
    /// The whole log of the job.
    pub(crate) log: String,
}

impl<'a> JobContext<'a> {
    /// The context of a job that this process has claimed.
    pub(crate) fn new(agent: &'a Agent, job: &'a mut ClaimedJob, control: &'a Control) -> Self {
        Self { agent, job, control, effect: "nothing was changed", last_progress: None }
    }

    /// The file that the job's output goes to.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.agent.job_log(&self.job.record.id)
    }

    /// The job's output so far; empty when there is none.
    pub(crate) fn log_text(&self) -> String {
        read_log(&self.log_file())
    }

    /// Says what an interruption from here on means for the work: the second half of the job's error message.
    /// Before the first call it is "nothing was changed".
    pub(crate) fn if_interrupted(&mut self, effect: &'static str) {
        self.effect = effect;
    }

    /// Fails when the job must end early.
    ///
    /// # Errors
    /// [`JobFailure::Interrupted`], with the effect that [`JobContext::if_interrupted`] said.
    pub(crate) fn check_interrupted(&self) -> Result<(), JobFailure> {
        match self.control.interrupted(self.agent) {
            Some(why) => Err(JobFailure::Interrupted { why, effect: self.effect }),
            None => Ok(()),
        }
    }

    /// Whether the job must end early, for work beside which its progress is written.
    pub(crate) fn is_interrupted(&self) -> impl Fn() -> bool + use<'a> {
        let (agent, control) = (self.agent, self.control);
        move || control.interrupted(agent).is_some()
    }

    /// When the job's work must have ended unless its claim is renewed, by `clock::uptime`; none when it may go on without.
    pub(crate) fn work_until(&self) -> Option<Duration> {
        self.control.work_until(self.agent)
    }

    /// Awaits what writes to the repo, unless the job must end early: nobody may write there beside the next job.
    ///
    /// # Errors
    /// As [`JobContext::check_interrupted`].
    pub(crate) async fn unless_interrupted<T>(&self, work: impl Future<Output = T>) -> Result<T, JobFailure> {
        let mut work = std::pin::pin!(work);
        loop {
            if let Ok(done) = tokio::time::timeout(WATCH_INTERVAL, &mut work).await {
                return Ok(done);
            }
            self.check_interrupted()?;
        }
    }

    /// Waits `interval` before a condition is looked at again, and fails when the job must end early.
    ///
    /// # Errors
    /// As [`JobContext::check_interrupted`].
    pub(crate) async fn pause(&self, interval: Duration) -> Result<(), JobFailure> {
        tokio::time::sleep(interval).await;
        self.check_interrupted()
    }

    /// Writes which phase the job is in.
    pub(crate) async fn progress(&mut self, phase: &str) {
        self.write_progress(Progress { phase: phase.to_owned(), ..Progress::default() }).await;
    }

    fn is_too_soon(&self, progress: &Progress) -> bool {
        let last = self.last_progress.as_ref();
        last.is_some_and(|(phase, at)| *phase == progress.phase && at.elapsed() < PROGRESS_INTERVAL)
    }

    /// Writes how far the job is: at once when the phase has changed, else once in [`PROGRESS_INTERVAL`] at most.
    pub(crate) async fn periodic_progress(&mut self, progress: Progress) {
        if !self.is_too_soon(&progress) {
            self.last_progress = Some((progress.phase.clone(), Instant::now()));
            self.write_progress(progress).await;
        }
    }

    /// As [`JobContext::periodic_progress`], with the largest file below `data` that pgBackRest has open: the bytes move
    /// only when a file is done.
    pub(crate) async fn copying_progress(&mut self, progress: Progress, running: &Running, data: &Path) {
        if self.is_too_soon(&progress) {
            return;
        }
        let leader = Process::find(running.group());
        let (file, file_bytes) = leader.and_then(|leader| leader.largest_open_file(data)).unwrap_or_default();
        let file = file.strip_prefix(data).unwrap_or(&file).display().to_string();
        self.periodic_progress(Progress { file, file_bytes, ..progress }).await;
    }

    /// Progress that cannot be written is no failure of the job: the next one replaces it.
    async fn write_progress(&mut self, progress: Progress) {
        // Nor may an etcd that is slow hold up the look at pgBackRest, with which its watchdog is told to go on waiting.
        match tokio::time::timeout(PROGRESS_TIMEOUT, self.job.progress(self.agent, progress)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "progress not written"),
            Err(_) => tracing::debug!("progress not written in time"),
        }
    }

    /// Runs pgBackRest to its end with its output in the job's log, and calls `watch` every 200 ms. Returns how it
    /// failed; none when it succeeded.
    ///
    /// # Errors
    /// When the job must end early, in which case pgBackRest was ended; or when pgBackRest cannot be run at all.
    pub(crate) async fn run_pgbackrest(
        &mut self,
        invocation: &Invocation,
        nice: u32,
        watch: impl AsyncFnMut(&mut Self, &Running),
    ) -> Result<Option<FailedCommand>, JobFailure> {
        self.run_pgbackrest_watched_every(WATCH_INTERVAL, invocation, nice, watch).await
    }

    /// As [`JobContext::run_pgbackrest`], watched at another interval.
    ///
    /// # Errors
    /// As [`JobContext::run_pgbackrest`].
    pub(crate) async fn run_pgbackrest_watched_every(
        &mut self,
        interval: Duration,
        invocation: &Invocation,
        nice: u32,
        mut watch: impl AsyncFnMut(&mut Self, &Running),
    ) -> Result<Option<FailedCommand>, JobFailure> {
        let (pgbackrest, log_file) = (&self.agent.pgbackrest, self.log_file());
        let (agent, control) = (self.agent, self.control);
        let until = || control.work_until(agent);
        let look = async |running: &Running| {
            self.check_interrupted()?;
            watch(self, running).await;
            Ok::<(), JobFailure>(())
        };
        let code = pgbackrest.run_watched(invocation, &log_file, nice, interval, until, look).await?;
        if code == Some(0) {
            return Ok(None);
        }
        // What is to end this job may also be why pgBackRest failed: its watchdog killed it, or every pooler is told to stop
        // and the one that it reads from was faster.
        self.check_interrupted()?;
        let log = read_log(&log_file);
        Ok(Some(FailedCommand { failure: Failure::of_output(code, &log), log }))
    }

    /// Runs a command that maintains or reads the repo, at the lowest priority.
    ///
    /// # Errors
    /// As [`JobContext::run_pgbackrest`], and when the command fails; the disks of the repository and the data are then asked whether they are
    /// full.
    pub(crate) async fn run_maintenance(
        &mut self,
        invocation: &Invocation,
        doing: &str,
        repository: &Repository,
        data_directory: &str,
    ) -> Result<(), JobFailure> {
        match self.run_pgbackrest(invocation, MAINTENANCE_NICE, async |_, _| {}).await? {
            None => Ok(()),
            Some(failed) => {
                let disks = Disks { repository, cell: &self.agent.cell, data_directory };
                Err(failure_here(doing, &failed.failure, &failed.log, disks).into())
            }
        }
    }
}
