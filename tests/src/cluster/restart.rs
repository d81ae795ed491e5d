//! Processes of a cluster that are started again in another way: behind a proxy, or with other limits.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::cluster::local::Cluster;
use crate::machine::process::{command_line, is_alive, processes_with, signal};
use crate::machine::proxy::Proxy;
use crate::machine::run::{OsUser, as_user, run};
use crate::machine::service_manager::ServiceManager;
use crate::machine::wait::{eventually, wait_for};

/// An etcd that was ended, as it was started.
#[derive(Debug)]
pub struct StoppedEtcd {
    launch: Launch,
}

/// How a process of the cluster was started.
#[derive(Debug)]
struct Launch {
    words: Vec<String>,
    directory: PathBuf,
    log: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl Launch {
    fn of(pid: i32) -> Self {
        let link = |name: &str| match std::fs::read_link(format!("/proc/{pid}/{name}")) {
            Ok(path) => path,
            Err(error) => panic!("process {pid}: {error}"),
        };
        Self { words: command_line(pid), directory: link("cwd"), log: link("fd/1"), variables: Vec::new() }
    }

    /// Starts it in a session of its own and leaves it to init, as `cellar up` does.
    fn start(&self, user: Option<&OsUser>) {
        let open = || match File::options().append(true).open(&self.log) {
            Ok(log) => log,
            Err(error) => panic!("{}: {error}", self.log.display()),
        };
        let mut command = match user {
            Some(user) => as_user(user, "setsid"),
            None => std::process::Command::new("setsid"),
        };
        command.arg("--fork").args(&self.words).current_dir(&self.directory).process_group(0);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(open()).stderr(open());
        match command.status() {
            Ok(status) if status.success() => {}
            other => panic!("{:?} cannot be started: {other:?}", self.words),
        }
    }
}

/// Sets the value of an option that is given as a word of its own.
fn set_option(words: &mut [String], option: &str, value: &str) {
    let Some(at) = words.iter().position(|word| word == option) else { panic!("no {option} in {words:?}") };
    value.clone_into(&mut words[at + 1]);
}

impl Cluster {
    /// A proxy in front of the cluster's etcd.
    ///
    /// # Panics
    /// When etcd does not run.
    #[must_use]
    pub fn proxy_to_etcd(&self) -> Proxy {
        let url = self.etcd_url();
        Proxy::start(url.trim_start_matches("https://"))
    }

    /// Ends a process and starts it again with other arguments.
    fn restart(&self, pid_file: &str, change: impl FnOnce(&mut Launch)) -> i32 {
        let pid = self.pid(pid_file);
        let mut launch = Launch::of(pid);
        change(&mut launch);
        signal(pid, Signal::SIGTERM);
        eventually("a process that is told to end to be gone", || !is_alive(pid));
        launch.start(None);
        wait_for("a process to be started again", Duration::from_secs(20), || {
            let new = std::fs::read_to_string(self.directory.join(pid_file)).ok()?.trim().parse().ok()?;
            (new != pid && is_alive(new)).then_some(new)
        })
    }

    /// Restarts a program of the cluster as a service manager starts it, with a watchdog: its process id, and where it
    /// reports.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn restart_as_service(&self, pid_file: &str, watchdog: Duration) -> (i32, ServiceManager) {
        let manager = ServiceManager::listen(&self.directory.join(format!("{pid_file}.notify")));
        let pid = self.restart(pid_file, |launch| launch.variables = manager.variables(watchdog));
        (pid, manager)
    }

    /// Restarts the pooler of a cell so that it reaches etcd through the proxy only, and waits until it reports.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn put_pooler_behind(&self, proxy: &Proxy, cell: &str) {
        let before = self.status(cell).map(|status| status.epoch);
        let _ = self.restart(&format!("{cell}/pid/multipooler.pid"), |launch| {
            set_option(&mut launch.words, "--etcd", &format!("https://localhost:{}", proxy.port()));
        });
        eventually("the pooler to report through the proxy", || {
            self.status(cell).is_some_and(|status| Some(status.epoch) != before)
        });
    }

    /// Starts a second multiadmin that reaches etcd through the proxy only; the flags with which `cellar` asks it.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn second_multiadmin(&self, proxy: &Proxy) -> Vec<String> {
        let mut launch = Launch::of(self.pid("pid/multiadmin.pid"));
        let Ok(listener) = std::net::TcpListener::bind("127.0.0.1:0") else { panic!("no port is free") };
        let Ok(address) = listener.local_addr() else { panic!("the listener has no address") };
        drop(listener);
        let file = |name: &str| self.directory.join(name).display().to_string();
        // It listens at every address of the loopback device; one is enough here.
        while launch.words.iter().filter(|word| *word == "--listen").count() > 1 {
            let Some(at) = launch.words.iter().rposition(|word| word == "--listen") else { break };
            launch.words.drain(at..at + 2);
        }
        for (option, value) in [
            ("--etcd", format!("https://localhost:{}", proxy.port())),
            ("--listen", address.to_string()),
            ("--pid-file", file("pid/multiadmin-2.pid")),
            ("--audit-log", file("log/audit-2.log")),
        ] {
            set_option(&mut launch.words, option, &value);
        }
        launch.start(None);
        let endpoint = format!("localhost:{}", address.port());
        let flags = ["--admin".to_owned(), endpoint, "--client-dir".to_owned(), file("client")].to_vec();
        eventually("the second multiadmin to answer", || {
            run(self.command(&["jobs", "list"]).args(&flags)).code == 0
        });
        flags
    }

    /// Restarts etcd with another limit for its database; 0 is etcd's own default. One that is smaller than the database
    /// makes it refuse every write.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn limit_etcd(&self, bytes: u64) {
        let mut etcd = self.stop_etcd(Signal::SIGTERM);
        etcd.launch.words.retain(|word| !word.starts_with("--quota-backend-bytes"));
        etcd.launch.words.push(format!("--quota-backend-bytes={bytes}"));
        self.start_etcd(etcd);
    }

    /// Ends etcd by this signal.
    ///
    /// # Panics
    /// When it does not run, or does not end.
    #[must_use]
    pub fn stop_etcd(&self, by: Signal) -> StoppedEtcd {
        let pid = self.pid("pid/etcd.pid");
        let launch = Launch::of(pid);
        signal(pid, by);
        eventually("etcd to be gone", || !is_alive(pid));
        StoppedEtcd { launch }
    }

    /// Starts etcd again.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_etcd(&self, etcd: StoppedEtcd) {
        let StoppedEtcd { launch } = etcd;
        let Some(data) = launch.words.iter().find(|word| word.starts_with("--data-dir")).cloned() else {
            panic!("no data directory in {:?}", launch.words)
        };
        launch.start(Some(&self.user));
        let new = wait_for("etcd to be started again", Duration::from_secs(20), || {
            processes_with("etcd", &data).first().copied()
        });
        if let Err(error) = std::fs::write(self.directory.join("pid/etcd.pid"), format!("{new}\n")) {
            panic!("pid/etcd.pid: {error}");
        }
    }

    /// Ends the alarm that etcd raised because its database was full.
    #[track_caller]
    pub fn disarm_etcd(&self) {
        let told = wait_for("etcd to answer", Duration::from_secs(20), || {
            let finished = self.etcdctl(&["alarm", "disarm"]);
            (finished.code == 0).then_some(finished.stdout)
        });
        assert!(told.contains("NOSPACE"), "there was no alarm: {told}");
    }
}
