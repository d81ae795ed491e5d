//! Backups and rebuilds.

use cellar_api::v1;
use cellar_model::{BackupParams, BackupType, JobSpec, RebuildParams, Refusal};

use crate::api::request::job::{CellField, JobFields, JobMessage};
use crate::refusal::invalid;

impl JobMessage for v1::BackupRequest {
    fn job_fields(&self) -> JobFields<'_> {
        JobFields {
            database: &self.database,
            cell: CellField::Required(&self.cell),
            timeout: self.timeout,
            request_id: &self.request_id,
            queue: self.queue,
            ..JobFields::default()
        }
    }
}

pub(crate) fn backup(message: &v1::BackupRequest) -> Result<JobSpec, Refusal> {
    Ok(JobSpec::Backup(BackupParams {
        backup_type: backup_type(message.r#type)?,
        allow_primary: message.allow_primary,
        max_lag_bytes: message.max_lag_bytes,
    }))
}

/// The type of a backup; incremental when the request does not say.
pub(super) fn backup_type(number: i32) -> Result<BackupType, Refusal> {
    match v1::BackupType::try_from(number) {
        Ok(v1::BackupType::Unspecified | v1::BackupType::Incr) => Ok(BackupType::Incr),
        Ok(v1::BackupType::Diff) => Ok(BackupType::Diff),
        Ok(v1::BackupType::Full) => Ok(BackupType::Full),
        Err(_) => Err(invalid("type", format!("{number} is not a backup type: full, diff or incr"))),
    }
}

impl JobMessage for v1::RebuildStandbyRequest {
    fn job_fields(&self) -> JobFields<'_> {
        JobFields {
            database: &self.database,
            cell: CellField::Required(&self.cell),
            timeout: self.timeout,
            request_id: &self.request_id,
            queue: self.queue,
            ..JobFields::default()
        }
    }
}

pub(crate) fn rebuild(_: &v1::RebuildStandbyRequest) -> Result<JobSpec, Refusal> {
    Ok(JobSpec::Rebuild(RebuildParams::default()))
}
