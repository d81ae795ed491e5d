//! The gRPC service: each method parses, calls the one that does the work, and converts.
//!
//! A method that changes anything goes through [`Admin::audited`]; a test calls all that the table in
//! `cellar_model::access` says so of, and looks for their records.

use std::pin::Pin;

use cellar_api::{ConvertError, to_message, v1};
use cellar_model::{BackupLabel, JobId, Refusal, access};
use futures_util::{Stream, TryStreamExt};
use serde::Serialize;
use tonic::{Request, Response, Status};

use crate::admin::Admin;
use crate::api::request;
use crate::audit::record;
use crate::audit::refused_calls::Reached;
use crate::caller::Caller;
use crate::cluster::backups::LISTING;
use crate::cluster::cells::addition::NewCell;
use crate::deadline::Deadline;
use crate::jobs::submit::Wanted;
use crate::page;
use crate::refusal::{internal, to_status};

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn answer<T>(result: Result<T, Refusal>) -> Answer<T> {
    result.map(Response::new).map_err(|refusal| to_status(&refusal))
}

fn job_message(job: &cellar_model::Job) -> Result<v1::Job, Refusal> {
    to_message(job).map_err(|error: ConvertError| internal(&error))
}

fn schedule_message(schedule: &cellar_model::Schedule) -> Result<v1::Schedule, Refusal> {
    to_message(schedule).map_err(|error: ConvertError| internal(&error))
}

fn cell_message(cell: &cellar_model::Cell) -> Result<v1::Cell, Refusal> {
    to_message(cell).map_err(|error: ConvertError| internal(&error))
}

/// What a method that changes something answers with.
trait Made: Send + 'static {
    /// The job that was made or changed.
    fn job(&self) -> Option<JobId>;
}

impl Made for v1::Job {
    fn job(&self) -> Option<JobId> {
        self.id.parse().ok()
    }
}

impl Made for v1::Schedule {
    fn job(&self) -> Option<JobId> {
        None
    }
}

impl Made for v1::Cell {
    fn job(&self) -> Option<JobId> {
        None
    }
}

impl Admin {
    /// What every method does that changes something: its record is written before, and how it ended after.
    ///
    /// `work` is done to its end even if the caller hangs up, so that there is an end to write down.
    async fn audited<M, T, F>(
        &self,
        rpc: &str,
        request: Request<M>,
        work: impl FnOnce(Self, Request<M>, Deadline) -> F,
    ) -> Answer<T>
    where
        M: Serialize,
        T: Made,
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let deadline = Deadline::of(&request);
        if let Some(reached) = request.extensions().get::<Reached>() {
            reached.set();
        }
        let record = record::begun(rpc, request.extensions(), record::arguments(request.get_ref()));
        // Nothing of it happens before it is awaited.
        let work = work(self.clone(), request, deadline);
        let audit = self.audit.clone();
        let done = tokio::spawn(async move {
            let result = match audit.begin(&record, deadline).await {
                // On a task of its own, so that a panic has an end to write down, too.
                Ok(()) => tokio::spawn(work).await.unwrap_or_else(|error| Err(internal(&error))),
                Err(refusal) => Err(refusal),
            };
            let end = result.as_ref().map(Made::job);
            audit.end(&record, end.map_err(|refusal| (refusal.code, refusal.message.as_str()))).await;
            result
        });
        answer(done.await.unwrap_or_else(|error| Err(internal(&error))))
    }

    /// What every request for a job does: parses it, records it, and answers with the job.
    async fn record<M: Serialize + Send + Sync + 'static>(
        &self,
        rpc: &str,
        request: Request<M>,
        parse: fn(&M, String) -> Result<Wanted, Refusal>,
    ) -> Answer<v1::Job> {
        let work = async move |admin: Self, request: Request<M>, deadline| {
            let wanted = parse(request.get_ref(), Caller::of(&request).identity)?;
            job_message(&admin.submit(&wanted, deadline).await?)
        };
        self.audited(rpc, request, work).await
    }
}

#[tonic::async_trait]
impl v1::multi_admin_server::MultiAdmin for Admin {
    type WatchJobStream = Streamed<v1::Job>;
    type TailJobLogStream = Streamed<v1::JobLogChunk>;

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Answer<v1::Job> {
        self.record("Backup", request, request::backup).await
    }

    async fn rebuild_standby(&self, request: Request<v1::RebuildStandbyRequest>) -> Answer<v1::Job> {
        self.record("RebuildStandby", request, request::rebuild).await
    }

    async fn restore_database(&self, request: Request<v1::RestoreDatabaseRequest>) -> Answer<v1::Job> {
        self.record("RestoreDatabase", request, request::restore).await
    }

    async fn plan_restore(&self, request: Request<v1::RestoreDatabaseRequest>) -> Answer<v1::Job> {
        self.record("PlanRestore", request, request::plan_restore).await
    }

    async fn confirm_restore(&self, request: Request<v1::RestoreJobRequest>) -> Answer<v1::Job> {
        self.record("ConfirmRestore", request, request::confirm).await
    }

    async fn rollback_restore(&self, request: Request<v1::RestoreJobRequest>) -> Answer<v1::Job> {
        self.record("RollbackRestore", request, request::rollback).await
    }

    async fn drill_restore(&self, request: Request<v1::DrillRestoreRequest>) -> Answer<v1::Job> {
        self.record("DrillRestore", request, request::drill).await
    }

    async fn verify_backups(&self, request: Request<v1::VerifyBackupsRequest>) -> Answer<v1::Job> {
        self.record("VerifyBackups", request, request::verify).await
    }

    async fn expire_backups(&self, request: Request<v1::ExpireBackupsRequest>) -> Answer<v1::Job> {
        let work = async |admin: Self, request: Request<v1::ExpireBackupsRequest>, deadline| {
            let (caller, message) = (Caller::of(&request), request.get_ref());
            if !message.dry_run {
                caller.check_role(access::TO_EXPIRE, "expire backups").map_err(|refusal| {
                    refusal.hint("a dry run shows what would be expired (`cellar expire --dry-run`)")
                })?;
            }
            job_message(&admin.submit(&request::expire(message, caller.identity)?, deadline).await?)
        };
        self.audited("ExpireBackups", request, work).await
    }

    async fn check_archive(&self, request: Request<v1::CheckArchiveRequest>) -> Answer<v1::Job> {
        self.record("CheckArchive", request, request::check).await
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Answer<v1::Job> {
        let deadline = Deadline::of(&request);
        let work = async {
            let id = request::job_id(&request.get_ref().id)?;
            job_message(&self.job(id, deadline).await?)
        };
        answer(work.await)
    }

    async fn list_jobs(&self, request: Request<v1::ListJobsRequest>) -> Answer<v1::ListJobsResponse> {
        let deadline = Deadline::of(&request);
        let work = async {
            let message = request.get_ref();
            let database = request::database("database", &message.database)?;
            let size = page::size(message.page_size);
            let page = self.list_jobs(database.as_ref(), size, &message.page_token, deadline).await?;
            let jobs: Result<_, _> = page.jobs.iter().map(job_message).collect();
            Ok(v1::ListJobsResponse { jobs: jobs?, next_page_token: page.next })
        };
        answer(work.await)
    }

    async fn watch_job(&self, request: Request<v1::GetJobRequest>) -> Answer<Self::WatchJobStream> {
        let deadline = Deadline::of(&request);
        let work = async {
            let id = request::job_id(&request.get_ref().id)?;
            let jobs = self.watch(id, deadline).await?;
            let messages = jobs.and_then(|job| std::future::ready(job_message(&job)));
            Ok(Box::pin(messages.map_err(|refusal| to_status(&refusal))) as Self::WatchJobStream)
        };
        answer(work.await)
    }

    async fn cancel_job(&self, request: Request<v1::CancelJobRequest>) -> Answer<v1::Job> {
        let work = async |admin: Self, request: Request<v1::CancelJobRequest>, deadline| {
            let caller = Caller::of(&request);
            let id = request::job_id(&request.get_ref().id)?;
            job_message(&admin.cancel(id, &caller, deadline).await?)
        };
        self.audited("CancelJob", request, work).await
    }

    async fn tail_job_log(&self, request: Request<v1::TailJobLogRequest>) -> Answer<Self::TailJobLogStream> {
        let deadline = Deadline::of(&request);
        let work = async {
            let id = request::job_id(&request.get_ref().id)?;
            let chunks = self.tail(id, request.get_ref().follow, deadline).await?;
            Ok(Box::pin(chunks.map_err(|refusal| to_status(&refusal))) as Self::TailJobLogStream)
        };
        answer(work.await)
    }

    async fn list_backups(
        &self,
        request: Request<v1::ListBackupsRequest>,
    ) -> Answer<v1::ListBackupsResponse> {
        let deadline = Deadline::at_most(&request, LISTING);
        let work = async {
            let database = request::database("database", &request.get_ref().database)?;
            self.list_backups(database.as_ref(), deadline).await
        };
        answer(work.await)
    }

    async fn get_backup(&self, request: Request<v1::GetBackupRequest>) -> Answer<v1::Backup> {
        let deadline = Deadline::at_most(&request, LISTING);
        let work = async {
            let message = request.get_ref();
            let database = request::database("database", &message.database)?;
            let label: BackupLabel = request::label(&message.label)?;
            self.backup(database.as_ref(), &label, deadline).await
        };
        answer(work.await)
    }

    async fn list_cells(&self, request: Request<v1::ListCellsRequest>) -> Answer<v1::ListCellsResponse> {
        answer(self.list_cells(Deadline::of(&request)).await)
    }

    async fn add_cell(&self, request: Request<v1::AddCellRequest>) -> Answer<v1::Cell> {
        let work = async |admin: Self, request: Request<v1::AddCellRequest>, deadline| {
            let message = request.get_ref();
            let name = request::cell("name", &message.name)?;
            let new = NewCell::parse(name, &message.host, &message.directory, &message.listen)?;
            cell_message(&admin.add_cell(&new, deadline).await?)
        };
        self.audited("AddCell", request, work).await
    }

    async fn remove_cell(&self, request: Request<v1::RemoveCellRequest>) -> Answer<v1::Cell> {
        let work = async |admin: Self, request: Request<v1::RemoveCellRequest>, deadline| {
            let name = request::cell("name", &request.get_ref().name)?;
            cell_message(&admin.remove_cell(&name, deadline).await?)
        };
        self.audited("RemoveCell", request, work).await
    }

    async fn list_databases(
        &self,
        request: Request<v1::ListDatabasesRequest>,
    ) -> Answer<v1::ListDatabasesResponse> {
        answer(self.list_databases(Deadline::of(&request)).await)
    }

    async fn get_database(&self, request: Request<v1::GetDatabaseRequest>) -> Answer<v1::DatabaseView> {
        let deadline = Deadline::of(&request);
        let work = async {
            let name = request::database("name", &request.get_ref().name)?;
            self.database(name.as_ref(), deadline).await
        };
        answer(work.await)
    }

    async fn list_poolers(
        &self,
        request: Request<v1::ListPoolersRequest>,
    ) -> Answer<v1::ListPoolersResponse> {
        let deadline = Deadline::of(&request);
        let work = async {
            let message = request.get_ref();
            let database = request::database("database", &message.database)?;
            let size = page::size(message.page_size);
            self.list_poolers(database.as_ref(), size, &message.page_token, deadline).await
        };
        answer(work.await)
    }

    async fn get_pooler(&self, request: Request<v1::GetPoolerRequest>) -> Answer<v1::PoolerView> {
        let deadline = Deadline::of(&request);
        let work = async {
            let message = request.get_ref();
            let database = request::database("database", &message.database)?;
            let cell = request::cell("cell", &message.cell)?;
            self.pooler(database.as_ref(), &cell, deadline).await
        };
        answer(work.await)
    }

    async fn list_schedules(
        &self,
        request: Request<v1::ListSchedulesRequest>,
    ) -> Answer<v1::ListSchedulesResponse> {
        let deadline = Deadline::of(&request);
        let work = async {
            let database = request::database("database", &request.get_ref().database)?;
            self.list_schedules(database.as_ref(), deadline).await
        };
        answer(work.await)
    }

    async fn put_schedule(&self, request: Request<v1::PutScheduleRequest>) -> Answer<v1::Schedule> {
        let work = async |admin: Self, request: Request<v1::PutScheduleRequest>, deadline| {
            let caller = Caller::of(&request);
            let wish = request::schedule(request.get_ref())?;
            schedule_message(&admin.put_schedule(&wish, &caller, deadline).await?)
        };
        self.audited("PutSchedule", request, work).await
    }

    async fn delete_schedule(&self, request: Request<v1::DeleteScheduleRequest>) -> Answer<v1::Schedule> {
        let work = async |admin: Self, request: Request<v1::DeleteScheduleRequest>, deadline| {
            let (caller, message) = (Caller::of(&request), request.get_ref());
            let database = request::database("database", &message.database)?;
            let name = request::schedule_name(&message.name)?;
            schedule_message(&admin.delete_schedule(database.as_ref(), &name, &caller, deadline).await?)
        };
        self.audited("DeleteSchedule", request, work).await
    }

    async fn list_audit(&self, request: Request<v1::ListAuditRequest>) -> Answer<v1::ListAuditResponse> {
        answer(self.list_audit(request.get_ref(), Deadline::of(&request)).await)
    }
}
