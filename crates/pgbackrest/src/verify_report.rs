//! What `pgbackrest verify --output=text --verbose` reports. Its exit code is 0 also when files are damaged or
//! missing (measured with 2.45), so only the report counts.

use std::collections::BTreeMap;

use cellar_model::{BackupLabel, Verified};

use crate::log_line::{LogLevel, LogLine};
use crate::tool_error::printable;

/// Damaged files that are named.
const NAMED: usize = 100;

/// The report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verification {
    /// What it says of the whole stanza; none when it says nothing, which is no good news.
    pub ok: Option<bool>,
    /// Every backup, oldest first.
    pub backups: Vec<Verified>,
    /// Every archive.
    pub archives: Vec<Verified>,
    /// The first damaged or missing files, each with what is the matter.
    pub damaged: Vec<String>,
}

/// `name: number` behind commas.
fn count(line: &str, name: &str) -> u64 {
    let parts = line.split(", ").filter_map(|part| part.split_once(": "));
    parts.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// The name after `key: `, up to a comma.
fn named<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key)?.strip_prefix(": ")?.split(',').next()
}

fn add_counts(found: &mut Verified, line: &str) {
    found.missing = count(line, "missing");
    found.checksum_invalid = count(line, "checksum invalid");
    found.size_invalid = count(line, "size invalid");
    found.other = count(line, "other");
}

fn is_counts(line: &str) -> bool {
    ["missing: ", "checksum invalid: ", "size invalid: ", "other: "].iter().any(|key| line.starts_with(key))
}

/// `invalid checksum '20261121-191241F/pg_data/base/1/2838.zst'`
fn damaged_file(text: &str) -> Option<String> {
    let (what, path) = text.strip_suffix('\'')?.split_once(" '")?;
    let words = !what.is_empty() && what.bytes().all(|b| b.is_ascii_lowercase() || b == b' ');
    words.then(|| printable(&format!("{path}: {what}")))
}

/// Which of the two kinds of thing the last line was about.
enum Last {
    Backup(BackupLabel),
    Archive(String),
}

/// Reads the output, at log level info. The report comes twice in it, once of the log and once by itself.
#[must_use]
pub fn parse_verification(output: &str) -> Verification {
    let mut report = Verification::default();
    let (mut backups, mut archives) = (BTreeMap::new(), BTreeMap::<String, Verified>::new());
    let mut last = None;
    for line in output.lines() {
        let text = match LogLine::parse(line) {
            LogLine::Entry { level: LogLevel::Info | LogLevel::Warn, text } => {
                last = None;
                let more = damaged_file(text);
                if report.damaged.len() < NAMED {
                    report.damaged.extend(more);
                }
                continue;
            }
            LogLine::Entry { .. } => continue,
            LogLine::Continuation(text) | LogLine::Foreign(text) => text.trim(),
        };
        if let Some(status) = named(text, "status") {
            // Said twice: it is well only if nothing else was ever said.
            report.ok = Some(report.ok.unwrap_or(true) && status == "ok");
        } else if let Some(id) = named(text, "archiveId") {
            let (files, valid_files) = (count(text, "total WAL checked"), count(text, "total valid WAL"));
            let found = Verified { name: id.to_owned(), files, valid_files, ..Verified::default() };
            archives.insert(id.to_owned(), found);
            last = Some(Last::Archive(id.to_owned()));
        } else if let Some(label) = named(text, "backup").and_then(|text| text.parse::<BackupLabel>().ok()) {
            let valid = text.split(", ").any(|part| part == "status: valid");
            let (files, valid_files) = (count(text, "total files checked"), count(text, "total valid files"));
            let found =
                Verified { name: label.to_string(), valid, files, valid_files, ..Verified::default() };
            backups.insert(label.clone(), found);
            last = Some(Last::Backup(label));
        } else if is_counts(text) {
            let about = match &last {
                Some(Last::Backup(label)) => backups.get_mut(label),
                Some(Last::Archive(id)) => archives.get_mut(id),
                None => None,
            };
            if let Some(found) = about {
                add_counts(found, text);
            }
        }
    }
    report.backups = backups.into_values().collect();
    report.archives = archives.into_values().collect();
    for archive in &mut report.archives {
        // The report has no word for these, only numbers.
        let bad = [archive.missing, archive.checksum_invalid, archive.size_invalid, archive.other];
        archive.valid = archive.files == archive.valid_files && bad.iter().all(|number| *number == 0);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measured with 2.45: one file damaged, one removed.
    const DAMAGED: &str = include_str!("../../../fuzz/corpus/verification/damaged-2.45.log");
    const WELL: &str = include_str!("../../../fuzz/corpus/verification/well-2.45.log");

    #[test]
    fn a_sound_repo_is_reported_as_such() {
        let report = parse_verification(WELL);
        assert_eq!(report.ok, Some(true));
        assert_eq!(report.backups.len(), 6);
        assert!(report.backups.iter().all(|backup| backup.valid && backup.files == 965), "{report:?}");
        assert_eq!(report.archives.len(), 1);
        assert!(report.archives[0].valid && report.archives[0].files == 12, "{report:?}");
        assert_eq!(report.damaged, [""; 0]);
    }

    #[test]
    fn damage_is_found_and_counted_once() {
        let report = parse_verification(DAMAGED);
        assert_eq!(report.ok, Some(false));
        let bad: Vec<(&str, u64, u64)> = report
            .backups
            .iter()
            .filter(|backup| !backup.valid)
            .map(|backup| (backup.name.as_str(), backup.missing, backup.checksum_invalid))
            .collect();
        assert_eq!(
            bad,
            [
                ("20261121-191241F", 0, 1),
                ("20261121-191241F_20261121-191247I", 0, 1),
                ("20261121-191257F", 1, 0),
                ("20261121-191257F_20261121-191303D", 1, 0),
            ]
        );
        assert_eq!(
            report.damaged,
            [
                "20261121-191241F/pg_data/base/1/2838.zst: invalid checksum",
                "20261121-191257F/pg_data/base/1/1247.zst: file missing",
            ]
        );
    }

    #[test]
    fn an_error_in_either_report_is_an_error_and_no_report_is_no_result() {
        assert_eq!(parse_verification("status: ok\nstatus: error\nstatus: ok\n").ok, Some(false));
        assert_eq!(parse_verification("").ok, None);
        assert_eq!(parse_verification("P00   INFO: status: ok").ok, None);
    }
}
