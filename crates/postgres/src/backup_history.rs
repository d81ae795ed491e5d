//! The file that a primary writes into its WAL archive when a backup of it or of a standby ends.

use cellar_model::{Lsn, Segment, SegmentSize};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The name of the file about a backup whose WAL begins at `start`, in `first`.
#[must_use]
pub fn backup_history_name(size: SegmentSize, first: Segment, start: Lsn) -> String {
    format!("{}.{:08X}.backup", size.file_name(first), size.offset_of(start))
}

/// When the backup ended by the clock of the primary, in whole seconds. None when the file does not say it in UTC, which
/// `log_timezone` of a cell is.
#[must_use]
pub fn backup_stop_time(file: &str) -> Option<Timestamp> {
    let time = file.lines().find_map(|line| line.strip_prefix("STOP TIME: "))?;
    let time: DateTime = time.trim_end().strip_suffix(" UTC")?.parse().ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of PostgreSQL 15.
    const FILE: &str = "START WAL LOCATION: 0/5000028 (file 000000010000000000000005)\n\
        STOP WAL LOCATION: 0/5000138 (file 000000010000000000000005)\n\
        CHECKPOINT LOCATION: 0/5000060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: primary\n\
        START TIME: 2026-11-28 16:54:28 UTC\n\
        LABEL: pgBackRest backup started at 2026-11-28 16:54:28\n\
        START TIMELINE: 1\n\
        STOP TIME: 2026-11-28 16:54:38 UTC\n\
        STOP TIMELINE: 1\n";

    #[test]
    fn history_file_says_when_the_backup_ended() {
        let size = SegmentSize::default();
        let first = size.parse_file_name("000000010000000000000005").unwrap();
        let name = backup_history_name(size, first, "0/5000028".parse().unwrap());
        assert_eq!(name, "000000010000000000000005.00000028.backup");
        assert_eq!(backup_stop_time(FILE), Some("2026-11-28T16:54:38Z".parse().unwrap()));
    }

    #[test]
    fn time_that_is_not_in_utc_is_none() {
        for text in ["", "STOP TIME:", "STOP TIME: 2026-11-28 16:54:38 CET", "STOP TIME: yesterday UTC"] {
            assert_eq!(backup_stop_time(text), None, "{text}");
        }
        assert_eq!(backup_stop_time(&FILE.replace("\nSTOP TIME", "\nTIME")), None);
    }
}
