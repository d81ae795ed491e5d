//! Expiry, verification and checks of the repo.

use cellar_api::v1;
use cellar_model::{ExpireParams, JobSpec, Refusal};

use crate::api::request::field;
use crate::api::request::job::{CellField, JobFields, JobMessage};

impl JobMessage for v1::ExpireBackupsRequest {
    fn job_fields(&self) -> JobFields<'_> {
        JobFields {
            database: &self.database,
            cell: CellField::Optional(&self.cell),
            timeout: self.timeout,
            request_id: &self.request_id,
            queue: self.queue,
            ..JobFields::default()
        }
    }
}

pub(crate) fn expire(message: &v1::ExpireBackupsRequest) -> Result<JobSpec, Refusal> {
    Ok(JobSpec::Expire(ExpireParams {
        backup: field::backup(&message.backup)?,
        dry_run: message.dry_run,
        ..ExpireParams::default()
    }))
}

impl JobMessage for v1::VerifyBackupsRequest {
    fn job_fields(&self) -> JobFields<'_> {
        JobFields {
            database: &self.database,
            cell: CellField::Optional(&self.cell),
            timeout: self.timeout,
            request_id: &self.request_id,
            queue: false,
            ..JobFields::default()
        }
    }
}

pub(crate) fn verify(_: &v1::VerifyBackupsRequest) -> Result<JobSpec, Refusal> {
    Ok(JobSpec::Verify)
}

impl JobMessage for v1::CheckArchiveRequest {
    fn job_fields(&self) -> JobFields<'_> {
        JobFields {
            database: &self.database,
            cell: CellField::None,
            timeout: self.timeout,
            request_id: &self.request_id,
            queue: false,
            ..JobFields::default()
        }
    }
}

pub(crate) fn check(_: &v1::CheckArchiveRequest) -> Result<JobSpec, Refusal> {
    Ok(JobSpec::Check)
}
