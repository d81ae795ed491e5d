//! A `psql` that stays connected and is asked one statement after the other.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What it prints after each statement.
const END: &str = "~end~";

/// What came of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was done; its last row, if it gives any.
    Done(String),
    /// The server refused, and the session goes on.
    Refused,
    /// There was no answer in time, or no session: nobody knows whether it was done.
    Lost,
}

/// One session. It ends with this.
#[derive(Debug)]
pub struct Psql {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Psql {
    /// Starts `psql`, which is given with the arguments that say where to connect. Whether it does shows with the first statement.
    ///
    /// # Panics
    /// When `psql` cannot be started.
    #[must_use]
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        command.arg("-XAtqw").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("psql cannot be run: {error}: install the Debian package postgresql-client"),
        };
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            panic!("psql has no standard input or output")
        };
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, input, lines }
    }

    /// Runs a statement that gives a row when it is done. After [`Answer::Lost`] nothing can be asked any more.
    pub fn ask(&mut self, statement: &str, timeout: Duration) -> Answer {
        let deadline = Instant::now() + timeout;
        if writeln!(self.input, "{statement};\n\\echo {END}").is_err() {
            return Answer::Lost;
        }
        let mut row = None;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line == END => return row.map_or(Answer::Refused, Answer::Done),
                Ok(line) => row = Some(line),
                Err(_) => return Answer::Lost,
            }
        }
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
