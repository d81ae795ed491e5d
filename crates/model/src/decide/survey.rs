//! What there is to restore from: the backups and the WAL of a repo.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::decide::mark::Mark;
use crate::records::backup::{BackupLabel, BackupType};
use crate::records::job::id::JobId;
use crate::records::recovery::RecoveryWindow;
use crate::types::code::{Code, Refusal};
use crate::types::lsn::{Lsn, SystemIdentifier, Timeline};
use crate::types::wal::{Archive, History, Lineage, Segment};

/// A backup as the repo describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SurveyedBackup {
    /// Its label.
    pub label: BackupLabel,
    /// Its type.
    pub backup_type: BackupType,
    /// The timeline on which it was taken.
    pub timeline: Timeline,
    /// Where a recovery from it begins.
    pub start_lsn: Lsn,
    /// Where it becomes consistent: the earliest target.
    pub stop_lsn: Lsn,
    /// When it ended, in whole seconds.
    pub stop_time: Timestamp,
    /// First WAL segment that it needs.
    pub first_segment: u64,
    /// Last one that it needs to become consistent.
    pub last_segment: u64,
    /// Bytes of its data directory.
    pub size_bytes: u64,
    /// The identity of the database that it is of.
    pub system_identifier: Option<SystemIdentifier>,
    /// What its proof wrote.
    pub mark: Mark,
    /// Whether pages with wrong checksums were found while it was taken.
    pub page_errors: bool,
    /// The backups that it builds on.
    pub bases: Vec<BackupLabel>,
    /// Whether its last drill passed; none when no drill of it is known here.
    pub drill_passed: Option<bool>,
    /// Who needs it, so that it must not be deleted.
    pub held: Option<Held>,
}

/// Who needs a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// A drill that restores it.
    Drill(JobId),
    /// A restore that is neither confirmed nor rolled back.
    OpenRestore(JobId),
}

/// What was found of a name or a transaction in the WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The position of its record.
    pub lsn: Lsn,
    /// The record in words.
    pub record: String,
}

/// What there is to restore from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The identity of the database.
    pub system_identifier: Option<SystemIdentifier>,
    /// All backups.
    pub backups: Vec<SurveyedBackup>,
    /// The histories of all timelines above 1 that the archive knows.
    pub histories: BTreeMap<Timeline, History>,
    /// The WAL that the archive has.
    pub archive: Archive,
    /// When each segment came into the archive.
    pub archived_at: BTreeMap<Segment, Timestamp>,
    /// When each history came into the archive: a primary sends it as soon as it is promoted.
    pub begun_at: BTreeMap<Timeline, Timestamp>,
    /// The recorded primary's timeline.
    pub current: Timeline,
    /// How far the primary has written, if it answers: WAL up to there will be in the archive once it is fenced.
    pub write_lsn: Option<Lsn>,
    /// Now.
    pub now: Timestamp,
}

impl Survey {
    /// The lineage of a timeline.
    ///
    /// # Errors
    /// When the archive knows no such timeline.
    pub fn lineage(&self, timeline: Timeline) -> Result<Lineage, Refusal> {
        match self.histories.get(&timeline) {
            Some(history) => Ok(Lineage::new(timeline, history)),
            None if timeline == Timeline::new(1) => Ok(Lineage::new(timeline, &History::default())),
            None => {
                let known: Vec<String> = std::iter::once(Timeline::new(1))
                    .chain(self.histories.keys().copied())
                    .map(|timeline| timeline.to_string())
                    .collect();
                Err(Refusal::new(
                    Code::TargetUnreachable,
                    format!(
                        "the archive has no history of timeline {timeline} (known: {})",
                        known.join(", ")
                    ),
                )
                .about("field", "timeline"))
            }
        }
    }

    /// The timeline that was the primary's at a time. Each promotion takes a number above all that are known.
    pub(crate) fn written_at(&self, time: Timestamp) -> Timeline {
        let begun = self.begun_at.iter().filter(|(_, at)| **at <= time).map(|(timeline, _)| *timeline);
        begun.max().unwrap_or(Timeline::new(1))
    }

    /// The last place at which a timeline was left for another that the archive knows, and that other one. The WAL up to
    /// there was written, whether the archive has it under this timeline's name or not: the last segment of a primary that
    /// was lost is only there as `.partial`, and the new timeline's own file repeats it.
    #[must_use]
    pub fn left_for(&self, timeline: Timeline) -> Option<(Timeline, Lsn)> {
        let left = self
            .histories
            .iter()
            .filter_map(|(child, history)| Some((*child, Lineage::new(*child, history).end_of(timeline)?)));
        left.max_by_key(|(_, at)| *at)
    }

    /// How far the WAL of a lineage reaches: what is archived, or what the primary has still to archive.
    pub(crate) fn end_of(&self, lineage: &Lineage) -> Option<Lsn> {
        let archived = lineage.newest(&self.archive).map(|number| self.archive.size.start_of(number + 1));
        let written = self.write_lsn.filter(|_| lineage.timeline() == self.current);
        archived.max(written)
    }
}

/// From where to where each backup can be taken, on the current timeline and on those that were left behind.
#[must_use]
pub fn windows(survey: &Survey) -> Vec<RecoveryWindow> {
    let mut windows = Vec::new();
    let mut timelines: Vec<Timeline> = vec![Timeline::new(1)];
    timelines.extend(survey.histories.keys());
    for backup in &survey.backups {
        for timeline in &timelines {
            let Ok(lineage) = survey.lineage(*timeline) else { continue };
            // A window is shown where the timeline itself is reached, not for all that begin on its way.
            if !lineage.contains(backup.timeline, backup.stop_lsn) {
                continue;
            }
            let size = survey.archive.size;
            let Some(last) = lineage.last_without_gap(backup.first_segment, &survey.archive) else {
                continue;
            };
            if last < size.number_of(lineage.begins_at()) || last < backup.last_segment {
                continue;
            }
            let gap = lineage
                .newest(&survey.archive)
                .filter(|newest| *newest > last)
                .and_then(|_| lineage.files(last + 1, size).next())
                .map(|segment| size.file_name(segment))
                .unwrap_or_default();
            let file = lineage.files(last, size).find(|segment| survey.archive.has(segment));
            windows.push(RecoveryWindow {
                backup: backup.label.clone(),
                timeline: *timeline,
                from_lsn: backup.stop_lsn,
                from_time: backup.stop_time,
                to_lsn: size.start_of(last + 1),
                to_time: file.and_then(|segment| survey.archived_at.get(&segment).copied()),
                gap,
            });
        }
    }
    windows.sort_by(|a, b| (a.timeline, &a.backup).cmp(&(b.timeline, &b.backup)));
    windows
}

#[cfg(test)]
pub(crate) mod example {
    use super::*;
    use crate::types::wal::SegmentSize;

    pub(crate) fn label(n: u8) -> BackupLabel {
        format!("2026030{n}-101500F").parse().unwrap()
    }

    /// Two full backups of timeline 1, from segments 2 and 6, and these segments.
    pub(crate) fn survey(segments: &[u64]) -> Survey {
        let size = SegmentSize::default();
        let mut archive = Archive { size, segments: BTreeMap::new() };
        for number in segments {
            archive.add(Segment { timeline: Timeline::new(1), number: *number });
        }
        let backup = |n: u8, first: u64| SurveyedBackup {
            label: label(n),
            backup_type: BackupType::Full,
            timeline: Timeline::new(1),
            start_lsn: size.start_of(first),
            stop_lsn: size.start_of(first + 1),
            stop_time: Timestamp::from_second(1_772_360_100 + i64::from(n)).unwrap(),
            first_segment: first,
            last_segment: first + 1,
            size_bytes: 1,
            system_identifier: None,
            mark: Mark::Proven,
            page_errors: false,
            bases: Vec::new(),
            drill_passed: None,
            held: None,
        };
        Survey {
            system_identifier: None,
            backups: vec![backup(1, 2), backup(2, 6)],
            histories: BTreeMap::new(),
            archive,
            archived_at: BTreeMap::new(),
            begun_at: BTreeMap::new(),
            current: Timeline::new(1),
            write_lsn: None,
            now: Timestamp::from_second(1_772_370_100).unwrap(),
        }
    }
}
