//! Processes that outlive us: starting them, and ending only those that are ours.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cellar_pgbackrest::is_credential_variable;
use cellar_system::{Owner, Process, SERVICE_MANAGER_VARIABLES, is_same_place, running_pid};
use nix::sys::signal::Signal;

use crate::error::provision_error::{ProvisionError, Result};
use crate::file::{log_tail, open_log};

/// The environment variable that a passphrase may be given in.
pub const PASSPHRASE_VARIABLE: &str = "CELLAR_REPO_CIPHER_PASS";

/// Beginning of the variables from which etcd takes flags that it was not given.
const ETCD_VARIABLES: &str = "ETCD_";

/// How often to look whether a process has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long a process may take to be gone after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a process is started with.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// What it is, for messages: `multipooler of cell zone1`.
    pub(crate) what: String,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// A variable that it is given.
    pub(crate) environment: Option<(&'static str, String)>,
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
        for (name, _) in std::env::vars_os() {
            let is_secret = name.to_str().is_some_and(is_credential_variable);
            if is_secret || name.as_encoded_bytes().starts_with(ETCD_VARIABLES.as_bytes()) {
                command.env_remove(name);
            }
        }
        // Whatever started us is not what they are to report to.
        for name in SERVICE_MANAGER_VARIABLES {
            command.env_remove(name);
        }
        command.envs(self.environment);
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
            // An error means that another part of this program reaped it; how it ended is not known.
            Ok(None) | Err(_) => Ok(()),
        }
    }
}

/// The daemon that has this pid file, if it was started with it.
pub(crate) fn daemon_of(pid_file: &Path) -> Option<Process> {
    let process = Process::find(running_pid(pid_file)?.cast_signed())?;
    let names_file = |argument: &String| is_same_place(Path::new(argument), pid_file);
    process.arguments().iter().any(names_file).then_some(process)
}

/// Ends a process: SIGTERM, and SIGKILL when it has not ended within `timeout`. Tells whether there was one.
///
/// # Errors
/// When this user may not signal it, or it does not even end when killed.
pub(crate) async fn end(what: &str, process: Option<Process>, timeout: Duration) -> Result<bool> {
    let Some(process) = process else { return Ok(false) };
    for (signal, timeout) in [(Signal::SIGTERM, timeout), (Signal::SIGKILL, KILL_TIMEOUT)] {
        process.signal(signal).map_err(|errno| ProvisionError::Io {
            action: "signal",
            path: PathBuf::from(format!("/proc/{} ({what})", process.pid)),
            source: errno.into(),
        })?;
        let deadline = Instant::now() + timeout;
        while process.is_alive() && Instant::now() < deadline {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        if !process.is_alive() {
            return Ok(true);
        }
    }
    Err(ProvisionError::WillNotEnd { what: what.to_owned(), pid: process.pid.cast_unsigned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path, program: &str, arguments: &[&str]) -> Started {
        Launch {
            what: "a test".into(),
            program: program.into(),
            arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
            environment: None,
            directory: dir,
            log: dir.join("log"),
            log_owner: None,
            run_as: None,
        }
        .start()
        .unwrap()
    }

    #[tokio::test]
    async fn process_has_its_own_session_and_ends_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let mut started = sleeper(dir.path(), "sleep", &["60"]);
        let pid = started.pid();
        let process = loop {
            let found = Process::find(pid.cast_signed()).unwrap();
            if found.session == found.pid && found.arguments() == ["sleep", "60"] {
                break found;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        };
        started.check().unwrap();
        assert!(end("sleep", Some(process.clone()), Duration::from_secs(5)).await.unwrap());
        assert!(!process.is_alive());
        assert!(!end("sleep", None, Duration::ZERO).await.unwrap());
    }

    #[tokio::test]
    async fn process_that_ignores_sigterm_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let started =
            sleeper(dir.path(), "sh", &["-c", "trap '' TERM; touch ready; while :; do sleep 1; done"]);
        while !dir.path().join("ready").exists() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let process = Process::find(started.pid().cast_signed()).unwrap();
        assert!(end("sh", Some(process.clone()), Duration::from_millis(100)).await.unwrap());
        assert!(!process.is_alive());
    }

    #[tokio::test]
    async fn error_of_a_process_that_ended_shows_its_output() {
        let dir = tempfile::tempdir().unwrap();
        let mut started = sleeper(dir.path(), "sh", &["-c", "echo no such thing; exit 3"]);
        let error = loop {
            match started.check() {
                Ok(()) => tokio::time::sleep(POLL_INTERVAL).await,
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("exit status: 3") && error.contains("no such thing"), "{error}");
    }

    #[tokio::test]
    async fn daemon_is_found_through_any_path_to_its_pid_file() {
        // Holds a lock on its pid file as a daemon does, in a process of its own: see the other branch.
        if let Ok(pid_file) = std::env::var("CELLAR_TEST_PID_FILE") {
            let _held = cellar_system::PidFile::acquire(Path::new(&pid_file)).unwrap();
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let pid_file = real.join("daemon.pid");
        // The test runner takes the second name as one more filter.
        let name = "processes::process::tests::daemon_is_found_through_any_path_to_its_pid_file";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([Path::new("--exact"), Path::new(name), &pid_file])
            .env("CELLAR_TEST_PID_FILE", &pid_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while running_pid(&pid_file).is_none() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        for path in [pid_file, link.join("daemon.pid")] {
            assert_eq!(daemon_of(&path).map(|found| found.pid), Some(child.id().cast_signed()), "{path:?}");
        }
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(daemon_of(&link.join("daemon.pid")), None);
    }

    #[tokio::test]
    async fn neither_secrets_nor_flags_of_etcd_are_inherited() {
        // Variables are the whole process's, and other tests run beside this one: in a process of its own.
        if std::env::var_os("ETCD_NAME").is_none() {
            let name = "processes::process::tests::neither_secrets_nor_flags_of_etcd_are_inherited";
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name])
                .env("ETCD_NAME", "other")
                .env("ETCD_LISTEN_CLIENT_URLS", "http://localhost:1")
                .env(PASSPHRASE_VARIABLE, "secret")
                .env("AWS_SECRET_ACCESS_KEY", "secret")
                .status()
                .unwrap();
            assert!(status.success());
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut started = sleeper(dir.path(), "env", &[]);
        while started.check().is_ok() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let shown = std::fs::read_to_string(dir.path().join("log")).unwrap();
        assert!(shown.contains("PATH=") && !shown.contains("ETCD_"), "{shown}");
        assert!(!shown.contains(PASSPHRASE_VARIABLE) && !shown.contains("AWS_SECRET_ACCESS_KEY"), "{shown}");
    }
}
