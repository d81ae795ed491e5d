//! Running a long command while its caller watches it.

use std::path::Path;
use std::time::Duration;

use crate::command::Pgbackrest;
use crate::error::Error;
use crate::invocation::Invocation;
use crate::process::Running;

/// How long pgBackRest may take to end after SIGTERM; it takes milliseconds.
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(10);

impl Pgbackrest {
    /// Runs a command to its end, with its output appended to `log_file`, and calls `watch` every `interval`.
    ///
    /// While `until` gives an uptime of the host, the command is killed then, also when this process stands still. It
    /// is asked every `interval`.
    ///
    /// Returns the exit code; none when a signal ended the command. When `watch` fails, the command is ended, and
    /// the watcher's error is returned. But if the command had succeeded by then, its success is returned: what is
    /// in the repo is what counts.
    ///
    /// # Errors
    /// The watcher's own, and those of [`Pgbackrest::spawn_logged`] and [`Running::wait`].
    pub async fn run_watched<E: From<Error>>(
        &self,
        invocation: &Invocation,
        log_file: &Path,
        nice: u32,
        interval: Duration,
        until: impl Fn() -> Option<Duration>,
        mut watch: impl AsyncFnMut(&Running) -> Result<(), E>,
    ) -> Result<Option<u8>, E> {
        let mut running = self.spawn_logged(invocation, log_file, nice, until()).await?;
        loop {
            tokio::select! {
                code = running.wait() => return Ok(code?),
                () = tokio::time::sleep(interval) => {}
            }
            if let Some(until) = until() {
                running.extend(until).await;
            }
            if let Err(error) = watch(&running).await {
                let code = running.terminate(TERMINATION_TIMEOUT).await?;
                return if code == Some(0) { Ok(code) } else { Err(error) };
            }
        }
    }
}
