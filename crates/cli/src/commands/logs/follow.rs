//! Following logs: what is appended, through files that are emptied, replaced, or appear later.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use cellar_system::{old_log, open_to_read};

use super::journal::Journal;
use super::line::{MAX_LINE, Printer};
use super::sources::{LogKind, Place, Source, of_pgbackrest};
use super::tail;
use crate::failure::Outcome;
use crate::output;

/// How often logs are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Bytes that are read at once.
const BLOCK: usize = 256 << 10;

/// Blocks that are read of one log before others have their turn, and Ctrl-C.
const MAX_BLOCKS: usize = 64;

/// Looks after which a log that cannot be read is said to be so again. A log that is away for a moment is one that is
/// being replaced.
const LOOKS_UNTIL_SAID: u32 = 5;

/// Which file a path leads to.
type Id = (u64, u64);

fn id_of(file: &std::fs::Metadata) -> Id {
    (file.dev(), file.ino())
}

/// A log that is followed.
struct Followed {
    source: Source,
    open: Option<Open>,
    /// Looks since it was not there, or could not be read.
    missed: u32,
}

struct Open {
    file: File,
    id: Id,
    position: u64,
    /// The file that held what was in the log before, when this was looked at last.
    old: Option<Id>,
    /// The beginning of a line whose end is not there yet.
    partial: Vec<u8>,
}

/// The file that holds what was in a log before it was begun again.
fn old_id(source: &Source) -> Option<Id> {
    std::fs::symlink_metadata(old_log(&source.path)).ok().map(|found| id_of(&found))
}

impl Open {
    fn new(file: File, id: Id, position: u64, source: &Source) -> Self {
        Self { file, id, position, old: old_id(source), partial: Vec::new() }
    }

    /// Hands on what was appended since the last call, line by line.
    fn read(&mut self, each: &mut dyn FnMut(&str) -> Outcome) -> Outcome<bool> {
        let mut block = vec![0; BLOCK];
        // An error is one of the disk: the next look tries again.
        let read = self.file.read_at(&mut block, self.position).unwrap_or(0);
        self.position += read as u64;
        self.take(&block[..read], each)?;
        Ok(read > 0)
    }

    fn take(&mut self, bytes: &[u8], each: &mut dyn FnMut(&str) -> Outcome) -> Outcome {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(part);
            if self.partial.ends_with(b"\n") {
                self.partial.pop();
                self.end_line(each)?;
            }
            while self.partial.len() >= MAX_LINE {
                let rest = self.partial.split_off(MAX_LINE);
                self.end_line(each)?;
                self.partial = rest;
            }
        }
        Ok(())
    }

    fn end_line(&mut self, each: &mut dyn FnMut(&str) -> Outcome) -> Outcome {
        let line = std::mem::take(&mut self.partial);
        each(&String::from_utf8_lossy(&line))
    }

    /// What a log that was begun again had behind our position: it is in the file that holds what was in it.
    fn read_rest_of_old(&mut self, source: &Source, each: &mut dyn FnMut(&str) -> Outcome) -> Outcome {
        let mut rest = || -> io::Result<Vec<u8>> {
            let (mut old, found) = open_to_read(&old_log(&source.path))?;
            let mut rest = Vec::new();
            // One that was there before has nothing of it: somebody else emptied the log.
            if self.old.replace(id_of(&found)) != Some(id_of(&found)) && found.len() > self.position {
                old.seek(SeekFrom::Start(self.position))?;
                old.take(tail::MAX_LOOK_BACK).read_to_end(&mut rest)?;
            }
            Ok(rest)
        };
        let rest = rest().unwrap_or_default();
        self.take(&rest, each)
    }
}

impl Followed {
    fn new(source: Source) -> Self {
        Self { source, open: None, missed: 0 }
    }

    /// Hands on what is new. Fails when the log is not there or cannot be read, after its rest was handed on.
    fn look(&mut self, each: &mut dyn FnMut(&str) -> Outcome) -> Outcome<io::Result<()>> {
        if let Some(open) = &mut self.open {
            let mut blocks = 0;
            while open.read(each)? {
                blocks += 1;
                if blocks == MAX_BLOCKS {
                    return Ok(Ok(()));
                }
            }
            let length = open.file.metadata().map_or(0, |found| found.len());
            if length < open.position {
                open.read_rest_of_old(&self.source, each)?;
                if !open.partial.is_empty() {
                    open.end_line(each)?;
                }
                open.position = 0;
                while open.read(each)? {}
            }
        }
        let (file, found) = match open_to_read(&self.source.path) {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        let id = id_of(&found);
        if self.open.as_ref().is_some_and(|open| open.id == id) {
            return Ok(Ok(()));
        }
        if let Some(mut replaced) = self.open.take() {
            // What was written between the look above and its replacement.
            while replaced.read(each)? {}
            if !replaced.partial.is_empty() {
                replaced.end_line(each)?;
            }
        }
        let open = self.open.insert(Open::new(file, id, 0, &self.source));
        while open.read(each)? {}
        Ok(Ok(()))
    }
}

/// What is followed now.
struct Follower<'a> {
    place: &'a Place,
    logs: Vec<Followed>,
    journals: Vec<(usize, Journal)>,
    printer: &'a Printer,
}

impl Follower<'_> {
    /// Logs of pgBackRest's commands that ran for the first time.
    fn find_new_logs(&mut self) {
        for source in of_pgbackrest(self.place) {
            let known = self.logs.iter().any(|log| log.source.path == source.path);
            if !known {
                self.printer.add(&source.name);
                self.logs.push(Followed::new(source));
            }
        }
    }

    fn look(&mut self) -> Outcome {
        for (index, log) in self.logs.iter_mut().enumerate() {
            let printer = self.printer;
            match log.look(&mut |line| printer.push(index, line))? {
                Ok(()) => log.missed = 0,
                Err(error) => {
                    log.missed = log.missed.saturating_add(1);
                    let is_in_journal = self.journals.iter().any(|(of, _)| *of == index);
                    if log.missed == LOOKS_UNTIL_SAID && !is_in_journal {
                        let problem = log.source.problem(&error);
                        output::note(&format!(
                            "note: {}: {}; its lines are shown when there are some",
                            problem.message, problem.hint
                        ));
                    }
                }
            }
        }
        for (index, journal) in &mut self.journals {
            while let Some(line) = journal.try_next() {
                self.printer.push(*index, &line)?;
            }
        }
        self.printer.flush()
    }
}

/// Shows the last lines, and then what is appended, until Ctrl-C.
pub(super) async fn run(
    place: &Place,
    kinds: &[LogKind],
    sources: Vec<Source>,
    lines: usize,
    printer: &Printer,
) -> Outcome {
    let mut follower = Follower { place, logs: Vec::new(), journals: Vec::new(), printer };
    let mut tails = Vec::new();
    for (index, source) in sources.into_iter().enumerate() {
        let mut log = Followed::new(source);
        match tail::open_with_position(&log.source, lines) {
            Ok(opened) => {
                // The last line has its end later: it is shown as a whole then.
                let position = opened.complete;
                let id = opened.file.metadata().map(|found| id_of(&found)).unwrap_or_default();
                log.open = Some(Open::new(opened.file, id, position, &log.source));
                tails.push((index, opened.tail));
            }
            Err(_) => {
                let journal = Journal::follow(&log.source, lines);
                follower.journals.extend(journal.map(|journal| (index, journal)));
            }
        }
        follower.logs.push(log);
    }
    tail::merge(tails, |index, line| printer.push(index, line))?;
    let finds_new = place.cell.is_some() && (kinds.is_empty() || kinds.contains(&LogKind::Pgbackrest));
    loop {
        if finds_new {
            follower.find_new_logs();
        }
        follower.look()?;
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    use cellar_system::limit_log;

    use super::*;

    fn followed(path: &Path) -> Followed {
        Followed::new(Source {
            name: "x".to_owned(),
            path: path.to_owned(),
            kind: LogKind::Postgres,
            unit: None,
        })
    }

    fn new_lines(log: &mut Followed) -> Vec<String> {
        let mut lines = Vec::new();
        let _ = log
            .look(&mut |line| {
                lines.push(line.to_owned());
                Ok(())
            })
            .unwrap();
        lines
    }

    fn append(path: &Path, text: &str) {
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_log_is_followed_through_all_that_can_happen_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut log = followed(&path);
        assert!(new_lines(&mut log).is_empty(), "it is not there");
        append(&path, "1\n2");
        assert_eq!(new_lines(&mut log), ["1"]);
        append(&path, " has its end\n");
        assert_eq!(new_lines(&mut log), ["2 has its end"]);
        // Begun again by us, with a line that was not seen before.
        append(&path, "3\n");
        assert!(limit_log(&path, 18).unwrap());
        append(&path, "4\n");
        assert_eq!(new_lines(&mut log), ["3", "4"]);
        // Emptied by somebody else: what is in the old one was shown, though it is longer.
        fs::write(&path, "").unwrap();
        assert!(new_lines(&mut log).is_empty());
        append(&path, "5\n");
        assert_eq!(new_lines(&mut log), ["5"]);
        // Renamed, written to once more, and replaced.
        fs::rename(&path, dir.path().join("x.log.1")).unwrap();
        append(&dir.path().join("x.log.1"), "6\n");
        assert_eq!(new_lines(&mut log), ["6"]);
        append(&path, "7\n");
        assert_eq!(new_lines(&mut log), ["7"]);
        append(&path, &"y".repeat(MAX_LINE + 1));
        assert_eq!(new_lines(&mut log), ["y".repeat(MAX_LINE)]);
        fs::remove_file(&path).unwrap();
        append(&path, "8\n");
        assert_eq!(new_lines(&mut log), ["y", "8"]);
    }
}
