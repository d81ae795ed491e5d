//! All processes of a host at once.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use cellar_tests::{Hosts, eventually, is_alive};

const DEADLINE: Duration = Duration::from_secs(20);

/// What an answer takes at most is far less.
const NO_ANSWER_AFTER: Duration = Duration::from_millis(300);

/// A process, of a process of a host, that answers each line with it.
struct Echo {
    process: Child,
    answers: Receiver<String>,
}

impl Echo {
    fn on(hosts: &Hosts, host: &str) -> Self {
        let mut command = hosts.command(host, "sh");
        command.args(["-c", "sh -c 'while read -r line; do echo \"$line\"; done'; true"]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line).ok())
        });
        Self { process, answers }
    }

    fn ask(&mut self, line: &str) {
        self.process.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

#[test]
fn a_frozen_host_does_nothing_until_it_thaws_and_a_killed_one_has_nothing() {
    let Some(hosts) = Hosts::new(2) else { return };
    assert_eq!(hosts.processes("db1"), [0; 0]);
    let (mut one, mut other) = (Echo::on(&hosts, "db1"), Echo::on(&hosts, "db2"));
    for echo in [&mut one, &mut other] {
        echo.ask("first");
        assert_eq!(echo.answers.recv_timeout(DEADLINE).as_deref(), Ok("first"));
    }
    assert_eq!(hosts.processes("db1").len(), 2);

    hosts.freeze("db1");
    one.ask("frozen");
    other.ask("not frozen");
    assert_eq!(other.answers.recv_timeout(DEADLINE).as_deref(), Ok("not frozen"));
    assert_eq!(one.answers.recv_timeout(NO_ANSWER_AFTER), Err(RecvTimeoutError::Timeout));
    hosts.thaw("db1");
    assert_eq!(one.answers.recv_timeout(DEADLINE).as_deref(), Ok("frozen"));

    // A frozen one can be killed too.
    hosts.freeze("db1");
    hosts.kill_all("db1");
    assert_eq!(one.answers.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected));
    assert!(!one.process.wait().unwrap().success());
    other.ask("alive");
    assert_eq!(other.answers.recv_timeout(DEADLINE).as_deref(), Ok("alive"));
    hosts.kill_all("db2");
    assert!(!other.process.wait().unwrap().success());
}

#[test]
fn what_a_host_starts_writes_to_its_log_and_ends_with_it() {
    let Some(hosts) = Hosts::new(1) else { return };
    let script = "echo out; echo err >&2; exec sleep 1000";
    let pid = hosts.start(hosts.command("db1", "sh").args(["-c", script]), "sh.log");
    let log = hosts.directory("db1").join("sh.log");
    eventually("the log", || std::fs::read_to_string(&log).unwrap() == "out\nerr\n");
    assert_eq!(hosts.processes("db1"), [pid]);
    drop(hosts);
    assert!(!is_alive(pid));
}
