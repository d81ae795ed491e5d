//! Which backup leads to a target, and whether all the WAL on the way is there.
//!
//! pgBackRest chooses a backup itself for a time or a position only, and takes the
//! latest for anything else, which may lie behind the target; so the choice is
//! made here for all of them, along the timeline that is meant.

use std::cmp::Reverse;

use jiff::{SignedDuration, Timestamp, ToSpan};

use crate::decide::survey::{Found, Survey, SurveyedBackup};
use crate::decide::worth::worth;
use crate::records::backup::BackupLabel;
use crate::records::target::Target;
use crate::types::clocks::is_future;
use crate::types::code::{Code, Refusal};
use crate::types::json::timestamp_text;
use crate::types::lsn::Timeline;
use crate::types::wal::{ForkWithoutFile, Lineage, Segment, SegmentSize};

/// How much the clocks of two primaries may differ, or that of one may have been set back. pgBackRest asks the primary for
/// the time at which a backup ended, and each commit is dated by the primary that writes it: after a failover another one. A
/// backup that ended within this time before a target time is taken only if there is no other of the same worth.
const CLOCK_MARGIN: SignedDuration = SignedDuration::from_secs(60);

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

fn unreachable(message: String, hint: String) -> Refusal {
    Refusal::new(Code::TargetUnreachable, message).hint(hint)
}

/// The first time that leads to a backup: its own is cut to seconds.
fn first_time(backup: &SurveyedBackup) -> Timestamp {
    backup.stop_time.saturating_add(1.second()).unwrap_or(backup.stop_time)
}

/// Whether a backup ended before a target, also if the clock that dated its end, that of the primary of that time, is
/// [`CLOCK_MARGIN`] behind the one that dates the commits. Positions in the WAL need no clock.
fn is_clearly_before(backup: &SurveyedBackup, target: &Target) -> bool {
    let Target::Time(time) = target else { return true };
    first_time(backup).saturating_add(CLOCK_MARGIN).is_ok_and(|safe| safe <= *time)
}

fn moment(backup: &SurveyedBackup) -> String {
    format!("{} ({})", timestamp_text(first_time(backup)), backup.stop_lsn)
}

/// Chooses the way to a target.
///
/// `found` is what a name or a transaction was found to be; those targets need it. `named` is the backup to begin from,
/// when a person has chosen it.
///
/// # Errors
/// Refused, naming what can be reached instead, when no backup leads there, the target lies beyond the WAL, or a
/// segment on the way is missing.
pub fn choose(
    survey: &Survey,
    target: &Target,
    timeline: Option<Timeline>,
    found: Option<&Found>,
    named: Option<&BackupLabel>,
) -> Result<Choice, Refusal> {
    if let Some(named) = named {
        find(survey, named)?;
    }
    if let Target::Backup(label) = target {
        if let Some(named) = named.filter(|named| *named != label) {
            let message = format!("the end of backup {label} is reached from that backup, not from {named}");
            return Err(Refusal::new(Code::InvalidArgument, message).about("field", "backup"));
        }
        return choose_named(survey, label, timeline);
    }
    let timeline = timeline.unwrap_or(survey.current);
    let lineage = survey.lineage(timeline)?;
    let on_it: Vec<&SurveyedBackup> = {
        let mut all: Vec<&SurveyedBackup> = survey
            .backups
            .iter()
            .filter(|backup| named.is_none_or(|named| backup.label == *named))
            .filter(|backup| lineage.contains(backup.timeline, backup.stop_lsn))
            .collect();
        all.sort_by_key(|backup| (backup.stop_lsn, backup.stop_time));
        all
    };
    let Some(first) = on_it.first() else {
        if let Some(named) = named {
            return Err(unreachable(
                format!("backup {named} does not lead to timeline {timeline}"),
                "name another backup, or its --timeline (`cellar backups list`)".to_owned(),
            )
            .about("field", "backup"));
        }
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
            if is_future(*time, survey.now) {
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
    let mut candidates: Vec<&SurveyedBackup> = on_it.iter().filter(leads).copied().collect();
    let Some(newest) = candidates.last().copied() else {
        return Err(unreachable(
            format!(
                "{target} lies before the end of the first backup on timeline {timeline}, {}",
                first.label
            ),
            format!("the earliest that can be reached is {}", moment(first)),
        )
        .about("field", "target"));
    };
    // The newest of the best worth in front, and behind those of the same worth what may have ended after the target.
    candidates.sort_by_key(|backup| {
        let is_clear = is_clearly_before(backup, &resolved);
        Reverse((worth(backup, &survey.backups), is_clear, backup.stop_lsn, backup.stop_time))
    });
    let whole = candidates.iter().find_map(|backup| way(survey, &lineage, &resolved, backup).ok());
    let (backup, last) = match whole {
        Some(way) => way,
        None => way(survey, &lineage, &resolved, newest)?,
    };
    let size = survey.archive.size;
    let count = on_it.len();
    let before_target = if resolved == (Target::Latest {}) { "" } else { " that ended before the target" };
    let why = match worth(newest, &survey.backups).flaw() {
        _ if named.is_some() => "it is the one that you named".to_owned(),
        None if backup.label != newest.label
            && is_clearly_before(backup, &resolved)
            && !is_clearly_before(newest, &resolved) =>
        {
            format!(
                "it is the newest of {count} on timeline {timeline} that ended clearly before the target: {} ended within {} s of it, and the clocks of two primaries may differ",
                newest.label,
                CLOCK_MARGIN.as_secs()
            )
        }
        Some(flaw) if backup.label != newest.label => format!(
            "it is the best of {count} on timeline {timeline}{before_target}: {} is newer, but {flaw}",
            newest.label
        ),
        _ if backup.label != newest.label => format!(
            "it is the newest of {count} on timeline {timeline}{before_target} from which the archive has all WAL"
        ),
        _ if before_target.is_empty() => {
            format!("it is the newest of {count} on timeline {timeline}, so the least WAL is replayed")
        }
        _ => format!("it is the newest of {count} on timeline {timeline}{before_target}"),
    };
    let mut warnings = warning_of_flaw(survey, backup);
    if !is_clearly_before(backup, &resolved) {
        warnings.push(format!(
            "backup {} ended within {} s of the target by the clock of the primary of that time; should that clock have been behind the one that dated the commits (after a failover it is another host's, and a clock may be set), the target lies before the backup's end and cannot be reached from it (--backup names an older one)",
            backup.label,
            CLOCK_MARGIN.as_secs()
        ));
    }
    if let Target::Time(time) = &resolved
        && let Some(warning) = abandoned(survey, &lineage, *time)
    {
        warnings.push(warning);
    }
    if let Target::Time(time) = &resolved
        && *time > survey.now
    {
        warnings.push(format!(
            "{} is in the future by the clock of the host that planned this ({}): commits are dated by the primary's clock; if that is not ahead, this is the latest that there is",
            timestamp_text(*time),
            timestamp_text(survey.now)
        ));
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

/// The way from a backup to a target: the backup, and the last segment that it leads through.
///
/// # Errors
/// Refused, naming the nearest reachable, when a segment on the way is missing.
fn way<'a>(
    survey: &Survey,
    lineage: &Lineage,
    resolved: &Target,
    backup: &'a SurveyedBackup,
) -> Result<(&'a SurveyedBackup, u64), Refusal> {
    let size = survey.archive.size;
    let fork = fork_ahead(survey, lineage, resolved, backup.first_segment);
    // A primary archives its own file when it is fenced, and a standby that plans in its place may have received it.
    // Whether it came is looked at again before the recovery begins.
    let comes =
        |fork: &ForkWithoutFile| fork.missing.timeline == survey.current && survey.write_lsn.is_some();
    if let Some(fork) = fork.filter(|fork| !comes(fork)) {
        return Err(fork.refusal(size).hint(hint_at_fork(&fork)).about("field", "target"));
    }
    let newest = lineage.newest(&survey.archive);
    let last = match resolved {
        // Inclusive: the record at that position is read whole.
        Target::Lsn(lsn) => size.number_of(*lsn),
        Target::Time(time) => {
            last_for_time(survey, lineage, backup.first_segment, *time).unwrap_or(backup.last_segment)
        }
        _ => newest.unwrap_or(backup.last_segment),
    }
    .max(backup.last_segment);
    // What the primary has not archived yet it archives when it is fenced.
    let archived_last = newest.map_or(last, |newest| newest.min(last)).max(backup.last_segment);
    let missing = lineage.missing(backup.first_segment, archived_last, &survey.archive);
    let Some(gap) = missing.first else { return Ok((backup, last)) };
    let reachable = lineage.last_without_gap(backup.first_segment, &survey.archive);
    let nearest = match reachable {
        Some(number) if number >= backup.last_segment => {
            let file = lineage.files(number, size).find(|segment| survey.archive.has(segment));
            let at = file.and_then(|segment| survey.archived_at.get(&segment));
            let time = at.map(|time| format!(", archived at {}", timestamp_text(*time))).unwrap_or_default();
            format!("the latest that can be reached before it is {}{time}", size.start_of(number + 1))
        }
        _ => format!("backup {} itself cannot be made consistent", backup.label),
    };
    Err(Refusal::new(
        Code::WalMissing,
        format!(
            "{} of the WAL segments from {} to {} are not in the archive, the first is {}",
            missing.count,
            file_name(lineage, backup.first_segment, size),
            file_name(lineage, last, size),
            size.file_name(gap)
        ),
    )
    .hint(nearest)
    .about("field", "target"))
}

/// Where a recovery to the target from a backup that begins in segment `first` would take the file of a timeline that
/// was left for that of its child; `None` when it comes to no such place.
#[must_use]
pub fn fork_ahead(
    survey: &Survey,
    lineage: &Lineage,
    target: &Target,
    first: u64,
) -> Option<ForkWithoutFile> {
    let fork = lineage.fork_without_file(first, &survey.archive)?;
    let ends_before = match target {
        Target::Lsn(lsn) => *lsn < fork.at,
        Target::Time(time) => is_time_before_fork(survey, lineage, *time, first, &fork),
        _ => false,
    };
    (!ends_before).then_some(fork)
}

/// Whether what was committed until `time` lies in a segment before a fork.
///
/// The time of a segment in the archive is when it came there, after its last commit, and perhaps long after: when archiving
/// had failed meanwhile, or when the repo was copied without times. So it counts only when it is from before the child
/// began; and a backup behind the fork that ended until then proves that the time lies behind it.
fn is_time_before_fork(
    survey: &Survey,
    lineage: &Lineage,
    time: Timestamp,
    first: u64,
    fork: &ForkWithoutFile,
) -> bool {
    let Some(begun) = survey.begun_at.get(&fork.missing.timeline) else { return false };
    let came_before = survey.archived_at.iter().any(|(segment, at)| {
        let is_before = (first..fork.missing.number).contains(&segment.number);
        let start = survey.archive.size.start_of(segment.number);
        is_before && *at >= time && at < begun && lineage.contains(segment.timeline, start)
    });
    let is_behind = |backup: &SurveyedBackup| {
        backup.stop_lsn > fork.at && lineage.contains(backup.timeline, backup.stop_lsn)
    };
    came_before && !survey.backups.iter().any(|backup| is_behind(backup) && backup.stop_time <= time)
}

/// What can be restored although the archive leads astray at a fork.
#[must_use]
pub fn hint_at_fork(fork: &ForkWithoutFile) -> String {
    format!(
        "what is before {} can be restored: --to-lsn with an earlier position, or --timeline {}",
        fork.at, fork.taken.timeline
    )
}

/// What an operator should know of a backup that is restored although it is not sound.
fn warning_of_flaw(survey: &Survey, backup: &SurveyedBackup) -> Vec<String> {
    let flaw = worth(backup, &survey.backups).flaw();
    flaw.iter().map(|flaw| format!("backup {}: {flaw}", backup.label)).collect()
}

fn file_name(lineage: &Lineage, number: u64, size: SegmentSize) -> String {
    lineage.files(number, size).next().map(|segment| size.file_name(segment)).unwrap_or_default()
}

/// The segment in which the commits of a time lie: the first one that was archived at that time or later.
fn last_for_time(survey: &Survey, lineage: &Lineage, first: u64, time: Timestamp) -> Option<u64> {
    let newest = lineage.newest(&survey.archive)?;
    let is_on_it = |segment: &Segment| {
        segment.number >= first
            && lineage.files(segment.number, survey.archive.size).any(|file| file == *segment)
    };
    let after = survey.archived_at.iter().filter(|(segment, at)| **at >= time && is_on_it(segment));
    Some(after.map(|(segment, _)| segment.number).min().unwrap_or(newest))
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

/// The backup of that label.
///
/// # Errors
/// When there is none.
fn find<'a>(survey: &'a Survey, label: &BackupLabel) -> Result<&'a SurveyedBackup, Refusal> {
    let found = survey.backups.iter().find(|backup| backup.label == *label);
    found.ok_or_else(|| {
        let mut labels: Vec<&str> = survey.backups.iter().map(|backup| backup.label.as_str()).collect();
        labels.sort_unstable_by(|a, b| b.cmp(a));
        labels.truncate(5);
        let known = if labels.is_empty() {
            "the repo has none".to_owned()
        } else {
            format!("the newest are {}", labels.join(", "))
        };
        Refusal::new(Code::UnknownBackup, format!("there is no backup {label} ({known})"))
            .hint("`cellar backups list` shows them all")
            .about("backup", label)
    })
}

fn choose_named(survey: &Survey, label: &BackupLabel, timeline: Option<Timeline>) -> Result<Choice, Refusal> {
    let backup = find(survey, label)?;
    if let Some(wanted) = timeline.filter(|wanted| *wanted != backup.timeline) {
        return Err(unreachable(
            format!("backup {label} ends on timeline {}, not on {wanted}", backup.timeline),
            "leave --timeline out".to_owned(),
        ));
    }
    let lineage = survey.lineage(backup.timeline)?;
    let size = survey.archive.size;
    if let Some(gap) = lineage.missing(backup.first_segment, backup.last_segment, &survey.archive).first {
        return Err(Refusal::new(
            Code::WalMissing,
            format!(
                "backup {label} needs WAL segment {} to become consistent, and the archive does not have it",
                size.file_name(gap)
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
        warnings: warning_of_flaw(survey, backup),
    })
}

#[cfg(test)]
mod tests;
