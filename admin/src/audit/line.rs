//! A record as one line of printable ASCII.
//!
//! JSON does not escape some characters that readers take for the end of a line or that control a terminal (NEL,
//! U+2028, C1 controls, marks that change the writing direction), and callers choose the texts in arguments.

use std::io;

use cellar_model::AuditRecord;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, to: &mut W, text: &str) -> io::Result<()> {
        for c in text.chars() {
            if matches!(c, ' '..='~') {
                to.write_all(&[c as u8])?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(to, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        CompactFormatter.begin_object_key(to, first)
    }
}

/// The line, with its line feed.
pub(super) fn line(record: &AuditRecord) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(512);
    record.serialize(&mut Serializer::with_formatter(&mut bytes, Ascii))?;
    bytes.push(b'\n');
    String::from_utf8(bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::begun;
    use proptest::prelude::*;
    use serde_json::{Map, Value};
    use tonic::codegen::http::Extensions;

    fn record(text: &str) -> AuditRecord {
        let arguments =
            Map::from_iter([("name".to_owned(), Value::from(text)), (text.to_owned(), Value::Null)]);
        AuditRecord {
            identity: text.to_owned(),
            ..begun("Backup", &Extensions::new(), cellar_model::recordable(arguments))
        }
    }

    #[test]
    fn no_text_breaks_out_of_its_line() {
        for text in ["\n", "\"}\n{\"id\":\"x\"}", "\0\u{7f}\u{85}\u{9b}2J\u{2028}\u{202e}", "\\", "😀"] {
            let line = line(&record(text)).unwrap();
            assert!(line.trim_end_matches('\n').bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line}");
            assert_eq!(serde_json::from_str::<AuditRecord>(&line).unwrap().identity, text);
        }
    }

    proptest! {
        #[test]
        fn any_text_reads_back(text in ".{0,100}") {
            let record = record(&text);
            let line = line(&record).unwrap();
            prop_assert_eq!(line.find('\n'), Some(line.len() - 1));
            let mut read: AuditRecord = serde_json::from_str(&line).unwrap();
            // Lines are exact to the microsecond.
            read.time = record.time;
            prop_assert_eq!(read, record);
        }
    }
}
