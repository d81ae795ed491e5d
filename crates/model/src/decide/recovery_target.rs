//! Which backup leads to a target, and whether all the WAL on the way is there.
//!
//! pgBackRest chooses a backup itself for a time or a position only, and takes the
//! latest for anything else, which may lie behind the target; so the choice is
//! made here for all of them, along the timeline that is meant.

use std::collections::BTreeMap;

use jiff::{Timestamp, ToSpan};

use crate::records::backup::{BackupLabel, BackupType};
use crate::records::restore::{RecoveryWindow, Target};
use crate::types::code::{Code, Refusal};
use crate::types::json::timestamp_text;
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
    /// Whether something is known to be wrong with it, in words.
    pub blemish: Option<String>,
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

/// The chosen way to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The backup.
    pub backup: SurveyedBackup,
    /// Why this one.
    pub why: String,
    /// The timeline that is followed.
    pub timeline: Timeline,
    /// What recovery is told.
    pub resolved: Target,
    /// First WAL file.
    pub wal_start: String,
    /// Last one, as far as it is known.
    pub wal_stop: String,
    /// How many.
    pub segments: u64,
    /// What an operator should know.
    pub warnings: Vec<String>,
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
    fn written_at(&self, time: Timestamp) -> Timeline {
        let begun = self.begun_at.iter().filter(|(_, at)| **at <= time).map(|(timeline, _)| *timeline);
        begun.max().unwrap_or(Timeline::new(1))
    }

    /// How far the WAL of a lineage reaches: what is archived, or what the primary has still to archive.
    fn end_of(&self, lineage: &Lineage) -> Option<Lsn> {
        let archived = lineage.newest(&self.archive).map(|number| self.archive.size.start_of(number + 1));
        let written = self.write_lsn.filter(|_| lineage.timeline() == self.current);
        archived.max(written)
    }
}

/// The newest backup that lies on a lineage: what a new member of it is restored from.
#[must_use]
pub fn newest_on<'a>(backups: &'a [SurveyedBackup], lineage: &Lineage) -> Option<&'a SurveyedBackup> {
    backups
        .iter()
        .filter(|backup| lineage.contains(backup.timeline, backup.stop_lsn))
        .max_by_key(|backup| (backup.stop_lsn, backup.stop_time))
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

fn unreachable(message: String, hint: String) -> Refusal {
    Refusal::new(Code::TargetUnreachable, message).hint(hint)
}

/// The first time that leads to a backup: its own is cut to seconds.
fn first_time(backup: &SurveyedBackup) -> Timestamp {
    backup.stop_time.saturating_add(1.second()).unwrap_or(backup.stop_time)
}

fn moment(backup: &SurveyedBackup) -> String {
    format!("{} ({})", timestamp_text(first_time(backup)), backup.stop_lsn)
}

/// Chooses the way to a target.
///
/// `found` is what a name or a transaction was found to be; those targets need it.
///
/// # Errors
/// Refused, naming what can be reached instead, when no backup leads there, the target lies beyond the WAL, or a
/// segment on the way is missing.
pub fn choose(
    survey: &Survey,
    target: &Target,
    timeline: Option<Timeline>,
    found: Option<&Found>,
) -> Result<Choice, Refusal> {
    if let Target::Backup(label) = target {
        return choose_named(survey, label, timeline);
    }
    let timeline = timeline.unwrap_or(survey.current);
    let lineage = survey.lineage(timeline)?;
    let on_it: Vec<&SurveyedBackup> = {
        let mut all: Vec<&SurveyedBackup> = survey
            .backups
            .iter()
            .filter(|backup| lineage.contains(backup.timeline, backup.stop_lsn))
            .collect();
        all.sort_by_key(|backup| (backup.stop_lsn, backup.stop_time));
        all
    };
    let Some(first) = on_it.first() else {
        return Err(unreachable(
            format!("no backup leads to timeline {timeline}"),
            "see the recovery windows with `cellar restore --plan --latest`, or name another --timeline"
                .to_owned(),
        ));
    };
    let end = survey.end_of(&lineage);
    let (resolved, limit) = match target {
        Target::Latest {} | Target::Backup(_) => (Target::Latest {}, None),
        Target::Time(time) => {
            if *time > survey.now {
                return Err(unreachable(
                    format!(
                        "{} is in the future: it is {} now",
                        timestamp_text(*time),
                        timestamp_text(survey.now)
                    ),
                    format!(
                        "the latest that can be reached is now (--latest), the earliest {}",
                        moment(first)
                    ),
                )
                .about("field", "target"));
            }
            (target.clone(), None)
        }
        Target::Lsn(lsn) => (target.clone(), Some(*lsn)),
        Target::Name(_) | Target::Xid(_) => {
            let Some(found) = found else {
                return Err(unreachable(
                    format!("{target} is nowhere in the WAL between {} and its end", first.stop_lsn),
                    format!(
                        "check it; the earliest that can be reached is the end of {}: {}",
                        first.label,
                        moment(first)
                    ),
                )
                .about("field", "target"));
            };
            (Target::Lsn(found.lsn), Some(found.lsn))
        }
    };
    if let (Some(limit), Some(end)) = (limit, end)
        && limit >= end
    {
        return Err(unreachable(
            format!("{target} lies behind the end of the WAL of timeline {timeline}, which is {end}"),
            format!("the latest that can be reached is {end} (--latest), the earliest {}", moment(first)),
        )
        .about("field", "target"));
    }
    let leads = |backup: &&&SurveyedBackup| match &resolved {
        // Times of backups are cut to seconds, so one that ended within the target's second may have ended behind it.
        Target::Time(time) => first_time(backup) <= *time,
        Target::Lsn(lsn) => backup.stop_lsn <= *lsn,
        _ => true,
    };
    let Some(backup) = on_it.iter().rev().find(leads).copied() else {
        return Err(unreachable(
            format!(
                "{target} lies before the end of the first backup on timeline {timeline}, {}",
                first.label
            ),
            format!("the earliest that can be reached is {}", moment(first)),
        )
        .about("field", "target"));
    };
    let why = match &resolved {
        Target::Latest {} => format!(
            "it is the newest of {} on timeline {timeline}, so the least WAL is replayed",
            on_it.len()
        ),
        _ => {
            format!("it is the newest of {} on timeline {timeline} that ended before the target", on_it.len())
        }
    };
    let mut warnings = Vec::new();
    let size = survey.archive.size;
    let newest = lineage.newest(&survey.archive);
    let last = match &resolved {
        // Inclusive: the record at that position is read whole.
        Target::Lsn(lsn) => size.number_of(*lsn),
        Target::Time(time) => {
            last_for_time(survey, &lineage, backup.first_segment, *time).unwrap_or(backup.last_segment)
        }
        _ => newest.unwrap_or(backup.last_segment),
    }
    .max(backup.last_segment);
    // What the primary has not archived yet it archives when it is fenced.
    let archived_last = newest.map_or(last, |newest| newest.min(last)).max(backup.last_segment);
    let missing = lineage.missing(backup.first_segment, archived_last, &survey.archive);
    if let Some(gap) = missing.first() {
        let reachable = lineage.last_without_gap(backup.first_segment, &survey.archive);
        let nearest = match reachable {
            Some(number) if number >= backup.last_segment => {
                let file = lineage.files(number, size).find(|segment| survey.archive.has(segment));
                let at = file.and_then(|segment| survey.archived_at.get(&segment));
                let time =
                    at.map(|time| format!(", archived at {}", timestamp_text(*time))).unwrap_or_default();
                format!("the latest that can be reached before it is {}{time}", size.start_of(number + 1))
            }
            _ => format!("backup {} itself cannot be made consistent", backup.label),
        };
        return Err(Refusal::new(
            Code::WalMissing,
            format!(
                "{} of the WAL segments from {} to {} are not in the archive, the first is {}",
                missing.len(),
                file_name(&lineage, backup.first_segment, size),
                file_name(&lineage, last, size),
                size.file_name(*gap)
            ),
        )
        .hint(nearest)
        .about("field", "target"));
    }
    if let Some(blemish) = &backup.blemish {
        warnings.push(format!("backup {}: {blemish}", backup.label));
    }
    if let Target::Time(time) = &resolved
        && let Some(warning) = abandoned(survey, &lineage, *time)
    {
        warnings.push(warning);
    }
    check_identity(survey, backup)?;
    Ok(Choice {
        wal_start: file_name(&lineage, backup.first_segment, size),
        wal_stop: file_name(&lineage, last, size),
        segments: last.saturating_sub(backup.first_segment) + 1,
        backup: backup.clone(),
        why,
        timeline,
        resolved,
        warnings,
    })
}

fn file_name(lineage: &Lineage, number: u64, size: crate::types::wal::SegmentSize) -> String {
    lineage.files(number, size).next().map(|segment| size.file_name(segment)).unwrap_or_default()
}

/// The segment in which the commits of a time lie: the first one that was archived at that time or later.
fn last_for_time(survey: &Survey, lineage: &Lineage, first: u64, time: Timestamp) -> Option<u64> {
    let newest = lineage.newest(&survey.archive)?;
    let archived_after = |number: &u64| {
        let files = lineage.files(*number, survey.archive.size);
        files.filter_map(|segment| survey.archived_at.get(&segment)).any(|at| *at >= time)
    };
    Some((first..=newest).find(archived_after).unwrap_or(newest))
}

/// A time at which another timeline than the chosen one was written, or one on the way behind the point where the
/// way leaves it.
fn abandoned(survey: &Survey, lineage: &Lineage, time: Timestamp) -> Option<String> {
    let written = survey.written_at(time);
    let left_behind = match lineage.end_of(written) {
        // Only the archive says when a position was written: a segment that is there was written before.
        Some(end) => survey.archived_at.iter().any(|(segment, at)| {
            segment.timeline == written && segment.number >= survey.archive.size.number_of(end) && *at < time
        }),
        None => !lineage.timelines().any(|timeline| timeline == written),
    };
    left_behind.then(|| {
        format!(
            "at {} timeline {written} was being written, and timeline {} does not take what was committed there then; \
             it is reached with --timeline {written}",
            timestamp_text(time),
            lineage.timeline(),
        )
    })
}

fn check_identity(survey: &Survey, backup: &SurveyedBackup) -> Result<(), Refusal> {
    match (survey.system_identifier, backup.system_identifier) {
        (Some(ours), Some(theirs)) if ours != theirs => Err(Refusal::new(
            Code::WrongInstance,
            format!(
                "backup {} is of the database with system identifier {theirs}, this one has {ours}",
                backup.label
            ),
        )
        .hint("the stanza holds backups of another database: look at the repo and the stanza's name")),
        _ => Ok(()),
    }
}

fn choose_named(survey: &Survey, label: &BackupLabel, timeline: Option<Timeline>) -> Result<Choice, Refusal> {
    let Some(backup) = survey.backups.iter().find(|backup| backup.label == *label) else {
        let mut labels: Vec<&str> = survey.backups.iter().map(|backup| backup.label.as_str()).collect();
        labels.sort_unstable_by(|a, b| b.cmp(a));
        labels.truncate(5);
        let known = if labels.is_empty() {
            "the repo has none".to_owned()
        } else {
            format!("the newest are {}", labels.join(", "))
        };
        return Err(Refusal::new(Code::UnknownBackup, format!("there is no backup {label} ({known})"))
            .hint("`cellar backups list` shows them all")
            .about("backup", label));
    };
    if let Some(wanted) = timeline.filter(|wanted| *wanted != backup.timeline) {
        return Err(unreachable(
            format!("backup {label} ends on timeline {}, not on {wanted}", backup.timeline),
            "leave --timeline out".to_owned(),
        ));
    }
    let lineage = survey.lineage(backup.timeline)?;
    let size = survey.archive.size;
    if let Some(gap) = lineage.missing(backup.first_segment, backup.last_segment, &survey.archive).first() {
        return Err(Refusal::new(
            Code::WalMissing,
            format!(
                "backup {label} needs WAL segment {} to become consistent, and the archive does not have it",
                size.file_name(*gap)
            ),
        )
        .hint("name another backup (`cellar backups list`)"));
    }
    check_identity(survey, backup)?;
    Ok(Choice {
        wal_start: file_name(&lineage, backup.first_segment, size),
        wal_stop: file_name(&lineage, backup.last_segment, size),
        segments: backup.last_segment.saturating_sub(backup.first_segment) + 1,
        backup: backup.clone(),
        why: "it is the one that you named".to_owned(),
        timeline: backup.timeline,
        resolved: Target::Backup(label.clone()),
        warnings: backup.blemish.iter().map(|blemish| format!("backup {label}: {blemish}")).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::wal::{Ancestor, SegmentSize};

    const SEG: u64 = 16 << 20;

    fn tl(n: u32) -> Timeline {
        Timeline::new(n)
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_772_000_000 + seconds).unwrap()
    }

    fn backup(n: u32, timeline: u32, first: u64, stop: u64, seconds: i64) -> SurveyedBackup {
        SurveyedBackup {
            label: format!("20260301-1015{n:02}F").parse().unwrap(),
            backup_type: BackupType::Full,
            timeline: tl(timeline),
            start_lsn: Lsn::new(first * SEG + 0x28),
            stop_lsn: Lsn::new(stop),
            stop_time: at(seconds),
            first_segment: first,
            last_segment: stop / SEG,
            size_bytes: 100,
            system_identifier: Some(SystemIdentifier::new(7)),
            blemish: None,
        }
    }

    /// Timeline 1 up to segment 10, one segment every 100 s; backups end in segments 2 (200 s) and 6 (600 s).
    fn survey() -> Survey {
        let mut survey = Survey {
            system_identifier: Some(SystemIdentifier::new(7)),
            backups: vec![backup(1, 1, 2, 2 * SEG + 0x100, 200), backup(2, 1, 6, 6 * SEG + 0x100, 600)],
            histories: BTreeMap::new(),
            archive: Archive { size: SegmentSize::default(), segments: BTreeMap::new() },
            archived_at: BTreeMap::new(),
            begun_at: BTreeMap::new(),
            current: tl(1),
            write_lsn: Some(Lsn::new(11 * SEG + 5000)),
            now: at(1150),
        };
        for number in 1..=10 {
            add(&mut survey, 1, number, i64::try_from(number).unwrap() * 100 + 99);
        }
        survey
    }

    fn add(survey: &mut Survey, timeline: u32, number: u64, seconds: i64) {
        let segment = Segment { timeline: tl(timeline), number };
        survey.archive.add(segment);
        survey.archived_at.insert(segment, at(seconds));
    }

    fn chosen(survey: &Survey, target: &Target) -> (String, u64) {
        let choice = choose(survey, target, None, None).unwrap();
        (choice.backup.label.to_string(), choice.segments)
    }

    fn refused(survey: &Survey, target: &Target) -> Refusal {
        choose(survey, target, None, None).unwrap_err()
    }

    #[test]
    fn the_newest_backup_before_the_target_is_taken() {
        let survey = survey();
        assert_eq!(chosen(&survey, &Target::Latest {}).0, "20260301-101502F");
        assert_eq!(
            chosen(&survey, &Target::Time(at(550))),
            ("20260301-101501F".into(), 4),
            "segments 2 to 5"
        );
        assert_eq!(
            chosen(&survey, &Target::Time(at(600))).0,
            "20260301-101501F",
            "the backup ended within that second"
        );
        assert_eq!(chosen(&survey, &Target::Time(at(601))).0, "20260301-101502F");
        assert_eq!(chosen(&survey, &Target::Lsn(Lsn::new(6 * SEG + 0x100))).0, "20260301-101502F");
        assert_eq!(
            chosen(&survey, &Target::Lsn(Lsn::new(6 * SEG + 0xff))).0,
            "20260301-101501F",
            "inside the second backup"
        );
    }

    #[test]
    fn a_name_and_a_transaction_need_a_backup_before_them() {
        let survey = survey();
        let found = Found { lsn: Lsn::new(5 * SEG + 40), record: "RESTORE_POINT x".into() };
        let name = Target::Name("x".parse().unwrap());
        let choice = choose(&survey, &name, None, Some(&found)).unwrap();
        assert_eq!(
            (choice.backup.label.as_str(), &choice.resolved),
            ("20260301-101501F", &Target::Lsn(found.lsn))
        );
        assert_eq!(refused(&survey, &name).code, Code::TargetUnreachable);
    }

    #[test]
    fn what_cannot_be_reached_is_refused_with_what_can() {
        let survey = survey();
        let future = refused(&survey, &Target::Time(at(5000)));
        assert!(future.message.contains("future") && future.hint.contains("--latest"), "{future:?}");
        let early = refused(&survey, &Target::Time(at(100)));
        assert!(early.hint.contains(&timestamp_text(at(201))), "{early:?}");
        assert!(
            choose(&survey, &Target::Time(at(201)), None, None).is_ok(),
            "the earliest that is named can be reached"
        );
        let beyond = refused(&survey, &Target::Lsn(Lsn::new(12 * SEG)));
        assert!(beyond.hint.contains(&Lsn::new(11 * SEG + 5000).to_string()), "{beyond:?}");
        assert_eq!(
            refused(&survey, &Target::Backup("20260101-000000F".parse().unwrap())).code,
            Code::UnknownBackup
        );
        assert!(
            chosen(&survey, &Target::Lsn(Lsn::new(11 * SEG + 4000))).1 > 4,
            "the primary has still to archive it"
        );
    }

    #[test]
    fn a_gap_on_the_way_is_named_and_one_behind_the_target_is_not_in_the_way() {
        let mut survey = survey();
        survey.archive.segments.get_mut(&tl(1)).unwrap().remove(&8);
        let refusal = refused(&survey, &Target::Latest {});
        assert_eq!(refusal.code, Code::WalMissing);
        assert!(refusal.message.contains("000000010000000000000008"), "{refusal:?}");
        assert!(refusal.hint.contains(&Lsn::new(8 * SEG).to_string()), "{refusal:?}");
        assert_eq!(chosen(&survey, &Target::Time(at(750))).0, "20260301-101502F");
        let gaps: Vec<String> = windows(&survey).into_iter().map(|window| window.gap).collect();
        assert_eq!(gaps, ["000000010000000000000008", "000000010000000000000008"]);
    }

    /// Restored to segment 4 of timeline 1 at 2000 s: the second backup was left behind.
    #[test]
    fn a_backup_that_was_left_behind_leads_nowhere_on_the_new_timeline() {
        let mut survey = survey();
        survey
            .histories
            .insert(tl(2), History(vec![Ancestor { timeline: tl(1), left_at: Lsn::new(4 * SEG + 77) }]));
        survey.begun_at.insert(tl(2), at(2000));
        survey.current = tl(2);
        survey.write_lsn = Some(Lsn::new(6 * SEG));
        survey.now = at(3000);
        add(&mut survey, 2, 4, 2100);
        add(&mut survey, 2, 5, 2200);
        assert_eq!(chosen(&survey, &Target::Latest {}).0, "20260301-101501F");
        let lineage = survey.lineage(tl(2)).unwrap();
        assert_eq!(newest_on(&survey.backups, &lineage).unwrap().label.as_str(), "20260301-101501F");
        // The time in between was on the old timeline: told, and reachable by name.
        let choice = choose(&survey, &Target::Time(at(800)), None, None).unwrap();
        assert!(choice.warnings.iter().any(|text| text.contains("--timeline 1")), "{:?}", choice.warnings);
        let old = choose(&survey, &Target::Time(at(800)), Some(tl(1)), None).unwrap();
        assert_eq!((old.backup.label.as_str(), old.timeline), ("20260301-101502F", tl(1)));
        assert_eq!(
            choose(&survey, &Target::Latest {}, Some(tl(9)), None).unwrap_err().code,
            Code::TargetUnreachable
        );
        let shown: Vec<(u32, String)> =
            windows(&survey).into_iter().map(|w| (w.timeline.get(), w.backup.to_string())).collect();
        assert_eq!(
            shown,
            [(1, "20260301-101501F".into()), (1, "20260301-101502F".into()), (2, "20260301-101501F".into())]
        );
    }

    /// Restored to segment 4 of timeline 1 at 2000 s, and at 3000 s to segment 6 of timeline 1 once more.
    #[test]
    fn the_timeline_of_a_time_is_named_whatever_was_archived_first() {
        let mut survey = survey();
        for (number, left, begun) in [(2, 4 * SEG + 77, 2000), (3, 6 * SEG + 0x200, 3000)] {
            let left = Ancestor { timeline: tl(1), left_at: Lsn::new(left) };
            survey.histories.insert(tl(number), History(vec![left]));
            survey.begun_at.insert(tl(number), at(begun));
        }
        (survey.current, survey.now) = (tl(3), at(4000));
        add(&mut survey, 2, 4, 2100);
        add(&mut survey, 3, 6, 3100);
        let warned = |seconds: i64, timeline: u32| {
            let choice = choose(&survey, &Target::Time(at(seconds)), Some(tl(timeline)), None).unwrap();
            choice.warnings.iter().find_map(|text| text.split("--timeline ").nth(1).map(str::to_owned))
        };
        assert_eq!(warned(650, 3), None, "within the segment in which the way turns: nobody can tell");
        assert_eq!(warned(850, 3), Some("1".into()));
        assert_eq!(warned(1900, 3), Some("1".into()), "behind its last segment, before the second's first");
        assert_eq!(warned(2050, 3), Some("2".into()), "before anything of it was archived");
        assert_eq!(warned(3050, 3), None);
        assert_eq!(warned(850, 1), None);
        assert_eq!(warned(2050, 1), Some("2".into()));
    }

    #[test]
    fn another_databases_backup_is_refused() {
        let mut survey = survey();
        survey.backups[1].system_identifier = Some(SystemIdentifier::new(8));
        assert_eq!(refused(&survey, &Target::Latest {}).code, Code::WrongInstance);
    }
}
