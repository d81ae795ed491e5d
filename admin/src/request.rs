//! From messages to types: what does not parse goes no further.

use std::time::Duration;

use cellar_api::v1;
use cellar_model::{
    BackupLabel, BackupParams, BackupType, CellName, DatabaseName, JobId, JobRequest, Refusal, RequestId,
};

use crate::refusal::invalid;
use crate::submit::{Wanted, Work};

/// Longest accepted timeout. A job that may run for longer is one that nobody gives up.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

pub(crate) fn cell(field: &'static str, text: &str) -> Result<CellName, Refusal> {
    text.parse().map_err(|error: cellar_model::NameError| invalid(field, error.to_string()))
}

/// The named database; `None` for the only one.
pub(crate) fn database(field: &'static str, text: &str) -> Result<Option<DatabaseName>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error: cellar_model::NameError| invalid(field, error.to_string()))
}

pub(crate) fn job_id(text: &str) -> Result<JobId, Refusal> {
    // The error's type is private to the model.
    text.parse::<JobId>().map_err(|error| invalid("id", error.to_string()))
}

fn request_id(text: &str) -> Result<Option<RequestId>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error: &str| invalid("request_id", error))
}

fn timeout(span: Option<cellar_api::wkt::Duration>) -> Result<Option<Duration>, Refusal> {
    let Some(span) = span else { return Ok(None) };
    let timeout =
        Duration::try_from(span).map_err(|error| invalid("timeout", format!("not a timeout: {error}")))?;
    if timeout < Duration::from_secs(1) || timeout > LONGEST_TIMEOUT {
        return Err(invalid("timeout", "a timeout is between one second and thirty days"));
    }
    Ok(Some(timeout))
}

fn backup_type(number: i32) -> Result<BackupType, Refusal> {
    match v1::BackupType::try_from(number) {
        Ok(v1::BackupType::Unspecified | v1::BackupType::Incr) => Ok(BackupType::Incr),
        Ok(v1::BackupType::Diff) => Ok(BackupType::Diff),
        Ok(v1::BackupType::Full) => Ok(BackupType::Full),
        Err(_) => Err(invalid("type", format!("{number} is not a backup type: full, diff or incr"))),
    }
}

pub(crate) fn backup(message: &v1::BackupRequest, requested_by: String) -> Result<Wanted, Refusal> {
    Ok(Wanted {
        request: JobRequest {
            database: database("database", &message.database)?,
            cell: cell("cell", &message.cell)?,
            timeout: timeout(message.timeout)?,
            request_id: request_id(&message.request_id)?,
            requested_by,
        },
        work: Work::Backup(BackupParams {
            backup_type: backup_type(message.r#type)?,
            allow_primary: message.allow_primary,
            max_lag_bytes: message.max_lag_bytes,
        }),
        queue: message.queue,
    })
}

pub(crate) fn rebuild(message: &v1::RebuildStandbyRequest, requested_by: String) -> Result<Wanted, Refusal> {
    Ok(Wanted {
        request: JobRequest {
            database: database("database", &message.database)?,
            cell: cell("cell", &message.cell)?,
            timeout: timeout(message.timeout)?,
            request_id: request_id(&message.request_id)?,
            requested_by,
        },
        work: Work::Rebuild,
        queue: message.queue,
    })
}

pub(crate) fn label(text: &str) -> Result<BackupLabel, Refusal> {
    text.parse::<BackupLabel>().map_err(|error| invalid("label", error.to_string()))
}
