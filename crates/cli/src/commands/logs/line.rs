//! Lines of logs: when they were written, and how they are shown.

use std::cell::RefCell;

use jiff::civil::DateTime;
use jiff::{SignedDuration, ToSpan};
use serde_json::json;

use super::sources::Source;
use crate::failure::Outcome;
use crate::output;

/// Bytes of a line that is longer, which are shown as a line of their own.
pub(super) const MAX_LINE: usize = 64 << 10;

/// Bytes that are gathered before they are written.
const BUFFER: usize = 64 << 10;

/// Bytes at the beginning of a line among which its time is looked for.
const MAX_TIME_POSITION: usize = 64;

/// When a line was written, in UTC: the first date and time in it. The programs of a cluster write it in UTC, or with
/// their distance from it.
pub(super) fn time_of(line: &str) -> Option<DateTime> {
    let bytes = line.as_bytes();
    // `2026-03-01T10:15:00`; `9` stands for a digit.
    const SHAPE: &[u8] = b"9999-99-99 99:99:99";
    let is_time = |window: &[u8]| {
        window.iter().zip(SHAPE).all(|(byte, shape)| match shape {
            b'9' => byte.is_ascii_digit(),
            b' ' => matches!(byte, b' ' | b'T'),
            shape => byte == shape,
        })
    };
    let at = bytes.windows(SHAPE.len()).take(MAX_TIME_POSITION).position(is_time)?;
    let rest = line.get(at..)?;
    let mut end = SHAPE.len();
    if rest.as_bytes().get(end) == Some(&b'.') {
        end += 1 + rest[end + 1..].bytes().take(9).take_while(u8::is_ascii_digit).count();
    }
    let time: DateTime = rest[..end].trim_end_matches('.').replacen(' ', "T", 1).parse().ok()?;
    let offset = offset_of(&rest.as_bytes()[end..]).unwrap_or(SignedDuration::ZERO);
    time.checked_sub(offset.as_secs().seconds()).ok()
}

/// The distance from UTC: `+01:00`, `-0500`.
fn offset_of(text: &[u8]) -> Option<SignedDuration> {
    let sign = match text.first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits: Vec<i64> = text[1..]
        .iter()
        .filter(|byte| **byte != b':')
        .take(4)
        .map_while(|byte| byte.is_ascii_digit().then(|| i64::from(byte - b'0')))
        .collect();
    let [h1, h2, m1, m2] = digits[..] else { return None };
    Some(SignedDuration::from_mins(sign * ((h1 * 10 + h2) * 60 + m1 * 10 + m2)))
}

/// Writes lines to stdout, each behind the name of its log when there are several.
#[derive(Debug)]
pub(super) struct Printer {
    names: RefCell<Vec<String>>,
    is_json: bool,
    text: RefCell<String>,
}

impl Printer {
    pub(super) fn new(sources: &[Source], is_json: bool) -> Self {
        let names = sources.iter().map(|source| source.name.clone()).collect();
        Self { names: RefCell::new(names), is_json, text: RefCell::default() }
    }

    /// One more log, which appeared while the others were followed.
    pub(super) fn add(&self, name: &str) {
        self.names.borrow_mut().push(name.to_owned());
    }

    fn render(&self, source: usize, line: &str) -> String {
        let names = self.names.borrow();
        let name = names.get(source).map_or("", String::as_str);
        let line = line.trim_end_matches('\r');
        if self.is_json {
            return json!({ "source": name, "line": line }).to_string();
        }
        match names.len() {
            0 | 1 => output::clean(line),
            _ => {
                let width = names.iter().map(String::len).max().unwrap_or(0);
                format!("{name:<width$} | {}", output::clean(line))
            }
        }
    }

    /// Shows a line, together with others.
    pub(super) fn push(&self, source: usize, line: &str) -> Outcome {
        let line = self.render(source, line);
        let mut text = self.text.borrow_mut();
        text.push_str(&line);
        text.push('\n');
        if text.len() < BUFFER {
            return Ok(());
        }
        output::write(std::mem::take(&mut *text).as_bytes())
    }

    /// Writes what was gathered.
    pub(super) fn flush(&self) -> Outcome {
        let text = self.text.take();
        if text.is_empty() { Ok(()) } else { output::write(text.as_bytes()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_line_is_found_in_every_form() {
        let at = |text: &str| time_of(text).map(|time| time.to_string());
        let expected = Some("2026-03-01T10:15:00.123".to_owned());
        for line in [
            "2026-03-01T10:15:00.123Z  INFO cellar_pooler: starts",
            "2026-03-01 10:15:00.123 UTC [42] LOG:  started",
            "2026-03-01 10:15:00.123 P00   INFO: archive-push",
            r#"{"level":"info","ts":"2026-03-01T11:15:00.123+0100","caller":"x"}"#,
            r#"{"level":"info","ts":"2026-03-01T04:45:00.123-05:30","caller":"x"}"#,
        ] {
            assert_eq!(at(line), expected, "{line}");
        }
        assert_eq!(at("2026-03-01 10:15:00 UTC [42] LOG:  x").as_deref(), Some("2026-03-01T10:15:00"));
        for line in ["", "\tcontinued", "2026-13-01 10:15:00", "2026-03-01", "ä 2026-0"] {
            assert_eq!(at(line), None, "{line}");
        }
    }

    #[test]
    fn lines_of_several_logs_have_their_name() {
        let source = |name: &str| Source {
            name: name.to_owned(),
            path: "/x".into(),
            kind: super::super::sources::LogKind::Etcd,
            unit: None,
        };
        let one = Printer::new(&[source("etcd")], false);
        assert_eq!(one.render(0, "a\x1b[31mb"), "a [31mb");
        one.add("multiadmin");
        assert_eq!(one.render(0, "a"), "etcd       | a");
        let json = Printer::new(&[source("etcd")], true);
        assert_eq!(json.render(0, "a\tb"), r#"{"line":"a\tb","source":"etcd"}"#);
    }
}
