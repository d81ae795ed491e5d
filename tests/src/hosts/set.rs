//! The hosts of a test, their names and addresses, and commands on them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::hosts::network;
use crate::hosts::slot::Slot;
use crate::machine::run::{Finished, OsUser, bin_dir, postgres_user, run};
use crate::machine::{logs, place, sweep};

/// Where a person sits: a host like the others, with this name.
const OPERATOR: &str = "operator";

/// The namespace of the bridge that joins the hosts; no host has this name.
const BRIDGE: &str = "bridge";

/// The last byte of the operator's address; those of the others count from one.
const OPERATORS_NUMBER: u8 = 254;

/// What gives the programs into which it is loaded another wall clock.
const OTHER_CLOCK: &str = include_str!("other_clock.c");

/// How many directories below a host's own logs are shown from.
const LOG_DEPTH: u32 = 4;

#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    address: Ipv4Addr,
}

/// Some hosts, `db1` and so on, and an `operator`. They know each other by the names `db1.test`, `db2.test`,
/// `operator.test`, and nobody else; ports of one are not those of another. When the value goes, so does all that is on them.
#[derive(Debug)]
pub struct Hosts {
    hosts: Vec<Host>,
    directory: PathBuf,
    owned: Option<(String, PathBuf)>,
    /// By how many seconds the clocks of hosts are ahead of this machine's.
    clocks: BTreeMap<String, i64>,
    started: Mutex<Vec<Child>>,
    slot: Slot,
}

impl Hosts {
    /// Hosts `db1` to `db<count>` and the operator's; none, which is said, when this is not root.
    ///
    /// # Panics
    /// When they cannot be made: the message names the Debian package that is missing, or what the kernel lacks.
    #[must_use]
    #[track_caller]
    pub fn new(count: u8) -> Option<Self> {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("NOT RUN: a test with hosts of its own takes root");
            return None;
        }
        network::check_programs();
        sweep::sweep();
        let slot = Slot::take();
        let database_host = |n| Host { name: format!("db{n}"), address: slot.address(n) };
        let mut hosts: Vec<Host> = (1..=count).map(database_host).collect();
        hosts.push(Host { name: OPERATOR.to_owned(), address: slot.address(OPERATORS_NUMBER) });
        let set = Self {
            hosts,
            directory: place::next(),
            owned: None,
            clocks: BTreeMap::new(),
            started: Mutex::default(),
            slot,
        };
        set.make();
        Some(set)
    }

    #[track_caller]
    fn make(&self) {
        let lines = self.hosts.iter().map(|Host { name, address }| format!("{address} {name}.test {name}\n"));
        let file = format!("127.0.0.1 localhost\n::1 localhost\n{}", lines.collect::<String>());
        let owner = postgres_user();
        for Host { name, .. } in &self.hosts {
            network::add_namespace(&self.slot.namespace(name), &file);
            let directory = self.directory.join(name);
            let made = std::fs::create_dir_all(&directory)
                .and_then(|()| std::os::unix::fs::chown(&directory, Some(owner.uid), Some(owner.gid)));
            if let Err(error) = made {
                panic!("{} cannot be made: {error}", directory.display());
            }
        }
        let bridge = self.bridge();
        network::add_namespace(&bridge, &file);
        let links = self.hosts.iter().map(|host| (host.name.clone(), self.slot.namespace(&host.name)));
        network::join(&bridge, &links.collect::<Vec<_>>());
        for Host { name, address } in &self.hosts {
            network::set_address(&self.slot.namespace(name), *address);
        }
    }

    #[track_caller]
    pub(super) fn host(&self, name: &str) -> &Host {
        let names = || self.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", ");
        match self.hosts.iter().find(|host| host.name == name) {
            Some(host) => host,
            None => panic!("there is no host {name}; there are {}", names()),
        }
    }

    pub(super) fn bridge(&self) -> String {
        self.slot.namespace(BRIDGE)
    }

    /// All hosts by their short names, the operator's last.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|host| host.name.as_str())
    }

    /// A host's address.
    #[must_use]
    #[track_caller]
    pub fn address(&self, host: &str) -> Ipv4Addr {
        self.host(host).address
    }

    /// The directory of what is on a host; it belongs to the user `postgres`. Commands start in it.
    #[must_use]
    #[track_caller]
    pub fn directory(&self, host: &str) -> PathBuf {
        self.directory.join(&self.host(host).name)
    }

    /// The network namespace that is a host, as `ip netns` knows it.
    #[must_use]
    #[track_caller]
    pub fn namespace(&self, host: &str) -> String {
        self.slot.namespace(&self.host(host).name)
    }

    /// Makes a directory one host's own, before anything runs: what runs on the others finds an empty one there, which nobody
    /// may enter.
    ///
    /// # Panics
    /// When there is no such host.
    #[track_caller]
    pub fn keep_to(&mut self, host: &str, directory: PathBuf) {
        self.owned = Some((self.host(host).name.clone(), directory));
    }

    /// Puts a host's wall clock ahead of this machine's, or back, before anything runs there. Times that do not jump are as
    /// they were, and etcd, which goes to the kernel by itself, keeps this machine's clock.
    ///
    /// # Panics
    /// When there is no such host, or its programs do not see the other time.
    #[track_caller]
    pub fn set_clock(&mut self, host: &str, ahead_seconds: i64) {
        let (source, library) = (self.directory.join("other_clock.c"), self.directory.join("other_clock.so"));
        if let Err(error) = std::fs::write(&source, OTHER_CLOCK) {
            panic!("{}: {error}", source.display());
        }
        let mut compiler = Command::new("cc");
        let _ = run(compiler.args(["-shared", "-fPIC", "-O1", "-o"]).args([library, source])).ok();
        self.clocks.insert(self.host(host).name.clone(), ahead_seconds);
        let here = cellar_system::clock::now().as_second();
        let there = self.run(host, &["date", "+%s"]).ok();
        let difference = there.trim().parse::<i64>().map_or(0, |there| there - here);
        assert!(
            (difference - ahead_seconds).abs() < 30,
            "the clock of {host} is {difference} s ahead instead of {ahead_seconds} s"
        );
    }

    /// A program on a host, run by root. One without a path is looked for among those of this build first.
    #[must_use]
    #[track_caller]
    pub fn command(&self, host: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host)]);
        if let Some((_, directory)) = self.owned.as_ref().filter(|(owner, _)| owner != host) {
            // `ip netns exec` has given it mounts of its own.
            let script = "mount -t tmpfs -o size=4k,mode=000 none \"$0\" && exec \"$@\"";
            command.args(["sh", "-c", script]).arg(directory);
        }
        if let Some(seconds) = self.clocks.get(host) {
            let library = self.directory.join("other_clock.so").display().to_string();
            command.args(["env", &format!("LD_PRELOAD={library}"), &format!("CELLAR_TEST_CLOCK={seconds}")]);
        }
        command.arg(program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = std::iter::once(bin_dir()).chain(std::env::split_paths(&path));
        match std::env::join_paths(places) {
            Ok(path) => command.env("PATH", path),
            Err(error) => panic!("no program can be looked for: {error}"),
        };
        command.current_dir(self.directory(host)).env_remove("CELLAR_DIR").env_remove("CELLAR_ADMIN");
        command
    }

    /// The same, run by another user.
    #[must_use]
    #[track_caller]
    pub fn command_as(&self, host: &str, user: &OsUser, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command(host, "setpriv");
        command.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)]);
        command.args(["--init-groups", "--"]).arg(program);
        command
    }

    /// Runs a command on a host to its end, as root.
    ///
    /// # Panics
    /// When it has no words.
    #[must_use]
    #[track_caller]
    pub fn run(&self, host: &str, words: &[&str]) -> Finished {
        let Some((program, arguments)) = words.split_first() else { panic!("no command") };
        run(self.command(host, program).args(arguments))
    }

    /// Starts a command of [`Hosts::command`], which runs until its host or the test ends, and gives its process. What it
    /// prints goes to this file of its host's directory.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(&self, command: &mut Command, log: &str) -> i32 {
        let log = command.get_current_dir().unwrap_or(Path::new("/tmp")).join(log);
        let files = File::create(&log).and_then(|file| Ok((file.try_clone()?, file)));
        let spawned =
            files.and_then(|(out, err)| command.stdin(Stdio::null()).stdout(out).stderr(err).spawn());
        match spawned {
            Ok(child) => {
                let pid = child.id().cast_signed();
                self.started.lock().unwrap_or_else(PoisonError::into_inner).push(child);
                pid
            }
            Err(error) => panic!("not started with the log {}: {error}", log.display()),
        }
    }

    /// Runs this on a thread whose sockets are a host's. Names are still those of this machine: use [`Hosts::address`].
    ///
    /// # Panics
    /// When `work` does.
    #[track_caller]
    pub fn within<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let file = network::file_of(&self.namespace(host));
        let enter = || {
            let entered = File::open(&file).map(|namespace| setns(namespace, CloneFlags::CLONE_NEWNET));
            assert!(matches!(entered, Ok(Ok(()))), "{} cannot be entered: {entered:?}", file.display());
            work()
        };
        match std::thread::scope(|scope| scope.spawn(enter).join()) {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Hosts {
    /// Runs this on a thread that is on a host: its sockets are the host's, and so are the names that it knows.
    ///
    /// # Panics
    /// When `work` does.
    #[track_caller]
    pub fn inside<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let names = network::hosts_file_of(&self.namespace(host));
        self.within(host, || {
            // As `ip netns exec` does: what is mounted from here on is this thread's only.
            let nothing: Option<&str> = None;
            let mounted = unshare(CloneFlags::CLONE_NEWNS)
                .and_then(|()| mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing))
                .and_then(|()| mount(Some(&names), "/etc/hosts", nothing, MsFlags::MS_BIND, nothing));
            assert!(mounted.is_ok(), "{} cannot be mounted: {mounted:?}", names.display());
            work()
        })
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            logs::show_ends(&logs::below(&self.directory, LOG_DEPTH));
        }
        self.slot.clear();
        for child in self.started.get_mut().unwrap_or_else(PoisonError::into_inner) {
            // It is gone with its host, unless it has left it.
            let _ = child.kill();
            let _ = child.wait();
        }
        sweep::destroy(&self.directory);
    }
}
