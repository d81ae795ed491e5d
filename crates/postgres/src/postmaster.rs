//! Whether a data directory's server runs, from `postmaster.pid` and what the processes say.
//!
//! The file alone proves nothing: it stays after a crash, and its number may then belong to any process, for instance to
//! the PostgreSQL of another cell.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cellar_system::{FileId, Process, remove_shared_memory};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;

use crate::error::PostgresError;

/// What every process of a server is called.
pub(crate) const PROGRAM: &str = "postgres";

/// How far along a server is, from the last line of `postmaster.pid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostmasterState {
    /// It recovers and takes no connections yet.
    Starting,
    /// It takes connections, as a primary or as a standby.
    Ready,
    /// It is in recovery with `hot_standby` off and takes no connections.
    WarmStandby,
    /// It shuts down.
    Stopping,
}

/// A running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postmaster {
    /// The postmaster's process id.
    pub pid: i32,
    /// Its port, once it has written it.
    pub port: Option<u16>,
    /// Its socket's directory, once it has written it.
    pub socket_directory: Option<PathBuf>,
    /// How far along it is.
    pub state: PostmasterState,
}

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockFile {
    pub(crate) pid: i32,
    pub(crate) data_directory: Option<PathBuf>,
    port: Option<u16>,
    socket_directory: Option<PathBuf>,
    /// Key and id of its System V segment.
    shared_memory: Option<(i32, u64)>,
    state: PostmasterState,
}

/// Lines in PostgreSQL's order (`miscadmin.h`): pid, data directory, start time, port, socket directory,
/// listen address, shared memory, state. They are written one after the other while it starts;
/// a socket's lock file ends after the socket directory.
fn parse(text: &str) -> Option<LockFile> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let line = |at: usize| lines.get(at).copied().filter(|line| !line.is_empty());
    Some(LockFile {
        // A standalone backend, such as initdb's, writes its number negated.
        pid: line(0)?.parse::<i32>().ok()?.checked_abs().filter(|pid| *pid > 0)?,
        data_directory: line(1).map(PathBuf::from),
        port: line(3).and_then(|port| port.parse().ok()),
        socket_directory: line(4).map(PathBuf::from),
        shared_memory: line(6).and_then(|text| {
            let (key, id) = text.split_once(char::is_whitespace)?;
            // The key is unsigned there, and signed in the kernel's list.
            Some((key.parse::<u32>().ok()?.cast_signed(), id.trim().parse().ok()?))
        }),
        state: match line(7) {
            Some("ready") => PostmasterState::Ready,
            Some("standby") => PostmasterState::WarmStandby,
            Some("stopping") => PostmasterState::Stopping,
            _ => PostmasterState::Starting,
        },
    })
}

/// The largest lock file that is read, in bytes. A real one has a few lines.
const MAX_LOCK_FILE_BYTES: u64 = 64 << 10;

/// Reads a lock file, `postmaster.pid` or that of a socket; `None` when there is none, or no number in it.
pub(crate) fn lock_file(path: &Path) -> Result<Option<LockFile>, PostgresError> {
    // Root asks too, in the service user's directories: no link is followed, and no FIFO waited for.
    let read = || -> std::io::Result<Vec<u8>> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
        let mut bytes = Vec::new();
        if file.metadata()?.is_file() {
            file.take(MAX_LOCK_FILE_BYTES).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => Ok(parse(&String::from_utf8_lossy(&bytes))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(PostgresError::io("read", path)(error)),
    }
}

/// Whether the process belongs to the server of the data directory.
fn serves(process: &Process, data_directory: &Path) -> Result<bool, PostgresError> {
    if process.program != PROGRAM {
        return Ok(false);
    }
    let about = |error| PostgresError::io("look at", data_directory)(error);
    match process.working_directory() {
        // Every process of a server works in the data directory, whatever that is called by now.
        Ok(directory) => Ok(directory == FileId::of(data_directory).map_err(about)?),
        // Another user's process can be ours only if the data directory is that user's too. Taking it
        // for ours is the safe side: no second server is started then.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Ok(fs::metadata(data_directory).map_err(about)?.uid() == process.uid)
        }
        Err(_) => Ok(false),
    }
}

/// The postmaster as a process, with what the file says of it.
pub(crate) fn find(data_directory: &Path) -> Result<Option<(Process, Postmaster)>, PostgresError> {
    let Some(file) = lock_file(&data_directory.join("postmaster.pid"))? else { return Ok(None) };
    let Some(process) = Process::find(file.pid) else { return Ok(None) };
    if !serves(&process, data_directory)? {
        return Ok(None);
    }
    let LockFile { pid, port, socket_directory, state, .. } = file;
    Ok(Some((process, Postmaster { pid, port, socket_directory, state })))
}

/// Signals a process if it is still alive; tells whether it was. SIGKILL goes to the whole group that it leads, so that
/// its archive and restore commands end too.
///
/// # Errors
/// When this user may not signal it.
pub(crate) fn signal(process: &Process, signal: Signal) -> Result<bool, PostgresError> {
    let failed = |source| PostgresError::Signal { pid: process.pid, signal: signal.as_str(), source };
    let sent = match signal {
        Signal::SIGKILL => process.signal_group(signal),
        _ => process.signal(signal),
    };
    sent.map_err(failed)
}

/// The running server of a data directory, whoever started it.
///
/// # Errors
/// When the directory cannot be looked at.
pub fn running(data_directory: &Path) -> Result<Option<Postmaster>, PostgresError> {
    Ok(find(data_directory)?.map(|(_, postmaster)| postmaster))
}

/// Removes the shared memory that the server of a data directory left when it was killed. A next start there would do
/// it; this is for a directory that has none. Nothing is done while a process of the server lives.
///
/// # Errors
/// When the directory cannot be looked at, or the memory not be removed.
pub fn remove_left_memory(data_directory: &Path) -> Result<(), PostgresError> {
    let path = data_directory.join("postmaster.pid");
    let Some(file) = lock_file(&path)? else { return Ok(()) };
    let Some((key, id)) = file.shared_memory else { return Ok(()) };
    if !processes(data_directory)?.is_empty() {
        return Ok(());
    }
    remove_shared_memory(id, key, file.pid)
        .map(drop)
        .map_err(PostgresError::io("remove the shared memory of", data_directory))
}

/// The processes of the data directory's server, of a dead postmaster too.
pub(crate) fn processes(data_directory: &Path) -> Result<Vec<Process>, PostgresError> {
    let mut found = Vec::new();
    for process in Process::all() {
        // No process can use a directory that is gone.
        if process.program == PROGRAM && data_directory.exists() {
            // Unlike for a number from the file, another user's process is no evidence here.
            let directory = process.working_directory().ok();
            if directory.is_some() && directory == FileId::of(data_directory).ok() {
                found.push(process);
            }
        }
    }
    Ok(found)
}

/// The processes of this data directory's server that its postmaster left behind when it died; none while one runs, also
/// one whose lock file is gone: it ends by itself within a minute.
///
/// # Errors
/// When the processes cannot be looked at.
pub fn orphans(data_directory: &Path) -> Result<Vec<Process>, PostgresError> {
    match find(data_directory)? {
        Some(_) => Ok(Vec::new()),
        None => Ok(without_postmaster(processes(data_directory)?).into_iter().filter(is_child).collect()),
    }
}

/// Whether a process has the title of a postmaster's child. A postmaster, and a server that a person runs by itself
/// (`postgres --single`), have their arguments there.
fn is_child(process: &Process) -> bool {
    process.arguments().first().is_some_and(|title| title.starts_with("postgres: "))
}

/// These processes, unless one of them is the parent of others: a postmaster.
fn without_postmaster(found: Vec<Process>) -> Vec<Process> {
    let has_postmaster = found.iter().any(|one| found.iter().any(|other| other.parent == one.pid));
    if has_postmaster { Vec::new() } else { found }
}

/// Kills one of [`orphans`] and the commands that it runs; tells whether it was there.
///
/// # Errors
/// When this user may not signal it.
pub fn kill_orphan(process: &Process) -> Result<bool, PostgresError> {
    signal(process, Signal::SIGKILL)
}

/// The process ids of everything of PostgreSQL that works in the data directory. Not empty without a
/// [`running`] postmaster means that processes of a server that died are still there, and that
/// nothing may be started or swapped in its place.
///
/// # Errors
/// When the processes cannot be looked at.
pub fn occupants(data_directory: &Path) -> Result<Vec<i32>, PostgresError> {
    Ok(processes(data_directory)?.into_iter().map(|process| process.pid).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_is_read_at_every_stage_of_a_start() {
        let whole = "123\n/c/pg_data\n1767225600\n39100\n/c/s\n\n  5 6\nstandby \n";
        let file = parse(whole).unwrap();
        assert_eq!((file.pid, file.port, file.state), (123, Some(39100), PostmasterState::WarmStandby));
        assert_eq!(file.socket_directory, Some("/c/s".into()));
        assert_eq!(file.shared_memory, Some((5, 6)));
        assert_eq!(parse("123\n/c\n").unwrap().state, PostmasterState::Starting);
        assert_eq!(parse("-123\n/c\n").unwrap().pid, 123);
        for text in ["", "x", "0", "-2147483648", "99999999999"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_fifo_in_place_of_the_lock_file_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postmaster.pid");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(lock_file(&path).unwrap().map(|file| file.pid), None);
        assert_eq!(running(directory.path()).unwrap(), None);
    }

    #[test]
    fn a_lock_file_with_the_number_of_another_process_means_no_server() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(running(directory.path()).unwrap(), None);
        assert_eq!(running(&directory.path().join("missing")).unwrap(), None);
        assert_eq!(occupants(directory.path()).unwrap(), Vec::<i32>::new());
    }
}
