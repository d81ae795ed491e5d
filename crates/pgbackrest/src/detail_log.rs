//! The detail log of a backup or a restore, read line by line while it grows.
//!
//! It is the only place where pgBackRest says which host each file was copied
//! from, so a backup's source is proven with it. Formats measured with 2.45:
//!
//! ```text
//! P02 DETAIL: backup file /srv/zone2/pg_data/base/5/1249 (520KB, 58.64%) checksum 07861c…
//! P01 DETAIL: backup file localhost:/srv/zone1/pg_data/global/pg_control (8KB, 2.24%) checksum d2416e…
//! P01 DETAIL: backup file db2:/srv/zone2/pg_data/base/5/1249 (520KB, 58.64%) checksum 07861c… (of a remote standby)
//! P02 DETAIL: backup file /srv/zone2/pg_data/base/5/1417 (bundle 2/163, 0B, 100.00%)
//! P02 DETAIL: match file from prior backup /srv/zone2/pg_data/base/5/1255 (768KB, 36.17%) checksum 552d…
//! P00 DETAIL: store zero-length file /srv/zone1/pg_data/base/1/13394
//! P01 DETAIL: store truncated file /srv/zone2/pg_data/base/5/16384 (2.50 and later, read in its source)
//! ```
//!
//! Newer versions write `12MB->8KB` where a file changed its size.

use cellar_model::{BackupLabel, CopyCount, Progress};

use crate::copied_file::{CopiedFile, is_below, is_standby_data, parse_size};
use crate::log_line::{LogLevel, LogLine};
use crate::tool_error::ToolMessage;

/// Warnings and errors kept: the first and the last ones matter, a page checksum storm does not.
const MAX_MESSAGES: usize = 200;

/// The primary that a job config names as pg2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimarySource {
    /// Its host, the prefix of the files copied from it; none when pgBackRest runs there.
    pub host: Option<String>,
    /// Its data directory. Members of a local cluster share one host name, so the prefix alone does not tell them apart.
    pub data_directory: String,
}

impl PrimarySource {
    /// Whether a file is one of its own that a standby cannot supply.
    fn supplies(&self, file: &CopiedFile<'_>) -> bool {
        let relative = is_below(&self.data_directory, file.path);
        file.host == self.host.as_deref() && relative.is_some_and(|relative| !is_standby_data(relative))
    }
}

/// How the command ended, as its last line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Completed successfully.
    Completed,
    /// Aborted with this exit code.
    Aborted(u8),
    /// A signal ended it.
    Terminated,
}

/// What a finished backup says of its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupTotals {
    /// Bytes copied, rounded to a tenth of the printed unit.
    pub bytes: u64,
    /// Files of the backup, those only referenced in earlier backups and `backup_label` included.
    pub files: u64,
}

/// Reads a detail log.
#[derive(Debug, Clone)]
pub struct DetailLog {
    source_host: Option<String>,
    data_directory: String,
    primary: Option<PrimarySource>,
    copied: CopyCount,
    matched: u64,
    stored_empty: u64,
    skipped: u64,
    bytes_seen: u64,
    percent: f64,
    bytes_total: u64,
    phase: &'static str,
    label: Option<BackupLabel>,
    totals: Option<BackupTotals>,
    ended: Option<Ended>,
    messages: Vec<ToolMessage>,
    in_message: bool,
}

impl DetailLog {
    /// Reads the log of a backup of `data_directory`, with the primary when a standby was named.
    #[must_use]
    pub fn new(data_directory: &str, primary: Option<PrimarySource>) -> Self {
        Self {
            source_host: None,
            data_directory: data_directory.to_owned(),
            primary,
            copied: CopyCount::default(),
            matched: 0,
            stored_empty: 0,
            skipped: 0,
            bytes_seen: 0,
            percent: 0.0,
            bytes_total: 0,
            phase: "starting",
            label: None,
            totals: None,
            ended: None,
            messages: Vec::new(),
            in_message: false,
        }
    }

    /// The named instance is on this host, and pgBackRest runs on another one.
    #[must_use]
    pub fn of_host(self, host: &str) -> Self {
        Self { source_host: Some(host.to_owned()), ..self }
    }

    /// Takes the next whole line: feed a growing file only up to its last line feed. Never fails; what names a copied file and is not understood is counted.
    pub fn line(&mut self, line: &str) {
        let parsed = LogLine::parse(line);
        let (level, text) = match parsed {
            LogLine::Continuation(text) => {
                if let (true, Some(last)) = (self.in_message, self.messages.last_mut()) {
                    last.push_line(text);
                }
                return;
            }
            LogLine::Foreign(text) => {
                self.in_message = false;
                // A line torn out of its place must not pass for one that copied nothing.
                if text.contains("backup file ") {
                    self.copied.not_understood += 1;
                }
                return;
            }
            LogLine::Entry { level, text } => (level, text),
        };
        self.in_message = false;
        if let Some(message) = ToolMessage::of(parsed) {
            if level == LogLevel::Warn && text.starts_with("unable to check pg") {
                self.copied.unable_to_check += 1;
            }
            if self.messages.len() == MAX_MESSAGES {
                self.messages.remove(MAX_MESSAGES / 2);
            }
            self.messages.push(message);
            self.in_message = true;
            return;
        }
        if level == LogLevel::Info && text.starts_with("backup command begin ") {
            // One that ended before it had copied anything, and was run again: the log has all of them, the last one counts.
            let source_host = self.source_host.take();
            *self = Self { source_host, ..Self::new(&self.data_directory, self.primary.take()) };
            return;
        }
        self.file(text);
        self.step(text);
    }

    fn file(&mut self, text: &str) {
        if let Some(rest) = text.strip_prefix("backup file ") {
            self.phase = "copying";
            match CopiedFile::parse(rest) {
                Some(file) => {
                    self.count(&file, true);
                    self.advance(&file);
                }
                None => self.copied.not_understood += 1,
            }
        } else if let Some(rest) = text
            .strip_prefix("match file from prior backup ")
            .or_else(|| text.strip_prefix("checksum resumed file "))
        {
            self.phase = "copying";
            match CopiedFile::parse(rest) {
                Some(file) => {
                    self.count(&file, false);
                    self.advance(&file);
                }
                None => self.copied.not_understood += 1,
            }
        } else if let Some(rest) = text.strip_prefix("restore file ") {
            self.phase = "restoring files";
            if let Some(file) = CopiedFile::parse(rest) {
                self.advance(&file);
            }
        } else if text.starts_with("store zero-length file ") || text.starts_with("store truncated file ") {
            // Both are noted in the manifest with size 0, and nothing is copied.
            self.stored_empty += 1;
        } else if text.starts_with("skip file removed by database ") {
            self.skipped += 1;
        }
    }

    /// A file that was only compared proves nothing when its origin is right, and as much against the
    /// source as a copied one when it is wrong.
    fn count(&mut self, file: &CopiedFile<'_>, copied: bool) {
        let from_source = file.host == self.source_host.as_deref();
        let right = if from_source && is_below(&self.data_directory, file.path).is_some() {
            &mut self.copied.local_inside
        } else if self.primary.as_ref().is_some_and(|primary| primary.supplies(file)) {
            &mut self.copied.from_primary_required
        } else if file.host.is_none() {
            self.copied.local_outside += 1;
            return;
        } else {
            self.copied.remote_data += 1;
            return;
        };
        if copied {
            *right += 1;
        } else {
            self.matched += 1;
        }
    }

    /// The sizes are rounded and the percentage is cumulative, so their quotient nears the true total as
    /// the copying goes on; small changes are left out, or the total would tremble.
    fn advance(&mut self, file: &CopiedFile<'_>) {
        self.bytes_seen = self.bytes_seen.saturating_add(file.bytes);
        self.percent = self.percent.max(file.percent.min(100.0));
        if self.percent < 0.1 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and `as` saturates"
        )]
        let estimate = (self.bytes_seen as f64 * 100.0 / self.percent) as u64;
        let change = estimate.abs_diff(self.bytes_total);
        if self.bytes_total == 0 || change > self.bytes_total / 50 || self.percent >= 100.0 {
            self.bytes_total = estimate;
        }
        self.bytes_total = self.bytes_total.max(self.bytes_seen);
    }

    fn step(&mut self, text: &str) {
        if text.starts_with("execute ") && text.contains("backup start") {
            self.phase = "waiting for a checkpoint";
        } else if text.starts_with("wait for replay on the standby") {
            self.phase = "waiting for the standby to replay";
        } else if text.starts_with("check archive for") {
            self.phase = "checking the archive";
        } else if text.starts_with("execute ") && text.contains("backup stop") {
            self.phase = "stopping the backup";
        } else if let Some(rest) = text.strip_prefix("new backup label = ") {
            self.phase = "finishing";
            self.label = rest.trim().parse().ok();
        } else if let Some((_, rest)) = text.split_once(" backup size = ") {
            self.totals = parse_totals(rest);
        } else if let Some((_, rest)) = text.split_once(" command end: ") {
            self.ended = Some(parse_end(rest));
            self.phase = "ended";
        }
    }

    /// Where the copied files came from.
    #[must_use]
    pub fn copied(&self) -> CopyCount {
        self.copied
    }

    /// Files that were compared with an earlier backup and found the same (`--delta`), from the right place.
    #[must_use]
    pub fn matched(&self) -> u64 {
        self.matched
    }

    /// Empty files that a bundled backup only noted in its manifest.
    #[must_use]
    pub fn stored_empty(&self) -> u64 {
        self.stored_empty
    }

    /// Files that the database removed before they could be copied.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// How far it is. The total is an estimate until the copying ends.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress {
            phase: self.phase.to_owned(),
            bytes_done: self.bytes_seen.min(self.bytes_total),
            bytes_total: self.bytes_total,
            ..Progress::default()
        }
    }

    /// The new backup's label, once it has one. It is in the repository only after this line.
    #[must_use]
    pub fn label(&self) -> Option<&BackupLabel> {
        self.label.as_ref()
    }

    /// Size and file count of the finished backup.
    #[must_use]
    pub fn totals(&self) -> Option<BackupTotals> {
        self.totals
    }

    /// How the command ended; `None` for a log that was cut off, as by SIGKILL.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Warnings and errors in order; with very many, those in the middle are left out.
    #[must_use]
    pub fn messages(&self) -> &[ToolMessage] {
        &self.messages
    }
}

fn parse_totals(text: &str) -> Option<BackupTotals> {
    let (size, files) = text.split_once(", file total = ")?;
    Some(BackupTotals { bytes: parse_size(size)?, files: files.trim().parse().ok()? })
}

fn parse_end(text: &str) -> Ended {
    if text.starts_with("completed successfully") {
        return Ended::Completed;
    }
    text.strip_prefix("aborted with exception [")
        .and_then(|rest| rest.split_once(']'))
        .and_then(|(code, _)| code.parse().ok())
        .map_or(Ended::Terminated, Ended::Aborted)
}
