//! PgBouncer's process. It outlives whoever started it, so that its clients do not notice.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_system::{Process, SERVICE_MANAGER_VARIABLES, is_same_place, recorded_pid};
use nix::sys::signal::Signal;
use tokio::process::Command;

use crate::command::run;
use crate::error::PostgresError;

/// The Debian package, and the program in it.
const PROGRAM: &str = "pgbouncer";

/// Where Debian has it, which is in the path of root only.
const DEBIAN: &str = "/usr/sbin/pgbouncer";

/// How long it may take to read its files, and then to write its process id down.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// How often to look whether it has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Where PgBouncer is installed; none when it is not.
#[must_use]
pub fn find_pgbouncer() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|directory| directory.join(PROGRAM));
    in_path.chain([PathBuf::from(DEBIAN)]).find(|file| file.is_file())
}

/// The PgBouncer that was started with a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolDaemon {
    /// Its `pgbouncer.ini`.
    pub config: PathBuf,
    /// The file that it writes its process id into.
    pub pid_file: PathBuf,
}

impl PoolDaemon {
    /// Its process, if it runs.
    #[must_use]
    pub fn process(&self) -> Option<Process> {
        let is_config = |argument: &String| is_same_place(Path::new(argument), &self.config);
        let is_it =
            |process: &Process| process.program == PROGRAM && process.arguments().iter().any(is_config);
        let noted =
            recorded_pid(&self.pid_file).and_then(|pid| i32::try_from(pid).ok()).and_then(Process::find);
        // One whose starter was killed before it had written its number down, or whose file was lost, goes on all the same.
        noted.filter(&is_it).or_else(|| Process::all().into_iter().find(is_it))
    }

    /// Starts it. It runs also when its port is taken (1.18): that it only writes into its log.
    ///
    /// # Errors
    /// When it is not installed, or refuses its config.
    pub async fn start(&self) -> Result<(), PostgresError> {
        let program = find_pgbouncer().ok_or_else(|| PostgresError::MissingBinary {
            program: PROGRAM,
            package: PROGRAM.to_owned(),
            searched: format!("$PATH and {DEBIAN}"),
        })?;
        // Of one that was killed. Its number may be another process's by now, for which PgBouncer would not start.
        let _ = std::fs::remove_file(&self.pid_file);
        let mut command = Command::new(program);
        command.arg("-d").arg(&self.config);
        for name in SERVICE_MANAGER_VARIABLES {
            command.env_remove(name);
        }
        run(command, START_TIMEOUT).await?;
        // The program that was started has ended, and left one that is still opening its log and its sockets.
        let there = async {
            while self.process().is_none() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let ended = |_| PostgresError::CommandFailed {
            program: PROGRAM.to_owned(),
            status: "it ended at once".to_owned(),
            output: "its log says why".to_owned(),
            stdout: String::new(),
        };
        tokio::time::timeout(START_TIMEOUT, there).await.map_err(ended)
    }

    /// Ends it with its sessions; tells whether it ran. One that does not end in time is killed.
    ///
    /// # Errors
    /// When this user may not signal it.
    pub async fn end(&self, timeout: Duration) -> std::io::Result<bool> {
        let Some(process) = self.process() else { return Ok(false) };
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            process.signal(signal)?;
            let ended = async {
                while process.is_alive() {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
            };
            if tokio::time::timeout(timeout, ended).await.is_ok() {
                return Ok(true);
            }
        }
        Err(std::io::Error::from(std::io::ErrorKind::TimedOut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgbouncer::config::tests::{VERIFIER, config};
    use crate::pgbouncer::{PoolConfig, PoolConsole, render_pool_users};
    use crate::session::Endpoint;

    const SHORT: Duration = Duration::from_secs(5);

    /// Ends it whatever becomes of the test.
    struct EndOnDrop(PoolDaemon);

    impl Drop for EndOnDrop {
        fn drop(&mut self) {
            let _ = self.0.process().map(|process| process.signal(Signal::SIGKILL));
        }
    }

    /// The real one takes every setting, and does what its console is told. PgBouncer does not run as root.
    #[tokio::test]
    async fn pgbouncer_takes_the_config_and_obeys() {
        assert!(find_pgbouncer().is_some(), "install the Debian package pgbouncer");
        if nix::unistd::geteuid().is_root() {
            // It does not run as root. There the end-to-end tests run it, as the OS user of PostgreSQL.
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let files = ["users", "log", "pid"].map(|name| dir.path().join(name));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let wanted = PoolConfig { port, ..config(dir.path(), &files) };
        let ini = dir.path().join("pgbouncer.ini");
        // There is no key here, so no TLS.
        let text = wanted.render().unwrap();
        let text: String =
            text.lines().filter(|line| !line.contains("_tls_")).map(|line| format!("{line}\n")).collect();
        std::fs::write(&ini, text).unwrap();
        std::fs::write(&files[0], render_pool_users(&[("app".to_owned(), VERIFIER.parse().unwrap())]))
            .unwrap();
        let daemon = EndOnDrop(PoolDaemon { config: ini, pid_file: files[2].clone() });
        daemon.0.start().await.unwrap();
        assert!(daemon.0.process().is_some());
        let console = PoolConsole { endpoint: Endpoint { socket_directory: dir.path().to_owned(), port } };
        assert!(console.version(SHORT).await.unwrap().starts_with("PgBouncer "));
        console.resume(SHORT).await.unwrap();
        for _ in 0..2 {
            console.pause(SHORT).await.unwrap();
        }
        console.reload(SHORT).await.unwrap();
        console.reconnect(SHORT).await.unwrap();
        console.resume(SHORT).await.unwrap();
        let log = std::fs::read_to_string(&files[1]).unwrap();
        assert!(!log.contains("unrecognized") && !log.contains("invalid value"), "{log}");
        assert!(daemon.0.end(SHORT).await.unwrap() && !daemon.0.end(SHORT).await.unwrap());
    }
}
