//! What is wrong with a repo that was read.

use jiff::{SignedDuration, Timestamp};

use crate::decide::survey::{Survey, windows};
use crate::decide::worth::{best_on, worth};
use crate::records::backup::BackupLabel;
use crate::records::maintenance::Verified;
use crate::types::json::timestamp_text;
use crate::types::wal::Segment;

/// What is wrong with a repo, each in a sentence, beside what breaks nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults {
    /// A restore would fail or lose rows.
    pub errors: Vec<String>,
    /// What cannot be reached, though the newest backup leads to the present.
    pub warnings: Vec<String>,
}

/// A backup that the repo lists, and whether its files were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedBackup {
    /// Its label.
    pub label: BackupLabel,
    /// Why pgBackRest cannot load its manifest; none when it can.
    pub unloadable: Option<String>,
}

/// How many whole segments of the primary may be on their way into the archive: the one that has just ended, and the one
/// before it while that is pushed.
const MAX_SEGMENTS_ON_THE_WAY: u64 = 2;

/// How old the newest file of the archive may be while segments wait: our settings' `archive_timeout`.
const MAX_ARCHIVE_AGE: SignedDuration = SignedDuration::from_secs(60);

/// Segments that the primary has written whole and that the archive does not have, though it has had the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// The first of them.
    pub first: Segment,
    /// How many.
    pub count: u64,
    /// When the newest that the archive has came there, if the repo says.
    pub archived: Option<Timestamp>,
}

/// How far the archive is behind the primary: none when it is not, or when the primary does not answer.
#[must_use]
pub fn backlog(survey: &Survey) -> Option<Backlog> {
    let (written, lineage) = survey.write_lsn.zip(survey.lineage(survey.current).ok())?;
    let (archive, size) = (&survey.archive, survey.archive.size);
    let newest = lineage.newest(archive)?;
    let count = size.number_of(written).saturating_sub(newest + 1);
    let file = lineage.files(newest, size).find(|segment| archive.has(segment));
    let archived = file.and_then(|segment| survey.archived_at.get(&segment).copied());
    let is_old = archived.is_none_or(|at| survey.now.duration_since(at) > MAX_ARCHIVE_AGE);
    let first = lineage.files(newest + 1, size).next()?;
    (count > MAX_SEGMENTS_ON_THE_WAY && is_old).then_some(Backlog { first, count, archived })
}

/// Reports what is wrong with what was read: that a listed backup is not there, the files by their checksums, and the WAL
/// by its gaps.
///
/// pgBackRest's own report goes by the directories that it finds (2.45 to 2.60). Of a backup whose directory or manifest
/// is gone it says nothing, nor of WAL that is missing between other WAL.
#[must_use]
pub fn faults(
    listed: &[ListedBackup],
    backups: &[Verified],
    archives: &[Verified],
    survey: &Survey,
) -> Faults {
    let mut found = Faults::default();
    for ListedBackup { label, unloadable } in listed {
        if let Some(why) = unloadable {
            found.errors.push(format!("backup {label} cannot be restored: {why}"));
        } else if !backups.iter().any(|backup| backup.name == label.as_str()) {
            found.errors.push(format!("backup {label} is listed, and pgBackRest read no file of it"));
        }
    }
    for (what, each) in backups.iter().map(|b| ("backup", b)).chain(archives.iter().map(|a| ("archive", a))) {
        if each.valid {
            continue;
        }
        let counts = [
            (each.missing, "missing"),
            (each.checksum_invalid, "with another checksum"),
            (each.size_invalid, "of another size"),
            (each.other, "unreadable"),
        ];
        let counts: Vec<String> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        let why =
            if counts.is_empty() { "pgBackRest calls it invalid".to_owned() } else { counts.join(", ") };
        found.errors.push(format!("{what} {}: {why}", each.name));
    }
    let size = survey.archive.size;
    for backup in &survey.backups {
        let Ok(lineage) = survey.lineage(backup.timeline) else {
            found.errors.push(format!(
                "backup {} is of timeline {}, whose history is not in the archive",
                backup.label, backup.timeline
            ));
            continue;
        };
        let missing = lineage.missing(backup.first_segment, backup.last_segment, &survey.archive);
        if let Some(segment) = missing.first {
            found.errors.push(format!(
                "backup {} needs WAL segment {} to become consistent, and the archive does not have it",
                backup.label,
                size.file_name(segment)
            ));
        }
    }
    let best = survey.lineage(survey.current).ok().and_then(|lineage| best_on(&survey.backups, &lineage));
    for window in windows(survey).iter().filter(|window| !window.gap.is_empty()) {
        let text = format!(
            "WAL segment {} is missing: from backup {} timeline {} can be followed to {} and no further",
            window.gap, window.backup, window.timeline, window.to_lsn
        );
        let matters =
            window.timeline == survey.current && best.is_some_and(|best| best.label == window.backup);
        if matters { found.errors.push(text) } else { found.warnings.push(text) }
    }
    if let Some((best, flaw)) = best.and_then(|best| Some((best, worth(best, &survey.backups).flaw()?))) {
        found.warnings.push(format!("of the best backup, {}, {flaw}", best.label));
    }
    if let Some(Backlog { first, count, archived }) = backlog(survey) {
        let since = archived.map(|at| format!(" since {}", timestamp_text(at))).unwrap_or_default();
        found.errors.push(format!(
            "nothing was archived{since}: the primary has ended {count} WAL segments that the archive does not have, the first is {}",
            size.file_name(first)
        ));
    }
    if survey.write_lsn.is_none() {
        found.warnings.push(
            "the primary does not answer, so it is not known whether the archive reaches to the present"
                .to_owned(),
        );
    }
    if best.is_none() {
        found.errors.push(format!("no backup leads to timeline {}, which the primary is on", survey.current));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::survey::example::{self, label};
    use crate::types::lsn::Lsn;

    /// As the example, with a primary that writes in segment 9.
    fn survey(segments: &[u64]) -> Survey {
        let all = example::survey(segments);
        Survey { write_lsn: Some(Lsn::new(9 * all.archive.size.bytes() + 77)), ..all }
    }

    #[test]
    fn archive_that_stands_still_is_an_error() {
        let mut all = survey(&[2, 3, 4, 5, 6, 7, 8]);
        let size = all.archive.size;
        let mut write_in = |number: u64| {
            all.write_lsn = Some(size.start_of(number));
            faults(&listed(), &read(), &[], &all)
        };
        assert_eq!(write_in(11), Faults::default(), "two may be on their way");
        let behind = write_in(12);
        assert_eq!(behind.errors.len(), 1, "{behind:?}");
        assert!(behind.errors[0].contains("ended 3 WAL segments") && behind.errors[0].contains("09"));
        let newest = *all.archive.segments.keys().next().unwrap();
        let came = |seconds: i64| all.now.saturating_sub(SignedDuration::from_secs(seconds)).unwrap();
        let times = [(59, None), (61, Some(3))].map(|(age, count)| (came(age), count));
        for (at, count) in times {
            all.archived_at.insert(Segment { timeline: newest, number: 8 }, at);
            assert_eq!(backlog(&all).map(|backlog| backlog.count), count);
        }
        all.write_lsn = None;
        let silent = faults(&listed(), &read(), &[], &all);
        assert!(silent.errors.is_empty() && silent.warnings[0].contains("does not answer"), "{silent:?}");
    }

    fn listed() -> Vec<ListedBackup> {
        [1, 2].map(|n| ListedBackup { label: label(n), unloadable: None }).to_vec()
    }

    fn read() -> Vec<Verified> {
        [1, 2].map(|n| Verified { name: label(n).to_string(), valid: true, ..Verified::default() }).to_vec()
    }

    #[test]
    fn listed_backup_that_is_not_there_is_an_error() {
        let all = survey(&[2, 3, 4, 5, 6, 7, 8]);
        let gone = faults(&listed(), &read()[1..], &[], &all);
        assert_eq!(gone.errors, ["backup 20260301-101500F is listed, and pgBackRest read no file of it"]);
        let mut listed = listed();
        listed[1].unloadable = Some("requested backup not found".to_owned());
        let unloadable = faults(&listed, &read(), &[], &all);
        assert_eq!(
            unloadable.errors,
            ["backup 20260302-101500F cannot be restored: requested backup not found"]
        );
    }

    #[test]
    fn flaw_of_the_best_backup_is_a_warning() {
        let mut all = survey(&[2, 3, 4, 5, 6, 7, 8]);
        all.backups.iter_mut().for_each(|backup| backup.page_errors = true);
        let found = faults(&listed(), &read(), &[], &all);
        assert!(found.errors.is_empty() && found.warnings[0].contains("20260302-101500F"), "{found:?}");
    }

    fn found(segments: &[u64]) -> Faults {
        faults(&listed(), &read(), &[], &survey(segments))
    }

    #[test]
    fn gap_is_an_error_only_behind_the_newest_backup() {
        assert_eq!(found(&[2, 3, 4, 5, 6, 7, 8]), Faults::default());
        let between = found(&[2, 3, 5, 6, 7, 8]);
        assert_eq!((between.errors.len(), between.warnings.len()), (0, 1), "{between:?}");
        assert!(between.warnings[0].contains("000000010000000000000004"), "{between:?}");
        let behind = found(&[2, 3, 4, 5, 6, 7, 9]);
        assert_eq!(behind.errors.len(), 1, "{behind:?}");
        assert!(behind.errors[0].contains("000000010000000000000008"), "{behind:?}");
    }

    #[test]
    fn backup_without_its_own_wal_is_an_error() {
        let within = found(&[2, 4, 5, 6, 7, 8]);
        assert!(within.errors.iter().any(|e| e.contains("20260301-101500F needs")), "{within:?}");
        let nothing = Survey { backups: vec![], ..survey(&[2, 3, 4, 5, 6, 7, 8]) };
        assert_eq!(faults(&[], &[], &[], &nothing).errors.len(), 1);
    }

    #[test]
    fn invalid_files_are_reported_with_their_counts() {
        let bad =
            Verified { name: label(1).to_string(), missing: 1, checksum_invalid: 2, ..Verified::default() };
        let good = Verified { name: "15-1".into(), valid: true, ..Verified::default() };
        let all = survey(&[2, 3, 4, 5, 6, 7, 8]);
        let found = faults(&[], std::slice::from_ref(&bad), std::slice::from_ref(&good), &all);
        assert_eq!(found.errors, ["backup 20260301-101500F: 1 missing, 2 with another checksum"]);
        let odd = Verified { missing: 0, checksum_invalid: 0, ..bad };
        assert!(faults(&[], &[], &[odd], &all).errors[0].starts_with("archive "));
    }
}
