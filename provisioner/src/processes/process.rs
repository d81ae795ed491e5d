//! Processes that outlive us: starting them, and ending only those that are ours.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cellar_tls::Owner;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{ProvisionError, Result};
use crate::file::{log_tail, open_log};
use crate::local::secrets::PASSPHRASE_VARIABLE;

/// How often to look whether a process has ended.
const POLL: Duration = Duration::from_millis(50);

/// How long a killed process may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// What a process is started with.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// What it is, for messages: `multipooler of cell zone1`.
    pub(crate) what: String,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Its working directory.
    pub(crate) directory: &'a Path,
    /// Gets what it writes.
    pub(crate) log: PathBuf,
    /// Whose the log is.
    pub(crate) log_owner: Option<Owner>,
    /// As whom it runs from the start; `None` for ourselves.
    pub(crate) run_as: Option<(u32, u32)>,
}

/// A process that we started and that is meant to outlive us.
#[derive(Debug)]
pub(crate) struct Started {
    what: String,
    child: Child,
    log: PathBuf,
}

impl Launch<'_> {
    /// Starts it in a session of its own, so that it survives our terminal.
    pub(crate) fn start(self) -> Result<Started> {
        let output = open_log(&self.log, self.log_owner)?;
        let failed = |source| ProvisionError::Start { what: self.what.clone(), source };
        let errors = output.try_clone().map_err(failed)?;
        // util-linux's setsid instead of setsid(2) between fork and exec: that would need `unsafe`.
        // It execs in place, because a child of ours never leads a group; so the pid is the program's.
        let mut command = Command::new("setsid");
        command
            .arg(&self.program)
            .args(&self.arguments)
            .current_dir(self.directory)
            .env_remove(PASSPHRASE_VARIABLE)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        if let Some((uid, gid)) = self.run_as {
            command.uid(uid).gid(gid);
        }
        let child = command.spawn().map_err(failed)?;
        Ok(Started { what: self.what, child, log: self.log })
    }
}

impl Started {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error when it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(ProvisionError::Ended {
                what: self.what.clone(),
                status: status.to_string(),
                log: self.log.clone(),
                tail: log_tail(&self.log),
            }),
            // An error means that somebody else reaped it, and says nothing of how it ended.
            Ok(None) | Err(_) => Ok(()),
        }
    }
}

/// The arguments of a process; empty for one that is gone or a kernel thread.
pub(crate) fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

/// Whether a process works for the cluster in `dir`: it works in there, or an argument names a path in there.
pub(crate) fn works_for(pid: u32, dir: &Path) -> bool {
    let inside = |path: &Path| path.starts_with(dir);
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| inside(&cwd))
        || command_line(pid).iter().any(|argument| {
            inside(Path::new(argument)) || argument.split_once('=').is_some_and(|(_, v)| inside(Path::new(v)))
        })
}

/// Whether the process has ended, or only waits to be reaped.
fn is_gone(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

/// Sends a signal; a process that is gone is no error.
fn signal(what: &str, pid: u32, signal: Signal) -> Result<()> {
    let target = i32::try_from(pid).ok().filter(|pid| *pid > 1);
    match target.map(|pid| kill(Pid::from_raw(pid), signal)) {
        Some(Ok(()) | Err(Errno::ESRCH)) => Ok(()),
        Some(Err(errno)) => Err(ProvisionError::Io {
            action: "signal",
            path: PathBuf::from(format!("/proc/{pid} ({what})")),
            source: errno.into(),
        }),
        None => Ok(()),
    }
}

/// Ends a process: SIGTERM, and SIGKILL once `patience` is over. `is_ours` is asked anew before each
/// signal, because numbers are reused. Tells whether there was anything to end.
pub(crate) async fn end(what: &str, find: impl Fn() -> Option<u32>, patience: Duration) -> Result<bool> {
    let Some(pid) = find() else { return Ok(false) };
    let ours = || find() == Some(pid) && !is_gone(pid);
    for (with, patience) in [(Signal::SIGTERM, patience), (Signal::SIGKILL, KILL_PATIENCE)] {
        signal(what, pid, with)?;
        let deadline = Instant::now() + patience;
        while ours() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        if !ours() {
            return Ok(true);
        }
    }
    Err(ProvisionError::WillNotEnd { what: what.to_owned(), pid })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path, program: &str, arguments: &[&str]) -> Started {
        Launch {
            what: "a test".into(),
            program: program.into(),
            arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
            directory: dir,
            log: dir.join("log"),
            log_owner: None,
            run_as: None,
        }
        .start()
        .unwrap()
    }

    #[tokio::test]
    async fn a_process_has_its_own_session_and_ends_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let mut started = sleeper(dir.path(), "sleep", &["60"]);
        let pid = started.pid();
        let own_session = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(3)?.parse().ok())
                == Some(pid)
        };
        while !(own_session() && command_line(pid) == ["sleep", "60"]) {
            tokio::time::sleep(POLL).await;
        }
        started.check().unwrap();
        assert!(works_for(pid, dir.path()));
        assert!(!works_for(pid, &dir.path().join("other")));
        assert!(end("sleep", || (!is_gone(pid)).then_some(pid), Duration::from_secs(5)).await.unwrap());
        assert!(is_gone(pid));
        assert!(!end("sleep", || None, Duration::ZERO).await.unwrap());
    }

    #[tokio::test]
    async fn one_that_ignores_sigterm_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let started =
            sleeper(dir.path(), "sh", &["-c", "trap '' TERM; touch ready; while :; do sleep 1; done"]);
        while !dir.path().join("ready").exists() {
            tokio::time::sleep(POLL).await;
        }
        let pid = started.pid();
        let find = || (!is_gone(pid)).then_some(pid);
        assert!(end("sh", find, Duration::from_millis(100)).await.unwrap());
        assert!(is_gone(pid));
    }

    #[tokio::test]
    async fn one_that_ended_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let mut started = sleeper(dir.path(), "sh", &["-c", "echo no such thing; exit 3"]);
        let error = loop {
            match started.check() {
                Ok(()) => tokio::time::sleep(POLL).await,
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("exit status: 3") && error.contains("no such thing"), "{error}");
    }
}
