//! Whether a restore or a rollback may go on without having fenced the recorded primary.
//!
//! A primary whose multipooler does not report may run and take writes, which would be in no copy of the restored
//! database. Nobody in the cluster can tell that from a primary that is dead: only a standby that streams from it shows
//! that it runs. So it is left unfenced only when the operator vouches that it takes no writes, and when nothing has
//! contradicted that since.

use crate::decide::claim_times::CLAIM_LEASE_SECONDS;
use crate::decide::snapshot::Snapshot;
use crate::records::incarnation::possible_primaries;
use crate::records::job::record::{DeadPrimary, JobRecord};
use crate::records::job::run::JobError;
use crate::records::pooler::Leader;
use crate::types::code::{Code, Refusal};
use crate::types::name::{CellName, DatabaseName};

/// What to do about a primary that is silent and for whose death nobody vouches.
fn silence_hint(cell: &CellName) -> String {
    format!(
        "start the multipooler of {cell} (`cellar up` on a local cluster, else `cellar host start` there), and ask again: then the primary is fenced. If that cannot be, power the host of {cell} off, or see there that its PostgreSQL does not run and is not started; then ask again with --primary-is-dead"
    )
}

/// The refusal of a restore or a rollback that could not fence the primary.
#[must_use]
pub fn silent_primary(cell: &CellName) -> Refusal {
    Refusal::new(
        Code::CellDown,
        format!(
            "the primary in {cell} cannot be fenced: its multipooler does not report. If its PostgreSQL runs, it goes on taking writes that no copy has"
        ),
    )
    .hint(silence_hint(cell))
    .about("cell", cell)
}

fn followed_primary(cell: &CellName, follower: &str) -> Refusal {
    Refusal::new(
        Code::CellDown,
        format!(
            "the primary in {cell} cannot be fenced: its multipooler does not report, but its PostgreSQL runs: {follower} streams from it"
        ),
    )
    .hint(format!(
        "start the multipooler of {cell} (`cellar up` on a local cluster, else `cellar host start` there), or stop its PostgreSQL; then ask again"
    ))
    .about("cell", cell)
}

fn primary_reported_again(cell: &CellName) -> Refusal {
    Refusal::new(
        Code::CellDown,
        format!(
            "the primary in {cell} cannot be fenced: its multipooler does not report. It did report after --primary-is-dead was given, so its PostgreSQL may run"
        ),
    )
    .hint(silence_hint(cell))
    .about("cell", cell)
}

/// What of the primary is recorded in a job that is going to fence it; nothing when it can be fenced.
///
/// # Errors
/// Refused when the primary is silent and nobody vouches for its death, or when that is vouched for though it reports or
/// a standby streams from it.
pub(crate) fn check(
    snapshot: &Snapshot<'_>,
    database: &DatabaseName,
    leader: &Leader,
    vouched: bool,
) -> Result<Option<DeadPrimary>, Refusal> {
    let dead = check_plan(snapshot, database, leader, vouched)?;
    match silent(snapshot, database, leader).first() {
        Some(cell) if dead.is_none() => Err(silent_primary(cell).about("database", database)),
        _ => Ok(dead),
    }
}

/// The cells that may have the primary and do not report.
fn silent<'a>(snapshot: &Snapshot<'a>, database: &DatabaseName, leader: &'a Leader) -> Vec<&'a CellName> {
    possible_primaries(snapshot.incarnations.get(database), Some(leader))
        .filter(|cell| !snapshot.status.contains_key(&(database.clone(), (*cell).clone())))
        .collect()
}

/// As [`check`], for the plan of such a job: nobody has to vouch for anything yet.
///
/// # Errors
/// Refused when the primary is vouched for as dead though it reports, or runs and is silent.
pub(crate) fn check_plan(
    snapshot: &Snapshot<'_>,
    database: &DatabaseName,
    leader: &Leader,
    vouched: bool,
) -> Result<Option<DeadPrimary>, Refusal> {
    let silent = silent(snapshot, database, leader);
    let Some((cell, others)) = silent.split_first() else {
        let living = living_primary(&leader.cell).about("database", database);
        return if vouched { Err(living) } else { Ok(None) };
    };
    let statuses = || snapshot.status.values().filter(|status| status.database == *database);
    for cell in &silent {
        if let Some(follower) = statuses().find(|status| status.streams_from(cell)) {
            return Err(followed_primary(cell, follower.cell.as_str()).about("database", database));
        }
    }
    let also = others.first().map(|cell| (*cell).clone());
    Ok(vouched.then(|| DeadPrimary { cell: (*cell).clone(), also, reported: false }))
}

/// The refusal of a request that says of a primary which reports that it is dead. Whoever says so is mistaken about
/// something: the cell, the cluster, or the host. Were it accepted, the primary would be left unfenced if its multipooler
/// fell silent a moment later.
fn living_primary(cell: &CellName) -> Refusal {
    Refusal::new(
        Code::InvalidArgument,
        format!("the primary in {cell} is not dead: its multipooler reports"),
    )
    .hint(format!("leave --primary-is-dead out: the primary is then fenced. If its host went down just now, ask again in {CLAIM_LEASE_SECONDS} seconds: its last report has lapsed then"))
    .about("field", "primary_is_dead")
    .about("cell", cell)
}

/// That a job may go on though it has not asked the multipooler of a cell that may have the primary to fence it.
///
/// # Errors
/// When the primary may run.
pub(crate) fn may_stay_unfenced(job: &JobRecord, cell: &CellName, is_followed: bool) -> Result<(), JobError> {
    let refusal = match job.dead_primary.as_ref().filter(|dead| dead.cells().any(|dead| dead == cell)) {
        _ if is_followed => followed_primary(cell, "a standby"),
        None => silent_primary(cell),
        Some(dead) if dead.reported => primary_reported_again(cell),
        Some(_) => return Ok(()),
    };
    Err(refusal.into())
}

/// The record of an open job, if it must say from now on that the primary reports though somebody vouched for its death.
#[must_use]
pub fn contradicted(job: &JobRecord, primary_reports: bool) -> Option<JobRecord> {
    let is_open = job.kind().is_driven() && job.closure.is_none();
    let dead = job.dead_primary.as_ref().filter(|dead| is_open && primary_reports && !dead.reported)?;
    Some(JobRecord { dead_primary: Some(DeadPrimary { reported: true, ..dead.clone() }), ..job.clone() })
}
