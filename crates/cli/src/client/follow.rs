//! Follows a job until it has ended, through restarts of multiadmin: the job does not need multiadmin, and goes on.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cellar_api::v1::{GetJobRequest, Job};
use futures_util::{Stream, StreamExt};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::client::progress::Display;
use crate::client::target::Target;
use crate::failure::Outcome;
use crate::output;
use crate::render::progress::has_ended;

/// How long multiadmin may be away while a job is followed, counted from the break of the stream.
const OUTAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause before the stream is opened again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The job that is followed now; its id is part of the message when the command is interrupted.
static CURRENT: Mutex<Option<String>> = Mutex::new(None);

/// The id of the job that is followed now.
pub(crate) fn current_job() -> Option<String> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set_current(job: Option<&str>) {
    *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = job.map(str::to_owned);
}

/// Whether opening the stream again can help.
fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal)
}

/// Why following ended before the job did.
enum Stop {
    /// multiadmin refused, or was away for too long.
    Status(Status),
    /// `each` failed.
    Failure(crate::failure::Failure),
}

/// Reads updates until the job has ended. `watch` opens a stream, whose first message is the job as it is then.
async fn read_updates<S>(
    mut watch: impl AsyncFnMut() -> Result<S, Status>,
    mut each: impl FnMut(&Job) -> Outcome,
) -> Result<Job, Stop>
where
    S: Stream<Item = Result<Job, Status>> + Unpin,
{
    // multiadmin sends a message only when the job changes, so the age of the last one says nothing about an outage.
    let mut broken_since: Option<Instant> = None;
    loop {
        let status = match watch().await {
            Ok(mut updates) => loop {
                match updates.next().await {
                    Some(Ok(job)) => {
                        broken_since = None;
                        each(&job).map_err(Stop::Failure)?;
                        if has_ended(&job) {
                            return Ok(job);
                        }
                    }
                    Some(Err(status)) => break status,
                    None => break Status::unavailable("multiadmin ended the stream"),
                }
            },
            Err(status) => status,
        };
        let since = *broken_since.get_or_insert_with(Instant::now);
        if !is_passing(&status) || since.elapsed() > OUTAGE_TIMEOUT {
            return Err(Stop::Status(status));
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Follows a job until it has ended, shows its progress unless `quiet`, and calls `each` with every update.
pub(crate) async fn follow(
    target: &Target,
    id: &str,
    quiet: bool,
    mut each: impl FnMut(&Job) -> Outcome,
) -> Outcome<Job> {
    set_current(Some(id));
    let mut display = Display::new(quiet);
    let client = target.streaming_client()?;
    let watch = async || {
        let request = GetJobRequest { id: id.to_owned() };
        client.clone().watch_job(request).await.map(tonic::Response::into_inner)
    };
    let result = read_updates(watch, |job| {
        display.update(job);
        each(job)
    })
    .await;
    display.finish();
    match result {
        Ok(job) => {
            set_current(None);
            Ok(job)
        }
        Err(Stop::Failure(failure)) => Err(failure),
        Err(Stop::Status(status)) => {
            output::note(&format!("job {id} is not followed any more; it goes on"));
            Err(target.failure(status))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use cellar_api::v1::JobState;
    use futures_util::stream::BoxStream;

    use super::*;

    /// What a stream does: it sends after so many seconds, or breaks.
    enum Event {
        Job(JobState),
        Quiet(u64),
        Break,
    }
    use Event::{Break, Job as Update, Quiet};

    fn stream(events: Vec<Event>) -> BoxStream<'static, Result<Job, Status>> {
        futures_util::stream::iter(events)
            .filter_map(|event| async move {
                match event {
                    Update(state) => {
                        let mut job = Job::default();
                        job.set_state(state);
                        Some(Ok(job))
                    }
                    Quiet(seconds) => {
                        tokio::time::sleep(Duration::from_secs(seconds)).await;
                        None
                    }
                    Break => Some(Err(Status::unavailable("multiadmin restarts"))),
                }
            })
            .boxed()
    }

    /// Follows a job over these streams; `Err` is a multiadmin that does not answer for so many seconds.
    async fn followed(streams: Vec<Result<Vec<Event>, u64>>) -> Result<JobState, Code> {
        let mut streams = VecDeque::from(streams);
        let mut away: Option<Instant> = None;
        let watch = async || match streams.front() {
            Some(Err(seconds)) => {
                let since = *away.get_or_insert_with(Instant::now);
                if since.elapsed() >= Duration::from_secs(*seconds) {
                    away = None;
                    streams.pop_front();
                }
                Err(Status::unavailable("connection refused"))
            }
            _ => match streams.pop_front() {
                Some(Ok(events)) => Ok(stream(events)),
                _ => Err(Status::not_found("no job")),
            },
        };
        match read_updates(watch, |_| Ok(())).await {
            Ok(job) => Ok(job.state()),
            Err(Stop::Status(status)) => Err(status.code()),
            Err(Stop::Failure(failure)) => panic!("{failure}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_after_a_quiet_hour_does_not_end_the_command() {
        let quiet = vec![Update(JobState::Running), Quiet(3600), Break];
        let end = vec![Update(JobState::Succeeded)];
        assert_eq!(followed(vec![Ok(quiet), Err(20), Ok(end)]).await, Ok(JobState::Succeeded));
    }

    #[tokio::test(start_paused = true)]
    async fn each_outage_counts_by_itself() {
        let running = || Ok(vec![Update(JobState::Running), Break]);
        let streams = vec![
            running(),
            Err(20),
            running(),
            Err(20),
            running(),
            Err(20),
            Ok(vec![Update(JobState::Failed)]),
        ];
        assert_eq!(followed(streams).await, Ok(JobState::Failed));
    }

    #[tokio::test(start_paused = true)]
    async fn the_command_ends_when_multiadmin_stays_away() {
        let begun = Instant::now();
        let running = Ok(vec![Update(JobState::Running), Quiet(3600)]);
        assert_eq!(followed(vec![running, Err(3600)]).await, Err(Code::Unavailable));
        let waited = begun.elapsed() - Duration::from_secs(3600);
        assert!(waited > OUTAGE_TIMEOUT && waited < OUTAGE_TIMEOUT * 2, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_the_command_at_once() {
        let begun = Instant::now();
        assert_eq!(followed(vec![Ok(vec![Update(JobState::Running)])]).await, Err(Code::NotFound));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
