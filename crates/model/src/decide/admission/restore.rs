//! Whether a restore can work, and where it is planned.

use jiff::Timestamp;

use crate::decide::primary_fence;
use crate::decide::request::JobRequest;
use crate::decide::snapshot::Snapshot;
use crate::records::job::id::JobId;
use crate::records::job::record::JobRecord;
use crate::records::job::spec::JobSpec;
use crate::records::restore::RestoreParams;
use crate::records::target::Target;
use crate::types::clocks::is_future;
use crate::types::code::{Code, Refusal};
use crate::types::json::timestamp_text;

/// Decides on a restore of a whole database to a point in time.
///
/// What the repo has is not looked at here: that is the plan's work, which is the restore's first step.
///
/// # Errors
/// Refused when the database or the named cell is unknown or down, no primary was ever recorded, two are visible, the
/// target lies in the future, or the primary is silent, so that it could not be fenced, and nobody vouches that it
/// takes no writes.
pub fn plan_restore(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    params: &RestoreParams,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    let record = plan_data(snapshot, request, params, id, now)?;
    let leader = snapshot.leader(&record.database)?;
    let dead_primary = primary_fence::check(snapshot, &record.database, leader, request.primary_is_dead)?;
    Ok(JobRecord { dead_primary, ..record })
}

/// All of a restore but the fence.
fn plan_data(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    params: &RestoreParams,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    let database = snapshot.database(request.database.as_ref())?;
    let db = &database.name;
    let leader = snapshot.leader(db)?;
    if let Target::Time(time) = &params.target
        && is_future(*time, now)
    {
        return Err(Refusal::new(
            Code::TargetUnreachable,
            format!("{} is in the future: it is {} now", timestamp_text(*time), timestamp_text(now)),
        )
        .hint("the latest that can be reached is now (--latest)")
        .about("field", "target"));
    }
    let others = snapshot.other_primaries(db, Some(&leader.cell));
    if let Some(other) = others.first() {
        return Err(Refusal::new(
            Code::TwoPrimaries,
            format!("{} is recorded as primary of {db}, but {other} is a primary too", leader.cell),
        )
        .hint(format!("make it a standby first: `cellar rebuild {other}`"))
        .about("cell", other)
        .about("database", db));
    }
    let cell = match request.cell.as_ref().or(params.onto.as_ref()) {
        Some(cell) => {
            snapshot.pooler(db, cell)?;
            snapshot.live_status(db, cell)?;
            cell.clone()
        }
        None => snapshot.restore_cell(db, leader, params.in_place)?,
    };
    let params = RestoreParams { onto: Some(cell.clone()), ..params.clone() };
    Ok(request.record(JobSpec::Restore(params), db, &cell, id, now))
}

/// Decides where a restore is planned: by the primary's pooler, which also sees WAL that is not archived yet, or
/// else by that of the cell that would be restored.
///
/// A plan changes nothing, so it is made also for a primary that is silent and for whose death nobody vouches: it says
/// what the restore is going to need.
///
/// # Errors
/// As [`plan_restore`], but for that.
pub fn plan_restore_plan(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    params: &RestoreParams,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    let mut record = plan_data(snapshot, request, params, id, now)?;
    let leader = snapshot.leader(&record.database)?;
    record.dead_primary =
        primary_fence::check_plan(snapshot, &record.database, leader, request.primary_is_dead)?;
    if let JobSpec::Restore(params) = record.spec {
        record.spec = JobSpec::Plan(params);
    }
    if snapshot.status.contains_key(&(record.database.clone(), leader.cell.clone())) {
        record.cell = leader.cell.clone();
    }
    Ok(record)
}
