//! Lines of pgBackRest's log: `2026-03-01 10:15:00.123 P00   INFO: text`.

/// How serious a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// The command failed.
    Error,
    /// Something was skipped or is odd.
    Warn,
    /// A step.
    Info,
    /// A file.
    Detail,
    /// Anything below.
    Debug,
}

/// One line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLine<'a> {
    /// The beginning of a message.
    Entry {
        /// Its level.
        level: LogLevel,
        /// Its first line.
        text: &'a str,
    },
    /// A further line of the message before it. pgBackRest indents these, so a line break in a file's
    /// name cannot begin a message.
    Continuation(&'a str),
    /// Something else, such as the output of the shell.
    Foreign(&'a str),
}

fn strip_timestamp(line: &str) -> &str {
    const SHAPE: &[u8] = b"0000-00-00 00:00:00.000 ";
    let bytes = line.as_bytes();
    let matches = bytes.len() >= SHAPE.len()
        && SHAPE.iter().zip(bytes).all(|(shape, byte)| match shape {
            b'0' => byte.is_ascii_digit(),
            other => other == byte,
        });
    if matches { &line[SHAPE.len()..] } else { line }
}

fn strip_process(line: &str) -> &str {
    let Some(rest) = line.strip_prefix('P') else { return line };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    match rest[digits..].strip_prefix(' ') {
        Some(after) if digits >= 2 => after,
        _ => line,
    }
}

impl<'a> LogLine<'a> {
    /// Reads one line, with or without timestamp and process. Never fails.
    #[must_use]
    pub fn parse(line: &'a str) -> Self {
        let line = line.trim_end_matches(['\r', '\n']);
        if line.starts_with([' ', '\t']) {
            return Self::Continuation(line.trim());
        }
        let body = strip_process(strip_timestamp(line)).trim_start();
        for (prefix, level) in [
            ("ERROR: ", LogLevel::Error),
            ("ASSERT: ", LogLevel::Error),
            ("WARN: ", LogLevel::Warn),
            ("INFO: ", LogLevel::Info),
            ("DETAIL: ", LogLevel::Detail),
            ("DEBUG: ", LogLevel::Debug),
            ("TRACE: ", LogLevel::Debug),
        ] {
            if let Some(text) = body.strip_prefix(prefix) {
                return Self::Entry { level, text };
            }
        }
        Self::Foreign(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_continuations_and_the_rest() {
        let entry = |level, text| LogLine::Entry { level, text };
        assert_eq!(
            LogLine::parse("2026-11-21 03:06:04.461 P01 DETAIL: backup file /a (0B, 1.00%)"),
            entry(LogLevel::Detail, "backup file /a (0B, 1.00%)")
        );
        assert_eq!(LogLine::parse("P00   INFO: x"), entry(LogLevel::Info, "x"));
        assert_eq!(LogLine::parse("ERROR: [032]: y\r\n"), entry(LogLevel::Error, "[032]: y"));
        assert_eq!(LogLine::parse("            HINT: z"), LogLine::Continuation("HINT: z"));
        assert_eq!(LogLine::parse("Killed"), LogLine::Foreign("Killed"));
    }

    proptest! {
        #[test]
        fn any_line_is_read(line in any::<String>()) {
            let _ = LogLine::parse(&line);
        }
    }
}
