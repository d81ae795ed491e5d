//! A PostgreSQL that nobody else can reach: a copy that is being recovered, or rehearsed with.
//!
//! It has a directory, a socket and locks of its own, uses no spool, listens on no address, and archives nothing.
//! Recovery is watched rather than left to itself: it pauses at its target, and at the end of the WAL it waits,
//! so what was reached is looked at before anything is decided.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_model::{
    BackupLabel, Code, Database, JobError, JobId, Lsn, Pooler, Progress, Refusal, SegmentSize, Target,
    Timeline, parse_timestamp,
};
use cellar_pgbackrest::{Failure, Invocation, RestoreOptions, Running, tool_messages};
use cellar_postgres::{
    Endpoint, InstanceConfig, PostgresError, PostmasterState, RecoverySettings, RecoveryTarget, Settings,
    StopTimeouts, Tools, promote, query, running, start, stop,
};
use jiff::Timestamp;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::agent::Agent;
use crate::config_files::{shell_word, write_bootstrap};
use crate::jobs::claim::ClaimedJob;
use crate::jobs::control::{Control, Interruption};
use crate::repository::backup_proof::{self, last_lines, restore_failure, tool_error};

/// How often a restore or a recovery is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How often progress is written to etcd.
const PROGRESS: Duration = Duration::from_secs(1);

/// How long pgBackRest may take to end after SIGTERM; it takes milliseconds.
const GRACE: Duration = Duration::from_secs(10);

/// How long the first start may block. Recovery goes on behind it.
const START: Duration = Duration::from_secs(2);

/// How long a question may take.
const QUESTION: Duration = Duration::from_secs(3);

/// How long recovery may wait for WAL that should be there. PostgreSQL asks again every 5 s.
const WAL_PATIENCE: Duration = Duration::from_secs(30);

/// How long a promotion may take; it ends with a checkpoint.
const PROMOTION: Duration = Duration::from_secs(300);

/// A copy and its private instance.
pub(crate) struct Sandbox<'a> {
    agent: &'a Agent,
    database: &'a Database,
    card: &'a Pooler,
    tools: Tools,
    nice: u32,
    /// The copy's data directory.
    pub(crate) data: PathBuf,
    /// Where tablespaces go, for a copy that must not share any.
    pub(crate) tablespaces: Option<PathBuf>,
    /// A member's data directory whose WAL is used where the archive has none.
    pub(crate) wal_of: Option<PathBuf>,
    scratch: PathBuf,
    log: PathBuf,
}

/// Why work on a copy ended early.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The job is to end.
    Interrupted(Interruption),
    /// It failed.
    Failed(JobError),
}

impl From<JobError> for Broken {
    fn from(error: JobError) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for Broken {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refusal.into())
    }
}

/// Where a recovery goes.
#[derive(Debug, Clone)]
pub(crate) struct Course {
    /// Where it stops.
    pub(crate) target: Target,
    /// The timeline that it follows.
    pub(crate) timeline: Timeline,
    /// How far it must come when the target does not stop it; none when all there is will do.
    pub(crate) end: Option<End>,
    /// The size of WAL segments.
    pub(crate) size: SegmentSize,
    /// Whether it keeps what is to be archived once it is a member.
    pub(crate) archive_mode: bool,
}

/// What a recovery reached.
#[derive(Debug, Clone)]
pub(crate) struct Reached {
    /// The end of the last record that was replayed.
    pub(crate) lsn: Lsn,
    /// The last commit in it.
    pub(crate) last_commit: Option<Timestamp>,
    /// Why it stopped.
    pub(crate) stopped: String,
    /// When it could first be read.
    pub(crate) readable: Instant,
    /// Whether it pauses at its target, rather than at the end of the WAL.
    pub(crate) paused: bool,
}

/// How far a recovery must come when no target ends it before.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// To the end of this segment: it was archived whole by a primary that was then stopped.
    Whole(u64),
    /// Into this segment, the newest that the archive has.
    Within(u64),
}

impl End {
    fn is_reached(self, at: Lsn, size: SegmentSize) -> bool {
        match self {
            Self::Whole(number) => at >= size.start_of(number + 1),
            Self::Within(number) => at > size.start_of(number),
        }
    }
}

/// What a moment of recovery shows.
struct Moment {
    in_recovery: bool,
    paused: bool,
    waits_for_wal: bool,
    lsn: Lsn,
    last_commit: Option<Timestamp>,
}

/// `pg_stat_activity` shows what the startup process waits for; this is the wait between two attempts to get WAL
/// that is neither in the archive nor in `pg_wal` (PostgreSQL 13 and later).
///
/// The functions that raise an error outside of recovery stand in a branch that is not evaluated there.
const MOMENT: &str = "SELECT s.recovers, CASE WHEN s.recovers THEN pg_get_wal_replay_pause_state() = 'paused' END, \
    coalesce((SELECT wait_event = 'RecoveryRetrieveRetryInterval' FROM pg_stat_activity WHERE backend_type = 'startup'), false), \
    pg_last_wal_replay_lsn()::text, \
    to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') \
    FROM (SELECT pg_is_in_recovery() AS recovers) s";

impl Moment {
    fn read(rows: &[Vec<Option<String>>]) -> Option<Self> {
        let [in_recovery, paused, waits, lsn, commit] = rows.first()?.as_slice() else { return None };
        let yes = |value: &Option<String>| value.as_deref() == Some("t");
        Some(Self {
            in_recovery: yes(in_recovery),
            paused: yes(paused),
            waits_for_wal: yes(waits),
            lsn: lsn.as_deref()?.parse().ok()?,
            last_commit: commit.as_deref().and_then(|text| parse_timestamp(text).ok()),
        })
    }
}

impl<'a> Sandbox<'a> {
    /// A copy in `data`, for a job.
    pub(crate) fn new(
        agent: &'a Agent,
        database: &'a Database,
        card: &'a Pooler,
        job: JobId,
        data: PathBuf,
        nice: u32,
    ) -> Self {
        Self {
            agent,
            database,
            card,
            tools: agent.tools.niced(nice),
            nice,
            data,
            tablespaces: None,
            wal_of: None,
            scratch: agent.layout.scratch(job),
            log: backup_proof::log_path(agent, &job),
        }
    }

    pub(crate) fn failed(&self, doing: &str, error: &dyn std::fmt::Display) -> JobError {
        JobError {
            code: Code::PostgresFailed,
            message: format!("{doing}: {error}"),
            hint: "look at the job's log (`cellar jobs logs`)".to_owned(),
            tool_output: last_lines(&backup_proof::read(&self.log)),
        }
    }

    /// Makes the private directories.
    pub(crate) fn prepare(&self) -> Result<(), JobError> {
        use std::os::unix::fs::DirBuilderExt;
        for directory in [&self.scratch, &self.scratch.join("lock"), &self.data] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
                let message = format!("cannot create {}: {error}", directory.display());
                JobError::from(
                    Refusal::new(Code::DiskFull, message).hint("is the cell's disk full, or not writable?"),
                )
            })?;
        }
        Ok(())
    }

    /// Restores a backup into the copy.
    ///
    /// `rate` bounds the bytes written per second; 0 does not. pgBackRest has no such limit of its own, so its processes
    /// are stopped for as long as they are ahead of it.
    pub(crate) async fn restore(
        &self,
        job: &mut ClaimedJob,
        control: &Control,
        set: &BackupLabel,
        size_bytes: u64,
        delta: bool,
        rate: u64,
    ) -> Result<(), Broken> {
        let config = write_bootstrap(self.agent, self.database, self.card)
            .map_err(|error| Refusal::new(Code::Internal, format!("no config for the restore: {error}")))?;
        let text = |path: &Path| path.display().to_string();
        let options = RestoreOptions {
            set: Some(set.clone()),
            delta,
            standby: true,
            data_directory: Some(text(&self.data)),
            tablespaces: self.tablespaces.as_deref().map(text),
            lock_directory: Some(text(&self.scratch.join("lock"))),
            process_max: (self.nice > 0).then_some(1),
            ..RestoreOptions::default()
        };
        let invocation = Invocation::restore(&config, &self.database.stanza, &options)
            .option("log-level-console", "detail")
            // A damaged file is as damaged 15 s later, and the database may be fenced meanwhile.
            .option("job-retry", "1")
            .option("job-retry-interval", "1");
        let spawned = self.agent.pgbackrest.spawn_niced(&invocation, &self.log, self.nice).await;
        let mut running = spawned.map_err(|error| tool_error("starting pgbackrest", &error))?;
        let mut throttle = Throttle::new(rate);
        let mut told: Option<Instant> = None;
        let code = loop {
            tokio::select! {
                code = running.wait() => break code.map_err(|error| tool_error("waiting for pgbackrest", &error))?,
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Some(why) = control.interrupted(self.agent) {
                running.terminate(GRACE).await.map_err(|error| tool_error("ending pgbackrest", &error))?;
                return Err(Broken::Interrupted(why));
            }
            throttle.hold(&running).await;
            if told.is_none_or(|at| at.elapsed() >= PROGRESS) {
                told = Some(Instant::now());
                let done = percentage(&self.log).map_or(0, |percent| part(size_bytes, percent));
                say(self.agent, job, "restoring", done, size_bytes).await;
            }
        };
        if code == Some(0) {
            return Ok(());
        }
        let text = backup_proof::read(&self.log);
        let failure = Failure::judge(code, &tool_messages(&text));
        let doing = format!("restoring backup {set}");
        let repo = Path::new(&self.database.repo_path);
        let error = restore_failure(&doing, &failure, &text, repo, &[&text_of(&self.data)]);
        Err(error.into())
    }

    /// Where the copy answers.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint { socket_directory: self.scratch.clone(), port: self.card.postgres_port }
    }

    fn config(&self, recovery: Option<RecoverySettings>, archive_mode: bool) -> InstanceConfig {
        // Fetched one by one: the spool of asynchronous fetching would be shared with the live instance.
        let mut restore_command = format!(
            "{} --config={} --stanza={} --pg1-path={} --lock-path={} --no-archive-async archive-get %f \"%p\"",
            shell_word(&self.agent.pgbackrest.binary.to_string_lossy()),
            shell_word(&self.card.config_path),
            self.database.stanza,
            shell_word(&self.data.to_string_lossy()),
            shell_word(&self.scratch.join("lock").to_string_lossy()),
        );
        if let Some(member) = &self.wal_of {
            // Whole segments come from the archive. What the dead primary had sent but not archived is only here.
            let wal = shell_word(&member.join("pg_wal").to_string_lossy());
            restore_command = format!("{restore_command} || cp {wal}/%f \"%p\"");
        }
        InstanceConfig {
            settings: Settings {
                port: self.card.postgres_port,
                listen_addresses: String::new(),
                socket_directory: self.scratch.clone(),
                cluster_name: format!("{}/{} copy", self.agent.database, self.agent.cell),
                // Empty: what would be archived is kept until this is a member, or goes with the copy.
                archive_command: String::new(),
                restore_command: Some(restore_command),
                recovery,
                archive_mode,
                // A copy that never archives is thrown away; the live instance would share the wait for its syncs.
                fsync: archive_mode,
                ..Settings::default()
            },
            os_user: self.agent.user.name.clone(),
            replication_from: Vec::new(),
        }
    }

    /// Starts the copy and follows its recovery to the target, or to the end of the WAL.
    pub(crate) async fn recover(
        &self,
        job: &mut ClaimedJob,
        control: &Control,
        course: &Course,
    ) -> Result<Reached, Broken> {
        let (target, timeline, end, size) = (&course.target, course.timeline, course.end, course.size);
        let settings = RecoverySettings {
            target: match target {
                Target::Time(time) => {
                    RecoveryTarget::Time(time.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string())
                }
                Target::Lsn(lsn) => RecoveryTarget::Lsn(*lsn),
                Target::Backup(_) => RecoveryTarget::Immediate,
                Target::Latest {} | Target::Name(_) | Target::Xid(_) => RecoveryTarget::None,
            },
            timeline,
        };
        // With it PostgreSQL waits at the end of the WAL rather than promote itself.
        std::fs::write(self.data.join("standby.signal"), "")
            .map_err(|error| self.failed("preparing the recovery", &error))?;
        let config = self.config(Some(settings), course.archive_mode);
        start(&self.tools, &self.data, &config, &self.log, START)
            .await
            .map_err(|error| self.start_failed(&error))?;
        let mut readable = None;
        let mut waiting: Option<(String, Instant)> = None;
        let mut progressed = (Lsn::new(0), Instant::now());
        let mut told: Option<Instant> = None;
        let mut waited = 0;
        loop {
            if let Some(why) = control.interrupted(self.agent) {
                return Err(Broken::Interrupted(why));
            }
            let postmaster = match running(&self.data) {
                Ok(Some(postmaster)) => postmaster,
                Ok(None) => return Err(self.died().into()),
                Err(error) => return Err(self.failed("looking at the copy", &error).into()),
            };
            // Not asked before it can answer, for every refused question is a line in its log.
            let moment = match postmaster.state {
                PostmasterState::Ready => {
                    query(&self.endpoint(), MOMENT, QUESTION).await.ok().and_then(|rows| Moment::read(&rows))
                }
                _ => None,
            };
            if told.is_none_or(|at| at.elapsed() >= PROGRESS) {
                told = Some(Instant::now());
                let phase = if moment.is_some() { "recovering" } else { "recovering to a consistent state" };
                say(self.agent, job, phase, 0, 0).await;
            }
            let Some(moment) = moment else {
                let wanted = awaited_segment(postmaster.pid);
                if waiting.as_ref().map(|(segment, _)| segment) != wanted.as_ref() {
                    waiting = wanted.map(|segment| (segment, Instant::now()));
                }
                if let Some((segment, since)) = &waiting
                    && since.elapsed() > WAL_PATIENCE
                {
                    return Err(self.no_wal(segment).into());
                }
                tokio::time::sleep(LOOK).await;
                continue;
            };
            let readable = *readable.get_or_insert_with(Instant::now);
            if !moment.in_recovery {
                return Err(self.failed("recovering", &"the copy ended its recovery by itself").into());
            }
            let reached = |stopped: String| Reached {
                lsn: moment.lsn,
                last_commit: moment.last_commit,
                stopped,
                readable,
                paused: moment.paused,
            };
            if moment.paused {
                return Ok(reached(format!("{target} was reached")));
            }
            if moment.lsn > progressed.0 || !moment.waits_for_wal {
                progressed = (moment.lsn, Instant::now());
                waited = 0;
            } else {
                waited += 1;
            }
            // Seen twice at the same position: it asked in between, and there was nothing.
            if waited >= 2 {
                let at_end = end.is_none_or(|end| end.is_reached(moment.lsn, size));
                match target {
                    Target::Latest {} if at_end => return Ok(reached("all WAL was replayed".to_owned())),
                    Target::Time(_) if at_end => {
                        return Ok(reached(format!(
                            "all WAL was replayed: nothing was committed between the end and {target}"
                        )));
                    }
                    _ if at_end && end.is_some() => {
                        let message = format!("the WAL ends at {}, before {target}", moment.lsn);
                        return Err(Refusal::new(Code::TargetUnreachable, message)
                            .hint("plan again: `cellar restore --plan`")
                            .into());
                    }
                    _ if progressed.1.elapsed() > WAL_PATIENCE => {
                        let segment = cellar_model::Segment { timeline, number: size.number_of(moment.lsn) };
                        return Err(self.no_wal(&size.file_name(segment)).into());
                    }
                    _ => {}
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn no_wal(&self, segment: &str) -> JobError {
        let refusal = Refusal::new(
            Code::WalMissing,
            format!(
                "recovery waited {} s for WAL segment {segment}, which could not be fetched from the archive",
                WAL_PATIENCE.as_secs()
            ),
        )
        .hint("see that the repo can be reached, and plan again (`cellar restore --plan`): it names what is missing");
        JobError { tool_output: last_lines(&backup_proof::read(&self.log)), ..refusal.into() }
    }

    fn start_failed(&self, error: &PostgresError) -> JobError {
        if matches!(error, PostgresError::CommandFailed { .. }) {
            self.died()
        } else {
            self.failed("starting the copy", error)
        }
    }

    /// Why a copy that ran does not run any more, from its log.
    fn died(&self) -> JobError {
        let log = backup_proof::read(&self.log);
        let fatal = log.lines().rev().find(|line| line.contains("FATAL:") || line.contains("PANIC:"));
        let said =
            fatal.and_then(|line| line.split_once(":  ").map(|(_, text)| text.trim())).unwrap_or("it ended");
        let mut error = self.failed("recovering", &said);
        if said.contains("before consistent recovery point") {
            error.code = Code::TargetUnreachable;
            "the target lies before the end of the backup: restore an earlier one, or another target"
                .clone_into(&mut error.hint);
        } else if log.contains("No space left on device") {
            error.code = Code::DiskFull;
            "make room on the cell's disk, then ask again".clone_into(&mut error.hint);
        }
        error
    }

    /// Ends the recovery where it is and makes the copy writable, on a new timeline.
    pub(crate) async fn promote(&self, reached: &Reached) -> Result<(), JobError> {
        // A recovery that waits at its target sleeps for a second at a time, and hears at once only of this.
        let resumed = reached.paused
            && query(&self.endpoint(), "SELECT pg_wal_replay_resume()", QUESTION).await.is_ok();
        if !resumed {
            let promoted = promote(&self.tools, &self.data, PROMOTION).await;
            return promoted.map_err(|error| self.failed("promoting the copy", &error));
        }
        let deadline = Instant::now() + PROMOTION;
        while Instant::now() < deadline {
            match query(&self.endpoint(), MOMENT, QUESTION).await {
                Ok(rows) if Moment::read(&rows).is_some_and(|moment| !moment.in_recovery) => return Ok(()),
                Err(_) if matches!(running(&self.data), Ok(None)) => return Err(self.died()),
                Ok(_) | Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
        Err(self.failed("promoting the copy", &format!("it still recovers after {} s", PROMOTION.as_secs())))
    }

    /// Starts the copy once more as it is, private as before.
    pub(crate) async fn start(&self, archive_command: &str, patience: Duration) -> Result<(), JobError> {
        let mut config = self.config(None, true);
        archive_command.clone_into(&mut config.settings.archive_command);
        start(&self.tools, &self.data, &config, &self.log, patience)
            .await
            .map(drop)
            .map_err(|error| self.start_failed(&error))
    }

    /// A command of PostgreSQL's that connects to the copy.
    pub(crate) fn client(&self, program: &str) -> tokio::process::Command {
        let mut command = self.tools.command(program);
        command.arg("-h").arg(&self.scratch).arg("-p").arg(self.card.postgres_port.to_string());
        command
    }

    /// The programs, as nice as the copy.
    pub(crate) fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Stops it cleanly.
    pub(crate) async fn stop(&self) -> Result<(), JobError> {
        let stopped = stop(&self.data, &StopTimeouts::default()).await;
        stopped.map(drop).map_err(|error| self.failed("stopping the copy", &error))
    }

    /// Ends whatever runs of it and removes the private directories. The copy itself stays.
    pub(crate) async fn leave(&self) {
        clear(&self.data, &self.scratch).await;
    }
}

/// The segment that the startup process of a server waits for, from its title: `startup waiting for 0000…`. That is
/// all there is to see before the first question is answered.
fn awaited_segment(postmaster: i32) -> Option<String> {
    let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).ok()?;
    children.split_whitespace().find_map(|pid| {
        let title = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let title = String::from_utf8_lossy(&title).into_owned();
        let (_, segment) = title.split_once("startup waiting for ")?;
        Some(segment.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned())
    })
}

/// Ends an instance that nobody needs and removes its private directories.
pub(crate) async fn clear(data: &Path, scratch: &Path) {
    let timeouts = StopTimeouts { fast: Duration::ZERO, ..StopTimeouts::default() };
    if data.exists()
        && let Err(error) = stop(data, &timeouts).await
    {
        tracing::warn!(data = %data.display(), %error, "a private instance does not stop");
    }
    remove(scratch);
}

/// Removes a directory with all that is in it.
pub(crate) fn remove(path: &Path) {
    match std::fs::remove_dir_all(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "cannot be removed"),
    }
}

fn text_of(path: &Path) -> String {
    path.display().to_string()
}

/// Progress is news, not truth: one that cannot be written is followed by the next.
pub(crate) async fn say(agent: &Agent, job: &mut ClaimedJob, phase: &str, bytes_done: u64, bytes_total: u64) {
    let progress = Progress { phase: phase.to_owned(), bytes_done, bytes_total };
    if let Err(error) = job.progress(agent, progress).await {
        tracing::debug!(%error, "progress not written");
    }
}

/// `percent` of `total`.
fn part(total: u64, percent: f64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a progress bar needs no exact bytes"
    )]
    {
        (total as f64 * percent.clamp(0.0, 100.0) / 100.0) as u64
    }
}

/// How far a restore is, from the last file that its log names: `restore file /x (8KB, 42.50%) checksum …`.
fn percentage(log: &Path) -> Option<f64> {
    use std::io::{Read, Seek, SeekFrom};
    const TAIL: u64 = 4096;
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    last_percentage(&String::from_utf8_lossy(&bytes))
}

fn last_percentage(text: &str) -> Option<f64> {
    let line = text.lines().rev().find(|line| line.contains(": restore file ") && line.contains("%)"))?;
    let (before, _) = line.rsplit_once("%)")?;
    before.rsplit([' ', '(']).next()?.parse().ok()
}

/// Keeps a group of processes below a rate of bytes written.
struct Throttle {
    rate: u64,
    begun: Instant,
    written: u64,
}

/// Longest stop at a time, far below pgBackRest's timeouts.
const LONGEST_STOP: Duration = Duration::from_secs(1);

impl Throttle {
    fn new(rate: u64) -> Self {
        Self { rate, begun: Instant::now(), written: 0 }
    }

    /// Stops the group for as long as it is ahead of the rate.
    async fn hold(&mut self, running: &Running) {
        if self.rate == 0 {
            return;
        }
        self.written = self.written.max(written_below(running.group()));
        let pause = behind(self.written, self.rate, self.begun.elapsed()).min(LONGEST_STOP);
        if pause.is_zero() {
            return;
        }
        let group = Pid::from_raw(running.group());
        // A group that has just ended cannot be stopped, and needs not be.
        if killpg(group, Signal::SIGSTOP).is_ok() {
            tokio::time::sleep(pause).await;
            let _ = killpg(group, Signal::SIGCONT);
        }
    }
}

/// How long to rest so that `written` bytes in all that time are no more than `rate` per second.
fn behind(written: u64, rate: u64, elapsed: Duration) -> Duration {
    let due = Duration::from_millis(written.saturating_mul(1000) / rate.max(1));
    due.saturating_sub(elapsed)
}

/// Bytes that a process and its descendants have written.
fn written_below(pid: i32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let own: u64 = io.lines().find_map(|line| line.strip_prefix("wchar: ")?.trim().parse().ok()).unwrap_or(0);
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    own + children.split_whitespace().filter_map(|child| child.parse().ok()).map(written_below).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_percentage_counts() {
        let log = "P01 DETAIL: restore file /d/base/1 (8KB, 12.50%) checksum 1\nP01 DETAIL: restore file /d/odd (x, 9%) y (1GB, 42.07%) checksum 2\nother";
        assert_eq!(last_percentage(log), Some(42.07));
        assert_eq!(last_percentage("nothing (1%)"), None);
        assert_eq!(part(200, 50.0), 100);
    }

    #[test]
    fn the_rate_is_kept_over_the_whole_time() {
        let second = Duration::from_secs(1);
        assert_eq!(behind(100, 100, second), Duration::ZERO);
        assert_eq!(behind(300, 100, second), Duration::from_secs(2));
        assert_eq!(behind(50, 100, second), Duration::ZERO);
    }

    #[test]
    fn the_end_is_the_end_of_a_whole_segment_or_anywhere_in_the_newest() {
        let size = SegmentSize::default();
        assert!(End::Whole(3).is_reached(size.start_of(4), size));
        assert!(!End::Whole(3).is_reached(Lsn::new(size.start_of(4).bytes() - 8), size));
        assert!(End::Within(3).is_reached(Lsn::new(size.start_of(3).bytes() + 40), size));
        assert!(!End::Within(3).is_reached(size.start_of(3), size));
    }

    proptest! {
        #[test]
        fn any_log_is_survived(text in "(?s).{0,200}") {
            let _ = last_percentage(&text);
        }
    }
}
