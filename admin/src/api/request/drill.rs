//! Drills.

use cellar_api::v1;
use cellar_model::{DrillParams, JobSpec, Refusal};

use crate::api::request::field;
use crate::api::request::job::{CellField, JobFields, JobMessage};
use crate::refusal::invalid;

/// Longest accepted text of a check.
const MAX_CHECK_BYTES: usize = 64 << 10;

/// Checks that one drill may run.
const MAX_CHECKS: usize = 64;

/// The largest niceness: the lowest priority.
const MAX_NICE: u32 = 19;

/// Niceness of a drill when the request does not say: the running instance has priority.
const DEFAULT_NICE: u32 = MAX_NICE;

/// Bytes per second that a drill restores when the request does not say.
const DEFAULT_BYTES_PER_SECOND: u64 = 32 << 20;

/// The least limit of a drill's rate, which restores a GiB in five hours. Whoever asks for less has left out a unit.
const MIN_BYTES_PER_SECOND: u64 = 64 << 10;

impl JobMessage for v1::DrillRestoreRequest {
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

pub(crate) fn drill(message: &v1::DrillRestoreRequest) -> Result<JobSpec, Refusal> {
    let params = drill_params(
        &message.checks,
        &message.check_database,
        message.skip_amcheck,
        message.nice,
        message.max_bytes_per_second,
    )?;
    Ok(JobSpec::Drill(DrillParams { backup: field::backup(&message.backup)?, ..params }))
}

/// The parameters of a drill, of the newest backup unless the request names one.
pub(super) fn drill_params(
    checks: &[String],
    check_database: &str,
    skip_amcheck: bool,
    nice: Option<u32>,
    rate: Option<u64>,
) -> Result<DrillParams, Refusal> {
    let bad =
        |check: &&String| check.trim().is_empty() || check.len() > MAX_CHECK_BYTES || check.contains('\0');
    if checks.len() > MAX_CHECKS || checks.iter().any(|check| bad(&check)) {
        return Err(invalid(
            "checks",
            format!("at most {MAX_CHECKS} checks of SQL, each of 1 byte to 64 KiB"),
        ));
    }
    if check_database.contains(char::is_control) || check_database.len() > 63 {
        return Err(invalid(
            "check_database",
            "a database's name has at most 63 bytes and no control characters",
        ));
    }
    let nice = nice.unwrap_or(DEFAULT_NICE);
    if nice > MAX_NICE {
        return Err(invalid("nice", format!("a niceness is between 0 and {MAX_NICE}")));
    }
    if rate.is_some_and(|rate| 0 < rate && rate < MIN_BYTES_PER_SECOND) {
        return Err(invalid(
            "max_bytes_per_second",
            format!(
                "a drill restores at {MIN_BYTES_PER_SECOND} bytes a second (64KiB) or more, or without limit (0): a lower rate would take weeks"
            ),
        )
        .hint("give the unit, for example --max-rate 32MiB"));
    }
    Ok(DrillParams {
        backup: None,
        checks: checks.to_vec(),
        check_database: check_database.to_owned(),
        skip_amcheck,
        nice,
        max_bytes_per_second: rate.unwrap_or(DEFAULT_BYTES_PER_SECOND),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_without_its_unit_is_refused() {
        let of = |rate| drill_params(&[], "", false, None, rate).map(|params| params.max_bytes_per_second);
        for fits in [0, MIN_BYTES_PER_SECOND, u64::MAX] {
            assert_eq!(of(Some(fits)), Ok(fits));
        }
        assert_eq!(of(None), Ok(DEFAULT_BYTES_PER_SECOND));
        for senseless in [1, 100, MIN_BYTES_PER_SECOND - 1] {
            let refusal = of(Some(senseless)).unwrap_err();
            assert_eq!(refusal.about["field"], "max_bytes_per_second");
            assert!(refusal.hint.contains("32MiB"), "{refusal:?}");
        }
    }
}
