//! From messages to types: what does not parse goes no further.

use std::time::Duration;

use cellar_api::{from_message, v1};
use cellar_model::{
    BackupLabel, BackupParams, BackupType, CellName, DatabaseName, DrillParams, ExpireParams, JobId,
    JobRequest, JobSpec, MOST_CELLS, RebuildParams, Refusal, RequestId, RestoreParams, SCHEDULE_REQUESTS,
    ScheduleName, ScheduledBackup, ScheduledDrill, ScheduledWork, Target, Timeline,
};

use crate::cluster::schedules::Wish;
use crate::jobs::submit::Wanted;
use crate::refusal::invalid;

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
    if text.starts_with(SCHEDULE_REQUESTS) {
        let message = format!("request ids that begin with {SCHEDULE_REQUESTS} are those of schedules");
        return Err(invalid("request_id", message).hint("choose another one"));
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

/// What requests for jobs of all kinds have in common.
fn job_request(
    named: &str,
    cell: Option<CellName>,
    span: Option<cellar_api::wkt::Duration>,
    id: &str,
    requested_by: String,
) -> Result<JobRequest, Refusal> {
    Ok(JobRequest {
        database: database("database", named)?,
        cell,
        timeout: timeout(span)?,
        request_id: request_id(id)?,
        requested_by,
    })
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
        request: job_request(
            &message.database,
            Some(cell("cell", &message.cell)?),
            message.timeout,
            &message.request_id,
            requested_by,
        )?,
        spec: JobSpec::Backup(BackupParams {
            backup_type: backup_type(message.r#type)?,
            allow_primary: message.allow_primary,
            max_lag_bytes: message.max_lag_bytes,
        }),
        queue: message.queue,
    })
}

pub(crate) fn rebuild(message: &v1::RebuildStandbyRequest, requested_by: String) -> Result<Wanted, Refusal> {
    Ok(Wanted {
        request: job_request(
            &message.database,
            Some(cell("cell", &message.cell)?),
            message.timeout,
            &message.request_id,
            requested_by,
        )?,
        spec: JobSpec::Rebuild(RebuildParams::default()),
        queue: message.queue,
    })
}

pub(crate) fn label(text: &str) -> Result<BackupLabel, Refusal> {
    text.parse::<BackupLabel>().map_err(|error| invalid("label", error.to_string()))
}

/// Longest accepted text of a check.
const LONGEST_CHECK: usize = 64 << 10;

/// Checks that one drill may run.
const MOST_CHECKS: usize = 64;

/// Niceness of a drill that does not say: the live instance goes before it in everything.
const DRILL_NICE: u32 = 19;

/// Bytes per second of a drill that does not say.
const DRILL_RATE: u64 = 32 << 20;

fn named_cell(field: &'static str, text: &str) -> Result<Option<CellName>, Refusal> {
    if text.is_empty() { Ok(None) } else { cell(field, text).map(Some) }
}

fn named_backup(text: &str) -> Result<Option<BackupLabel>, Refusal> {
    if text.is_empty() { Ok(None) } else { label(text).map(Some) }
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
        onto: named_cell("onto", &message.onto)?,
    })
}

fn restore_request(
    message: &v1::RestoreDatabaseRequest,
    requested_by: String,
    spec: JobSpec,
) -> Result<Wanted, Refusal> {
    Ok(Wanted {
        request: job_request(&message.database, None, message.timeout, &message.request_id, requested_by)?,
        spec,
        queue: message.queue,
    })
}

pub(crate) fn restore(message: &v1::RestoreDatabaseRequest, requested_by: String) -> Result<Wanted, Refusal> {
    restore_request(message, requested_by, JobSpec::Restore(restore_params(message)?))
}

pub(crate) fn plan_restore(
    message: &v1::RestoreDatabaseRequest,
    requested_by: String,
) -> Result<Wanted, Refusal> {
    restore_request(message, requested_by, JobSpec::Plan(restore_params(message)?))
}

fn about_restore(
    message: &v1::RestoreJobRequest,
    requested_by: String,
    spec: impl FnOnce(JobId) -> JobSpec,
) -> Result<Wanted, Refusal> {
    Ok(Wanted {
        spec: spec(job_id(&message.id)?),
        request: job_request("", None, message.timeout, &message.request_id, requested_by)?,
        queue: message.queue,
    })
}

pub(crate) fn confirm(message: &v1::RestoreJobRequest, requested_by: String) -> Result<Wanted, Refusal> {
    about_restore(message, requested_by, JobSpec::Confirm)
}

pub(crate) fn rollback(message: &v1::RestoreJobRequest, requested_by: String) -> Result<Wanted, Refusal> {
    about_restore(message, requested_by, JobSpec::Rollback)
}

pub(crate) fn verify(message: &v1::VerifyBackupsRequest, requested_by: String) -> Result<Wanted, Refusal> {
    Ok(Wanted {
        request: job_request(
            &message.database,
            named_cell("cell", &message.cell)?,
            message.timeout,
            &message.request_id,
            requested_by,
        )?,
        spec: JobSpec::Verify,
        queue: false,
    })
}

pub(crate) fn expire(message: &v1::ExpireBackupsRequest, requested_by: String) -> Result<Wanted, Refusal> {
    Ok(Wanted {
        request: job_request(
            &message.database,
            named_cell("cell", &message.cell)?,
            message.timeout,
            &message.request_id,
            requested_by,
        )?,
        spec: JobSpec::Expire(ExpireParams {
            backup: named_backup(&message.backup)?,
            dry_run: message.dry_run,
            ..ExpireParams::default()
        }),
        queue: message.queue,
    })
}

pub(crate) fn check(message: &v1::CheckArchiveRequest, requested_by: String) -> Result<Wanted, Refusal> {
    Ok(Wanted {
        request: job_request(&message.database, None, message.timeout, &message.request_id, requested_by)?,
        spec: JobSpec::Check,
        queue: false,
    })
}

/// The parameters of a drill, of the newest backup unless the request names one.
fn drill_params(
    checks: &[String],
    check_database: &str,
    skip_amcheck: bool,
    nice: Option<u32>,
    rate: Option<u64>,
) -> Result<DrillParams, Refusal> {
    let bad =
        |check: &&String| check.trim().is_empty() || check.len() > LONGEST_CHECK || check.contains('\0');
    if checks.len() > MOST_CHECKS || checks.iter().any(|check| bad(&check)) {
        return Err(invalid(
            "checks",
            format!("at most {MOST_CHECKS} checks of SQL, each of 1 byte to 64 KiB"),
        ));
    }
    if check_database.contains(char::is_control) || check_database.len() > 63 {
        return Err(invalid(
            "check_database",
            "a database's name has at most 63 bytes and no control characters",
        ));
    }
    let nice = nice.unwrap_or(DRILL_NICE);
    if nice > 19 {
        return Err(invalid("nice", "a niceness is between 0 and 19"));
    }
    Ok(DrillParams {
        backup: None,
        checks: checks.to_vec(),
        check_database: check_database.to_owned(),
        skip_amcheck,
        nice,
        max_bytes_per_second: rate.unwrap_or(DRILL_RATE),
    })
}

pub(crate) fn drill(message: &v1::DrillRestoreRequest, requested_by: String) -> Result<Wanted, Refusal> {
    let params = drill_params(
        &message.checks,
        &message.check_database,
        message.skip_amcheck,
        message.nice,
        message.max_bytes_per_second,
    )?;
    Ok(Wanted {
        request: job_request(
            &message.database,
            named_cell("cell", &message.cell)?,
            message.timeout,
            &message.request_id,
            requested_by,
        )?,
        spec: JobSpec::Drill(DrillParams { backup: named_backup(&message.backup)?, ..params }),
        queue: false,
    })
}

pub(crate) fn schedule_name(text: &str) -> Result<ScheduleName, Refusal> {
    text.parse().map_err(|error: cellar_model::NameError| invalid("name", error.to_string()))
}

pub(crate) fn schedule(message: &v1::PutScheduleRequest) -> Result<Wish, Refusal> {
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let work = message.work.as_ref().and_then(|work| work.work.as_ref());
    Ok(Wish {
        database: database("database", &message.database)?,
        name: schedule_name(&message.name)?,
        cron: given(&message.cron),
        time_zone: given(&message.time_zone),
        work: work.map(scheduled).transpose()?,
        paused: message.paused,
    })
}

fn scheduled(work: &v1::scheduled_work::Work) -> Result<ScheduledWork, Refusal> {
    use v1::scheduled_work::Work as Asked;
    Ok(match work {
        Asked::Backup(backup) => {
            let cells: Vec<CellName> =
                backup.cells.iter().map(|text| cell("cells", text)).collect::<Result<_, _>>()?;
            let distinct: std::collections::BTreeSet<&CellName> = cells.iter().collect();
            if cells.is_empty() || cells.len() > MOST_CELLS || distinct.len() < cells.len() {
                return Err(invalid("cells", format!("a backup names 1 to {MOST_CELLS} cells, each once")));
            }
            let params = BackupParams {
                backup_type: backup_type(backup.r#type)?,
                allow_primary: backup.allow_primary,
                max_lag_bytes: backup.max_lag_bytes,
            };
            ScheduledWork::Backup(ScheduledBackup { cells, params })
        }
        Asked::Expire(_) => ScheduledWork::Expire {},
        Asked::Verify(_) => ScheduledWork::Verify {},
        Asked::Check(_) => ScheduledWork::Check {},
        Asked::Drill(drill) => ScheduledWork::Drill(ScheduledDrill {
            cell: drill.cell.as_deref().map_or(Ok(None), |text| named_cell("cell", text))?,
            params: drill_params(
                &drill.checks,
                &drill.check_database,
                drill.skip_amcheck,
                drill.nice,
                drill.max_bytes_per_second,
            )?,
        }),
    })
}

#[cfg(test)]
mod tests {
    use cellar_model::Code;

    use super::*;

    #[test]
    fn the_field_of_a_bad_name_is_named() {
        let refusal = cell("name", "Zone4").unwrap_err();
        assert_eq!((refusal.code, refusal.about["field"].as_str()), (Code::InvalidArgument, "name"));
    }
}
