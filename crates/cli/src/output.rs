//! The only place that writes: data to stdout, everything else to stderr.

use std::io::{ErrorKind, IsTerminal, Write};

use cellar_model::{DatabaseName, naming_database};
use clap::ValueEnum;
use serde::Serialize;

use crate::failure::{Failure, Outcome};

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people
    Human,
    /// For programs
    Json,
}

impl Form {
    /// Writes an answer to stdout: the message as JSON, or the text that is made of it for people.
    pub(crate) fn print<M: Serialize>(self, message: &M, text: impl FnOnce(&M) -> String) -> Outcome {
        match self {
            Self::Json => json(message),
            Self::Human => print(&text(message)),
        }
    }
}

/// Writes data to stdout as it is. A closed stdout ends the command without a message.
pub(crate) fn write(bytes: &[u8]) -> Outcome {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::BrokenPipe),
        Err(source) => Err(Failure::Io { what: "write to stdout".to_owned(), source }),
    }
}

/// Replaces control characters: a log line or a record's field must not move the cursor or ring the bell.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c }).collect()
}

/// Writes text for people to stdout, with a line break at the end.
pub(crate) fn print(text: &str) -> Outcome {
    let text = clean(text);
    let end = if text.ends_with('\n') { "" } else { "\n" };
    write(format!("{text}{end}").as_bytes())
}

/// Writes a message as one JSON document, indented.
pub(crate) fn json<M: Serialize>(message: &M) -> Outcome {
    print(&serde_json::to_string_pretty(message).map_err(|error| Failure::Bug(error.to_string()))?)
}

/// Writes a message of a stream: one JSON document on one line.
pub(crate) fn json_line<M: Serialize>(message: &M) -> Outcome {
    print(&serde_json::to_string(message).map_err(|error| Failure::Bug(error.to_string()))?)
}

/// Writes a line to stderr. That stderr is closed is ignored: there is no other place to report it.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", clean(text));
}

/// Writes a question to stderr and leaves the cursor behind it.
pub(crate) fn prompt(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "{}", clean(text)).and_then(|()| err.flush());
}

/// Whether stderr is a terminal and `NO_COLOR` is unset or empty.
pub(crate) fn is_colored() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn marked(color: &str, mark: &str, text: &str) {
    if is_colored() {
        let _ = writeln!(std::io::stderr().lock(), "\x1b[1;{color}m{mark}:\x1b[0m {}", clean(text));
    } else {
        note(&format!("{mark}: {text}"));
    }
}

/// Writes to stderr why a command failed: the message, the last lines of the tool's output, and the hint. Commands that are
/// about a database name `database`. A closed stdout is not reported.
pub(crate) fn report(failure: &Failure, database: Option<&DatabaseName>) {
    if matches!(failure, Failure::BrokenPipe) {
        return;
    }
    let named = |text: String| match database {
        Some(database) => naming_database(&text, database),
        None => text,
    };
    marked("31", "error", &named(failure.message()));
    let tool_output = failure.tool_output();
    if !tool_output.is_empty() {
        note("the last lines of its output:");
        tool_output.trim_end().lines().for_each(|line| note(&format!("  {line}")));
    }
    if let Some(hint) = failure.hint() {
        marked("36", "hint", &named(hint));
    }
}
