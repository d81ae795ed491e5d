//! Following the growing log of a backup, for its progress.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use cellar_model::Progress;
use cellar_pgbackrest::DetailLog;

/// A log that is read while pgBackRest writes it.
pub(super) struct FollowedLog {
    path: PathBuf,
    parsed: DetailLog,
    position: u64,
    partial_line: Vec<u8>,
}

impl FollowedLog {
    /// Follows the log at `path` from its beginning.
    pub(super) fn new(path: &Path, parser: DetailLog) -> Self {
        Self { path: path.to_owned(), parsed: parser, position: 0, partial_line: Vec::new() }
    }

    /// How far the backup is.
    pub(super) fn progress(&self) -> Progress {
        self.parsed.progress()
    }

    /// Reads what was written since the last call. A log that cannot be read gives no news.
    pub(super) fn read(&mut self) {
        let Ok(mut file) = std::fs::File::open(&self.path) else { return };
        if file.seek(SeekFrom::Start(self.position)).is_err() {
            return;
        }
        let mut bytes = Vec::new();
        let Ok(count) = file.read_to_end(&mut bytes) else { return };
        self.position += count as u64;
        self.partial_line.extend(bytes);
        while let Some(end) = self.partial_line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial_line.drain(..=end).collect();
            self.parsed.line(String::from_utf8_lossy(&line[..end]).as_ref());
        }
    }
}
