//! Running pgBackRest for this cell's backup on the host that has the repository, when that is another cell's.
//!
//! pgBackRest makes backups only there. Its pooler runs it and sends what it prints, which goes into the job's log as if it
//! had run here. This job's claim says how long it may: see `services/backup_for_cell.rs`, which is the other end.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use cellar_api::v1::run_backup_request::Content as Ask;
use cellar_api::v1::run_backup_response::Content as Answer;
use cellar_api::v1::{BackupOrder, RunBackupRequest, RunBackupResponse, WorkTime};
use cellar_api::{hint_of, reason_of};
use cellar_model::{BackupType, CellName, Code, Pooler, Refusal, WORK_TIMEOUT};
use cellar_pgbackrest::Failure;
use cellar_system::clock;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::disk::write_refusal;
use crate::jobs::context::{FailedCommand, JobContext};
use crate::jobs::failure::JobFailure;
use crate::peers;
use crate::repository::tool_failure::read_log;

/// How often the job's progress and its interruption are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// How long the other pooler may say nothing. It speaks every second.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long pgBackRest may take to end there once nobody wants it any more: SIGTERM, ten seconds, SIGKILL.
const ENDING_TIMEOUT: Duration = Duration::from_secs(15);

/// By how much a watchdog may be late, whose clock has whole seconds.
const MARGIN: Duration = Duration::from_secs(2);

/// What a person can do when the other pooler does not do it.
const LOOK_AT_HOME: &str = "backups are made there: see that its multipooler runs (`cellar status`, `cellar host start` there), then ask again";

/// What is wanted of the other pooler.
pub(super) struct AtRepository<'a> {
    /// The pooler on whose host the repository is.
    pub(super) home: &'a Pooler,
    /// The cell of the primary, when this one is a standby.
    pub(super) primary: Option<&'a CellName>,
    /// The job's log.
    pub(super) log: &'a Path,
}

/// A call.
struct Call {
    asks: Option<mpsc::Sender<RunBackupRequest>>,
    answers: Streaming<RunBackupResponse>,
    log: File,
    /// Until when pgBackRest may work there, by this host's [`clock::uptime`]; none before it was given any time, without
    /// which it is not started.
    granted: Option<Duration>,
    heard: Duration,
}

/// What came of a look at the call.
enum Heard {
    /// pgBackRest has ended.
    Ended(Option<u8>),
    /// It goes on, whether or not there was news.
    GoesOn,
}

/// Why a call broke.
enum Broken {
    Status(Status),
    Silent,
    Disk(std::io::Error),
}

impl Call {
    async fn begin(
        context: &JobContext<'_>,
        wanted: &AtRepository<'_>,
        backup_type: BackupType,
    ) -> Result<Self, JobFailure> {
        let home = wanted.home;
        let no_call = |why: &dyn std::fmt::Display| unreachable_home(home, &why.to_string());
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(wanted.log);
        let log = opened.map_err(|error| disk(&error))?;
        let mut client = peers::connect(context.agent, home).await.map_err(|error| no_call(&error))?;
        let (asks, stream) = mpsc::channel(4);
        let order = BackupOrder {
            job: context.job.record.id.to_string(),
            primary: wanted.primary.map(ToString::to_string).unwrap_or_default(),
            r#type: backup_type.as_str().to_owned(),
        };
        // There is room for it.
        let _ = asks.send(RunBackupRequest { content: Some(Ask::Order(order)) }).await;
        let answers = timeout(SILENCE_TIMEOUT, client.run_backup(ReceiverStream::new(stream))).await;
        let answers = match answers {
            Ok(Ok(answers)) => answers.into_inner(),
            Ok(Err(status)) => {
                return Err(
                    refused(home, &status).map_or_else(|| no_call(&status.message()), JobFailure::from)
                );
            }
            Err(_) => return Err(no_call(&"it took too long")),
        };
        let now = clock::uptime();
        Ok(Self { asks: Some(asks), answers, log, granted: None, heard: now })
    }

    /// Takes the next answer, or waits a moment for it.
    async fn hear(&mut self, work_until: Duration) -> Result<Heard, Broken> {
        let now = clock::uptime();
        let answer = match timeout(WATCH_INTERVAL, self.answers.message()).await {
            Ok(Ok(Some(answer))) => answer,
            Ok(Ok(None)) => return Err(Broken::Silent),
            Ok(Err(status)) => return Err(Broken::Status(status)),
            Err(_) if now.saturating_sub(self.heard) >= SILENCE_TIMEOUT => return Err(Broken::Silent),
            Err(_) => return Ok(Heard::GoesOn),
        };
        self.heard = clock::uptime();
        match answer.content {
            Some(Answer::Mark(mark)) => self.give_time(mark, work_until),
            Some(Answer::Output(bytes)) => self.log.write_all(&bytes).map_err(Broken::Disk)?,
            Some(Answer::End(end)) => {
                return Ok(Heard::Ended(end.code.and_then(|code| u8::try_from(code).ok())));
            }
            None => {}
        }
        Ok(Heard::GoesOn)
    }

    fn give_time(&mut self, mark: u64, work_until: Duration) {
        let left = work_until.saturating_sub(clock::uptime());
        let milliseconds = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let time = RunBackupRequest { content: Some(Ask::Time(WorkTime { mark, milliseconds })) };
        // When there is no room, the other end does not listen, and gets no more time.
        if self.asks.as_ref().is_some_and(|asks| asks.try_send(time).is_ok()) {
            self.granted = self.granted.max(Some(work_until));
        }
    }

    /// Says that nothing more is wanted, and waits until nothing works there any more, whatever has become of the
    /// connection. How pgBackRest ended, if that was heard: its exit code, none when a signal ended it.
    async fn end(&mut self) -> Option<Option<u8>> {
        self.asks = None;
        let ended = async {
            loop {
                match self.hear(Duration::ZERO).await {
                    Ok(Heard::Ended(code)) => return Some(code),
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        };
        if let Ok(Some(code)) = timeout(ENDING_TIMEOUT, ended).await {
            return Some(code);
        }
        let until = self.granted.map(|granted| granted.saturating_add(MARGIN)).unwrap_or_default();
        sleep(until.saturating_sub(clock::uptime())).await;
        None
    }
}

fn disk(error: &std::io::Error) -> JobFailure {
    write_refusal("cannot write the job's log", error).into()
}

fn unreachable_home(home: &Pooler, why: &str) -> JobFailure {
    Refusal::new(
        Code::CellDown,
        format!(
            "the multipooler of cell {}, whose host has the repository, does not run the backup: {why}",
            home.cell
        ),
    )
    .hint(LOOK_AT_HOME)
    .about("cell", &home.cell)
    .into()
}

/// A refusal of the other pooler, which says itself what to do.
fn refused(home: &Pooler, status: &Status) -> Option<Refusal> {
    let code = reason_of(status)?;
    let hint = hint_of(status).unwrap_or_else(|| LOOK_AT_HOME.to_owned());
    let message =
        format!("the multipooler of cell {}, whose host has the repository: {}", home.cell, status.message());
    Some(Refusal::new(code, message).hint(hint).about("cell", &home.cell))
}

fn lost(home: &Pooler) -> Refusal {
    Refusal::new(
        Code::Unavailable,
        format!(
            "the multipooler of cell {}, whose host has the repository, was lost while pgBackRest worked there; a backup that was made all the same counts as not proven",
            home.cell
        ),
    )
    .hint(LOOK_AT_HOME)
    .about("cell", &home.cell)
}

/// Why a call broke in which pgBackRest may have begun, or not.
fn broken(home: &Pooler, why: Broken, may_have_begun: bool) -> JobFailure {
    let unheard = |why: &str| {
        if may_have_begun { lost(home).into() } else { unreachable_home(home, why) }
    };
    match why {
        Broken::Disk(error) => disk(&error),
        Broken::Status(status) => match refused(home, &status) {
            Some(refusal) => refusal.into(),
            None => unheard(status.message()),
        },
        Broken::Silent => unheard("it took too long"),
    }
}

/// What is said when a job ends early and the end of pgBackRest was not heard.
fn unheard(interrupted: JobFailure) -> JobFailure {
    match interrupted {
        JobFailure::Interrupted { why, .. } => JobFailure::Interrupted {
            why,
            effect: "pgBackRest has ended where the repository is, and what it did was not heard: a backup that was made all the same counts as not proven",
        },
        other => other,
    }
}

/// A signal ended it there, and this job had not ended.
fn killed(home: &Pooler) -> JobFailure {
    Refusal::new(
        Code::PgbackrestFailed,
        format!(
            "pgbackrest was killed in cell {}, whose host has the repository: by its watchdog, if for {} s nothing came through from here, or by somebody",
            home.cell,
            WORK_TIMEOUT.as_secs()
        ),
    )
    .hint("see that this host and that one reach each other (`cellar status`), then ask again")
    .about("cell", &home.cell)
    .into()
}

/// Runs pgBackRest there to its end with its output in the job's log, and calls `watch` meanwhile. Returns how it failed;
/// none when it succeeded.
///
/// # Errors
/// When the job must end early, in which case pgBackRest was ended; or when it cannot be run there.
pub(super) async fn run(
    context: &mut JobContext<'_>,
    wanted: &AtRepository<'_>,
    backup_type: BackupType,
    mut watch: impl AsyncFnMut(&mut JobContext<'_>),
) -> Result<Option<FailedCommand>, JobFailure> {
    let mut call = Call::begin(context, wanted, backup_type).await?;
    let mut watched = Instant::now();
    let code = loop {
        let until = context.work_until().unwrap_or_else(|| clock::uptime().saturating_add(WORK_TIMEOUT));
        match call.hear(until).await {
            Ok(Heard::Ended(code)) => break code,
            Ok(Heard::GoesOn) => {}
            Err(why) => {
                // The next job that writes to the repository begins when this one has ended.
                call.end().await;
                return Err(broken(wanted.home, why, call.granted.is_some()));
            }
        }
        if watched.elapsed() >= WATCH_INTERVAL {
            watch(context).await;
            watched = Instant::now();
        }
        if let Err(interrupted) = context.check_interrupted() {
            match call.end().await {
                // What is in the repository counts.
                Some(Some(0)) => break Some(0),
                Some(_) => return Err(interrupted),
                // It may have come to its end unheard.
                None => return Err(unheard(interrupted)),
            }
        }
    };
    if code == Some(0) {
        return Ok(None);
    }
    context.check_interrupted()?;
    if code.is_none() {
        return Err(killed(wanted.home));
    }
    let log = read_log(wanted.log);
    Ok(Some(FailedCommand { failure: Failure::of_output(code, &log), log }))
}
