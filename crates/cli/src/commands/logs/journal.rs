//! Lines of daemons that run as units of systemd and write to the journal.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{Receiver, channel};

use super::sources::Source;

/// How long journalctl may take to show the last lines.
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(20);

/// Lines that may wait to be shown.
const MAX_WAITING: usize = 1024;

/// journalctl for a log that is no file; none when the journal is not where it would be.
fn command(source: &Source, lines: usize) -> Option<Command> {
    let unit = source.unit.as_ref()?;
    // What the daemon wrote and no more: its lines have times of their own.
    let mut command = Command::new("journalctl");
    command.args(["--quiet", "--no-pager", "--output", "cat", "--unit", unit, "--lines", &lines.to_string()]);
    command.env_remove("SYSTEMD_COLORS").stdin(Stdio::null()).kill_on_drop(true);
    (!source.path.exists()).then_some(command)
}

/// The last lines that the unit wrote; none when there are no such lines, or no journalctl.
pub(super) async fn last_lines(source: &Source, lines: usize) -> Option<Vec<u8>> {
    let output = tokio::time::timeout(JOURNAL_TIMEOUT, command(source, lines)?.output()).await.ok()?.ok()?;
    (!output.stdout.is_empty()).then_some(output.stdout)
}

/// A journal that is followed.
pub(super) struct Journal {
    lines: Receiver<String>,
    /// Ends with this value.
    _child: Child,
}

impl Journal {
    /// Begins to follow what the unit writes.
    pub(super) fn follow(source: &Source, lines: usize) -> Option<Self> {
        let mut child = command(source, lines)?
            .arg("--follow")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut output = BufReader::new(child.stdout.take()?);
        let (sender, receiver) = channel(MAX_WAITING);
        tokio::spawn(async move {
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                line.clear();
                if sender.send(text).await.is_err() {
                    break;
                }
            }
        });
        Some(Self { lines: receiver, _child: child })
    }

    /// A line that is there already.
    pub(super) fn try_next(&mut self) -> Option<String> {
        self.lines.try_recv().ok()
    }
}
