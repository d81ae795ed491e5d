//! A run of pgbench: whether anything failed in it, and for how long nothing was done.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::machine::wait::wait_for;

/// How much longer than asked for a run may take: its clients may be held.
const END_TIMEOUT: Duration = Duration::from_secs(90);

/// A run that goes on. It is killed with this.
pub struct Pgbench {
    child: Child,
    seconds: u64,
    logs: tempfile::TempDir,
}

impl Pgbench {
    /// Begins a run of eight clients, on tables that are filled. `command` is pgbench with what leads it to its database.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut command: Command, seconds: u64) -> Self {
        let Ok(logs) = tempfile::tempdir() else { panic!("no temporary directory") };
        command.args(["-n", "-c", "8", "-j", "2", "-l", "-T", &seconds.to_string()]).current_dir(logs.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        match child {
            Ok(child) => Self { child, seconds, logs },
            Err(error) => panic!("pgbench: {error}"),
        }
    }

    /// Waits for its end. The longest time between the ends of two transactions, one after the other.
    ///
    /// # Panics
    /// When a statement failed, or it does not end.
    #[must_use]
    #[track_caller]
    pub fn longest_gap(mut self) -> Duration {
        let status = wait_for("pgbench to end", Duration::from_secs(self.seconds) + END_TIMEOUT, || {
            self.child.try_wait().ok().flatten()
        });
        let mut printed = String::new();
        for mut stream in
            [self.child.stdout.take().map(boxed), self.child.stderr.take().map(boxed)].into_iter().flatten()
        {
            let _ = stream.read_to_string(&mut printed);
        }
        let is_clean = status.success() && printed.contains("number of failed transactions: 0 ");
        assert!(is_clean, "a statement failed: {printed}");
        longest_gap(self.logs.path())
    }
}

fn boxed(stream: impl std::io::Read + 'static) -> Box<dyn std::io::Read> {
    Box::new(stream)
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The microsecond at which the transaction of a line of pgbench's log ended.
fn end(line: &str) -> Option<u64> {
    let mut words = line.split(' ').skip(4);
    let (seconds, rest): (u64, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(seconds * 1_000_000 + rest)
}

fn longest_gap(logs: &Path) -> Duration {
    let files = std::fs::read_dir(logs).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let mut ends: Vec<u64> =
        texts.flat_map(|text| text.lines().filter_map(end).collect::<Vec<_>>()).collect();
    assert!(ends.len() > 1, "pgbench's log has no transactions");
    ends.sort_unstable();
    let gaps = ends.windows(2).map(|pair| pair[1] - pair[0]);
    Duration::from_micros(gaps.max().unwrap_or_default())
}
