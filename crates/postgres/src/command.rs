//! Running one of PostgreSQL's programs to its end, with a deadline.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use cellar_system::{confine_writes, last_lines};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::error::PostgresError;

/// Lines of output that an error quotes: enough for PostgreSQL's message, detail and hint.
pub(crate) const MAX_QUOTED_LINES: usize = 12;

/// Output kept per stream, in bytes. `pg_waldump` writes the most: a line of about 150 bytes per record, and a segment of
/// 16 MiB may hold 150,000 records.
const MAX_KEPT_BYTES: u64 = 32 << 20;

/// How long to wait for the rest of the output of a program that was killed: another process may hold the other end of
/// the pipe.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// What a program that ended with success wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutput {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Kills the child's process group unless the child was waited for, so that a future that is dropped
/// leaves nothing behind: initdb starts children of its own.
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            // It may have ended in this moment.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn collect(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut stream) = stream {
        // A broken pipe ends the output; how the program ended says the rest.
        let _ = (&mut stream).take(MAX_KEPT_BYTES).read_to_end(&mut kept).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    kept
}

fn name_of(command: &Command) -> String {
    let program = std::path::Path::new(command.as_std().get_program());
    program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()
}

/// Runs a program in its own process group and returns what it wrote.
///
/// # Errors
/// When it cannot be started, ends with anything but success, or is not done in `timeout`; then
/// its process group is killed.
pub async fn run(command: Command, timeout: Duration) -> Result<CommandOutput, PostgresError> {
    run_spawned(command, timeout, Command::spawn).await
}

/// Runs a program as [`run`] does. It, and all that it starts, can write to nothing but `writable` where the kernel can
/// ensure that.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_confined(
    command: Command,
    timeout: Duration,
    writable: &[PathBuf],
) -> Result<CommandOutput, PostgresError> {
    run_spawned(command, timeout, |command| {
        let runtime = tokio::runtime::Handle::current();
        // Only the thread that starts the program is confined, and it ends then.
        std::thread::scope(|scope| {
            let starter = scope.spawn(|| {
                if !confine_writes(writable)? {
                    tracing::info!("the kernel has no Landlock: only the configuration seals the copy off");
                }
                let _runtime = runtime.enter();
                command.spawn()
            });
            starter
                .join()
                .unwrap_or_else(|_| Err(std::io::Error::other("the thread that starts it panicked")))
        })
    })
    .await
}

async fn run_spawned(
    mut command: Command,
    timeout: Duration,
    spawn: impl FnOnce(&mut Command) -> std::io::Result<Child>,
) -> Result<CommandOutput, PostgresError> {
    let program = name_of(&command);
    let path = PathBuf::from(command.as_std().get_program());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut child = spawn(&mut command).map_err(PostgresError::io("run", &path))?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let output = {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        tokio::spawn(async move { tokio::join!(collect(stdout), collect(stderr)) })
    };
    let ended: Option<std::io::Result<ExitStatus>> = tokio::time::timeout(timeout, child.wait()).await.ok();
    match ended {
        // From here on its number may belong to another process.
        Some(_) => group.0 = None,
        None => {
            group.kill();
            let _ = child.wait().await;
        }
    }
    let (stdout, stderr) = match tokio::time::timeout(DRAIN_TIMEOUT, output).await {
        Ok(Ok((stdout, stderr))) => {
            (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
        }
        _ => (String::new(), "(its output could not be read to the end)".to_owned()),
    };
    let quoted = || last_lines(&format!("{stdout}\n{stderr}"), MAX_QUOTED_LINES);
    match ended {
        Some(Ok(status)) if status.success() => Ok(CommandOutput { stdout, stderr }),
        Some(Ok(status)) => {
            let output = quoted();
            Err(PostgresError::CommandFailed { program, status: status.to_string(), output, stdout })
        }
        Some(Err(source)) => Err(PostgresError::Io { action: "wait for", path, source }),
        None => Err(PostgresError::CommandTimeout { program, after: timeout, output: quoted() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script);
        command
    }

    #[tokio::test]
    async fn a_failure_quotes_the_output() {
        let error = run(shell("echo one; echo two >&2; exit 3"), Duration::from_secs(5)).await.unwrap_err();
        let PostgresError::CommandFailed { status, output, .. } = error else { panic!("{error}") };
        assert!(status.contains('3') && output == "one\ntwo", "{status} {output}");
    }

    #[tokio::test]
    async fn the_deadline_kills_grandchildren_too() {
        let began = Instant::now();
        let error = run(shell("sleep 60 & echo $!; wait"), Duration::from_millis(300)).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(3));
        let PostgresError::CommandTimeout { output, .. } = error else { panic!("{error}") };
        let grandchild: i32 = output.trim().parse().unwrap();
        let gone = || {
            std::fs::read_to_string(format!("/proc/{grandchild}/stat")).map_or(true, |s| s.contains(") Z "))
        };
        while !gone() {
            assert!(began.elapsed() < Duration::from_secs(5), "{grandchild} still runs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
