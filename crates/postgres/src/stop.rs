//! Stopping a server, with stronger signals as the timeouts pass.

use std::path::Path;
use std::time::Duration;

use cellar_system::{Process, is_same_place};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::error::PostgresError;
use crate::postmaster::{PROGRAM, find, lock_file, processes, signal};
use crate::shutdown_checkpoint::ShutdownCheckpoint;

/// How often to look whether it has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How often to look whether a checkpoint is still being written.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(500);

/// How long to wait after each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopTimeouts {
    /// After a fast shutdown, which archives a primary's last WAL and hangs for as long as the archiver
    /// cannot reach its repo. Zero: no fast shutdown.
    pub fast: Duration,
    /// How much longer a fast shutdown may take while a primary's checkpoint is being written.
    pub checkpoint: Duration,
    /// After an immediate one. PostgreSQL kills children that ignore it after 5 s.
    pub immediate: Duration,
    /// After SIGKILL.
    pub kill: Duration,
}

impl Default for StopTimeouts {
    fn default() -> Self {
        Self {
            fast: Duration::from_secs(60),
            checkpoint: Duration::from_secs(600),
            immediate: Duration::from_secs(15),
            kill: Duration::from_secs(10),
        }
    }
}

impl StopTimeouts {
    /// No fast shutdown: the server is stopped at once and archives nothing more.
    #[must_use]
    pub fn immediate() -> Self {
        Self { fast: Duration::ZERO, ..Self::default() }
    }
}

/// What it took to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It did not run.
    NotRunning,
    /// A fast shutdown: everything is on disk, and a primary has archived its WAL.
    Fast,
    /// An immediate one: the next start recovers from WAL.
    Immediate,
    /// The postmaster was dead or had to be killed, and its processes with it: the next start recovers from WAL.
    Killed,
}

async fn ended(process: &Process, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while process.is_alive() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(POLL_INTERVAL).await;
    }
    true
}

/// Waits while a server that was told to stop writes its checkpoint. Whether it has ended.
async fn ended_after_checkpoint(postmaster: &Process, data_directory: &Path, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    let mut checkpoint = ShutdownCheckpoint::watch(postmaster);
    while checkpoint.is_written(postmaster, data_directory) && Instant::now() < deadline {
        if ended(postmaster, CHECKPOINT_INTERVAL).await {
            return true;
        }
    }
    // What comes after the checkpoint takes no time, unless the archiver hangs.
    ended(postmaster, CHECKPOINT_INTERVAL).await
}

/// Kills whatever is left of the server, its archive and restore commands included.
async fn kill_all(data_directory: &Path, within: Duration) -> Result<(), PostgresError> {
    let deadline = Instant::now() + within;
    loop {
        let left = processes(data_directory)?;
        let Some(first) = left.first() else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(PostgresError::WouldNotStop { pid: first.pid, after: within });
        }
        for process in &left {
            signal(process, Signal::SIGKILL)?;
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Stops the server of a data directory: a fast shutdown, then an immediate one, then SIGKILL to all of its processes.
/// Also kills the processes that a dead postmaster left.
///
/// # Errors
/// When processes may not be signaled, or do not even end when killed.
pub async fn stop(data_directory: &Path, timeouts: &StopTimeouts) -> Result<Stopped, PostgresError> {
    let Some((postmaster, _)) = find(data_directory)? else {
        if processes(data_directory)?.is_empty() {
            return Ok(Stopped::NotRunning);
        }
        kill_all(data_directory, timeouts.kill).await?;
        return Ok(Stopped::Killed);
    };
    let steps = [
        (Signal::SIGINT, timeouts.fast, Stopped::Fast),
        (Signal::SIGQUIT, timeouts.immediate, Stopped::Immediate),
    ];
    for (step, timeout, outcome) in steps.into_iter().filter(|(_, timeout, _)| !timeout.is_zero()) {
        signal(&postmaster, step)?;
        let is_ended = ended(&postmaster, timeout).await
            || step == Signal::SIGINT
                && ended_after_checkpoint(&postmaster, data_directory, timeouts.checkpoint).await;
        if is_ended {
            // A backend that the postmaster gave up on would keep the next server from starting.
            if processes(data_directory)?.is_empty() {
                return Ok(outcome);
            }
            break;
        }
        tracing::warn!(
            pid = postmaster.pid,
            signal = step.as_str(),
            ?timeout,
            "PostgreSQL did not stop in time"
        );
    }
    signal(&postmaster, Signal::SIGKILL)?;
    kill_all(data_directory, timeouts.kill).await?;
    if ended(&postmaster, timeouts.kill).await {
        return Ok(Stopped::Killed);
    }
    Err(PostgresError::WouldNotStop { pid: postmaster.pid, after: timeouts.kill })
}

/// Whether a postmaster was started with that data directory: `-D DIRECTORY`, as `pg_ctl` does.
fn names(arguments: &[String], data_directory: &Path) -> bool {
    arguments.windows(2).any(|pair| pair[0] == "-D" && Path::new(&pair[1]) == data_directory)
}

/// Whether a process worked in that directory when it was removed: a postmaster works in its data directory, and the
/// kernel adds ` (deleted)` to the name of one that is gone.
fn worked_in(process: &Process, directory: &Path) -> bool {
    let mut gone = directory.as_os_str().to_owned();
    gone.push(" (deleted)");
    std::fs::read_link(format!("/proc/{}/cwd", process.pid)).is_ok_and(|cwd| cwd.as_os_str() == gone)
}

/// Ends the server that was started on a data directory which somebody has removed since: it is found by the lock file
/// of its socket, for `postmaster.pid` is gone with the directory. PostgreSQL itself notices only after up to a minute,
/// and serves open sessions until then. False when there is none.
///
/// # Errors
/// When it may not be signaled, or does not even end when killed.
pub async fn stop_vanished(
    socket_directory: &Path,
    port: u16,
    data_directory: &Path,
) -> Result<bool, PostgresError> {
    let path = socket_directory.join(format!(".s.PGSQL.{port}.lock"));
    let Some(file) = lock_file(&path)? else { return Ok(false) };
    if !file.data_directory.as_deref().is_some_and(|found| is_same_place(found, data_directory)) {
        return Ok(false);
    }
    // The file stays after a crash, and its number may be another server's since.
    let is_its = |process: &Process| {
        process.program == PROGRAM
            && (names(&process.arguments(), data_directory) || worked_in(process, data_directory))
    };
    let Some(postmaster) = Process::find(file.pid).filter(is_its) else { return Ok(false) };
    let timeouts = StopTimeouts::default();
    signal(&postmaster, Signal::SIGQUIT)?;
    if !ended(&postmaster, timeouts.immediate).await {
        // Its children notice that they are orphans.
        signal(&postmaster, Signal::SIGKILL)?;
        if !ended(&postmaster, timeouts.kill).await {
            return Err(PostgresError::WouldNotStop { pid: postmaster.pid, after: timeouts.kill });
        }
    }
    Ok(true)
}
