//! A real server in a directory of its own, gone again whatever the test does.

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use cellar_postgres::{
    Endpoint, InstanceConfig, Postmaster, Probe, Settings, Tools, initdb, occupants, start,
};

pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The user that PostgreSQL runs as: it refuses root.
pub(crate) fn user() -> Option<(u32, u32)> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let user = nix::unistd::User::from_name("postgres").unwrap().expect("user postgres: install postgresql");
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

pub(crate) fn tools() -> Tools {
    let tools = Tools::find(None).unwrap_or_else(|error| panic!("{error}"));
    match user() {
        Some((uid, gid)) => tools.run_as(uid, gid),
        None => tools,
    }
}

pub(crate) fn os_user() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
}

fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        // Test binaries run one after the other, their tests side by side.
        let port = 39100 + NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 39200, "no free port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// One cell's directory.
pub(crate) struct Cell {
    pub(crate) root: tempfile::TempDir,
    pub(crate) tools: Tools,
    pub(crate) config: InstanceConfig,
}

impl Cell {
    pub(crate) fn new() -> Self {
        let root = tempfile::Builder::new().prefix("cellar-pg-").tempdir_in("/tmp").unwrap();
        let sockets = root.path().join("s");
        for directory in [root.path(), &sockets] {
            std::fs::create_dir_all(directory).unwrap();
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).unwrap();
            if let Some((uid, gid)) = user() {
                chown(directory, Some(uid), Some(gid)).unwrap();
            }
        }
        let settings = Settings {
            port: free_port(),
            socket_directory: sockets,
            cluster_name: "demo/it's".into(),
            archive_command: "/bin/true".into(),
            shared_buffers_mb: 16,
            max_connections: 20,
            ..Settings::default()
        };
        let config = InstanceConfig {
            settings,
            os_user: os_user(),
            replication_from: vec!["samehost".into()],
            replication_name: "cellar_replication".into(),
        };
        Self { root, tools: tools(), config }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.path().join("pg_data")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.path().join("postgres.log")
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        let Settings { socket_directory, port, .. } = &self.config.settings;
        Endpoint { socket_directory: socket_directory.clone(), port: *port }
    }

    pub(crate) fn probe(&self) -> Probe {
        Probe::new(self.endpoint(), Duration::from_secs(10))
    }

    pub(crate) async fn initdb(&self) {
        initdb(&self.tools, &self.data(), &self.config, TEST_TIMEOUT).await.unwrap();
    }

    pub(crate) async fn start(&self) -> Postmaster {
        start(&self.tools, &self.data(), &self.config, &self.log(), TEST_TIMEOUT).await.unwrap_or_else(
            |error| panic!("{error}\n{}", std::fs::read_to_string(self.log()).unwrap_or_default()),
        )
    }

    pub(crate) async fn running() -> Self {
        let cell = Self::new();
        cell.initdb().await;
        cell.start().await;
        cell
    }

    pub(crate) fn pids(&self) -> Vec<i32> {
        occupants(&self.data()).unwrap()
    }
}

/// Sends a signal to a process of the test's own server.
pub(crate) fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

impl Drop for Cell {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, kill, killpg};
        for directory in [self.data(), self.root.path().join("old_data")] {
            let lock = std::fs::read_to_string(directory.join("postmaster.pid")).unwrap_or_default();
            let lives = |postmaster: i32| occupants(&directory).is_ok_and(|pids| pids.contains(&postmaster));
            let postmaster = lock.lines().next().and_then(|line| line.trim().parse().ok());
            if let Some(postmaster) = postmaster.filter(|pid| lives(*pid)) {
                // An immediate shutdown takes its shared memory along, which a server that is killed leaves for ever.
                for signal in [Signal::SIGCONT, Signal::SIGQUIT] {
                    let _ = kill(nix::unistd::Pid::from_raw(postmaster), signal);
                }
                for _ in 0..250 {
                    if !lives(postmaster) {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            for _ in 0..100 {
                let pids =
                    if directory.exists() { occupants(&directory).unwrap_or_default() } else { Vec::new() };
                if pids.is_empty() {
                    break;
                }
                for pid in pids {
                    let pid = nix::unistd::Pid::from_raw(pid);
                    let _ = killpg(pid, Signal::SIGKILL);
                    let _ = kill(pid, Signal::SIGKILL);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

pub(crate) async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
