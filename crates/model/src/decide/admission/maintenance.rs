//! Whether a drill, an expiry, a verification or a check of archiving can work, and in which cell.

use jiff::Timestamp;

use crate::decide::request::JobRequest;
use crate::decide::snapshot::Snapshot;
use crate::records::drill::DrillParams;
use crate::records::incarnation::check_in_use;
use crate::records::job::id::JobId;
use crate::records::job::record::JobRecord;
use crate::records::job::spec::{JobKind, JobSpec};
use crate::records::maintenance::{ExpireParams, RestartParams};
use crate::records::topology::Database;
use crate::types::code::{Code, Refusal};
use crate::types::protocol::Protocol;

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

/// Decides on an expiry. Without a named cell a standby does it, for the primary has work to do; but where only one cell's
/// host has the repository, that one does.
///
/// # Errors
/// Refused when the database or the cell is unknown or its pooler down, a restore is under way, or one waits to be
/// confirmed or rolled back: the backups from before it may be all that a rollback would come back to.
pub fn plan_expire(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    params: &ExpireParams,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    let database = snapshot.database(request.database.as_ref())?;
    let db = &database.name;
    snapshot.not_fenced(db)?;
    // What leads to the timeline of the recorded primary would be kept, and what leads to the present deleted.
    check_in_use(snapshot.incarnations.get(db), snapshot.leaders.get(db), db)?;
    let open = snapshot.incarnations.get(db).filter(|incarnation| incarnation.kept_in.is_some());
    if let (false, Some(restore)) = (params.dry_run, open.and_then(|incarnation| incarnation.job)) {
        return Err(Refusal::new(
            Code::RestoreOpen,
            format!("restore {restore} of {db} is neither confirmed nor rolled back, and a rollback needs the backups from before it"),
        )
        .hint(format!("`cellar restore confirm {restore}` or `cellar restore rollback {restore}` first; --dry-run shows what would be deleted"))
        .about("job", restore)
        .about("database", db));
    }
    let cell = snapshot.repository_cell(database, request)?;
    Ok(request.record(JobSpec::Expire(params.clone()), db, &cell, id, now))
}

/// Decides on a job of a kind that has no conditions of its own: it runs in the named cell, otherwise in a standby's. A
/// verification runs where the repository is, if only one cell's host has it.
///
/// # Errors
/// Refused when the database or the cell is unknown or its pooler down; a job that takes the lock also while a restore
/// is under way.
pub fn plan_unconditional(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    spec: JobSpec,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    let database = snapshot.database(request.database.as_ref())?;
    if spec.kind().takes_lock() {
        snapshot.not_fenced(&database.name)?;
    }
    let cell = match spec.kind() {
        JobKind::Verify => snapshot.repository_cell(database, request)?,
        _ => snapshot.reading_cell(&database.name, request)?,
    };
    Ok(request.record(spec, &database.name, &cell, id, now))
}

/// Decides on a restart of the named cell's PostgreSQL, or of a standby's.
///
/// # Errors
/// Refused when the database or the cell is unknown or its pooler down, while a restore is under way, and while a pooler may be
/// too old to do it.
pub fn plan_restart(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    let database = snapshot.database(request.database.as_ref())?;
    let db = &database.name;
    snapshot.not_fenced(db)?;
    check_settings_protocol(database)?;
    let cell = snapshot.reading_cell(db, request)?;
    let is_primary = snapshot.leaders.get(db).is_some_and(|leader| leader.cell == cell);
    Ok(request.record(JobSpec::Restart(RestartParams { is_primary }), db, &cell, id, now))
}

/// Whether every multipooler of a database knows of its settings and of restarts.
///
/// # Errors
/// When one may be of an older build.
pub fn check_settings_protocol(database: &Database) -> Result<(), Refusal> {
    if database.minimum_protocol >= Protocol::SETTINGS {
        return Ok(());
    }
    let message = format!(
        "not every multipooler of database {} is known to be new enough for settings and restarts",
        database.name
    );
    Err(Refusal::new(Code::Unsupported, message)
        .hint("`cellar status` shows which do not report; update those that are older, and ask again")
        .about("database", &database.name))
}

/// Decides on a check of archiving: by the primary, which archives.
///
/// # Errors
/// Refused when the database is unknown, being restored, or has no primary that answers.
pub fn plan_check(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    let database = snapshot.database(request.database.as_ref())?;
    let db = &database.name;
    snapshot.not_fenced(db)?;
    let leader = snapshot.leader(db)?;
    snapshot.answering(db, &leader.cell).map_err(|refusal| {
        Refusal::new(Code::NoPrimary, format!("the primary of {db} does not answer: {refusal}"))
            .hint("only a primary archives; repair it first (`cellar status`)")
            .about("database", db)
    })?;
    Ok(request.record(JobSpec::Check, db, &leader.cell, id, now))
}
