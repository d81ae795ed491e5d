//! The output of the tools that a job ran, from the pooler that ran it.

use std::collections::BTreeSet;
use std::time::Duration;

use cellar_api::v1;
use cellar_model::{CellName, JobId, JobKind, JobState, Pooler, Refusal};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::jobs::watch::shutting_down;
use crate::refusal;

/// How long the pooler may take to begin its answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Pieces of the log.
pub(crate) type LogStream = BoxStream<'static, Result<v1::JobLogChunk, Refusal>>;

impl Admin {
    /// The job's log; with `follow` until the job has ended. Empty for a job that has not begun.
    pub(crate) async fn tail(
        &self,
        id: JobId,
        follow: bool,
        deadline: Deadline,
    ) -> Result<LogStream, Refusal> {
        let job = self.job(id, deadline).await?;
        if job.record.kind().is_driven() {
            return Ok(self.steps_logs(id, follow));
        }
        if job.start_time.is_some() {
            return self.read_log(id, follow).await;
        }
        if !follow || job.state.is_terminal() {
            return Ok(stream::empty().boxed());
        }
        let admin = self.clone();
        let watched = self.watch(id, deadline).await?.boxed();
        // The stream itself waits for the job to begin.
        let log = async move {
            let mut begun =
                watched.try_skip_while(|job| std::future::ready(Ok(job.state == JobState::Pending)));
            match begun.try_next().await? {
                Some(job) if job.start_time.is_some() => admin.read_log(id, follow).await,
                _ => Ok(stream::empty().boxed()),
            }
        };
        Ok(stream::once(log).try_flatten().boxed())
    }

    /// The logs of a driven job's steps, one after the other in the order in which they began.
    fn steps_logs(&self, id: JobId, follow: bool) -> LogStream {
        let state =
            Steps { admin: self.clone(), id, follow, sent: BTreeSet::new(), changes: self.mirror.changes() };
        stream::unfold(state, |mut steps| async move {
            let log = steps.next().await?;
            Some((log, steps))
        })
        .flatten()
        .boxed()
    }

    async fn read_log(&self, id: JobId, follow: bool) -> Result<LogStream, Refusal> {
        let pooler = self.pooler_of(id)?;
        let cell = pooler.cell.clone();
        let mut client = self.pooler_client(&pooler)?;
        let request = v1::ReadJobLogRequest { id: id.to_string(), follow };
        let call = tokio::time::timeout(OPEN_TIMEOUT, client.read_job_log(request));
        let answer =
            call.await.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer in time")));
        let chunks = match answer {
            Ok(response) => response.into_inner(),
            Err(status) => {
                self.poolers.forget(&pooler);
                return Err(refusal::of_pooler(&cell, &status));
            }
        };
        let log = Log { chunks, cell, ending: self.ending(), done: false };
        Ok(stream::unfold(log, |mut log| async move {
            let item = log.next().await?;
            Some((item, log))
        })
        .boxed())
    }

    fn pooler_of(&self, id: JobId) -> Result<Pooler, Refusal> {
        let view = self.view();
        let (database, cell) = view.place_of(&id).ok_or_else(|| refusal::unknown_job(id))?;
        view.snapshot().pooler(database, cell).cloned()
    }
}

struct Log {
    chunks: tonic::Streaming<v1::JobLogChunk>,
    cell: CellName,
    ending: watch::Receiver<bool>,
    done: bool,
}

impl Log {
    async fn next(&mut self) -> Option<Result<v1::JobLogChunk, Refusal>> {
        if self.done {
            return None;
        }
        let next = tokio::select! {
            chunk = self.chunks.message() => match chunk {
                Ok(chunk) => chunk.map(Ok),
                Err(status) => Some(Err(refusal::of_pooler(&self.cell, &status))),
            },
            _ = self.ending.wait_for(|ending| *ending) => Some(Err(shutting_down())),
        };
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

/// The logs of a driven job's steps that are still to be sent.
struct Steps {
    admin: Admin,
    id: JobId,
    follow: bool,
    sent: BTreeSet<JobId>,
    changes: watch::Receiver<u64>,
}

/// A step as its log is titled, in the order of the logs.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LoggedStep {
    create_time: Timestamp,
    start_time: Option<Timestamp>,
    id: JobId,
    kind: JobKind,
    cell: CellName,
}

fn line(text: String) -> v1::JobLogChunk {
    v1::JobLogChunk { data: text.into_bytes() }
}

impl Steps {
    /// The log of the next step that has begun; waits for one when following.
    async fn next(&mut self) -> Option<LogStream> {
        let mut ending = self.admin.ending();
        loop {
            self.changes.borrow_and_update();
            let (next, ended) = {
                let view = self.admin.view();
                let open = view.steps(&self.id).into_iter().map(|step| LoggedStep {
                    create_time: step.record.create_time,
                    start_time: step.start_time,
                    id: step.record.id,
                    kind: step.record.kind(),
                    cell: step.record.cell,
                });
                let ended = view.ended.iter().filter(|(_, step)| step.parent == Some(self.id));
                let ended = ended.map(|(id, step)| LoggedStep {
                    create_time: step.create_time,
                    start_time: step.start_time,
                    id: *id,
                    kind: step.kind,
                    cell: step.cell.clone(),
                });
                let begun = open.chain(ended).filter(|step| step.start_time.is_some());
                let next = begun.filter(|step| !self.sent.contains(&step.id)).min();
                (next, view.has_ended(&self.id))
            };
            if let Some(step) = next {
                let id = step.id;
                self.sent.insert(id);
                let title = line(format!("==> {} {} (job {id})\n", step.kind, step.cell));
                // A cell that cannot be reached must not hide the logs of the others.
                let log = match self.admin.read_log(id, self.follow).await {
                    Ok(log) => log,
                    Err(refusal) => stream::once(async move { Ok(line(format!("({refusal})\n"))) }).boxed(),
                };
                let log = log.or_else(|refusal| async move { Ok(line(format!("({refusal})\n"))) });
                return Some(stream::once(async move { Ok(title) }).chain(log).boxed());
            }
            if ended || !self.follow {
                return None;
            }
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                _ = ending.wait_for(|ending| *ending) => return None,
            }
        }
    }
}
