//! The gRPC service: each method parses its request, calls the function that does the work, and converts the result.
//!
//! A method that changes anything goes through [`Admin::audited`]; a test calls every method that mutates according to
//! the table in `cellar_model::access`, and checks their audit records.

use std::pin::Pin;

use cellar_api::v1;
use cellar_model::Durability;
use futures_util::{Stream, TryStreamExt};
use tonic::{Request, Status};

use crate::admin::Admin;
use crate::api::call::{Answer, answer};
use crate::api::request::{
    backup, cell, client_role, drill, field, job, maintenance, restore, schedule, settings,
};
use crate::api::scope::path_of;
use crate::caller::Caller;
use crate::cluster::backups::LISTING_TIMEOUT;
use crate::deadline::Deadline;
use crate::message::message;
use crate::page;
use crate::refusal::to_status;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::multi_admin_server::MultiAdmin for Admin {
    type WatchJobStream = Streamed<v1::Job>;
    type TailJobLogStream = Streamed<v1::JobLogChunk>;

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Answer<v1::Job> {
        self.submit_job("Backup", request, backup::backup).await
    }

    async fn rebuild_standby(&self, request: Request<v1::RebuildStandbyRequest>) -> Answer<v1::Job> {
        self.submit_job("RebuildStandby", request, backup::rebuild).await
    }

    async fn restore_database(&self, request: Request<v1::RestoreDatabaseRequest>) -> Answer<v1::Job> {
        self.submit_job("RestoreDatabase", request, restore::restore).await
    }

    async fn plan_restore(&self, request: Request<v1::RestoreDatabaseRequest>) -> Answer<v1::Job> {
        self.submit_job("PlanRestore", request, restore::plan).await
    }

    async fn confirm_restore(&self, request: Request<v1::RestoreJobRequest>) -> Answer<v1::Job> {
        self.submit_job("ConfirmRestore", request, restore::confirm).await
    }

    async fn rollback_restore(&self, request: Request<v1::RestoreJobRequest>) -> Answer<v1::Job> {
        self.submit_job("RollbackRestore", request, restore::rollback).await
    }

    async fn drill_restore(&self, request: Request<v1::DrillRestoreRequest>) -> Answer<v1::Job> {
        self.submit_job("DrillRestore", request, drill::drill).await
    }

    async fn verify_backups(&self, request: Request<v1::VerifyBackupsRequest>) -> Answer<v1::Job> {
        self.submit_job("VerifyBackups", request, maintenance::verify).await
    }

    async fn expire_backups(&self, request: Request<v1::ExpireBackupsRequest>) -> Answer<v1::Job> {
        self.submit_job("ExpireBackups", request, maintenance::expire).await
    }

    async fn check_archive(&self, request: Request<v1::CheckArchiveRequest>) -> Answer<v1::Job> {
        self.submit_job("CheckArchive", request, maintenance::check).await
    }

    async fn run_job(&self, request: Request<v1::RunJobRequest>) -> Answer<v1::Job> {
        self.submit_job("RunJob", request, job::plain_spec).await
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Answer<v1::Job> {
        let deadline = Deadline::of(&request);
        let work = async {
            let id = field::job_id(&request.get_ref().id)?;
            self.check_job(&Caller::of(&request), id, deadline).await?;
            message(&self.job(id, deadline).await?)
        };
        answer(work.await)
    }

    async fn list_jobs(&self, request: Request<v1::ListJobsRequest>) -> Answer<v1::ListJobsResponse> {
        let deadline = Deadline::of(&request);
        let work = async {
            let fields = request.get_ref();
            let (caller, database) = Self::named(&request, "database", &fields.database)?;
            let (scope, size) = (&caller.databases, page::size(fields.page_size));
            let page = self.list_jobs(scope, database.as_ref(), size, &fields.page_token, deadline).await?;
            let jobs: Result<_, _> = page.jobs.iter().map(message).collect();
            Ok(v1::ListJobsResponse { jobs: jobs?, next_page_token: page.next })
        };
        answer(work.await)
    }

    async fn watch_job(&self, request: Request<v1::GetJobRequest>) -> Answer<Self::WatchJobStream> {
        let deadline = Deadline::of(&request);
        let work = async {
            let id = field::job_id(&request.get_ref().id)?;
            self.check_job(&Caller::of(&request), id, deadline).await?;
            let jobs = self.watch(id, deadline).await?;
            let messages = jobs.and_then(|job| std::future::ready(message(&job)));
            Ok(Box::pin(messages.map_err(|refusal| to_status(&refusal))) as Self::WatchJobStream)
        };
        answer(work.await)
    }

    async fn cancel_job(&self, request: Request<v1::CancelJobRequest>) -> Answer<v1::Job> {
        let work = async |admin: Self, request: Request<v1::CancelJobRequest>, deadline| {
            let caller = Caller::of(&request);
            let id = field::job_id(&request.get_ref().id)?;
            admin.check_job(&caller, id, deadline).await?;
            message(&admin.cancel(id, &caller, deadline).await?)
        };
        self.audited("CancelJob", request, work).await
    }

    async fn tail_job_log(&self, request: Request<v1::TailJobLogRequest>) -> Answer<Self::TailJobLogStream> {
        let deadline = Deadline::of(&request);
        let work = async {
            let id = field::job_id(&request.get_ref().id)?;
            self.check_job(&Caller::of(&request), id, deadline).await?;
            let chunks = self.tail(id, request.get_ref().follow, deadline).await?;
            Ok(Box::pin(chunks.map_err(|refusal| to_status(&refusal))) as Self::TailJobLogStream)
        };
        answer(work.await)
    }

    async fn list_backups(
        &self,
        request: Request<v1::ListBackupsRequest>,
    ) -> Answer<v1::ListBackupsResponse> {
        let deadline = Deadline::at_most(&request, LISTING_TIMEOUT);
        let work = async {
            let database = Self::chosen(&request, "database", &request.get_ref().database)?;
            self.list_backups(database.as_ref(), deadline).await
        };
        answer(work.await)
    }

    async fn get_backup(&self, request: Request<v1::GetBackupRequest>) -> Answer<v1::Backup> {
        let deadline = Deadline::at_most(&request, LISTING_TIMEOUT);
        let work = async {
            let fields = request.get_ref();
            let database = Self::chosen(&request, "database", &fields.database)?;
            let label = field::label(&fields.label)?;
            self.backup(database.as_ref(), &label, deadline).await
        };
        answer(work.await)
    }

    async fn list_cells(&self, request: Request<v1::ListCellsRequest>) -> Answer<v1::ListCellsResponse> {
        answer(self.list_cells(Deadline::of(&request)).await)
    }

    async fn add_cell(&self, request: Request<v1::AddCellRequest>) -> Answer<v1::Cell> {
        let work = async |admin: Self, request: Request<v1::AddCellRequest>, deadline| {
            let new = cell::new_cell(request.get_ref())?;
            message(&admin.add_cell(&new, deadline).await?)
        };
        self.audited("AddCell", request, work).await
    }

    async fn remove_cell(&self, request: Request<v1::RemoveCellRequest>) -> Answer<v1::Cell> {
        let work = async |admin: Self, request: Request<v1::RemoveCellRequest>, deadline| {
            let name = field::cell("name", &request.get_ref().name)?;
            message(&admin.remove_cell(&name, deadline).await?)
        };
        self.audited("RemoveCell", request, work).await
    }

    async fn list_databases(
        &self,
        request: Request<v1::ListDatabasesRequest>,
    ) -> Answer<v1::ListDatabasesResponse> {
        answer(self.list_databases(&Caller::of(&request).databases, Deadline::of(&request)).await)
    }

    async fn get_database(&self, request: Request<v1::GetDatabaseRequest>) -> Answer<v1::DatabaseView> {
        let deadline = Deadline::of(&request);
        let work = async {
            let name = Self::chosen(&request, "name", &request.get_ref().name)?;
            self.database(name.as_ref(), deadline).await
        };
        answer(work.await)
    }

    async fn get_failover_outlook(
        &self,
        request: Request<v1::GetFailoverOutlookRequest>,
    ) -> Answer<v1::FailoverOutlook> {
        let deadline = Deadline::of(&request);
        let work = async {
            let database = Self::chosen(&request, "database", &request.get_ref().database)?;
            self.failover_outlook(database.as_ref(), deadline).await
        };
        answer(work.await)
    }

    async fn set_durability(&self, request: Request<v1::SetDurabilityRequest>) -> Answer<v1::DatabaseView> {
        let work = async |admin: Self, request: Request<v1::SetDurabilityRequest>, deadline| {
            let fields = request.get_ref();
            let database = Self::chosen(&request, "database", &fields.database)?;
            let durability = match fields.durability() {
                v1::Durability::Async => Durability::Async,
                v1::Durability::Quorum => Durability::Quorum,
            };
            admin.set_durability(database.as_ref(), durability, deadline).await
        };
        self.audited("SetDurability", request, work).await
    }

    async fn switch_primary(&self, request: Request<v1::SwitchPrimaryRequest>) -> Answer<v1::DatabaseView> {
        let work = async |admin: Self, request: Request<v1::SwitchPrimaryRequest>, deadline| {
            let fields = request.get_ref();
            let database = Self::chosen(&request, "database", &fields.database)?;
            let to = field::optional("to", &fields.to)?;
            let from = field::optional("from", &fields.from)?;
            admin.switch_primary(database.as_ref(), to.as_ref(), from.as_ref(), deadline).await
        };
        self.audited("SwitchPrimary", request, work).await
    }

    async fn list_settings(&self, request: Request<v1::ListSettingsRequest>) -> Answer<v1::DatabaseSettings> {
        let deadline = Deadline::of(&request);
        let work = async {
            let database = Self::chosen(&request, "database", &request.get_ref().database)?;
            self.list_settings(database.as_ref(), deadline).await
        };
        answer(work.await)
    }

    async fn change_settings(
        &self,
        request: Request<v1::ChangeSettingsRequest>,
    ) -> Answer<v1::DatabaseSettings> {
        let work = async |admin: Self, request: Request<v1::ChangeSettingsRequest>, deadline| {
            let fields = request.get_ref();
            let database = Self::chosen(&request, "database", &fields.database)?;
            let change = settings::change(fields)?;
            admin.change_settings(database.as_ref(), &change, deadline).await
        };
        self.audited("ChangeSettings", request, work).await
    }

    async fn list_failovers(
        &self,
        request: Request<v1::ListFailoversRequest>,
    ) -> Answer<v1::FailoverHistory> {
        let deadline = Deadline::of(&request);
        let work = async {
            let database = Self::chosen(&request, "database", &request.get_ref().database)?;
            self.list_failovers(database.as_ref(), deadline).await
        };
        answer(work.await)
    }

    async fn get_failover_plan(
        &self,
        request: Request<v1::GetFailoverPlanRequest>,
    ) -> Answer<v1::FailoverPlan> {
        let deadline = Deadline::of(&request);
        let work = async {
            let fields = request.get_ref();
            let database = Self::chosen(&request, "database", &fields.database)?;
            let to = field::parse("to", &fields.to)?;
            self.failover_plan(database.as_ref(), &to, deadline).await
        };
        answer(work.await)
    }

    async fn fail_over(&self, request: Request<v1::FailOverRequest>) -> Answer<v1::DatabaseView> {
        let work = async |admin: Self, request: Request<v1::FailOverRequest>, deadline| {
            let fields = request.get_ref();
            let database = Self::chosen(&request, "database", &fields.database)?;
            let to = field::parse("to", &fields.to)?;
            let accepted = fields.accept_loss.then_some(&*fields.missing);
            admin.fail_over(database.as_ref(), &to, accepted, deadline).await
        };
        self.audited("FailOver", request, work).await
    }

    async fn pause_database(&self, request: Request<v1::PauseDatabaseRequest>) -> Answer<v1::DatabaseView> {
        let work = async |admin: Self, request: Request<v1::PauseDatabaseRequest>, deadline| {
            let (by, fields) = (Caller::of(&request).identity, request.get_ref());
            let database = Self::chosen(&request, "database", &fields.database)?;
            admin.set_pause(database.as_ref(), Some((&by, &fields.reason)), deadline).await
        };
        self.audited("PauseDatabase", request, work).await
    }

    async fn resume_database(&self, request: Request<v1::ResumeDatabaseRequest>) -> Answer<v1::DatabaseView> {
        let work = async |admin: Self, request: Request<v1::ResumeDatabaseRequest>, deadline| {
            let database = Self::chosen(&request, "database", &request.get_ref().database)?;
            admin.set_pause(database.as_ref(), None, deadline).await
        };
        self.audited("ResumeDatabase", request, work).await
    }

    async fn list_poolers(
        &self,
        request: Request<v1::ListPoolersRequest>,
    ) -> Answer<v1::ListPoolersResponse> {
        let deadline = Deadline::of(&request);
        let work = async {
            let fields = request.get_ref();
            let (caller, database) = Self::named(&request, "database", &fields.database)?;
            let (scope, size) = (&caller.databases, page::size(fields.page_size));
            let mut page =
                self.list_poolers(scope, database.as_ref(), size, &fields.page_token, deadline).await?;
            page.unreadable_records.retain(|record| self.may_see(&caller, path_of(record)));
            Ok(page)
        };
        answer(work.await)
    }

    async fn get_pooler(&self, request: Request<v1::GetPoolerRequest>) -> Answer<v1::PoolerView> {
        let deadline = Deadline::of(&request);
        let work = async {
            let fields = request.get_ref();
            let database = Self::chosen(&request, "database", &fields.database)?;
            let cell = field::cell("cell", &fields.cell)?;
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
            let (caller, database) = Self::named(&request, "database", &request.get_ref().database)?;
            let mut list = self.list_schedules(&caller.databases, database.as_ref(), deadline).await?;
            list.unreadable_records.retain(|path| self.may_see(&caller, path));
            Ok(list)
        };
        answer(work.await)
    }

    async fn put_schedule(&self, request: Request<v1::PutScheduleRequest>) -> Answer<v1::Schedule> {
        let work = async |admin: Self, request: Request<v1::PutScheduleRequest>, deadline| {
            let caller = Caller::of(&request);
            let mut change = schedule::schedule(request.get_ref())?;
            change.database = caller.database(change.database)?;
            message(&admin.put_schedule(&change, &caller, deadline).await?)
        };
        self.audited("PutSchedule", request, work).await
    }

    async fn delete_schedule(&self, request: Request<v1::DeleteScheduleRequest>) -> Answer<v1::Schedule> {
        let work = async |admin: Self, request: Request<v1::DeleteScheduleRequest>, deadline| {
            let (caller, fields) = (Caller::of(&request), request.get_ref());
            let database = caller.database(field::database("database", &fields.database)?)?;
            let name = schedule::schedule_name(&fields.name)?;
            message(&admin.delete_schedule(database.as_ref(), &name, &caller, deadline).await?)
        };
        self.audited("DeleteSchedule", request, work).await
    }

    async fn list_roles(&self, request: Request<v1::ListRolesRequest>) -> Answer<v1::ListRolesResponse> {
        let deadline = Deadline::of(&request);
        let work = async {
            let database = Self::chosen(&request, "database", &request.get_ref().database)?;
            self.list_roles(database.as_ref(), deadline).await
        };
        answer(work.await)
    }

    async fn create_role(&self, request: Request<v1::CreateRoleRequest>) -> Answer<v1::ClientRole> {
        let work = async |admin: Self, request: Request<v1::CreateRoleRequest>, deadline| {
            let new = client_role::new_role(request.get_ref())?;
            let database = Self::chosen(&request, "database", &request.get_ref().database)?;
            admin.create_role(database.as_ref(), &new, deadline).await
        };
        self.audited("CreateRole", request, work).await
    }

    async fn set_role_password(
        &self,
        request: Request<v1::SetRolePasswordRequest>,
    ) -> Answer<v1::ClientRole> {
        let work = async |admin: Self, request: Request<v1::SetRolePasswordRequest>, deadline| {
            let new = client_role::new_password(request.get_ref())?;
            let database = Self::chosen(&request, "database", &request.get_ref().database)?;
            admin.set_role_password(database.as_ref(), &new, deadline).await
        };
        self.audited("SetRolePassword", request, work).await
    }

    async fn drop_role(&self, request: Request<v1::DropRoleRequest>) -> Answer<v1::ClientRole> {
        let work = async |admin: Self, request: Request<v1::DropRoleRequest>, deadline| {
            let name = client_role::name(&request.get_ref().name)?;
            let database = Self::chosen(&request, "database", &request.get_ref().database)?;
            admin.drop_role(database.as_ref(), &name, deadline).await
        };
        self.audited("DropRole", request, work).await
    }

    async fn list_audit(&self, request: Request<v1::ListAuditRequest>) -> Answer<v1::ListAuditResponse> {
        let caller = Caller::of(&request);
        answer(self.list_audit(request.get_ref(), &caller, Deadline::of(&request)).await)
    }
}
