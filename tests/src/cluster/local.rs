//! A cluster's directory, the `cellar` command in it, and its end.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cellar_model::CellName;
use serde_json::Value;

use crate::cluster::connection::Connection;
use crate::machine::logs::show_ends;
use crate::machine::namespace::Namespace;
use crate::machine::place;
use crate::machine::process::is_alive;
use crate::machine::run::{Finished, OsUser, as_user, binary, postgres_user, run};
use crate::machine::sweep::{destroy, kill_all, kill_hard, sweep_once};
use crate::machine::wait::wait_for;

/// A cluster that is taken down when the value goes.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) directory: PathBuf,
    pub(crate) user: OsUser,
    cellar: PathBuf,
    caller: Option<OsUser>,
    prefix: Vec<String>,
    has_own_network: bool,
    pub(crate) connection: Connection,
    ports: Mutex<Option<UnixListener>>,
}

impl Cluster {
    /// A directory for a cluster; nothing runs yet.
    #[must_use]
    pub fn new() -> Self {
        sweep_once();
        Self {
            directory: place::next(),
            user: postgres_user(),
            cellar: binary("cellar"),
            caller: None,
            prefix: Vec::new(),
            has_own_network: false,
            connection: Connection::default(),
            ports: Mutex::default(),
        }
    }

    /// The same, with the programs of another build.
    #[must_use]
    pub fn with_cellar(mut self, cellar: PathBuf) -> Self {
        self.cellar = cellar;
        self
    }

    /// The same, with everything run by another user than this process's.
    #[must_use]
    pub fn as_ordinary(mut self, user: OsUser, cellar: PathBuf) -> Self {
        self.user = user.clone();
        self.caller = Some(user);
        self.cellar = cellar;
        self
    }

    /// The same, with every command in other namespaces, and so everything that they start.
    #[must_use]
    pub fn inside(mut self, namespace: &Namespace) -> Self {
        self.prefix = namespace.prefix();
        self.has_own_network = namespace.has_own_network();
        self
    }

    /// A running cluster with the given cells, made by `cellar up` from nothing.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn bootstrapped(cells: &str) -> Self {
        let cluster = Self::new();
        let _ = cluster.try_up(cells).ok();
        cluster
    }

    /// `cellar up`.
    #[must_use]
    #[track_caller]
    pub fn try_up(&self, cells: &str) -> Finished {
        self.try_cellar(&["up", "--cells", cells, "--port-offset", "auto"])
    }

    /// The cluster's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `cellar ARGS --dir DIR`, ready to be started.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        // A test may have brought the cluster up by a command of its own, and may take it down with this one.
        let _ = self.try_to_keep_ports();
        let mut command = match (&self.caller, self.prefix.split_first()) {
            (Some(user), _) => as_user(user, &self.cellar),
            (None, Some((program, words))) => {
                let mut command = Command::new(program);
                command.args(words).arg(&self.cellar);
                command
            }
            (None, None) => Command::new(&self.cellar),
        };
        command.args(arguments).env("CELLAR_DIR", &self.directory).env_remove("CELLAR_ADMIN");
        command
    }

    /// Runs `cellar` in this cluster.
    #[must_use]
    #[track_caller]
    pub fn try_cellar(&self, arguments: &[&str]) -> Finished {
        let finished = run(&mut self.command(arguments));
        match arguments.first() {
            Some(&"up") => self.keep_ports(),
            Some(&"down") if arguments.contains(&"--destroy") => self.give_up_ports(),
            _ => {}
        }
        finished
    }

    /// Lets other clusters have this one's ports.
    pub(crate) fn give_up_ports(&self) {
        drop(self.ports.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Keeps the cluster's ports from other clusters that look for some, also while a test has ended the processes that
    /// use them: `--port-offset auto` passes over an offset whose abstract socket is taken.
    fn keep_ports(&self) {
        wait_for("nobody to look whether these ports are free", Duration::from_secs(20), || {
            self.try_to_keep_ports().then_some(())
        });
    }

    /// Whether they are kept, or there are none to keep. A `cellar up` that is running may hold them itself.
    fn try_to_keep_ports(&self) -> bool {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let state = std::fs::read_to_string(self.directory.join("state/cluster.json")).unwrap_or_default();
        let state: Value = serde_json::from_str(&state).unwrap_or_default();
        if ports.is_some() || state["portOffset"].is_null() || self.has_own_network {
            return true;
        }
        let Ok(address) =
            SocketAddr::from_abstract_name(format!("cellar-port-offset-{}", state["portOffset"]))
        else {
            return true;
        };
        match UnixListener::bind_addr(&address) {
            Ok(socket) => {
                *ports = Some(socket);
                true
            }
            Err(error) => error.kind() != std::io::ErrorKind::AddrInUse,
        }
    }

    /// Runs `cellar`, which must succeed.
    #[track_caller]
    pub fn cellar(&self, arguments: &[&str]) -> String {
        self.try_cellar(arguments).ok()
    }

    /// Runs `cellar --output json`, which must succeed and print one document.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.cellar(&[arguments, &["--output", "json"]].concat());
        // A watching command prints one document a line; the last is the latest.
        match text.lines().last().map(serde_json::from_str) {
            Some(Ok(value)) => value,
            _ => match serde_json::from_str(&text) {
                Ok(value) => value,
                Err(error) => panic!("not JSON ({error}): {text}"),
            },
        }
    }

    /// The process that one of the cluster's pid files names. Whoever has just started or ended one of them reads the file
    /// before its successor has written it: a file that names none that lives is read again.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    #[track_caller]
    pub fn pid(&self, file: &str) -> i32 {
        let path = self.directory.join(file);
        wait_for(&format!("the process that {} names", path.display()), Duration::from_secs(60), || {
            let text = std::fs::read_to_string(&path).ok()?;
            let pid = text.lines().next()?.trim().parse().ok()?;
            is_alive(pid).then_some(pid)
        })
    }

    /// The pid of a cell's PostgreSQL.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    #[track_caller]
    pub fn postmaster(&self, cell: &str) -> i32 {
        self.pid(&format!("{cell}/pg_data/postmaster.pid"))
    }

    /// Kills a cell altogether: its pooler, and PostgreSQL with all its processes.
    pub fn kill_cell(&self, cell: &str) {
        let Ok(cell_name) = cell.parse::<CellName>() else { panic!("not a cell: {cell}") };
        kill_hard(self.pid(&format!("{cell_name}/pid/multipooler.pid")));
        kill_hard(self.postmaster(cell));
    }

    /// Kills every process of the cluster.
    pub fn kill_everything(&self) {
        kill_all(&self.directory);
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        destroy(&self.directory);
    }
}

impl Cluster {
    /// The ends of the logs of a test that failed, on its own output.
    fn show_logs(&self) {
        let mut logs = vec![self.directory.join("log/multiadmin.log"), self.directory.join("log/etcd.log")];
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            for name in ["multipooler.log", "postgres.log", "pgbackrest-server.log"] {
                logs.push(entry.path().join("log").join(name));
            }
        }
        show_ends(&logs);
    }
}
