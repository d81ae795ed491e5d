//! Restores: planned, done, confirmed, rolled back.

use cellar_api::{from_message, v1};
use cellar_model::{JobSpec, Refusal, RestoreParams, Target, Timeline};

use crate::api::request::field;
use crate::api::request::job::{CellField, JobFields, JobMessage};
use crate::refusal::invalid;

impl JobMessage for v1::RestoreDatabaseRequest {
    fn job_fields(&self) -> JobFields<'_> {
        JobFields {
            database: &self.database,
            cell: CellField::None,
            timeout: self.timeout,
            request_id: &self.request_id,
            queue: self.queue,
            primary_is_dead: self.primary_is_dead,
        }
    }
}

pub(crate) fn restore(message: &v1::RestoreDatabaseRequest) -> Result<JobSpec, Refusal> {
    restore_params(message).map(JobSpec::Restore)
}

pub(crate) fn plan(message: &v1::RestoreDatabaseRequest) -> Result<JobSpec, Refusal> {
    restore_params(message).map(JobSpec::Plan)
}

fn restore_params(message: &v1::RestoreDatabaseRequest) -> Result<RestoreParams, Refusal> {
    let target = message.target.as_ref().filter(|target| target.target.is_some());
    let target = target.ok_or_else(|| {
        invalid("target", "a restore needs a target: latest, time, lsn, name, xid or backup")
    })?;
    let target: Target = from_message(target).map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        invalid("target", format!("not a target: {cause}"))
    })?;
    Ok(RestoreParams {
        target,
        timeline: (message.timeline > 0).then(|| Timeline::new(message.timeline)),
        in_place: message.in_place,
        onto: field::optional("onto", &message.onto)?,
        backup: field::optional("backup", &message.backup)?,
    })
}

/// Of a confirmation or a rollback. The restore that it names decides the database.
impl JobMessage for v1::RestoreJobRequest {
    fn job_fields(&self) -> JobFields<'_> {
        JobFields {
            timeout: self.timeout,
            request_id: &self.request_id,
            queue: self.queue,
            primary_is_dead: self.primary_is_dead,
            ..JobFields::default()
        }
    }
}

pub(crate) fn confirm(message: &v1::RestoreJobRequest) -> Result<JobSpec, Refusal> {
    if message.primary_is_dead {
        return Err(invalid(
            "primary_is_dead",
            "a confirmation fences nothing: only a restore or a rollback can be told that the primary is dead",
        ));
    }
    field::job_id(&message.id).map(JobSpec::Confirm)
}

pub(crate) fn rollback(message: &v1::RestoreJobRequest) -> Result<JobSpec, Refusal> {
    field::job_id(&message.id).map(JobSpec::Rollback)
}
