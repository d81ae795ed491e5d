//! Starting, reloading and promoting a server.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_system::{Process, is_same_place, last_lines, last_lines_of};
use nix::sys::signal::Signal;

use crate::auto_conf::set_aside;
use crate::command::{MAX_QUOTED_LINES, run, run_confined};
use crate::config_file::replace_file;
use crate::configure::{InstanceConfig, configure};
use crate::data_directory::{DataDirectory, inspect};
use crate::error::PostgresError;
use crate::postmaster::{Postmaster, find, lock_file, processes, running, signal};
use crate::private_settings::PrivateSettings;
use crate::session::Endpoint;
use crate::tools::Tools;

/// How much longer pg_ctl may take than the time it was told to wait.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(5);

/// How long `postgres` may take to show one of its settings; it reads the configuration and ends.
const SETTING_TIMEOUT: Duration = Duration::from_secs(10);

/// pg_ctl counts whole seconds.
fn seconds(timeout: Duration) -> String {
    timeout.as_secs().max(1).to_string()
}

/// Removes the data directory's and the socket's lock files when the process id in them is in use, but not by this
/// directory's server.
///
/// PostgreSQL refuses to start over such files when it can signal that process: another cell's PostgreSQL has the same
/// user, and a dead postmaster keeps its id while nobody reaps it, as in a container without an init. Files with an id
/// that is not in use are left: PostgreSQL removes them, and checks the shared memory that they name. (The memory's key
/// also follows from the directory's inode, and `start` has checked that nobody uses the directory.)
fn remove_foreign_lock_files(data_directory: &Path, endpoint: &Endpoint) -> Result<(), PostgresError> {
    let socket = endpoint.socket_directory.join(format!(".s.PGSQL.{}.lock", endpoint.port));
    for path in [data_directory.join("postmaster.pid"), socket] {
        let Some(file) = lock_file(&path)? else { continue };
        // Another server may really be using the socket.
        let ours = path.parent() == Some(data_directory)
            || file.data_directory.as_deref().is_some_and(|found| is_same_place(found, data_directory));
        if !ours || !Process::is_pid_taken(file.pid) {
            continue;
        }
        tracing::warn!(pid = file.pid, path = %path.display(), "no server of this directory has the process id in this lock file; removing it");
        fs::remove_file(&path).map_err(PostgresError::io("remove", &path))?;
    }
    Ok(())
}

/// Starts a member, or finds it running and leaves it as it is. Writes the configuration first, because a
/// copied directory holds its source's port. A standby gets at least what the WAL demands. The server gets its own session and survives the caller.
///
/// Waits until it takes connections, as a standby too, at most `timeout`. Recovery may take longer than
/// anybody wants to wait, so a server that still starts then is not an error: the answer's
/// state says so. `log` is appended to; its directory must exist.
///
/// # Errors
/// When the server ended again, with the last lines of its log, or processes of a dead one still hold the directory.
pub async fn start(
    tools: &Tools,
    data_directory: &Path,
    config: &InstanceConfig,
    log: &Path,
    timeout: Duration,
) -> Result<Postmaster, PostgresError> {
    if let Some(postmaster) = running(data_directory)? {
        return Ok(postmaster);
    }
    let settings = &config.settings;
    let endpoint = Endpoint { socket_directory: settings.socket_directory.clone(), port: settings.port };
    check_vacant(data_directory, &endpoint)?;
    configure(data_directory, config)?;
    let raised = raised_settings(tools, data_directory).await?;
    // A configuration that came from another member may name that one's directory, which counts more than -D.
    let options = format!("-c data_directory={} {raised}", shell_quoted(&data_directory.to_string_lossy()));
    launch(tools, data_directory, options, log, timeout, None).await
}

/// The options of `postgres` that raise what is too small in a standby's configuration to what the WAL demands. Without
/// them it would not start, or stop its replay.
async fn raised_settings(tools: &Tools, data_directory: &Path) -> Result<String, PostgresError> {
    let DataDirectory::Valid { control, recovers: true, .. } = inspect(tools, data_directory).await? else {
        return Ok(String::new());
    };
    // A program tells of one setting only, and its start is all that it costs.
    let shown = |(name, _)| {
        let mut command = tools.command("postgres");
        command.arg("-D").arg(data_directory).args(["-C", name]);
        run(command, SETTING_TIMEOUT)
    };
    let [a, b, c, d, e] = control.required.numbers().map(shown);
    let shown: [_; 5] = tokio::join!(a, b, c, d, e).into();
    let raised = control.required.numbers().into_iter().zip(shown).filter_map(|((name, needed), shown)| {
        // A configuration that cannot be read fails the start, which says why.
        let value: u32 = shown.ok()?.stdout.trim().parse().ok()?;
        (value < needed).then(|| {
            tracing::info!(name, needed, "the WAL demands a greater value than the configuration has");
            format!("-c {name}={needed}")
        })
    });
    Ok(raised.collect::<Vec<_>>().join(" "))
}

/// Starts a private instance on a data directory, with nothing of that directory's own configuration.
/// [`restore_auto_conf`](crate::restore_auto_conf) makes the directory a member's again.
///
/// # Errors
/// As [`start`].
pub async fn start_private(
    tools: &Tools,
    data_directory: &Path,
    settings: &PrivateSettings,
    log: &Path,
    timeout: Duration,
) -> Result<Postmaster, PostgresError> {
    if let Some(postmaster) = running(data_directory)? {
        return Ok(postmaster);
    }
    let endpoint = Endpoint { socket_directory: settings.directory.clone(), port: settings.port };
    check_vacant(data_directory, &endpoint)?;
    let files = settings.files()?;
    for (name, content) in &files {
        replace_file(&settings.directory.join(name), content)?;
    }
    set_aside(data_directory)?;
    let main = settings.directory.join(files[0].0);
    // pg_ctl hands the options to a shell.
    let options = format!("-c config_file={}", shell_quoted(&main.to_string_lossy()));
    // pg_ctl opens the log by its name.
    let log_file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(log);
    drop(log_file.map_err(PostgresError::io("write", log))?);
    let own = [data_directory, &settings.directory, log, Path::new("/dev/null")].map(Path::to_path_buf);
    let writable = settings.may_write.as_ref().map(|others| [&own[..], others].concat());
    launch(tools, data_directory, options, log, timeout, writable.as_deref()).await
}

/// A word in the single quotes of a shell.
fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Refuses when processes of a dead server hold the directory; removes lock files of another one.
fn check_vacant(data_directory: &Path, endpoint: &Endpoint) -> Result<(), PostgresError> {
    let left_over = processes(data_directory)?;
    if !left_over.is_empty() {
        let pids = left_over.iter().map(|process| process.pid).collect();
        return Err(PostgresError::Orphans { path: data_directory.to_path_buf(), pids });
    }
    remove_foreign_lock_files(data_directory, endpoint)
}

async fn launch(
    tools: &Tools,
    data_directory: &Path,
    options: String,
    log: &Path,
    timeout: Duration,
    writable: Option<&[PathBuf]>,
) -> Result<Postmaster, PostgresError> {
    let before = fs::metadata(log).map_or(0, |found| found.len());
    let mut command = tools.for_data(data_directory).command("pg_ctl");
    // pg_ctl starts the server with setsid(), and with its output in the log rather than in our pipe.
    command.args(["start", "-w", "-s", "-t", &seconds(timeout), "-D"]).arg(data_directory).arg("-l").arg(log);
    if !options.is_empty() {
        command.arg("-o").arg(options);
    }
    let result = match writable {
        Some(writable) => run_confined(command, timeout + TIMEOUT_MARGIN, writable).await,
        None => run(command, timeout + TIMEOUT_MARGIN).await,
    };
    match (running(data_directory)?, result) {
        (Some(postmaster), _) => Ok(postmaster),
        (None, Ok(_)) => Err(PostgresError::NotRunning(data_directory.display().to_string())),
        (None, Err(PostgresError::CommandFailed { program, status, output, stdout })) => {
            let logged = last_lines_of(log, before, MAX_QUOTED_LINES).unwrap_or_default();
            let output = last_lines(&format!("{logged}\n{output}"), MAX_QUOTED_LINES);
            Err(PostgresError::CommandFailed { program, status, output, stdout })
        }
        (None, Err(error)) => Err(error),
    }
}

/// Makes the server read its configuration and certificates again.
///
/// # Errors
/// [`PostgresError::NotRunning`], or when the process may not be signaled.
pub fn reload(data_directory: &Path) -> Result<(), PostgresError> {
    let not_running = || PostgresError::NotRunning(data_directory.display().to_string());
    let (process, _) = find(data_directory)?.ok_or_else(not_running)?;
    if signal(&process, Signal::SIGHUP)? { Ok(()) } else { Err(not_running()) }
}

/// Makes a standby a primary and waits until it is one.
///
/// # Errors
/// When it does not run, is no standby, or takes longer than `timeout`; then it may still become one.
pub async fn promote(tools: &Tools, data_directory: &Path, timeout: Duration) -> Result<(), PostgresError> {
    if running(data_directory)?.is_none() {
        return Err(PostgresError::NotRunning(data_directory.display().to_string()));
    }
    let mut command = tools.for_data(data_directory).command("pg_ctl");
    command.args(["promote", "-w", "-s", "-t", &seconds(timeout), "-D"]).arg(data_directory);
    run(command, timeout + TIMEOUT_MARGIN).await.map(|_| ())
}
