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
use crate::control_data::{ControlData, ControlState};
use crate::data_directory::{DataDirectory, inspect};
use crate::error::PostgresError;
use crate::plain_settings::PlainSettings;
use crate::postmaster::{Postmaster, PostmasterState, find, lock_file, processes, running, signal};
use crate::private_settings::PrivateSettings;
use crate::required_settings::RequiredSettings;
use crate::session::Endpoint;
use crate::slots_on_disk::raised_for_slots;
use crate::tools::Tools;

/// How much longer pg_ctl may take than the time it was told to wait.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(5);

/// How long `postgres` may take to show one of its settings; it reads the configuration and ends.
const SETTING_TIMEOUT: Duration = Duration::from_secs(10);

/// How often to look whether a server that starts takes connections.
const READINESS_INTERVAL: Duration = Duration::from_millis(10);

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
    let for_slots = raised_for_slots(tools, data_directory).await.join(" ");
    // A configuration that came from another member may name that one's directory, which counts more than -D, and one of
    // an operator's may name other files that say who may connect. How far a replay has come is read from the titles of
    // PostgreSQL's processes.
    let path = |path: &Path| shell_quoted(&path.to_string_lossy());
    let options = format!(
        "-c data_directory={} -c hba_file={} -c ident_file={} -c update_process_title=on {raised} {for_slots}",
        path(data_directory),
        path(&data_directory.join("pg_hba.conf")),
        path(&data_directory.join("pg_ident.conf")),
    );
    launch(tools, data_directory, options, log, timeout, None).await
}

/// The options of `postgres` that raise what is too small in the configuration to what the data demands. Without them a
/// standby would not start, or stop its replay; and a primary with prepared transactions, whose setting was given to it on
/// the command line or is that of a backup from before, would not start either.
async fn raised_settings(tools: &Tools, data_directory: &Path) -> Result<String, PostgresError> {
    let DataDirectory::Valid { control, recovers, .. } = inspect(tools, data_directory).await? else {
        return Ok(String::new());
    };
    let demanded = if recovers {
        control.required
    } else if may_have_prepared_transactions(data_directory, &control)? {
        // With the others a primary replays whatever they are (`CheckRequiredParameterValues` in its `xlogrecovery.c`).
        let max_prepared_transactions = control.required.max_prepared_transactions;
        RequiredSettings { max_prepared_transactions, ..RequiredSettings::default() }
    } else {
        return Ok(String::new());
    };
    let demanded = demanded.numbers();
    let plain = PlainSettings::of(data_directory);
    let suffices = |name: &str, needed: u32| {
        plain.as_ref().and_then(|plain| plain.number(name)).is_some_and(|value| value >= needed)
    };
    // A program tells of one setting only, and each start of it costs a processor 10 ms: it is asked only in doubt.
    let shown = async |(name, needed)| {
        if needed == 0 || suffices(name, needed) {
            return None;
        }
        let mut command = tools.command("postgres");
        command.arg("-D").arg(data_directory).args(["-C", name]);
        // A configuration that cannot be read fails the start, which says why.
        run(command, SETTING_TIMEOUT).await.ok()?.stdout.trim().parse().ok()
    };
    let [a, b, c, d, e] = demanded.map(shown);
    let shown: [Option<u32>; 5] = tokio::join!(a, b, c, d, e).into();
    let numbers = demanded.into_iter().zip(shown);
    let raised = numbers.filter_map(|((name, needed), shown)| {
        shown.filter(|value| *value < needed)?;
        tracing::info!(name, needed, "the WAL demands a greater value than the configuration has");
        Some(format!("-c {name}={needed}"))
    });
    Ok(raised.collect::<Vec<_>>().join(" "))
}

/// Whether a start of a primary may find prepared transactions: on disk, or in WAL that it replays after a crash.
fn may_have_prepared_transactions(data: &Path, control: &ControlData) -> Result<bool, PostgresError> {
    if control.state != ControlState::ShutDown {
        return Ok(true);
    }
    let directory = data.join("pg_twophase");
    let mut files = fs::read_dir(&directory).map_err(PostgresError::io("read", &directory))?;
    Ok(files.next().is_some())
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
    let started = async {
        match writable {
            Some(writable) => run_confined(command, timeout + TIMEOUT_MARGIN, writable).await.map(drop),
            None => run(command, timeout + TIMEOUT_MARGIN).await.map(drop),
        }
    };
    // pg_ctl looks ten times a second, and all that it still does then is to end: it is not waited for. The server has a
    // session of its own.
    let result = tokio::select! {
        biased;
        result = started => result,
        () = accepts_connections(data_directory) => Ok(()),
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

/// Waits until the server of a data directory takes connections. Without one it does not return.
async fn accepts_connections(data_directory: &Path) {
    let accepts =
        |state: PostmasterState| matches!(state, PostmasterState::Ready | PostmasterState::WarmStandby);
    while !matches!(running(data_directory), Ok(Some(postmaster)) if accepts(postmaster.state)) {
        tokio::time::sleep(READINESS_INTERVAL).await;
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
    let is_standby = !is_in_production(tools, data_directory).await;
    let promoted = run(command, timeout + TIMEOUT_MARGIN);
    // pg_ctl looks ten times a second, and nobody can write meanwhile. By then all that it still does is to look.
    tokio::select! {
        biased;
        result = promoted => result.map(drop),
        () = until_in_production(tools, data_directory), if is_standby => Ok(()),
    }
}

/// Whether the control file says that a primary runs, or ran.
async fn is_in_production(tools: &Tools, data_directory: &Path) -> bool {
    let found = inspect(tools, data_directory).await;
    matches!(found, Ok(DataDirectory::Valid { control, .. }) if control.state == ControlState::InProduction)
}

/// Returns once it does.
async fn until_in_production(tools: &Tools, data_directory: &Path) {
    while !is_in_production(tools, data_directory).await {
        tokio::time::sleep(READINESS_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    /// A standby's data directory, and programs that do what they are told.
    struct Scene {
        place: tempfile::TempDir,
        tools: Tools,
    }

    impl Scene {
        /// `programs` are scripts; `$here` is the scene's directory.
        fn new(programs: &[(&str, &str)]) -> Self {
            let place = tempfile::tempdir().unwrap();
            let (bin, data) = (place.path().join("bin"), place.path().join("data"));
            fs::create_dir_all(&bin).unwrap();
            fs::create_dir_all(data.join("global")).unwrap();
            for (name, content) in [
                ("PG_VERSION", "15\n"),
                ("standby.signal", ""),
                ("postgresql.conf", "max_connections = 200\ninclude_if_exists = 'cellar.conf'\n"),
                ("cellar.conf", "max_wal_senders = '16'\n"),
                ("postgresql.auto.conf", ""),
            ] {
                fs::write(data.join(name), content).unwrap();
            }
            fs::write(data.join("global/pg_control"), vec![0; 8192]).unwrap();
            let here = place.path().display();
            for name in ["initdb", "pg_ctl", "postgres", "pg_controldata"] {
                let body = programs.iter().find(|(program, _)| *program == name).map_or("", |(_, body)| body);
                let path = bin.join(name);
                fs::write(&path, format!("#!/bin/sh\nhere='{here}'\n{body}\n")).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
            let tools = Tools::find(Some(&bin)).unwrap();
            Self { place, tools }
        }

        fn data(&self) -> PathBuf {
            self.place.path().join("data")
        }
    }

    const CONTROL_DATA: &str = "cat <<END
Database system identifier: 7
Database cluster state: in archive recovery
Latest checkpoint location: 0/6000028
Latest checkpoint's REDO location: 0/6000028
Latest checkpoint's TimeLineID: 1
Bytes per WAL segment: 16777216
Data page checksum version: 1
max_connections setting: 200
max_worker_processes setting: 8
max_wal_senders setting: 16
max_prepared_xacts setting: 0
max_locks_per_xact setting: 64
END";

    const POSTGRES: &str = "if [ \"$1\" = --version ]; then echo 'postgres (PostgreSQL) 15.9'; exit; fi
echo \"$4\" >> \"$here/asked\"; echo 10";

    #[tokio::test]
    async fn postgres_is_asked_for_a_setting_only_where_the_files_leave_a_doubt() {
        let scene = Scene::new(&[("pg_controldata", CONTROL_DATA), ("postgres", POSTGRES)]);
        let (data, asked) = (scene.data(), scene.place.path().join("asked"));
        assert_eq!(raised_settings(&scene.tools, &data).await.unwrap(), "");
        assert!(!asked.exists(), "{:?}", fs::read_to_string(&asked));
        fs::write(data.join("postgresql.auto.conf"), "max_connections = '1e2'\nmax_wal_senders = 12\n")
            .unwrap();
        let raised = raised_settings(&scene.tools, &data).await.unwrap();
        assert_eq!(raised, "-c max_connections=200 -c max_wal_senders=16");
        let asked = fs::read_to_string(&asked).unwrap();
        let mut asked: Vec<&str> = asked.lines().collect();
        asked.sort_unstable();
        assert_eq!(asked, ["max_connections", "max_wal_senders"]);
    }

    /// The server is `sleep` under the name of PostgreSQL's.
    #[tokio::test]
    async fn start_ends_when_the_server_takes_connections_not_when_pg_ctl_has_seen_it() {
        let scene = Scene::new(&[(
            "pg_ctl",
            "cp \"$(command -v sleep)\" \"$here/postgres\"; cd \"$here/data\"
setsid \"$here/postgres\" 600 >/dev/null 2>&1 &
pid=$!
until [ \"$(cat /proc/$pid/comm)\" = postgres ]; do :; done
printf '%s\\n' $pid \"$here/data\" 1 5432 \"$here\" '' '  5 6' ready > postmaster.pid
sleep 600",
        )]);
        let (data, begun) = (scene.data(), Instant::now());
        let log = scene.place.path().join("log");
        let started = launch(&scene.tools, &data, String::new(), &log, Duration::from_secs(60), None).await;
        let postmaster = started.unwrap();
        let took = begun.elapsed();
        let (process, _) = find(&data).unwrap().unwrap();
        assert!(signal(&process, Signal::SIGKILL).unwrap(), "it outlives pg_ctl");
        assert_eq!((postmaster.pid, postmaster.state), (process.pid, PostmasterState::Ready));
        assert!(took < Duration::from_secs(50), "{took:?}");
    }
}
