//! What pgBackRest says went wrong.

use crate::exit_code::{
    CHECKSUM, CRYPTO, DB_CONNECT, ExitClass, FILE_READ, class_of, code_of_type, hint_for,
};
use crate::log_line::{LogLevel, LogLine};

/// Lines kept of one message; stack traces of assertions are long.
const MAX_LINES: usize = 20;

/// How pgBackRest begins to say that it cannot make sense of `backup.info` or `archive.info`.
const UNLOADABLE: &str = "unable to load info file";

/// What to do about a repository whose own records make no sense. With the wrong passphrase pgBackRest (2.45) decrypts
/// rubbish and complains of its form, so this cannot be told from a damaged file.
pub(crate) const GARBLED_HINT: &str = "the repository was encrypted with another passphrase than this cell has (`secrets/repo-cipher-pass` in the cell's directory), or with one at all while this cluster has none; if the passphrase is right, backup.info or archive.info in the repository is damaged";

/// What to do when the repository cannot be read at all.
pub(crate) const UNREADABLE_HINT: &str = "see that the repository is where it was (mounted, reachable) and that the user that runs pgBackRest may read it, then ask again";

/// How pgBackRest (2.45) says that a store did not answer. Its exit code is then 42, as for a file that may not be read.
const SILENT: &str = "waiting for read from";

/// How pgBackRest (2.60) says that it does not restore pages with wrong checksums. Its exit code is then 26, as for a
/// file of the repository with a wrong checksum.
const PAGE_ERRORS: &str = "page checksum";

/// What pgBackRest says of the files that describe the repository, when it cannot make sense of them. Its exit
/// code does not say so: it is 29, 103, 75 or 95 with the command (measured with 2.45), and 0 for `info`.
pub(crate) fn garbled(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(UNLOADABLE)?;
    let why = rest.contains("FormatError") || rest.contains("CryptoError");
    // Up to the end of the line, which JSON writes as `\n`.
    why.then(|| {
        printable(&format!("{UNLOADABLE}{}", rest.split([':', '\\', '\n']).next().unwrap_or_default()))
    })
}

/// A line up to the first character that cannot be printed. With the wrong passphrase pgBackRest quotes rubbish.
#[must_use]
pub fn printable(line: &str) -> String {
    let strange = |c: char| c.is_control() && c != '\t' || c == char::REPLACEMENT_CHARACTER;
    match line.split_once(strange) {
        Some((readable, _)) => format!("{readable}..."),
        None => line.to_owned(),
    }
}

/// A warning or an error of the log, with the lines that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolMessage {
    /// Warning or error.
    pub level: LogLevel,
    /// The exit code in front of an error, or the one that a warning's bracketed type stands for.
    pub code: Option<u8>,
    /// The message without code, its further lines after line feeds.
    pub text: String,
    lines: usize,
}

impl ToolMessage {
    /// Reads the beginning of a message; `None` for anything but warnings and errors.
    #[must_use]
    pub fn of(line: LogLine<'_>) -> Option<Self> {
        let LogLine::Entry { level: level @ (LogLevel::Error | LogLevel::Warn), text } = line else {
            return None;
        };
        let numbered = text.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
        if let Some((code, rest)) = numbered
            && let Ok(code) = code.parse::<u8>()
        {
            return Some(Self { level, code: Some(code), text: printable(rest), lines: 1 });
        }
        let named = text.split_once(": [").and_then(|(_, rest)| rest.split_once("] ")).map(|(name, _)| name);
        Some(Self { level, code: named.and_then(code_of_type), text: printable(text), lines: 1 })
    }

    /// Adds a further line of the same message.
    pub fn push_line(&mut self, line: &str) {
        if self.lines < MAX_LINES {
            self.text.push('\n');
            self.text.push_str(&printable(line));
            self.lines += 1;
        }
    }
}

/// Every warning and error of a log, in order.
#[must_use]
pub fn tool_messages(log: &str) -> Vec<ToolMessage> {
    let mut found: Vec<ToolMessage> = Vec::new();
    let mut open = false;
    for line in log.lines() {
        let line = LogLine::parse(line);
        if let LogLine::Continuation(text) = line {
            if let (true, Some(last)) = (open, found.last_mut()) {
                last.push_line(text);
            }
            continue;
        }
        let message = ToolMessage::of(line);
        open = message.is_some();
        found.extend(message);
    }
    found
}

/// Why a command failed, as far as its exit code and its log tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The process's exit code; `None` when a signal ended it.
    pub exit_code: Option<u8>,
    /// The code of the cause: the exit code, or what a 56 hides.
    pub cause: Option<u8>,
    /// The class of the cause.
    pub class: ExitClass,
    /// What to do; may be empty.
    pub hint: &'static str,
    /// Whether pgBackRest could not make sense of the repository's own records.
    pub garbled: bool,
    /// The last error, or the last warning when there is none.
    pub message: String,
}

impl Failure {
    /// Classifies a failed command by its exit code and everything that it printed.
    #[must_use]
    pub fn of_output(exit_code: Option<u8>, output: &str) -> Self {
        Self::of_exit(exit_code, &tool_messages(output))
    }

    /// Classifies a failed command. Exit code 56 only says that no host could be used; the type in the
    /// warning before it says why.
    #[must_use]
    pub fn of_exit(exit_code: Option<u8>, messages: &[ToolMessage]) -> Self {
        let hidden = messages.iter().rev().find_map(|m| m.code.filter(|_| m.level == LogLevel::Warn));
        let cause = match exit_code {
            Some(DB_CONNECT) => hidden.or(exit_code),
            // A missing exit code is a kill from outside, whatever the log said before.
            other => other,
        };
        let last = |level| messages.iter().rev().find(|m| m.level == level);
        let message = last(LogLevel::Error)
            .or_else(|| last(LogLevel::Warn))
            .map(|message| message.text.clone())
            .unwrap_or_default();
        // A file that was fetched with the wrong passphrase ends in the middle of a block.
        let unflushed = exit_code == Some(CRYPTO) && message.contains("unable to flush");
        let garbled = unflushed || exit_code.is_some() && messages.iter().any(|m| garbled(&m.text).is_some());
        let (class, hint) = match cause {
            Some(_) if garbled => (ExitClass::DataLoss, GARBLED_HINT),
            Some(FILE_READ) if messages.iter().any(|m| m.text.contains(SILENT)) => (
                ExitClass::Unavailable,
                "the repository's store did not answer in time: see that it is reachable, then ask again",
            ),
            Some(CHECKSUM) if messages.iter().any(|m| m.text.contains(PAGE_ERRORS)) => (
                ExitClass::DataLoss,
                "the backup has page errors, as `cellar backups list` shows; its files in the repository may be sound: restore another backup",
            ),
            Some(code) => (class_of(code), hint_for(code)),
            None => (ExitClass::Internal, ""),
        };
        Self { exit_code, cause, class, hint, garbled, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_PRIMARY: &str = include_str!("../tests/fixtures/no-primary.log");

    #[test]
    fn the_cause_behind_exit_code_56_is_found() {
        let messages = tool_messages(NO_PRIMARY);
        let failure = Failure::of_exit(Some(56), &messages);
        assert_eq!(failure.cause, Some(49));
        assert_eq!(failure.class, ExitClass::Unavailable);
        assert_eq!(
            failure.message,
            "unable to find primary cluster - cannot proceed\nHINT: are all available clusters in recovery?"
        );
        let busy = "P00   WARN: unable to check pg2: [LockAcquireError] raised from remote-0 tls protocol\n\
                    P00  ERROR: [056]: unable to find primary cluster - cannot proceed";
        assert_eq!(Failure::of_exit(Some(56), &tool_messages(busy)).class, ExitClass::Aborted);
    }

    #[test]
    fn a_wrong_passphrase_is_told_from_a_backup_that_is_missing() {
        let restore = "P00   WARN: repo1: [FormatError] unable to load info file '/r/backup/app/backup.info' or '/r/backup/app/backup.info.copy':\n      \
                       FormatError: key/value found outside of section at line 1: O%\u{fffd}\u{1}u$\u{1b}[2Jz\n\
                       P00  ERROR: [075]: no backup set found to restore";
        let messages = tool_messages(restore);
        assert!(messages[0].text.ends_with("at line 1: O%..."), "{}", messages[0].text);
        let failure = Failure::of_exit(Some(75), &messages);
        assert!(failure.garbled && failure.hint.contains("passphrase"), "{failure:?}");
        assert_eq!(failure.class, ExitClass::DataLoss);
        assert!(Failure::of_exit(Some(95), &tool_messages("ERROR: [095]: unable to flush")).garbled);
        assert!(
            !Failure::of_exit(Some(75), &tool_messages("P00  ERROR: [075]: no backup set found to restore"))
                .garbled
        );
    }

    #[test]
    fn store_that_does_not_answer_is_not_a_missing_permission() {
        // Measured with 2.45 and a listener that says nothing.
        let silent = "ERROR: [042]: timeout after 1000ms waiting for read from 'localhost:26998'";
        let failure = Failure::of_output(Some(42), silent);
        assert_eq!(failure.class, ExitClass::Unavailable);
        assert!(failure.hint.contains("did not answer"), "{failure:?}");
        let denied = "ERROR: [042]: unable to read '/x': [13] Permission denied";
        assert_eq!(Failure::of_output(Some(42), denied).class, ExitClass::PermissionDenied);
    }

    #[test]
    fn page_errors_are_not_a_damaged_file_of_the_repository() {
        let pages = "P00  ERROR: [026]: invalid page checksum(s) found in file /d/base/5/1";
        assert!(Failure::of_output(Some(26), pages).hint.contains("page errors"));
        let file = "ERROR: [026]: error restoring '/d/base/5/1': actual checksum 'a' does not match expected checksum 'b'";
        assert!(Failure::of_output(Some(26), file).hint.contains("damaged"));
    }

    #[test]
    fn a_signal_is_not_an_exit_code() {
        let failure = Failure::of_exit(None, &[]);
        assert_eq!((failure.cause, failure.class), (None, ExitClass::Internal));
    }
}
