//! Deciding whether a request can work, from a snapshot of the topology.
//!
//! What cannot work is refused here, at once, with nothing changed. What
//! passes here is checked once more by the pooler against its live instance:
//! the snapshot is a lease's time old at worst.

use std::time::Duration;

use jiff::Timestamp;

use crate::decide::snapshot::{Snapshot, known};
use crate::records::instance::Role;
use crate::records::job::{Job, JobRecord, JobState};
use crate::records::job_id::{JobId, RequestId};
use crate::records::restore::{DrillParams, RestoreParams, Target};
use crate::records::spec::{BackupParams, JobKind, JobSpec, RebuildParams};
use crate::types::code::{Code, Refusal};
use crate::types::name::{CellName, DatabaseName};

/// A request for a job, parsed: what every kind has in common.
#[derive(Debug, Clone)]
pub struct JobRequest {
    /// Which database; the only one when not given.
    pub database: Option<DatabaseName>,
    /// The cell whose pooler does the work; chosen for some kinds when not given.
    pub cell: Option<CellName>,
    /// When it is given up, counted from now; a default when not given.
    pub timeout: Option<Duration>,
    /// The caller's name for the request.
    pub request_id: Option<RequestId>,
    /// The caller.
    pub requested_by: String,
}

impl JobRequest {
    /// `id` is used when the request brings no request id of its own.
    pub(crate) fn record(
        &self,
        spec: JobSpec,
        database: &DatabaseName,
        cell: &CellName,
        id: JobId,
        now: Timestamp,
    ) -> JobRecord {
        let create_time = crate::types::json::timestamp_ms(now);
        let timeout = self.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let record = JobRecord::new(
            self.request_id.as_ref().map_or(id, |request| JobId::for_request(database, request)),
            spec,
            database.clone(),
            cell.clone(),
            self.requested_by.clone(),
            create_time,
            create_time.saturating_add(timeout).unwrap_or(Timestamp::MAX),
        );
        JobRecord { request_id: self.request_id.clone(), ..record }
    }

    fn named_cell(&self) -> Result<&CellName, Refusal> {
        self.cell.as_ref().ok_or_else(|| {
            Refusal::new(Code::InvalidArgument, "the request names no cell").about("field", "cell")
        })
    }
}

/// A two-day backup is long but real; what has not ended after three days is not going to.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(72 * 3600);

/// Decides on a backup of a named cell.
///
/// `id` is used when the request brings no request id of its own.
///
/// # Errors
/// Refused when the database or the cell is unknown, the cell is down, is the primary without
/// permission, does not stream from the recorded primary, lags, or two primaries are visible.
pub fn plan_backup(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    params: &BackupParams,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    let database = snapshot.database(request.database.as_ref())?;
    let (db, cell) = (&database.name, request.named_cell()?);
    snapshot.pooler(db, cell)?;
    snapshot.not_fenced(db)?;
    let status = snapshot.answering(db, cell)?;
    let leader = snapshot.leaders.get(db).ok_or_else(|| {
        Refusal::new(Code::NoPrimary, format!("database {db} has no recorded primary yet"))
            .hint("wait until `cellar status` shows a primary")
            .about("database", db)
    })?;
    let others = snapshot.other_primaries(db, Some(&leader.cell));
    if !others.is_empty() {
        let names: Vec<&str> = others.iter().map(CellName::as_str).collect();
        return Err(Refusal::new(
            Code::TwoPrimaries,
            format!("{} is recorded as primary of {db}, but {} says so too", leader.cell, names.join(", ")),
        )
        .hint("stop or rebuild the one that should not be, then ask again")
        .about("cell", cell)
        .about("database", db));
    }
    match status.role {
        Role::Primary if !params.allow_primary => {
            let standbys = snapshot.status.values().filter(|s| s.database == *db && s.role == Role::Standby);
            let names = known(standbys.map(|s| s.cell.as_str()));
            return Err(Refusal::new(Code::IsPrimary, format!("cell {cell} is the primary of {db}"))
                .hint(format!("name a standby ({names}), or allow it with --allow-primary"))
                .about("cell", cell)
                .about("database", db));
        }
        Role::Primary => {}
        _ => {
            snapshot.answering(db, &leader.cell).map_err(|refusal| {
                Refusal::new(Code::NoPrimary, format!("the primary of {db} does not answer: {refusal}"))
                    .hint("a backup of a standby needs the primary for pg_control and the backup's start and stop")
                    .about("cell", cell)
                    .about("database", db)
            })?;
            if !status.streams_from(&leader.cell) {
                let from = status
                    .streams_from
                    .as_ref()
                    .map_or("nobody that is known".to_owned(), ToString::to_string);
                return Err(Refusal::new(
                    Code::WrongPrimary,
                    format!(
                        "cell {cell} streams from {from}, and the recorded primary of {db} is {}",
                        leader.cell
                    ),
                )
                .hint("look at its replication with `cellar status`; a rebuild mends it (`cellar rebuild`)")
                .about("cell", cell)
                .about("database", db));
            }
        }
    }
    Ok(request.record(JobSpec::Backup(params.clone().with_defaults()), db, cell, id, now))
}

/// Decides on a rebuild of a named standby.
///
/// # Errors
/// Refused when the database or the cell is unknown, the cell is or was last the primary, its
/// pooler is down, or no primary answers.
pub fn plan_rebuild(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    let database = snapshot.database(request.database.as_ref())?;
    let (db, cell) = (&database.name, request.named_cell()?);
    snapshot.pooler(db, cell)?;
    snapshot.not_fenced(db)?;
    snapshot.live_status(db, cell)?;
    let leader = snapshot.leaders.get(db);
    if leader.is_some_and(|leader| leader.cell == *cell) {
        return Err(Refusal::new(Code::IsPrimary, format!("cell {cell} is the recorded primary of {db}"))
            .hint("only standbys are rebuilt: promote another cell first")
            .about("cell", cell)
            .about("database", db));
    }
    let Some(leader) = leader else {
        return Err(Refusal::new(Code::NoPrimary, format!("database {db} has no recorded primary yet"))
            .about("database", db));
    };
    snapshot.answering(db, &leader.cell).map_err(|refusal| {
        Refusal::new(Code::NoPrimary, format!("the primary of {db} does not answer: {refusal}"))
            .hint("a rebuilt standby has nobody to stream from; mend the primary first")
            .about("database", db)
    })?;
    Ok(request.record(JobSpec::Rebuild(RebuildParams::default()), db, cell, id, now))
}

/// Decides on a restore of a whole database to a point in time.
///
/// What the repo has is not looked at here: that is the plan's work, which is the restore's first step.
///
/// # Errors
/// Refused when the database or the named cell is unknown or down, no primary was ever recorded, two are visible, the
/// target lies in the future, or the primary runs though its pooler does not, so that it could not be fenced.
pub fn plan_restore(
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
        && *time > now
    {
        return Err(Refusal::new(
            Code::TargetUnreachable,
            format!(
                "{} is in the future: it is {} now",
                crate::types::json::timestamp_text(*time),
                crate::types::json::timestamp_text(now)
            ),
        )
        .hint("the latest that can be reached is now (--latest)")
        .about("field", "target"));
    }
    let others = snapshot.other_primaries(db, Some(&leader.cell));
    if let Some(other) = others.first() {
        return Err(Refusal::new(
            Code::TwoPrimaries,
            format!("{} is recorded as primary of {db}, but {other} says so too", leader.cell),
        )
        .hint(format!("make it a standby first: `cellar rebuild {other}`"))
        .about("cell", other)
        .about("database", db));
    }
    let silent = !snapshot.status.contains_key(&(db.clone(), leader.cell.clone()));
    let follower =
        snapshot.status.values().find(|status| status.database == *db && status.streams_from(&leader.cell));
    if let (true, Some(follower)) = (silent, follower) {
        return Err(Refusal::new(
            Code::CellDown,
            format!(
                "the multipooler of the primary in {} does not report, but its PostgreSQL runs: {} streams from it. Nobody could keep it from taking writes",
                leader.cell, follower.cell
            ),
        )
        .hint(format!("start the multipooler of {} (`cellar up` on a local cluster), or stop its PostgreSQL", leader.cell))
        .about("cell", &leader.cell)
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
/// # Errors
/// As [`plan_restore`].
pub fn plan_restore_plan(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    params: &RestoreParams,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    let mut record = plan_restore(snapshot, request, params, id, now)?;
    if let JobSpec::Restore(params) = record.spec {
        record.spec = JobSpec::Plan(params);
    }
    if let Some(leader) = snapshot.leaders.get(&record.database)
        && snapshot.status.contains_key(&(record.database.clone(), leader.cell.clone()))
    {
        record.cell = leader.cell.clone();
    }
    Ok(record)
}

fn nothing_kept(message: String, subject: JobId) -> Refusal {
    Refusal::new(Code::NothingKept, message).about("job", subject)
}

fn restore_of(snapshot: &Snapshot<'_>, request: &JobRequest, restore: &Job) -> Result<(), Refusal> {
    let record = &restore.record;
    if record.kind() != JobKind::Restore {
        return Err(Refusal::new(
            Code::InvalidArgument,
            format!("job {} is a {}, not a restore", record.id, record.kind()),
        )
        .hint("`cellar jobs list` shows the restores")
        .about("field", "id"));
    }
    if request.database.as_ref().is_some_and(|named| *named != record.database) {
        return Err(Refusal::new(
            Code::InvalidArgument,
            format!("job {} is of database {}", record.id, record.database),
        )
        .about("field", "database"));
    }
    snapshot.database(Some(&record.database))?;
    if !restore.state.is_terminal() {
        return Err(Refusal::new(Code::Busy, format!("restore {} has not ended yet", record.id))
            .hint(format!(
                "wait for it: `cellar jobs watch {}`; or end it with `cellar jobs cancel`",
                record.id
            ))
            .about("job", record.id));
    }
    Ok(())
}

/// Decides on the rollback of a restore.
///
/// # Errors
/// Refused when there is nothing to go back to any more: it was confirmed or rolled back, it kept nothing, it never
/// took effect, or a later restore has taken its place; or when the cell that keeps the old data is down.
pub fn plan_rollback(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    restore: &Job,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    restore_of(snapshot, request, restore)?;
    let (db, subject) = (&restore.record.database, restore.record.id);
    let incarnation = snapshot.incarnations.get(db);
    let Some(incarnation) = incarnation.filter(|incarnation| incarnation.job == Some(subject)) else {
        let why = match incarnation.and_then(|incarnation| incarnation.job) {
            Some(later) if restore.result.as_ref().is_some_and(|outcome| outcome.restore().is_some()) => {
                format!("restore {subject} is not the last one: job {later} came after it")
            }
            _ => format!("restore {subject} never took effect: the database is as it was before it"),
        };
        return Err(nothing_kept(why, subject));
    };
    let Some(cell) = &incarnation.kept_in else {
        return Err(nothing_kept(
            format!("restore {subject} has nothing to go back to: it was confirmed, or done in place"),
            subject,
        ));
    };
    snapshot.pooler(db, cell)?;
    snapshot.live_status(db, cell)?;
    Ok(request.record(JobSpec::Rollback(subject), db, cell, id, now))
}

/// Decides on the confirmation of a restore. `related` are the rollbacks and confirmations of it that there are.
///
/// # Errors
/// Refused when it never took effect, kept nothing, was rolled back, or was confirmed already.
pub fn plan_confirm(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    restore: &Job,
    related: &[Job],
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    restore_of(snapshot, request, restore)?;
    let (db, subject) = (&restore.record.database, restore.record.id);
    // What it recorded when it ended, not whether a rollback is still possible.
    let closure = restore.record.closure.as_ref();
    let Some(result) = closure.and_then(|closure| closure.result.as_ref()?.restore()) else {
        return Err(nothing_kept(
            format!("restore {subject} never took effect: there is nothing to confirm"),
            subject,
        ));
    };
    if !result.kept {
        return Err(nothing_kept(
            format!("restore {subject} was done in place and kept no old data"),
            subject,
        ));
    }
    let ended = |kind: JobKind| {
        related.iter().find(|job| job.record.kind() == kind && job.state == JobState::Succeeded)
    };
    if let Some(job) = ended(JobKind::Rollback) {
        return Err(nothing_kept(
            format!("restore {subject} was rolled back by job {}", job.record.id),
            subject,
        ));
    }
    if let Some(job) = ended(JobKind::Confirm) {
        return Err(nothing_kept(
            format!("restore {subject} was confirmed by job {} already", job.record.id),
            subject,
        ));
    }
    Ok(request.record(JobSpec::Confirm(subject), db, &result.cell, id, now))
}

/// Decides on a drill. Without a named cell a standby is taken, for the primary has work to do.
///
/// # Errors
/// Refused when the database or the cell is unknown or its pooler down.
pub fn plan_drill(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    params: &DrillParams,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    let database = snapshot.database(request.database.as_ref())?;
    let db = &database.name;
    let cell = snapshot.reading_cell(db, request)?;
    Ok(request.record(JobSpec::Drill(params.clone()), db, &cell, id, now))
}

/// Decides whether a cell may leave every database.
///
/// # Errors
/// Refused when it is unknown, the last one, or some database's primary.
pub fn plan_cell_removal(snapshot: &Snapshot<'_>, cell: &CellName) -> Result<(), Refusal> {
    if !snapshot.cells.contains_key(cell) {
        let all = known(snapshot.cells.keys().map(CellName::as_str));
        return Err(
            Refusal::new(Code::UnknownCell, format!("there is no cell {cell} ({all})")).about("cell", cell)
        );
    }
    if snapshot.cells.len() == 1 {
        return Err(Refusal::new(Code::LastCell, format!("{cell} is the last cell"))
            .hint("`cellar down --destroy` removes the whole cluster")
            .about("cell", cell));
    }
    for database in snapshot.databases.keys() {
        let recorded = snapshot.leaders.get(database).is_some_and(|leader| leader.cell == *cell);
        let observed = snapshot
            .status
            .get(&(database.clone(), cell.clone()))
            .is_some_and(|status| status.role == Role::Primary);
        if recorded || observed {
            return Err(Refusal::new(Code::IsPrimary, format!("cell {cell} is the primary of {database}"))
                .hint("promote another cell first")
                .about("cell", cell)
                .about("database", database));
        }
    }
    Ok(())
}
#[cfg(test)]
mod tests;
