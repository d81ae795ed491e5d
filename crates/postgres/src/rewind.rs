//! Taking back what only this data directory has, with `pg_rewind`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use cellar_system::Process;
use nix::sys::signal::Signal;

use crate::command::run;
use crate::config_file::replace_file;
use crate::error::PostgresError;
use crate::postmaster::{processes, signal};
use crate::tools::Tools;

/// The program.
const PROGRAM: &str = "pg_rewind";

/// PostgreSQL takes a directory with this file for a copy that is not whole before it has replayed what the file says. `pg_rewind`
/// writes it last.
const LABEL: &str = "backup_label";

fn target(data: &Path) -> String {
    format!("--target-pgdata={}", data.display())
}

/// Runs `pg_rewind`, so that `data` follows the primary that `source` names, a connection string with a database. False when it
/// found nothing to do: also as long as that primary, just promoted, has ended no checkpoint on its new timeline (before
/// PostgreSQL 16).
///
/// It recovers the data first where that was not shut down, and PostgreSQL may then reuse segments of WAL that are needed
/// afterwards. So the data must have a `restore_command` that finds them. `data` must be no standby's: PostgreSQL recovers none in
/// this way.
///
/// # Errors
/// When it fails or is not done in `timeout`. Then the data may be half rewound, and must not be started.
pub async fn rewind(
    tools: &Tools,
    data: &Path,
    source: &str,
    timeout: Duration,
) -> Result<bool, PostgresError> {
    let mut command = tools.for_data(data).command(PROGRAM);
    command.arg(target(data)).arg(format!("--source-server={source}")).arg("--restore-target-wal");
    let output = run(command, timeout).await?;
    for line in output.stdout.lines().chain(output.stderr.lines()) {
        tracing::info!("{line}");
    }
    data.join(LABEL).try_exists().map_err(PostgresError::io("look for the label of", data))
}

/// Makes data that was rewound a standby's, with nothing of it that only another member's process may use.
///
/// # Errors
/// When the disk refuses.
pub fn finish_rewind(data: &Path) -> Result<(), PostgresError> {
    // Slots are a member's own; those that a former primary had keep WAL for nobody.
    let slots = data.join("pg_replslot");
    let entries = fs::read_dir(&slots).map_err(PostgresError::io("read", &slots))?;
    for entry in entries {
        let path = entry.map_err(PostgresError::io("read", &slots))?.path();
        fs::remove_dir_all(&path).map_err(PostgresError::io("remove", &path))?;
    }
    replace_file(&data.join("standby.signal"), "").map(drop)
}

/// Makes a standby's data that does not run one that [`rewind`] takes. It must be marked before, so that nobody starts it: it
/// would be a primary.
///
/// # Errors
/// When the disk refuses.
pub fn prepare_rewind(data: &Path) -> Result<(), PostgresError> {
    for name in ["standby.signal", "recovery.signal"] {
        let path = data.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(PostgresError::io("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether the data begins with a copy that was never whole.
#[must_use]
pub fn has_label(data: &Path) -> bool {
    data.join(LABEL).exists()
}

/// Kills a [`rewind`] of `data`, whose caller was killed, and the server that it runs. Returns when they are gone.
///
/// # Errors
/// When this user may not signal them, or they do not end in `timeout`.
pub async fn end_left_rewind(data: &Path, timeout: Duration) -> Result<(), PostgresError> {
    let argument = target(data);
    let rewinds = || {
        let named = Process::all().into_iter().filter(|process| process.program == PROGRAM);
        named.filter(|process| process.arguments().contains(&argument)).collect::<Vec<_>>()
    };
    let is_single = |process: &Process| process.arguments().iter().any(|argument| argument == "--single");
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        let mut left = rewinds();
        left.extend(processes(data)?.into_iter().filter(is_single));
        let Some(first) = left.first() else { return Ok(()) };
        if tokio::time::Instant::now() >= deadline {
            let reason = format!("is still in use by pg_rewind, process {}, which does not end", first.pid);
            return Err(PostgresError::DataDirectory { path: data.to_path_buf(), reason });
        }
        for process in &left {
            tracing::warn!(pid = process.pid, "a rewind that nobody waits for is killed");
            let _ = signal(process, Signal::SIGKILL)?;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn rewound_data_is_a_standbys_without_slots() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(data.path().join("pg_replslot/cellar_zone2")).unwrap();
        std::fs::write(data.path().join("pg_replslot/cellar_zone2/state"), "").unwrap();
        finish_rewind(data.path()).unwrap();
        assert_eq!(std::fs::read_dir(data.path().join("pg_replslot")).unwrap().count(), 0);
        assert!(data.path().join("standby.signal").exists() && !has_label(data.path()));
        prepare_rewind(data.path()).unwrap();
        prepare_rewind(data.path()).unwrap();
        assert!(!data.path().join("standby.signal").exists());
    }

    #[tokio::test]
    async fn a_rewind_that_nobody_waits_for_is_ended_and_that_of_another_directory_is_not() {
        let place = tempfile::tempdir().unwrap();
        // The name of a process is that of its file.
        let program = place.path().join(PROGRAM);
        std::fs::copy("/bin/sh", &program).unwrap();
        let (own, other) = (place.path().join("own"), place.path().join("other"));
        for data in [&own, &other] {
            std::fs::create_dir(data).unwrap();
        }
        let start = |data: &Path| {
            let mut command = std::process::Command::new(&program);
            command.args(["-c", "while :; do sleep 1; done", "sh"]).arg(target(data));
            command.process_group(0).spawn().unwrap()
        };
        let (mut one, mut two) = (start(&own), start(&other));
        // Dead ones are gone once they are waited for.
        let reaped = std::thread::spawn(move || one.wait().unwrap());
        end_left_rewind(&own, TIMEOUT).await.unwrap();
        assert!(!reaped.join().unwrap().success());
        assert!(two.try_wait().unwrap().is_none(), "that of another directory goes on");
        let pid = nix::unistd::Pid::from_raw(two.id().cast_signed());
        nix::sys::signal::killpg(pid, Signal::SIGKILL).unwrap();
        two.wait().unwrap();
    }
}
