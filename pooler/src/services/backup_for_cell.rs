//! A backup of another cell's instance into the repository on this host.
//!
//! pgBackRest makes backups only where the repository is. The job is the other cell's: its pooler has claimed it, has looked
//! at the instance, calls, and proves from pgBackRest's output what was copied. Here pgBackRest runs, for as long as the
//! caller's claim holds: the caller says how long that is, counted from a mark of this host's clock, and a watchdog ends
//! pgBackRest then. It also ends with the call, and when etcd says that the job is over, whatever the caller says.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use cellar_api::v1::run_backup_request::Content as Asked;
use cellar_api::v1::run_backup_response::Content as Said;
use cellar_api::v1::{BackupEnd, BackupOrder, RunBackupRequest, RunBackupResponse, WorkTime};
use cellar_model::{
    BackupType, CELL_ANNOTATION, CellName, Code, Database, JOB_ANNOTATION, JobId, JobKind, JobRecord, Key,
    Lock, Pooler, Refusal, WORK_TIMEOUT,
};
use cellar_pgbackrest::{Invocation, Running};
use cellar_system::clock;
use cellar_topology::StoreError;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, Streaming};

use crate::agent::Agent;
use crate::config_files::write_job_for;

/// How long the caller may take to say what it wants, and how long it may work.
const FIRST_WORDS_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the output is sent.
const SEND_INTERVAL: Duration = Duration::from_millis(200);

/// How often the caller is asked for more time.
const MARK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a job that was canceled is left to its own pooler, which ends the call and knows why.
const CANCEL_GRACE: Duration = Duration::from_secs(10);

/// How long pgBackRest may take to end after SIGTERM; it takes milliseconds.
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the caller may take to take what is said: longer than that no claim of it lasts.
const SAY_TIMEOUT: Duration = WORK_TIMEOUT;

/// Bytes of the output that are sent at once.
const CHUNK_BYTES: u64 = 64 << 10;

/// One call.
pub(crate) struct BackupCall {
    /// The cell whose pooler calls.
    pub(crate) caller: CellName,
    /// What it says.
    pub(crate) asked: Streaming<RunBackupRequest>,
    /// To the caller.
    pub(crate) answers: mpsc::Sender<Result<RunBackupResponse, Status>>,
}

/// The jobs that pgBackRest works for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Working(Rc<RefCell<BTreeSet<JobId>>>);

impl Working {
    /// Begins the work of a job; none while another call does it.
    fn begin(&self, job: JobId) -> Option<Work> {
        let is_new = self.0.borrow_mut().insert(job);
        is_new.then(|| Work { all: self.clone(), job })
    }
}

/// The work of a job, until it is dropped.
struct Work {
    all: Working,
    job: JobId,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.all.0.borrow_mut().remove(&self.job);
    }
}

/// Serves a call to its end.
pub(crate) async fn serve(agent: &Agent, working: &Working, mut call: BackupCall) {
    let last = match run(agent, working, &mut call).await {
        Ok(code) => {
            Ok(RunBackupResponse { content: Some(Said::End(BackupEnd { code: code.map(u32::from) })) })
        }
        Err(refusal) => Err(cellar_api::status_of(&refusal)),
    };
    let _ = timeout(SAY_TIMEOUT, call.answers.send(last)).await;
}

/// What is to be done, when it may be.
struct Order {
    id: JobId,
    database: Database,
    here: Pooler,
    source: Pooler,
    primary: Option<Pooler>,
    backup_type: BackupType,
}

fn invalid(what: &str) -> Refusal {
    Refusal::new(Code::InvalidArgument, format!("a backup for another cell: {what}"))
}

impl BackupCall {
    /// What the caller says next; none when it has left, or says nothing for too long.
    async fn next(&mut self) -> Option<Asked> {
        match timeout(FIRST_WORDS_TIMEOUT, self.asked.message()).await {
            Ok(Ok(Some(request))) => request.content,
            _ => None,
        }
    }

    /// False when the caller has left, or takes nothing any more.
    async fn say(&self, content: Said) -> bool {
        let said = self.answers.send(Ok(RunBackupResponse { content: Some(content) }));
        matches!(timeout(SAY_TIMEOUT, said).await, Ok(Ok(())))
    }

    async fn mark(&self) -> bool {
        self.say(Said::Mark(milliseconds(clock::uptime()))).await
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Until when the work may go on, by [`clock::uptime`]. No more than a claim that was renewed just now gives, whatever the
/// caller says.
fn work_until(time: &WorkTime, now: Duration) -> Duration {
    let mark = Duration::from_millis(time.mark).min(now);
    mark + Duration::from_millis(time.milliseconds).min(WORK_TIMEOUT)
}

/// The order of a call, after everything that does not depend on the instances was checked.
async fn order(agent: &Agent, caller: &CellName, order: &BackupOrder) -> Result<Order, Refusal> {
    let (here, database) = agent.assignment()?;
    if database.repository.home() != Some(&agent.cell) {
        let message =
            format!("the repository {} is not on the host of cell {}", database.repository, agent.cell);
        return Err(Refusal::new(Code::WrongInstance, message).about("cell", &agent.cell));
    }
    let id: JobId = order.job.parse().map_err(|_| invalid("it names no job"))?;
    let backup_type: BackupType = order.r#type.parse().map_err(|error: String| invalid(&error))?;
    let card = |cell: &CellName| {
        agent.card_of(cell).ok_or_else(|| {
            Refusal::new(Code::UnknownCell, format!("there is no cell {cell}")).about("cell", cell)
        })
    };
    let primary: Option<CellName> = match order.primary.as_str() {
        "" => None,
        name => Some(name.parse().map_err(|_| invalid("the primary is no cell"))?),
    };
    let primary = primary.as_ref().map(card).transpose()?;
    if primary.as_ref().is_some_and(|primary| primary.cell == *caller) || *caller == agent.cell {
        return Err(invalid("the cells are not two"));
    }
    check_job(agent, caller, id).await?;
    Ok(Order { id, database, here, source: card(caller)?, primary, backup_type })
}

/// What etcd says of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is an open backup of the caller's cell that has the database's lock: nothing else writes to the repository.
    Open,
    /// It is that, and somebody wants it to end.
    Canceled,
    /// It is not.
    Over,
}

fn standing(job: Option<&JobRecord>, caller: &CellName, lock: &Lock) -> Standing {
    let may_run = |record: &&JobRecord| {
        record.kind() == JobKind::Backup
            && record.cell == *caller
            && record.closure.is_none()
            && lock.holder == Some(record.parent.unwrap_or(record.id))
    };
    match job.filter(may_run) {
        None => Standing::Over,
        Some(record) if record.cancel.is_some() => Standing::Canceled,
        Some(_) => Standing::Open,
    }
}

/// Asks etcd, and not this process's copy, which has the jobs of its own cell only. The caller's claim is no other cell's
/// to read.
async fn look_at_job(agent: &Agent, caller: &CellName, id: JobId) -> Result<Standing, StoreError> {
    let db = || agent.database.clone();
    let job = agent.store.get::<JobRecord>(&Key::Job(db(), id)).await?;
    let lock = agent.store.get::<Lock>(&Key::Lock(db())).await?;
    let lock = lock.map(|lock| lock.record).unwrap_or_default();
    Ok(standing(job.map(|job| job.record).as_ref(), caller, &lock))
}

/// That the job may be worked for.
async fn check_job(agent: &Agent, caller: &CellName, id: JobId) -> Result<(), Refusal> {
    match look_at_job(agent, caller, id).await {
        Ok(Standing::Open | Standing::Canceled) => Ok(()),
        Ok(Standing::Over) => Err(not_open(caller, id)),
        Err(error) => {
            Err(Refusal::new(Code::Unavailable, format!("etcd does not say what job {id} is: {error}"))
                .hint("look at etcd (`cellar doctor`), then ask again"))
        }
    }
}

fn not_open(caller: &CellName, id: JobId) -> Refusal {
    Refusal::new(
        Code::PermissionDenied,
        format!("job {id} is no backup of cell {caller} that is open and has the lock of the database"),
    )
    .hint("`cellar jobs list` shows the jobs; only the multipooler that runs one asks for this")
    .about("job", id)
}

/// Returns when the job is over, or was canceled and its own pooler has not ended it. While etcd does not answer, the
/// caller's claim alone counts: it ends without etcd, too.
async fn until_over(agent: &Agent, caller: &CellName, id: JobId) {
    let mut canceled_since: Option<Instant> = None;
    loop {
        sleep(MARK_INTERVAL).await;
        match look_at_job(agent, caller, id).await {
            Ok(Standing::Over) => return,
            Ok(Standing::Canceled) => {
                if canceled_since.get_or_insert_with(Instant::now).elapsed() >= CANCEL_GRACE {
                    return;
                }
            }
            Ok(Standing::Open) | Err(_) => {}
        }
    }
}

/// Runs pgBackRest; its exit code, or none when a signal ended it.
async fn run(agent: &Agent, working: &Working, call: &mut BackupCall) -> Result<Option<u8>, Refusal> {
    let Some(Asked::Order(asked)) = call.next().await else {
        return Err(invalid("the call begins with no order"));
    };
    let order = order(agent, &call.caller.clone(), &asked).await?;
    let Some(_work) = working.begin(order.id) else {
        let message = format!("pgbackrest works for job {} already, in another call", order.id);
        return Err(Refusal::new(Code::Busy, message)
            .hint("wait until the job has ended (`cellar jobs watch`), then ask for another backup")
            .about("job", order.id));
    };
    call.mark().await;
    let Some(Asked::Time(time)) = call.next().await else { return Err(invalid("no time was given")) };
    let until = work_until(&time, clock::uptime());
    let internal = |error: &dyn std::fmt::Display| {
        let message = format!("pgbackrest cannot be started in cell {}: {error}", agent.cell);
        Refusal::new(Code::Internal, message).about("cell", &agent.cell)
    };
    let (here, source) = (&order.here, &order.source);
    let name = order.id.to_string();
    let config = write_job_for(agent, &name, &order.database, here, source, order.primary.as_ref())
        .map_err(|error| internal(&error))?;
    let annotations =
        [(CELL_ANNOTATION.to_owned(), source.cell.to_string()), (JOB_ANNOTATION.to_owned(), name)];
    let invocation = Invocation::backup(&config, &order.database.stanza, order.backup_type, &annotations);
    let code = run_logged(agent, call, &invocation, &order, until).await.map_err(|error| internal(&error));
    // It may hold a passphrase.
    let _ = std::fs::remove_file(&config);
    code
}

async fn run_logged(
    agent: &Agent,
    call: &mut BackupCall,
    invocation: &Invocation,
    order: &Order,
    until: Duration,
) -> Result<Option<u8>, Box<dyn std::error::Error>> {
    let path = agent.job_log(&order.id);
    // An earlier attempt of this job has sent its own output.
    let sent = std::fs::metadata(&path).map_or(0, |found| found.len());
    let mut running = agent.pgbackrest.spawn_logged(invocation, &path, 0, Some(until)).await?;
    tracing::info!(job = %order.id, cell = %order.source.cell, "pgbackrest backs up another cell");
    let mut log = File::open(&path)?;
    log.seek(SeekFrom::Start(sent))?;
    let caller = order.source.cell.clone();
    let over = pin!(until_over(agent, &caller, order.id));
    Ok(attend(call, &mut running, &mut log, over).await?)
}

/// What happened next.
enum Event {
    Ended(Option<u8>),
    Asked(Option<Asked>),
    Over,
    Nothing,
}

/// Sends what pgBackRest prints, and gives it the time that the caller gives, until it has ended; ends it when the job is
/// `over`.
async fn attend(
    call: &mut BackupCall,
    running: &mut Running,
    log: &mut File,
    mut over: Pin<&mut impl Future<Output = ()>>,
) -> Result<Option<u8>, cellar_pgbackrest::Error> {
    let mut marked = Instant::now();
    loop {
        let event = tokio::select! {
            code = running.wait() => Event::Ended(code?),
            asked = call.asked.message() => Event::Asked(asked.ok().flatten().and_then(|asked| asked.content)),
            () = &mut over => Event::Over,
            () = sleep(SEND_INTERVAL) => Event::Nothing,
        };
        let goes_on = match event {
            Event::Ended(code) => {
                send_output(call, log).await;
                return Ok(code);
            }
            Event::Asked(Some(Asked::Time(time))) => {
                running.extend(work_until(&time, clock::uptime())).await;
                true
            }
            // It has left, or wants no more.
            Event::Asked(_) => false,
            Event::Over => {
                tracing::warn!(cell = %call.caller, "a backup goes on after its job; ending it");
                false
            }
            Event::Nothing => send_output(call, log).await,
        };
        let is_due = marked.elapsed() >= MARK_INTERVAL;
        if is_due {
            marked = Instant::now();
        }
        if !goes_on || is_due && !call.mark().await {
            let code = running.terminate(TERMINATION_TIMEOUT).await?;
            send_output(call, log).await;
            return Ok(code);
        }
    }
}

/// Sends what was printed since the last call; false when the caller has left. A log that cannot be read has no news, and
/// the caller finds it incomplete.
async fn send_output(call: &BackupCall, log: &mut File) -> bool {
    loop {
        let mut bytes = Vec::new();
        match log.by_ref().take(CHUNK_BYTES).read_to_end(&mut bytes) {
            Ok(1..) => {}
            _ => return !call.answers.is_closed(),
        }
        if !call.say(Said::Output(bytes)).await {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use cellar_model::{BackupParams, CancelRequest, JobSpec};
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn only_an_open_backup_of_the_caller_that_has_the_lock_may_run() {
        let id = |n| JobId::new(uuid::Uuid::from_u128(n));
        let record = |spec, parent| {
            let (app, zone1) = ("app".parse().unwrap(), "zone1".parse().unwrap());
            let now = Timestamp::UNIX_EPOCH;
            JobRecord { parent, ..JobRecord::new(id(1), spec, app, zone1, "x", now, now) }
        };
        let backup_type = BackupType::Full;
        let backup = || JobSpec::Backup(BackupParams { backup_type, allow_primary: false, max_lag_bytes: 0 });
        let held_by = |holder| Lock { holder: Some(id(holder)), ..Lock::default() };
        let may = |record: &JobRecord, caller: &str, lock: &Lock| {
            standing(Some(record), &caller.parse().unwrap(), lock) == Standing::Open
        };
        let open = record(backup(), None);
        assert!(may(&open, "zone1", &held_by(1)));
        assert!(may(&record(backup(), Some(id(7))), "zone1", &held_by(7)), "a step of another job");
        assert!(!may(&open, "zone2", &held_by(1)), "another cell's");
        assert!(!may(&open, "zone1", &held_by(2)), "it waits for its turn");
        assert!(!may(&open, "zone1", &Lock::default()));
        assert!(!may(&record(JobSpec::Verify, None), "zone1", &held_by(1)));
        let of = |record: Option<&JobRecord>| standing(record, &"zone1".parse().unwrap(), &held_by(1));
        let (by, at) = ("x".to_owned(), Timestamp::UNIX_EPOCH);
        let canceled = JobRecord { cancel: Some(CancelRequest { requested_by: by, time: at }), ..open };
        assert_eq!([of(Some(&canceled)), of(None)], [Standing::Canceled, Standing::Over]);
    }

    #[test]
    fn a_job_has_one_call_at_a_time() {
        let (working, id) = (Working::default(), |n| JobId::new(uuid::Uuid::from_u128(n)));
        let first = working.begin(id(1));
        assert!(first.is_some() && working.begin(id(1)).is_none());
        assert!(working.begin(id(2)).is_some(), "another job's");
        drop(first);
        assert!(working.begin(id(1)).is_some());
    }

    #[test]
    fn a_caller_gives_time_from_its_answer_to_a_mark_on() {
        let seconds = Duration::from_secs;
        let until = |mark, milliseconds| work_until(&WorkTime { mark, milliseconds }, seconds(100));
        assert_eq!(until(99_000, 7_000), seconds(106), "a late message gives no more");
        assert_eq!(until(99_000, 0), seconds(99));
        assert_eq!(until(99_000, u64::MAX), seconds(99) + WORK_TIMEOUT);
        assert_eq!(until(u64::MAX, 7_000), seconds(107), "a mark from the future");
    }
}
