//! The only place that writes: data to stdout, all else to stderr.

use std::io::{ErrorKind, IsTerminal, Write};

use serde::Serialize;

use crate::failure::{Failure, Outcome};

/// Writes data to stdout as it is. A reader that has gone ends the command quietly.
pub(crate) fn write(bytes: &[u8]) -> Outcome {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::BrokenPipe),
        Err(source) => Err(Failure::Io { what: "write to stdout".to_owned(), source }),
    }
}

/// What others wrote (a log line, a record's field) must not move the cursor or ring the bell.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c }).collect()
}

/// Writes text for a person to stdout, ending with a line break.
pub(crate) fn print(text: &str) -> Outcome {
    let text = clean(text);
    let end = if text.ends_with('\n') { "" } else { "\n" };
    write(format!("{text}{end}").as_bytes())
}

/// Writes a message as one JSON document for a person's eyes and programs alike.
pub(crate) fn json<M: Serialize>(message: &M) -> Outcome {
    print(&serde_json::to_string_pretty(message).map_err(|error| Failure::Bug(error.to_string()))?)
}

/// Writes a message of a stream: one JSON document on one line.
pub(crate) fn json_line<M: Serialize>(message: &M) -> Outcome {
    print(&serde_json::to_string(message).map_err(|error| Failure::Bug(error.to_string()))?)
}

/// Writes a line to stderr. When nobody reads it there is nobody to tell.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", clean(text));
}

/// Writes a question to stderr and leaves the cursor behind it.
pub(crate) fn prompt(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "{}", clean(text)).and_then(|()| err.flush());
}

/// Whether stderr is a terminal whose owner does not mind colour.
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

/// Tells what went wrong.
pub(crate) fn error(text: &str) {
    marked("31", "error", text);
}

/// Tells what to do next.
pub(crate) fn hint(text: &str) {
    marked("36", "hint", text);
}
