//! What is left of hosts: nothing, also after a test that was killed.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cellar_tests::{Hosts, eventually, is_alive, kill_hard, wait_for};

/// Set in the process that is killed.
const IS_KILLED: &str = "CELLAR_TEST_HOSTS_LEFT";

/// What a file is, for one whose name another test may use as soon as it is gone: its inode, and since when it is so.
type Identity = (u64, i64, i64);

fn identity(file: &Path) -> Option<Identity> {
    let found = file.metadata().ok()?;
    Some((found.ino(), found.ctime(), found.ctime_nsec()))
}

/// All that belongs to the hosts of one test.
struct Traces {
    /// Namespaces and their files.
    numbered: Vec<(PathBuf, Identity)>,
    /// Directories of hosts, which no other test uses.
    directories: Vec<PathBuf>,
    processes: Vec<i32>,
}

impl Traces {
    /// With a process that notices no signal but SIGKILL and has left the host's directory, and its child.
    fn of(hosts: &Hosts) -> Self {
        let stubborn = "cd /; trap '' HUP INT TERM; while :; do sleep 1000; done";
        let mut command = hosts.command("db1", "sh");
        hosts.start(command.args(["-c", stubborn]), "stubborn.log");
        let both = || Some(hosts.processes("db1")).filter(|found| found.len() == 2);
        let processes = wait_for("a process and its child", Duration::from_secs(20), both);
        let namespace = hosts.namespace("db1");
        let directories = hosts.names().map(|host| hosts.directory(host)).collect();
        let names: Vec<&str> = hosts.names().chain(["bridge"]).collect();
        Self::new(&namespace, &names, directories, processes)
    }

    fn new(namespace_of_db1: &str, names: &[&str], directories: Vec<PathBuf>, processes: Vec<i32>) -> Self {
        let prefix = namespace_of_db1.strip_suffix("db1").unwrap();
        let files = ["/run/netns", "/etc/netns"]
            .into_iter()
            .flat_map(|place| names.iter().map(move |name| Path::new(place).join(format!("{prefix}{name}"))));
        let numbered = files.map(|file| {
            let identity = identity(&file).unwrap_or_else(|| panic!("no {}", file.display()));
            (file, identity)
        });
        Self { numbered: numbered.collect(), directories, processes }
    }

    fn left(&self) -> Vec<&PathBuf> {
        let numbered = self.numbered.iter().filter(|(file, was)| identity(file).as_ref() == Some(was));
        numbered.map(|(file, _)| file).chain(self.directories.iter().filter(|file| file.exists())).collect()
    }

    #[track_caller]
    fn assert_there(&self) {
        assert_eq!(self.left().len(), self.numbered.len() + self.directories.len(), "{:?}", self.left());
        assert!(self.processes.iter().all(|pid| is_alive(*pid)));
    }

    fn are_gone(&self) -> bool {
        self.left().is_empty() && !self.processes.iter().any(|pid| is_alive(*pid))
    }

    #[track_caller]
    fn assert_gone(&self) {
        assert!(self.are_gone(), "{:?} and of {:?}", self.left(), self.processes);
    }
}

/// The network interfaces of this machine.
fn links() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/sys/class/net").unwrap().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[test]
fn nothing_is_left_of_hosts_and_this_machine_has_no_new_link() {
    let before = links();
    let Some(hosts) = Hosts::new(2) else { return };
    let traces = Traces::of(&hosts);
    traces.assert_there();
    assert_eq!(links(), before);
    drop(hosts);
    traces.assert_gone();
    assert_eq!(links(), before);
}

#[test]
fn nothing_is_left_after_a_test_that_failed() {
    let Some(hosts) = Hosts::new(1) else { return };
    let traces = Traces::of(&hosts);
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _hosts = hosts;
        panic!("a test that fails");
    }));
    assert!(failed.is_err());
    traces.assert_gone();
}

#[test]
fn the_next_test_removes_what_a_killed_one_has_left_and_nothing_of_a_living_one() {
    if std::env::var_os(IS_KILLED).is_some() {
        let hosts = Hosts::new(1).unwrap();
        let traces = Traces::of(&hosts);
        let processes = traces.processes.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
        println!("left {processes} {} {}", hosts.namespace("db1"), hosts.directory("db1").display());
        // Until it is killed; at the latest when the other test ends.
        let _ = std::io::stdin().read(&mut [0]);
        return;
    }
    let Some(living) = Hosts::new(1) else { return };
    let others = Traces::of(&living);
    let test = "left::the_next_test_removes_what_a_killed_one_has_left_and_nothing_of_a_living_one";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(IS_KILLED, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find_map(|line| line.split_once("left ").map(|(_, rest)| rest.to_owned())).unwrap();
    let [processes, namespace, directory] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let names = ["db1", "operator", "bridge"];
    let processes = processes.split(',').map(|pid| pid.parse().unwrap()).collect();
    let traces = Traces::new(namespace, &names, vec![PathBuf::from(directory)], processes);
    traces.assert_there();
    kill_hard(child.id().cast_signed());
    let _ = child.wait();

    let _next = Hosts::new(1).unwrap();
    // Another test of this process may have begun to do it first.
    eventually("the hosts of the killed test to be gone", || traces.are_gone());
    others.assert_there();
}
