//! What `pgbackrest expire` says that it deletes, or with `--dry-run` would.

use cellar_model::{BackupLabel, WalRange};

use crate::log_line::{LogLevel, LogLine};
use crate::tool_error::tool_messages;

/// What went, or would.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expiry {
    /// Backups, oldest first.
    pub backups: Vec<BackupLabel>,
    /// WAL in the order of its archives and names.
    pub wal: Vec<WalRange>,
    /// Warnings, such as that no retention is set.
    pub warnings: Vec<String>,
}

/// `15-1 remove archive, start = 000000010000000000000001, stop = 000000010000000000000006`
fn wal_range(text: &str) -> Option<WalRange> {
    let (archive, rest) = text.split_once(" remove archive, start = ")?;
    let (start, stop) = rest.split_once(", stop = ")?;
    let words = [archive, start, stop];
    let plain =
        |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    words.iter().all(plain).then(|| WalRange {
        archive: archive.to_owned(),
        start: start.to_owned(),
        stop: stop.to_owned(),
    })
}

/// What a line says of an expiry of that kind: every line of a dry run is marked as such.
fn of_kind(text: &str, dry_run: bool) -> Option<&str> {
    match (text.strip_prefix("[DRY-RUN] "), dry_run) {
        (Some(text), true) => Some(text),
        (None, false) => Some(text),
        _ => None,
    }
}

/// Reads the log of an expiry, at level info (as of 2.45): what it says of the dry run, or of the act. One log may hold
/// both.
#[must_use]
pub fn parse_expiry(log: &str, dry_run: bool) -> Expiry {
    let mut expiry = Expiry::default();
    for line in log.lines() {
        let LogLine::Entry { level: LogLevel::Info, text } = LogLine::parse(line) else { continue };
        let Some(text) = of_kind(text, dry_run) else { continue };
        let repo = text.split_once(": ").filter(|(repo, _)| {
            repo.strip_prefix("repo").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        });
        let Some((_, what)) = repo else { continue };
        if let Some(label) = what.strip_prefix("remove expired backup ") {
            expiry.backups.extend(label.parse::<BackupLabel>());
        } else {
            expiry.wal.extend(wal_range(what));
        }
    }
    expiry.backups.sort();
    expiry.backups.dedup();
    expiry.wal.sort();
    expiry.wal.dedup();
    let warnings = tool_messages(log).into_iter().filter(|message| message.level == LogLevel::Warn);
    expiry.warnings =
        warnings.filter_map(|warning| of_kind(&warning.text, dry_run).map(str::to_owned)).collect();
    expiry
}

/// The WAL segment that a `check` of a primary saw arrive in the repository, from its log at level info.
#[must_use]
pub fn archived_segment(log: &str) -> Option<&str> {
    log.lines().find_map(|line| {
        let LogLine::Entry { level: LogLevel::Info, text } = LogLine::parse(line) else { return None };
        let (segment, _) = text.strip_prefix("WAL segment ")?.split_once(" successfully archived to ")?;
        (segment.len() == 24 && segment.bytes().all(|b| b.is_ascii_hexdigit())).then_some(segment)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measured with 2.45.
    const DRY: &str = include_str!("../../../fuzz/corpus/expiry/dry-run-2.45.log");
    const ADHOC: &str = include_str!("../../../fuzz/corpus/expiry/adhoc-latest-2.45.log");

    fn labels(expiry: &Expiry) -> Vec<&str> {
        expiry.backups.iter().map(BackupLabel::as_str).collect()
    }

    #[test]
    fn a_dry_run_and_the_expiry_report_the_same() {
        let dry = parse_expiry(DRY, true);
        let all = ["20261121-191233F", "20261121-191241F", "20261121-191241F_20261121-191247I"];
        assert_eq!(labels(&dry), all);
        let range = |start: &str, stop: &str| WalRange {
            archive: "15-1".into(),
            start: start.into(),
            stop: stop.into(),
        };
        assert_eq!(dry.wal, [range("000000010000000000000001", "000000010000000000000006")]);
        assert_eq!(dry.warnings, [""; 0]);
        let done = DRY.replace("[DRY-RUN] ", "");
        assert_eq!(parse_expiry(&done, false), dry);
        assert_eq!(parse_expiry(&format!("{DRY}{done}"), false), dry);
        assert_eq!(parse_expiry(&done, true), Expiry::default());
        assert_eq!(parse_expiry(DRY, false), Expiry::default());
    }

    #[test]
    fn warnings_are_kept_and_lines_of_other_programs_are_ignored() {
        let adhoc = parse_expiry(ADHOC, true);
        assert_eq!(labels(&adhoc).len(), 2);
        assert_eq!(adhoc.warnings.len(), 1, "{adhoc:?}");
        assert!(adhoc.warnings[0].contains("point-in-time-recovery"), "{adhoc:?}");
        for foreign in [
            "remove expired backup 20261121-191233F",
            "P00   INFO: remove expired backup 20261121-191233F",
            "P00   INFO: repo1: remove expired backup ../20261121-191233F",
            "P00   WARN: repo1: remove expired backup 20261121-191233F",
            "P00   INFO: repo1: 15-1 remove archive, start = x y, stop = z",
        ] {
            let expiry = parse_expiry(foreign, false);
            assert!(expiry.backups.is_empty() && expiry.wal.is_empty(), "{foreign}: {expiry:?}");
        }
    }
}
