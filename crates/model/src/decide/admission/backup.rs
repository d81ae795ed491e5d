//! Whether a backup, or the rebuild of a standby, can work.

use jiff::Timestamp;

use crate::decide::request::JobRequest;
use crate::decide::snapshot::{Snapshot, known};
use crate::records::backup::BackupParams;
use crate::records::instance::Role;
use crate::records::job::id::JobId;
use crate::records::job::record::JobRecord;
use crate::records::job::spec::JobSpec;
use crate::records::rebuild::RebuildParams;
use crate::types::code::{Code, Refusal};
use crate::types::name::CellName;

/// Decides on a backup of a named cell.
///
/// `id` is used when the request brings no request id of its own.
///
/// # Errors
/// Refused when the database or the cell is unknown, the cell is down, is the primary without
/// permission, does not stream from the recorded primary, lags, or two primaries are visible; or when the cell is down on
/// whose host alone the repository is.
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
    if let Some(home) = database.repository.reached_through(cell) {
        snapshot.at_repository(database, home)?;
    }
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
            format!(
                "{} is recorded as primary of {db}, but {} is a primary too",
                leader.cell,
                names.join(", ")
            ),
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
                let from =
                    status.streams_from.as_ref().map_or("no known cell".to_owned(), ToString::to_string);
                return Err(Refusal::new(
                    Code::WrongPrimary,
                    format!(
                        "cell {cell} streams from {from}, and the recorded primary of {db} is {}",
                        leader.cell
                    ),
                )
                .hint("look at its replication with `cellar status`; if it does not come back, rebuild it (`cellar rebuild`)")
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
            .hint("a rebuilt standby needs a primary to stream from; repair the primary first")
            .about("database", db)
    })?;
    Ok(request.record(JobSpec::Rebuild(RebuildParams::default()), db, cell, id, now))
}
