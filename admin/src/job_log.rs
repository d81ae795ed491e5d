//! The output of the tools that a job ran, from the pooler that ran it.

use std::time::Duration;

use cellar_api::v1;
use cellar_model::{CellName, Code, JobId, JobState, Pooler, Refusal};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::watch;

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::refusal;
use crate::watch_job::shutting_down;

/// How long the pooler may take to begin answering.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// Pieces of the log.
pub(crate) type LogStream = BoxStream<'static, Result<v1::JobLogChunk, Refusal>>;

impl Admin {
    /// The job's log; with `follow` until it has ended. Nothing for a job that has run nothing.
    pub(crate) async fn tail(
        &self,
        id: JobId,
        follow: bool,
        deadline: Deadline,
    ) -> Result<LogStream, Refusal> {
        let job = self.job(id, deadline).await?;
        if job.start_time.is_some() {
            return self.read_log(id, follow).await;
        }
        if !follow || job.state.is_terminal() {
            return Ok(stream::empty().boxed());
        }
        let admin = self.clone();
        let watched = self.watch(id, deadline).await?.boxed();
        // Waits, as part of the stream, for the job to begin.
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

    async fn read_log(&self, id: JobId, follow: bool) -> Result<LogStream, Refusal> {
        let pooler = self.pooler_of(id)?;
        let cell = pooler.cell.clone();
        let mut client = self.pooler_client(&pooler)?;
        let request = v1::ReadJobLogRequest { id: id.to_string(), follow };
        let call = tokio::time::timeout(FIRST_ANSWER, client.read_job_log(request));
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
        let record = view.jobs.get(&id).ok_or_else(|| {
            Refusal::new(Code::UnknownJob, format!("there is no job {id}")).about("job", id)
        })?;
        view.snapshot().pooler(&record.database, &record.cell).cloned()
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
