//! Deciding whether a request can work, from a snapshot of the topology.
//!
//! What cannot work is refused here, at once, with nothing changed. What
//! passes here is checked once more by the pooler against its live instance:
//! the snapshot is a lease's time old at worst.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::{
    BackupParams, Cell, CellName, Code, Database, DatabaseName, DrillParams, Incarnation, InstanceState, Job,
    JobId, JobKind, JobRecord, JobState, Leader, Pooler, PoolerStatus, RebuildParams, Refusal, RequestId,
    RestoreParams, Role, Target,
};

/// Everything a decision looks at.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// All cells.
    pub cells: &'a BTreeMap<CellName, Cell>,
    /// All databases.
    pub databases: &'a BTreeMap<DatabaseName, Database>,
    /// All poolers.
    pub poolers: &'a BTreeMap<(DatabaseName, CellName), Pooler>,
    /// Their status, as far as they live.
    pub status: &'a BTreeMap<(DatabaseName, CellName), PoolerStatus>,
    /// The recorded primaries.
    pub leaders: &'a BTreeMap<DatabaseName, Leader>,
    /// Which copies are the true ones.
    pub incarnations: &'a BTreeMap<DatabaseName, Incarnation>,
}

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
        kind: JobKind,
        database: &DatabaseName,
        cell: &CellName,
        id: JobId,
        now: Timestamp,
    ) -> JobRecord {
        let create_time = crate::timestamp_ms(now);
        let timeout = self.timeout.unwrap_or(DEFAULT_TIMEOUT);
        JobRecord {
            id: self.request_id.as_ref().map_or(id, |request| JobId::for_request(database, request)),
            kind,
            database: database.clone(),
            cell: cell.clone(),
            backup: None,
            rebuild: None,
            restore: None,
            recover: None,
            drill: None,
            expire: None,
            subject: None,
            requested_by: self.requested_by.clone(),
            request_id: self.request_id.clone(),
            create_time,
            deadline: create_time.saturating_add(timeout).unwrap_or(Timestamp::MAX),
            parent: None,
            cancel: None,
            closure: None,
        }
    }

    fn named_cell(&self) -> Result<&CellName, Refusal> {
        self.cell.as_ref().ok_or_else(|| {
            Refusal::new(Code::InvalidArgument, "the request names no cell").about("field", "cell")
        })
    }
}

/// A two-day backup is long but real; what has not ended after three days is not going to.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(72 * 3600);

/// Lag in bytes up to which a standby is accepted when the request does not say: 16 WAL segments.
pub const DEFAULT_MAX_LAG: u64 = 256 << 20;

fn known<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "there are none yet".to_owned() } else { format!("known: {}", names.join(", ")) }
}

impl<'a> Snapshot<'a> {
    /// The database of that name, or the only one.
    ///
    /// # Errors
    /// Refused when there is none of that name, or the name is needed and missing.
    pub fn database(&self, name: Option<&DatabaseName>) -> Result<&'a Database, Refusal> {
        let all = || known(self.databases.keys().map(DatabaseName::as_str));
        match name {
            Some(name) => self.databases.get(name).ok_or_else(|| {
                Refusal::new(Code::UnknownDatabase, format!("there is no database {name} ({})", all()))
                    .about("database", name)
            }),
            None if self.databases.len() == 1 => {
                Ok(self.databases.values().next().unwrap_or_else(|| unreachable!()))
            }
            None if self.databases.is_empty() => {
                Err(Refusal::new(Code::UnknownDatabase, "the cluster has no database yet")
                    .hint("create one with `cellar up`"))
            }
            None => Err(Refusal::new(
                Code::InvalidArgument,
                format!("the cluster has several databases and the request names none ({})", all()),
            )
            .hint("name one with --database")
            .about("field", "database")),
        }
    }

    /// The pooler of a database in a cell.
    ///
    /// # Errors
    /// Refused when the cell has none.
    pub fn pooler(&self, database: &DatabaseName, cell: &CellName) -> Result<&'a Pooler, Refusal> {
        self.poolers.get(&(database.clone(), cell.clone())).ok_or_else(|| {
            let cells = self.poolers.keys().filter(|(db, _)| db == database).map(|(_, cell)| cell.as_str());
            Refusal::new(
                Code::UnknownCell,
                format!("database {database} has no cell {cell} ({})", known(cells)),
            )
            .about("cell", cell)
            .about("database", database)
        })
    }

    pub(crate) fn live_status(
        &self,
        database: &DatabaseName,
        cell: &CellName,
    ) -> Result<&'a PoolerStatus, Refusal> {
        let down = |message: String| {
            Refusal::new(Code::CellDown, message).about("cell", cell).about("database", database)
        };
        let status = self.status.get(&(database.clone(), cell.clone())).ok_or_else(|| {
            down(format!("cell {cell} is down: its multipooler does not report to the topology"))
                .hint(format!("start it (`cellar up` on a local cluster), or name another cell than {cell}"))
        })?;
        Ok(status)
    }

    pub(crate) fn answering(
        &self,
        database: &DatabaseName,
        cell: &CellName,
    ) -> Result<&'a PoolerStatus, Refusal> {
        let status = self.live_status(database, cell)?;
        if status.state != InstanceState::Running || status.role == Role::Unknown {
            let why = if status.message.is_empty() { String::new() } else { format!(": {}", status.message) };
            return Err(Refusal::new(
                Code::CellDown,
                format!("PostgreSQL in cell {cell} is {}, not running{why}", status.state.as_str()),
            )
            .hint("look at `cellar status`, mend the cell or name another one")
            .about("cell", cell)
            .about("database", database));
        }
        Ok(status)
    }

    /// That no restore has stopped the primary just now, in whose light everything else would look broken.
    pub(crate) fn not_fenced(&self, database: &DatabaseName) -> Result<(), Refusal> {
        let Some(job) = self.incarnations.get(database).and_then(|incarnation| incarnation.fence) else {
            return Ok(());
        };
        Err(Refusal::new(Code::Busy, format!("database {database} is being restored by job {job}"))
            .hint(format!("wait for it (`cellar jobs watch {job}`), then ask again"))
            .about("job", job)
            .about("database", database))
    }

    /// Cells other than `except` whose instance says that it is a primary.
    #[must_use]
    pub fn other_primaries(&self, database: &DatabaseName, except: Option<&CellName>) -> Vec<CellName> {
        self.status
            .values()
            .filter(|s| s.database == *database && s.role == Role::Primary && Some(&s.cell) != except)
            .map(|s| s.cell.clone())
            .collect()
    }
}

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
    let mut record = request.record(JobKind::Backup, db, cell, id, now);
    let mut params = params.clone();
    if params.max_lag_bytes == 0 {
        params.max_lag_bytes = DEFAULT_MAX_LAG;
    }
    record.backup = Some(params);
    Ok(record)
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
    let mut record = request.record(JobKind::Rebuild, db, cell, id, now);
    record.rebuild = Some(RebuildParams::default());
    Ok(record)
}

impl Snapshot<'_> {
    /// The recorded primary of a database that has been made.
    pub(crate) fn leader(&self, database: &DatabaseName) -> Result<&Leader, Refusal> {
        self.leaders.get(database).filter(|leader| leader.system_identifier.is_some()).ok_or_else(|| {
            Refusal::new(Code::NoPrimary, format!("database {database} has no recorded primary yet"))
                .hint("wait until `cellar status` shows a primary")
                .about("database", database)
        })
    }

    /// The cell that a restore is done in: the primary's, whose clients know it; one of the standbys when that is
    /// down, or when the old data would be restored over, which the primary's is the last to be.
    fn restore_cell(
        &self,
        database: &DatabaseName,
        leader: &Leader,
        in_place: bool,
    ) -> Result<CellName, Refusal> {
        let mut alive: Vec<(u8, crate::LagClass, &CellName)> = self
            .status
            .values()
            .filter(|status| {
                status.database == *database
                    && self.poolers.contains_key(&(database.clone(), status.cell.clone()))
            })
            .map(|status| {
                let primary = status.cell == leader.cell;
                // One whose disk is empty has no WAL that the archive lacks, which a standby has.
                let first = primary && !in_place && status.state != InstanceState::Broken;
                let last = primary && !first;
                (u8::from(!first) + u8::from(last), lag_order(status), &status.cell)
            })
            .collect();
        alive.sort_by_key(|(rank, lag, cell)| (*rank, lag_rank(*lag), (*cell).clone()));
        alive.first().map(|(_, _, cell)| (*cell).clone()).ok_or_else(|| {
            Refusal::new(Code::CellDown, format!("no multipooler of database {database} reports"))
                .hint("start one (`cellar up` on a local cluster)")
                .about("database", database)
        })
    }
}

impl Snapshot<'_> {
    /// The cell that works on the repo and needs nothing of its instance: the named one, else a standby's, for the
    /// primary has work to do.
    pub(crate) fn reading_cell(
        &self,
        database: &DatabaseName,
        request: &JobRequest,
    ) -> Result<CellName, Refusal> {
        let leader = self.leader(database)?;
        match &request.cell {
            Some(cell) => {
                self.pooler(database, cell)?;
                self.live_status(database, cell)?;
                Ok(cell.clone())
            }
            None => self.restore_cell(database, leader, true),
        }
    }
}

fn lag_order(status: &PoolerStatus) -> crate::LagClass {
    if status.state == InstanceState::Running { status.replay_lag } else { crate::LagClass::Far }
}

fn lag_rank(lag: crate::LagClass) -> u8 {
    match lag {
        crate::LagClass::Current => 0,
        crate::LagClass::Segment => 1,
        crate::LagClass::Behind => 2,
        crate::LagClass::Unknown => 3,
        crate::LagClass::Far => 4,
    }
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
                crate::timestamp_text(*time),
                crate::timestamp_text(now)
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
    let mut record = request.record(JobKind::Restore, db, &cell, id, now);
    record.restore = Some(RestoreParams { onto: Some(cell), ..params.clone() });
    Ok(record)
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
    record.kind = JobKind::Plan;
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
    if record.kind != JobKind::Restore {
        return Err(Refusal::new(
            Code::InvalidArgument,
            format!("job {} is a {}, not a restore", record.id, record.kind),
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
            Some(later) if restore.result.as_ref().is_some_and(|result| result.restore.is_some()) => {
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
    let mut record = request.record(JobKind::Rollback, db, cell, id, now);
    record.subject = Some(subject);
    Ok(record)
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
    let Some(result) = closure.and_then(|closure| closure.result.as_ref()?.restore.as_ref()) else {
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
        related.iter().find(|job| job.record.kind == kind && job.state == JobState::Succeeded)
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
    let mut record = request.record(JobKind::Confirm, db, &result.cell, id, now);
    record.subject = Some(subject);
    Ok(record)
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
    let mut record = request.record(JobKind::Drill, db, &cell, id, now);
    record.drill = Some(params.clone());
    Ok(record)
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
mod tests {
    use super::*;
    use crate::{BackupType, CellLayout, LagClass, Retention, Timeline};

    #[derive(Default)]
    struct World {
        cells: BTreeMap<CellName, Cell>,
        databases: BTreeMap<DatabaseName, Database>,
        poolers: BTreeMap<(DatabaseName, CellName), Pooler>,
        status: BTreeMap<(DatabaseName, CellName), PoolerStatus>,
        leaders: BTreeMap<DatabaseName, Leader>,
        incarnations: BTreeMap<DatabaseName, Incarnation>,
    }

    fn request(cell: &str) -> JobRequest {
        JobRequest {
            database: None,
            cell: Some(cell.parse().unwrap()),
            timeout: None,
            request_id: None,
            requested_by: "me".into(),
        }
    }

    impl World {
        /// zone1 is the primary, zone2 and zone3 stream from it.
        fn healthy() -> Self {
            let mut world = Self::default();
            let db = Database {
                name: "app".parse().unwrap(),
                stanza: "app".parse().unwrap(),
                repo_path: "/repo".into(),
                retention: Retention { full: 2 },
                bootstrap_cell: "zone1".parse().unwrap(),
                port_offset: 0,
                repo_cipher: None,
                pgbackrest_names: Vec::new(),
            };
            for (index, name) in ["zone1", "zone2", "zone3"].into_iter().enumerate() {
                let cell = Cell {
                    name: name.parse().unwrap(),
                    index: u32::try_from(index).unwrap(),
                    host: "localhost".into(),
                    directory: format!("/c/{name}"),
                };
                let pooler = CellLayout::new(&cell.directory).pooler(&db, &cell, "127.0.0.1").unwrap();
                let status = PoolerStatus {
                    database: db.name.clone(),
                    cell: cell.name.clone(),
                    epoch: "e".into(),
                    pid: 1,
                    state: InstanceState::Running,
                    message: String::new(),
                    role: if index == 0 { Role::Primary } else { Role::Standby },
                    system_identifier: None,
                    timeline: Some(Timeline::new(1)),
                    streams_from: (index > 0).then(|| "zone1".parse().unwrap()),
                    receive_lag: LagClass::Current,
                    replay_lag: LagClass::Current,
                    archiver: crate::Archiver::default(),
                    versions: crate::Versions::default(),
                    certificate_expiry: None,
                    tls_server_up: true,
                    tls_server_accepts: vec![],
                    unreadable_records: vec![],
                    update_time: None,
                };
                world.poolers.insert((db.name.clone(), cell.name.clone()), pooler);
                world.status.insert((db.name.clone(), cell.name.clone()), status);
                world.cells.insert(cell.name.clone(), cell);
            }
            let leader = Leader {
                cell: "zone1".parse().unwrap(),
                term: Timeline::new(1),
                system_identifier: None,
                lsn: None,
            };
            world.leaders.insert(db.name.clone(), leader);
            world.databases.insert(db.name.clone(), db);
            world
        }

        fn snapshot(&self) -> Snapshot<'_> {
            Snapshot {
                cells: &self.cells,
                databases: &self.databases,
                poolers: &self.poolers,
                status: &self.status,
                leaders: &self.leaders,
                incarnations: &self.incarnations,
            }
        }

        fn status(&mut self, cell: &str) -> &mut PoolerStatus {
            self.status.get_mut(&("app".parse().unwrap(), cell.parse().unwrap())).unwrap()
        }

        fn backup(&self, cell: &str, allow_primary: bool) -> Result<JobRecord, Refusal> {
            let params = BackupParams { backup_type: BackupType::Incr, allow_primary, max_lag_bytes: 0 };
            let request = request(cell);
            plan_backup(
                &self.snapshot(),
                &request,
                &params,
                JobId::new(uuid::Uuid::from_u128(1)),
                Timestamp::UNIX_EPOCH,
            )
        }

        fn refused(&self, cell: &str) -> Code {
            self.backup(cell, false).unwrap_err().code
        }
    }

    #[test]
    fn a_healthy_standby_is_accepted() {
        let record = World::healthy().backup("zone3", false).unwrap();
        assert_eq!(record.cell.as_str(), "zone3");
        assert_eq!(record.backup.unwrap().max_lag_bytes, DEFAULT_MAX_LAG);
        assert!(record.deadline > record.create_time);
    }

    #[test]
    fn an_unknown_cell_is_refused_listing_the_known() {
        let refusal = World::healthy().backup("zone9", false).unwrap_err();
        assert_eq!(refusal.code, Code::UnknownCell);
        assert!(refusal.message.contains("zone1, zone2, zone3"), "{refusal}");
    }

    #[test]
    fn the_primary_needs_permission() {
        assert_eq!(World::healthy().refused("zone1"), Code::IsPrimary);
        assert!(World::healthy().backup("zone1", true).is_ok());
    }

    #[test]
    fn a_dead_cell_is_refused() {
        let mut world = World::healthy();
        world.status("zone3").state = InstanceState::Down;
        assert_eq!(world.refused("zone3"), Code::CellDown);
        world.status.remove(&("app".parse().unwrap(), "zone3".parse().unwrap()));
        assert_eq!(world.refused("zone3"), Code::CellDown);
    }

    #[test]
    fn an_instance_that_does_not_answer_is_not_a_standby() {
        let mut world = World::healthy();
        world.status("zone3").role = Role::Unknown;
        assert_eq!(world.refused("zone3"), Code::CellDown);
    }

    #[test]
    fn a_standby_of_somebody_else_is_refused() {
        let mut world = World::healthy();
        world.status("zone3").streams_from = Some("zone2".parse().unwrap());
        assert_eq!(world.refused("zone3"), Code::WrongPrimary);
        world.status("zone3").streams_from = None;
        assert_eq!(world.refused("zone3"), Code::WrongPrimary);
    }

    #[test]
    fn two_primaries_are_refused() {
        let mut world = World::healthy();
        world.status("zone2").role = Role::Primary;
        assert_eq!(world.refused("zone3"), Code::TwoPrimaries);
    }

    #[test]
    fn a_dead_primary_is_refused_by_name() {
        let mut world = World::healthy();
        world.status("zone1").state = InstanceState::Down;
        assert_eq!(world.refused("zone3"), Code::NoPrimary);
    }

    #[test]
    fn a_dead_third_cell_costs_nothing() {
        let mut world = World::healthy();
        world.status.remove(&("app".parse().unwrap(), "zone2".parse().unwrap()));
        assert!(world.backup("zone3", false).is_ok());
    }

    #[test]
    fn the_database_must_be_named_when_there_are_two() {
        let mut world = World::healthy();
        let mut second = world.databases.values().next().unwrap().clone();
        second.name = "web".parse().unwrap();
        world.databases.insert(second.name.clone(), second);
        assert_eq!(world.refused("zone3"), Code::InvalidArgument);
    }

    #[test]
    fn only_standbys_leave_and_only_standbys_are_rebuilt() {
        let mut world = World::healthy();
        let remove = |world: &World, cell: &str| {
            plan_cell_removal(&world.snapshot(), &cell.parse().unwrap()).map_err(|r| r.code)
        };
        assert_eq!(remove(&world, "zone1"), Err(Code::IsPrimary));
        assert_eq!(remove(&world, "zone9"), Err(Code::UnknownCell));
        assert_eq!(remove(&world, "zone2"), Ok(()));
        let rebuild = |world: &World, cell: &str| {
            let request = request(cell);
            plan_rebuild(
                &world.snapshot(),
                &request,
                JobId::new(uuid::Uuid::from_u128(1)),
                Timestamp::UNIX_EPOCH,
            )
            .map(|_| ())
            .map_err(|r| r.code)
        };
        assert_eq!(rebuild(&world, "zone1"), Err(Code::IsPrimary));
        assert_eq!(rebuild(&world, "zone2"), Ok(()));
        world.status("zone2").state = InstanceState::Broken;
        assert_eq!(rebuild(&world, "zone2"), Ok(()));
        world.cells.retain(|name, _| name.as_str() == "zone2");
        assert_eq!(remove(&world, "zone2"), Err(Code::LastCell));
    }

    fn job_id(n: u128) -> JobId {
        JobId::new(uuid::Uuid::from_u128(n))
    }

    fn whole(timeout: Option<Duration>) -> JobRequest {
        JobRequest { database: None, cell: None, timeout, request_id: None, requested_by: "me".into() }
    }

    fn to(target: Target, in_place: bool) -> RestoreParams {
        RestoreParams { target, timeline: None, in_place, onto: None }
    }

    fn made(mut world: World) -> World {
        for leader in world.leaders.values_mut() {
            leader.system_identifier = Some(crate::SystemIdentifier::new(7));
        }
        world
    }

    fn restore(world: &World, params: &RestoreParams) -> Result<JobRecord, Refusal> {
        plan_restore(&world.snapshot(), &whole(None), params, job_id(1), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_restore_goes_to_the_primary_unless_it_is_down_or_would_lose_the_best_copy() {
        let mut world = made(World::healthy());
        let latest = to(Target::Latest {}, false);
        assert_eq!(restore(&world, &latest).unwrap().cell.as_str(), "zone1");
        assert_eq!(restore(&world, &to(Target::Latest {}, true)).unwrap().cell.as_str(), "zone2");
        world.status("zone1").state = InstanceState::Broken;
        assert_eq!(restore(&world, &latest).unwrap().cell.as_str(), "zone2", "its disk is empty");
        world.status.remove(&("app".parse().unwrap(), "zone1".parse().unwrap()));
        for cell in ["zone2", "zone3"] {
            world.status(cell).streams_from = None;
        }
        world.status("zone2").replay_lag = LagClass::Far;
        let record = restore(&world, &latest).unwrap();
        assert_eq!(record.cell.as_str(), "zone3", "the one that has most");
        assert_eq!(record.restore.unwrap().onto, Some("zone3".parse().unwrap()));
    }

    #[test]
    fn a_primary_that_nobody_could_fence_is_refused() {
        let mut world = made(World::healthy());
        world.status.remove(&("app".parse().unwrap(), "zone1".parse().unwrap()));
        let refusal = restore(&world, &to(Target::Latest {}, false)).unwrap_err();
        assert_eq!(refusal.code, Code::CellDown);
        assert!(refusal.message.contains("zone2 streams from it"), "{refusal}");
    }

    #[test]
    fn a_restore_into_the_future_or_with_two_primaries_is_refused() {
        let mut world = made(World::healthy());
        let future = to(Target::Time(Timestamp::from_second(9).unwrap()), false);
        assert_eq!(restore(&world, &future).unwrap_err().code, Code::TargetUnreachable);
        world.status("zone2").role = Role::Primary;
        assert_eq!(restore(&world, &to(Target::Latest {}, false)).unwrap_err().code, Code::TwoPrimaries);
    }

    #[test]
    fn a_plan_is_made_where_the_wal_is_and_a_drill_where_it_disturbs_least() {
        let world = made(World::healthy());
        let params = RestoreParams { onto: Some("zone3".parse().unwrap()), ..to(Target::Latest {}, false) };
        let plan =
            plan_restore_plan(&world.snapshot(), &whole(None), &params, job_id(1), Timestamp::UNIX_EPOCH)
                .unwrap();
        assert_eq!((plan.kind, plan.cell.as_str()), (JobKind::Plan, "zone1"));
        assert_eq!(plan.restore.unwrap().onto, Some("zone3".parse().unwrap()));
        let drill = DrillParams {
            backup: None,
            checks: vec![],
            check_database: String::new(),
            skip_amcheck: false,
            nice: 19,
            max_bytes_per_second: 0,
        };
        let record =
            plan_drill(&world.snapshot(), &whole(None), &drill, job_id(1), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(record.cell.as_str(), "zone2");
        assert!(!record.kind.takes_lock());
    }

    #[test]
    fn upkeep_is_a_standbys_work_but_for_checks_and_waits_for_an_open_restore() {
        use crate::{ExpireParams, plan_check, plan_expire, plan_verify};
        let (id, now) = (job_id(1), Timestamp::UNIX_EPOCH);
        let mut world = made(World::healthy());
        let expire = |world: &World, dry_run: bool| {
            plan_expire(&world.snapshot(), &whole(None), &ExpireParams { backup: None, dry_run }, id, now)
        };
        let record = expire(&world, false).unwrap();
        assert_eq!(record.cell.as_str(), "zone2");
        assert!(record.kind.takes_lock());
        assert_eq!(plan_verify(&world.snapshot(), &whole(None), id, now).unwrap().cell.as_str(), "zone2");
        assert_eq!(plan_check(&world.snapshot(), &whole(None), id, now).unwrap().cell.as_str(), "zone1");
        world.incarnations.insert(
            "app".parse().unwrap(),
            Incarnation {
                job: Some(job_id(7)),
                kept_in: Some("zone1".parse().unwrap()),
                ..Incarnation::default()
            },
        );
        let refused = expire(&world, false).unwrap_err();
        assert_eq!(refused.code, Code::RestoreOpen);
        assert!(refused.hint.contains(&job_id(7).to_string()), "{}", refused.hint);
        assert!(expire(&world, true).is_ok());
        world.status("zone1").role = Role::Unknown;
        let check = plan_check(&world.snapshot(), &whole(None), id, now);
        assert_eq!(check.unwrap_err().code, Code::NoPrimary);
    }

    /// A restore of zone1 that has ended, with what it recorded.
    fn ended(state: JobState, kept: bool) -> Job {
        let world = made(World::healthy());
        let mut record = restore(&world, &to(Target::Latest {}, false)).unwrap();
        let recovery = crate::RecoveryResult {
            timeline: Timeline::new(2),
            from_timeline: Timeline::new(1),
            lsn: crate::Lsn::new(1),
            last_commit: None,
            stopped: String::new(),
            size_bytes: 0,
            restore_millis: 0,
            recovery_millis: 0,
        };
        let restored = crate::RestoreResult {
            cell: record.cell.clone(),
            incarnation: 2,
            recovery,
            backup: None,
            left_out: vec![],
            kept,
            first_backup: None,
        };
        let result = (state == JobState::Succeeded)
            .then(|| crate::RunResult { restore: Some(restored), ..crate::RunResult::default() });
        record.closure = Some(crate::Closure { state, time: Timestamp::UNIX_EPOCH, error: None, result });
        crate::join(&record, None, false, None)
    }

    #[test]
    fn what_no_longer_makes_sense_is_not_rolled_back_or_confirmed() {
        let mut world = made(World::healthy());
        let db: DatabaseName = "app".parse().unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let roll = |world: &World, job: &Job| {
            plan_rollback(&world.snapshot(), &whole(None), job, job_id(2), now)
                .map(|r| r.cell)
                .map_err(|r| r.code)
        };
        let confirm = |world: &World, job: &Job, related: &[Job]| {
            plan_confirm(&world.snapshot(), &whole(None), job, related, job_id(2), now)
                .map(drop)
                .map_err(|r| r.code)
        };
        let job = ended(JobState::Succeeded, true);
        assert_eq!(roll(&world, &job), Err(Code::NothingKept), "it never became the true copy");
        let incarnation = Incarnation {
            number: 2,
            cell: Some("zone1".parse().unwrap()),
            job: Some(job.record.id),
            fence: None,
            kept_in: Some("zone2".parse().unwrap()),
        };
        world.incarnations.insert(db.clone(), incarnation.clone());
        assert_eq!(roll(&world, &job), Ok("zone2".parse().unwrap()));
        assert_eq!(confirm(&world, &job, &[]), Ok(()));
        let mut confirmed = ended(JobState::Succeeded, true);
        confirmed.record.kind = JobKind::Confirm;
        assert_eq!(confirm(&world, &job, std::slice::from_ref(&confirmed)), Err(Code::NothingKept));
        confirmed.record.kind = JobKind::Rollback;
        assert_eq!(confirm(&world, &job, &[confirmed]), Err(Code::NothingKept));
        assert_eq!(
            confirm(&world, &ended(JobState::Succeeded, false), &[]),
            Err(Code::NothingKept),
            "in place"
        );
        assert_eq!(confirm(&world, &ended(JobState::Failed, true), &[]), Err(Code::NothingKept), "as before");
        world.incarnations.insert(db.clone(), Incarnation { kept_in: None, ..incarnation.clone() });
        assert_eq!(roll(&world, &job), Err(Code::NothingKept), "confirmed");
        world.incarnations.insert(db, Incarnation { job: Some(job_id(9)), ..incarnation });
        assert_eq!(roll(&world, &job), Err(Code::NothingKept), "a later restore has taken its place");
        let mut backup = job.clone();
        backup.record.kind = JobKind::Backup;
        assert_eq!(roll(&world, &backup), Err(Code::InvalidArgument));
        let mut running = job;
        running.state = JobState::Running;
        assert_eq!(roll(&world, &running), Err(Code::Busy));
    }
}
