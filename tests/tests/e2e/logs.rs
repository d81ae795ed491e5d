//! `cellar logs`, and that no log fills the disk.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use cellar_system::{MAX_LOG_BYTES, old_log};
use cellar_tests::{Cluster, as_user, bin_dir, ordinary_user, postgres_user, run, signal, wait_for};
use nix::sys::signal::Signal;

/// How long to wait for a line, or for a log to be begun again.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A `cellar logs --follow` and what it prints.
struct Follower {
    child: Child,
    lines: Receiver<Vec<u8>>,
}

impl Follower {
    fn begin(cluster: &Cluster, arguments: &[&str]) -> Self {
        Self::of(&mut cluster.command(&[&["logs", "--follow"], arguments].concat()))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("cellar");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits for a line with this text.
    fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + TIMEOUT;
        let mut seen = String::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let line = String::from_utf8(line).expect("UTF-8");
                    if line.contains(text) {
                        return line;
                    }
                    seen += &line;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line with {text:?} in\n{seen}")
                }
            }
        }
    }

    /// Ctrl-C; the exit code.
    fn interrupt(mut self) -> Option<i32> {
        signal(self.child.id().cast_signed(), Signal::SIGINT);
        self.child.wait().expect("it ends").code()
    }
}

fn append(path: &Path, bytes: &[u8]) {
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .expect("the log")
        .write_all(bytes)
        .expect("it");
}

#[test]
fn logs_are_shown_and_followed() {
    let cluster = Cluster::up("zone1,zone2");
    let log = cluster.directory().join("zone1/log/postgres.log");
    cluster.sql("zone1", "SET log_min_messages = 'log'; DO $$ BEGIN RAISE LOG 'mark one'; END $$");
    let cell = cluster.cellar(&["logs", "zone1", "--lines", "200"]);
    for part in ["multipooler ", "postgres ", "mark one", "multipooler starts"] {
        assert!(cell.contains(part), "{part:?} is not in\n{cell}");
    }
    assert!(cell.lines().all(|line| line.contains(" | ")), "{cell}");
    let one = cluster.cellar(&["logs", "zone1", "--of", "postgres", "--lines", "200"]);
    assert!(one.contains("mark one") && !one.contains("postgres | "), "{one}");
    assert!(cluster.cellar(&["logs"]).contains("multiadmin | "));
    assert!(cluster.cellar(&["logs", "--of", "audit"]).contains("\"outcome\""));
    let json = cluster.cellar(&["logs", "zone1", "--of", "postgres", "--lines", "1", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("one document");
    assert_eq!(json["source"], "postgres");
    assert!(cluster.try_cellar(&["logs", "zone9"]).refused(2).contains("zone1, zone2"));
    assert!(cluster.try_cellar(&["logs", "--of", "postgres"]).refused(2).contains("cellar logs CELL --of"));

    let follower = Follower::begin(&cluster, &["zone1", "--lines", "0"]);
    // It may begin only after this: so it is written until it is seen.
    let line = loop {
        append(&log, b"caf\xe9 mark two\n");
        match follower.lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) if line.windows(8).any(|part| part == b"mark two") => break line,
            _ => {}
        }
    };
    assert!(String::from_utf8_lossy(&line).contains("caf\u{fffd} mark two"), "{line:?}");
    // Emptied, replaced, and one that appears.
    fs::write(&log, "").expect("the log");
    append(&log, b"mark three\n");
    follower.wait_for("mark three");
    let log = cluster.directory().join("zone1/log/app-stanza-check.log");
    append(&log, b"mark four\n");
    assert!(follower.wait_for("mark four").starts_with("app-stanza-check"));
    fs::rename(&log, log.with_extension("1")).expect("the log");
    append(&log, b"mark five\n");
    follower.wait_for("mark five");
    assert_eq!(follower.interrupt(), Some(130));

    // One that is not there, and one that may not be read.
    let missing = cluster.directory().join("log/etcd.log");
    fs::rename(&missing, missing.with_extension("away")).expect("the log");
    let said = cluster.try_cellar(&["logs", "--of", "etcd"]).refused(1);
    // As a unit of systemd writes it.
    let place = tempfile::tempdir().expect("a directory");
    let journalctl = place.path().join("journalctl");
    fs::write(
        &journalctl,
        "#!/bin/sh\necho \"mark of $*\"\ncase \"$*\" in *--follow*) exec sleep 600;; esac\n",
    )
    .expect("ours");
    fs::set_permissions(&journalctl, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let path = format!("{}:{}", place.path().display(), std::env::var("PATH").unwrap_or_default());
    let shown = run(cluster.command(&["logs", "--of", "etcd,multiadmin"]).env("PATH", &path)).ok();
    let instance = cluster.directory().file_name().expect("a name").display().to_string();
    let wanted = format!("--unit cellar-etcd@{instance} ");
    assert!(shown.lines().any(|line| line.starts_with("etcd ") && line.contains(&wanted)), "{shown}");
    let mut command = cluster.command(&["logs", "--follow", "--of", "etcd"]);
    let follower = Follower::of(command.env("PATH", &path));
    assert!(follower.wait_for("mark of").contains(&wanted));
    assert_eq!(follower.interrupt(), Some(130));
    fs::rename(missing.with_extension("away"), &missing).expect("the log");
    assert!(said.contains("there is no log of etcd") && said.contains("hint: "), "{said}");
    if ordinary_user().uid != postgres_user().uid {
        let place = tempfile::Builder::new().prefix("cellar-logs-").tempdir_in("/tmp").expect("a directory");
        fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
        let cellar = place.path().join("cellar");
        fs::copy(bin_dir().join("cellar"), &cellar).expect("built");
        let mut command = as_user(&ordinary_user(), &cellar);
        let refused = run(command.args(["logs", "zone1"]).env("CELLAR_DIR", cluster.directory())).refused(5);
        assert!(refused.contains("run this as root or as the user"), "{refused}");
    }
}

#[test]
fn large_logs_are_begun_again_and_the_proofs_are_kept() {
    let cluster = Cluster::up("zone1");
    let at = |path: &str| cluster.directory().join(path);
    let logs = ["log/etcd.log", "zone1/log/postgres.log", "zone1/log/app-backup.log"].map(at);
    let kept = at("zone1/jobs").join("019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00.log");
    for log in logs.iter().chain([&kept]) {
        append(log, b"first\n");
        // A hole: the log is as long as the limit and takes no room.
        fs::OpenOptions::new().append(true).open(log).expect("it").set_len(MAX_LOG_BYTES).expect("it");
    }
    let user = postgres_user();
    for log in logs.iter().chain([&kept]) {
        std::os::unix::fs::chown(log, Some(user.uid), Some(user.gid)).expect("ours");
    }
    for log in &logs {
        wait_for("the log to be begun again", TIMEOUT, || {
            (fs::metadata(log).expect("a log").len() < MAX_LOG_BYTES / 2).then_some(())
        });
        let old = fs::metadata(old_log(log)).expect("what was in it").len();
        assert!((MAX_LOG_BYTES..2 * MAX_LOG_BYTES).contains(&old), "{old}");
    }
    assert_eq!(fs::metadata(&kept).expect("the proof").len(), MAX_LOG_BYTES);
    assert!(!old_log(&kept).exists());
    // PostgreSQL goes on in it.
    cluster.sql("zone1", "SET log_min_messages = 'log'; DO $$ BEGIN RAISE LOG 'mark one'; END $$");
    let shown = cluster.cellar(&["logs", "zone1", "--of", "postgres"]);
    assert!(shown.contains("mark one"), "{shown}");
}
