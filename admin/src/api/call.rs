//! What methods have in common: their answer, the audit record of those that change something, requests for jobs.

use cellar_api::v1;
use cellar_model::{JobId, JobSpec, Refusal};
use serde::Serialize;
use tonic::{Request, Response, Status};

use crate::admin::Admin;
use crate::api::request::job::{JobMessage, submission};
use crate::audit::record;
use crate::audit::refused_calls::MethodReached;
use crate::caller::Caller;
use crate::deadline::Deadline;
use crate::message::message;
use crate::refusal::{internal, to_status};

/// What a unary method returns.
pub(super) type Answer<T> = Result<Response<T>, Status>;

pub(super) fn answer<T>(result: Result<T, Refusal>) -> Answer<T> {
    result.map(Response::new).map_err(|refusal| to_status(&refusal))
}

/// The answer of a method that changes something.
pub(super) trait MutationAnswer: Send + 'static {
    /// The job that was recorded or changed.
    fn job(&self) -> Option<JobId> {
        None
    }
}

impl MutationAnswer for v1::Job {
    fn job(&self) -> Option<JobId> {
        self.id.parse().ok()
    }
}

impl MutationAnswer for v1::Schedule {}

impl MutationAnswer for v1::Cell {}

impl MutationAnswer for v1::ClientRole {}

impl MutationAnswer for v1::DatabaseView {}

impl MutationAnswer for v1::DatabaseSettings {}

impl Admin {
    /// What every method does that changes something: its audit record is written before, and its outcome after.
    ///
    /// `work` runs to its end even if the caller hangs up, so that its outcome is recorded.
    pub(super) async fn audited<M, T, F>(
        &self,
        rpc: &str,
        request: Request<M>,
        work: impl FnOnce(Self, Request<M>, Deadline) -> F,
    ) -> Answer<T>
    where
        M: Serialize,
        T: MutationAnswer,
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let deadline = Deadline::of(&request);
        if let Some(reached) = request.extensions().get::<MethodReached>() {
            reached.set();
        }
        let record = record::begun(rpc, request.extensions(), record::arguments(request.get_ref()));
        // Nothing is done before it is awaited.
        let work = work(self.clone(), request, deadline);
        let audit = self.audit.clone();
        let done = tokio::spawn(async move {
            let result = match audit.begin(&record, deadline).await {
                // On a task of its own, so that the outcome of a panic is recorded, too.
                Ok(()) => tokio::spawn(work).await.unwrap_or_else(|error| Err(internal(&error))),
                Err(refusal) => Err(refusal),
            };
            let end = result.as_ref().map(MutationAnswer::job);
            audit.end(&record, end.map_err(|refusal| (refusal.code, refusal.message.as_str()))).await;
            result
        });
        answer(done.await.unwrap_or_else(|error| Err(internal(&error))))
    }

    /// What every request for a job does: parses it, submits the job, and answers with it.
    pub(super) async fn submit_job<M: JobMessage + Serialize + Send + Sync + 'static>(
        &self,
        rpc: &str,
        request: Request<M>,
        spec: fn(&M) -> Result<JobSpec, Refusal>,
    ) -> Answer<v1::Job> {
        let work = async move |admin: Self, request: Request<M>, deadline| {
            let caller = Caller::of(&request);
            let mut submission = submission(request.get_ref(), spec, &caller)?;
            admin.check_submission(&caller, &mut submission, deadline).await?;
            message(&admin.submit(&submission, deadline).await?)
        };
        self.audited(rpc, request, work).await
    }
}
