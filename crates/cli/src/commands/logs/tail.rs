//! The last lines of logs, without reading what is before them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use cellar_system::{old_log, open_to_read};
use jiff::civil::DateTime;

use super::line::{MAX_LINE, time_of};
use super::sources::Source;
use crate::failure::{Failure, Outcome};

/// Bytes that are read at once on the way back from the end of a file.
const BLOCK: usize = 64 << 10;

/// Bytes at the end of a file in which its last lines are looked for.
pub(super) const MAX_LOOK_BACK: u64 = 256 << 20;

/// Lines that are read from some places, one after the other.
pub(super) struct Tail(Box<dyn BufRead + Send>);

/// Where the last `wanted` lines of the first `length` bytes begin, and how many lines those are.
fn start_of_last(file: &File, length: u64, wanted: usize) -> io::Result<(u64, usize)> {
    if wanted == 0 {
        return Ok((length, 0));
    }
    let first = length.saturating_sub(MAX_LOOK_BACK);
    let (mut position, mut ends) = (length, 0);
    let mut block = vec![0; BLOCK];
    while position > first {
        let size = BLOCK.min(usize::try_from(position - first).unwrap_or(BLOCK));
        position -= size as u64;
        // It may have been cut short meanwhile: what is not there holds no lines.
        let mut filled = 0;
        while filled < size {
            match file.read_at(&mut block[filled..size], position + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        for at in (0..filled).rev() {
            // The end of the last line begins no other one.
            if block[at] == b'\n' && position + at as u64 + 1 < length {
                ends += 1;
                if ends == wanted {
                    return Ok((position + at as u64 + 1, wanted));
                }
            }
        }
    }
    Ok((first, if length > first { ends + 1 } else { 0 }))
}

/// The end of the last line that has an end; the length of a file that has no line end among its last bytes.
fn end_of_lines(file: &File, length: u64) -> io::Result<u64> {
    let from = length.saturating_sub(MAX_LINE as u64);
    let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(0)];
    let read = file.read_at(&mut bytes, from)?;
    let end = bytes[..read].iter().rposition(|byte| *byte == b'\n').map(|at| from + at as u64 + 1);
    Ok(end.unwrap_or(if from == 0 { 0 } else { length }))
}

/// A log that was opened, and where what is shown of it ends.
pub(super) struct Opened {
    pub(super) file: File,
    /// Where its last line begins that has no end yet; the end of the file when it has.
    pub(super) complete: u64,
    /// The last lines until there.
    pub(super) tail: Tail,
}

/// Opens a log with its last lines; those that are missing in it are taken from the log before it was begun again.
pub(super) fn open_with_position(source: &Source, lines: usize) -> io::Result<Opened> {
    open_until(source, lines, false)
}

fn open_until(source: &Source, lines: usize, with_partial: bool) -> io::Result<Opened> {
    let (file, found) = open_to_read(&source.path)?;
    let length = if with_partial { found.len() } else { end_of_lines(&file, found.len())? };
    let (from, present) = start_of_last(&file, length, lines)?;
    let mut reading = file.try_clone()?;
    reading.seek(SeekFrom::Start(from))?;
    let newest = reading.take(length - from);
    let before = (present < lines).then(|| older(source, lines - present).ok()).flatten();
    let tail: Box<dyn BufRead + Send> = match before {
        Some(older) => Box::new(BufReader::new(older.chain(newest))),
        None => Box::new(BufReader::new(newest)),
    };
    // A descriptor of its own: a clone would share the position.
    let (own, _) = open_to_read(&source.path)?;
    Ok(Opened { file: own, complete: length, tail: Tail(tail) })
}

fn older(source: &Source, lines: usize) -> io::Result<impl Read + Send + use<>> {
    let (mut file, found) = open_to_read(&old_log(&source.path))?;
    let (from, _) = start_of_last(&file, found.len(), lines)?;
    file.seek(SeekFrom::Start(from))?;
    Ok(file.take(found.len() - from))
}

/// The last lines of a log.
pub(super) fn open(source: &Source, lines: usize) -> io::Result<Tail> {
    open_until(source, lines, true).map(|opened| opened.tail)
}

/// Lines that are a text already.
pub(super) fn of_text(text: Vec<u8>) -> Tail {
    Tail(Box::new(Cursor::new(text)))
}

impl Tail {
    /// The next line without its end, or the next part of a very long one.
    fn next(&mut self) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        (&mut self.0).take(MAX_LINE as u64).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.ends_with(b"\n") {
            bytes.pop();
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// A log on the way through a merge: its next line, and the time of that or of the last line before it that had one.
struct Head {
    source: usize,
    tail: Tail,
    line: String,
    time: DateTime,
}

impl Head {
    /// Goes on to the next line; tells whether there is one.
    fn advance(&mut self) -> Outcome<bool> {
        let failed = |source| Failure::Io { what: "read a log".to_owned(), source };
        let Some(line) = self.tail.next().map_err(failed)? else { return Ok(false) };
        self.time = time_of(&line).map_or(self.time, |found| found.max(self.time));
        self.line = line;
        Ok(true)
    }
}

/// Hands on the lines of several logs in the order of their times. The order within a log is kept: a line without a time
/// belongs to the one before it.
pub(super) fn merge(tails: Vec<(usize, Tail)>, mut each: impl FnMut(usize, &str) -> Outcome) -> Outcome {
    let mut heads = Vec::new();
    let mut next = BinaryHeap::new();
    for (at, (source, tail)) in tails.into_iter().enumerate() {
        let mut head = Head { source, tail, line: String::new(), time: DateTime::MIN };
        if head.advance()? {
            next.push(Reverse((head.time, at)));
        }
        heads.push(head);
    }
    while let Some(Reverse((_, at))) = next.pop() {
        let head = &mut heads[at];
        each(head.source, &head.line)?;
        if head.advance()? {
            next.push(Reverse((head.time, at)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::sources::LogKind;
    use super::*;

    fn source(path: &Path) -> Source {
        Source { name: "x".to_owned(), path: path.to_owned(), kind: LogKind::Postgres, unit: None }
    }

    fn lines(mut tail: Tail) -> Vec<String> {
        std::iter::from_fn(|| tail.next().unwrap()).collect()
    }

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        let last = |text: &[u8], wanted: usize| {
            std::fs::write(&log, text).unwrap();
            lines(open(&source(&log), wanted).unwrap())
        };
        assert_eq!(last(b"a\nb\nc\n", 2), ["b", "c"]);
        assert_eq!(last(b"a\nb\nc", 2), ["b", "c"], "the last line has no end yet");
        assert_eq!(last(b"a\n\n", 2), ["a", ""]);
        assert_eq!(last(b"a\nb\n", 9), ["a", "b"]);
        assert!(last(b"a\nb\n", 0).is_empty() && last(b"", 5).is_empty());
        assert_eq!(last(b"\xff\xfe caf\xe9\n", 1), ["\u{fffd}\u{fffd} caf\u{fffd}"]);
        let long = "y".repeat(MAX_LINE + 10);
        let found = last(format!("a\n{long}\nb\n").as_bytes(), 2);
        assert_eq!(found.iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, 10, 1]);
    }

    #[test]
    fn huge_log_is_not_read_from_its_start() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        // A hole of a terabyte: reading it would take minutes.
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&log).unwrap();
        file.set_len(1 << 40).unwrap();
        file.write_all_at(b"\nfirst\nlast\n", 1 << 40).unwrap();
        let begun = std::time::Instant::now();
        assert_eq!(lines(open(&source(&log), 2).unwrap()), ["first", "last"]);
        assert!(begun.elapsed() < std::time::Duration::from_secs(20));
        // As many lines as there are not: the look back has an end.
        let (from, _) = start_of_last(&file, file.metadata().unwrap().len(), 1_000_000).unwrap();
        assert_eq!(from, file.metadata().unwrap().len() - MAX_LOOK_BACK);
    }

    #[test]
    fn lines_before_a_log_was_begun_again_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        std::fs::write(old_log(&log), "a\nb\nc\n").unwrap();
        std::fs::write(&log, "d\n").unwrap();
        assert_eq!(lines(open(&source(&log), 3).unwrap()), ["b", "c", "d"]);
        assert_eq!(lines(open(&source(&log), 1).unwrap()), ["d"]);
    }

    #[test]
    fn lines_are_merged_by_time_and_keep_their_order() {
        let of = |text: &str| of_text(text.as_bytes().to_vec());
        let first =
            "no time\n2026-03-01 10:00:02 b\n\tmore of b\n2026-03-01 10:00:01 late\n2026-03-01 10:00:05 e\n";
        let second = "2026-03-01T10:00:01Z a\n2026-03-01T10:00:03Z d\n";
        let mut seen = Vec::new();
        merge(vec![(4, of(first)), (7, of(second)), (9, of(""))], |source, line| {
            seen.push(format!("{source} {}", line.trim_start_matches(|c: char| !c.is_ascii_alphabetic())));
            Ok(())
        })
        .unwrap();
        let ends: Vec<String> =
            seen.iter().map(|line| format!("{}{}", &line[..2], line.rsplit(' ').next().unwrap())).collect();
        assert_eq!(ends, ["4 time", "7 a", "4 b", "4 b", "4 late", "7 d", "4 e"]);
    }
}
