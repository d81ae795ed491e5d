//! Whether an expiry may be done, given what a dry run of it said would go, and how much pgBackRest is told to keep.

use crate::decide::survey::{Held, Survey, SurveyedBackup};
use crate::decide::worth::{Worth, best_on, worth};
use crate::records::backup::{BackupLabel, BackupType};
use crate::records::maintenance::WalRange;
use crate::types::code::{Code, Refusal};
use crate::types::wal::{Archive, Segment};

/// How many full backups pgBackRest must keep so that `wanted` sound ones stay, and which of them do not count.
///
/// pgBackRest counts every full backup, newest first. Two that are not proven would push out a retention of two proven
/// ones.
#[must_use]
pub fn fulls_to_keep(backups: &[SurveyedBackup], wanted: u32) -> (u32, Vec<BackupLabel>) {
    let mut fulls: Vec<&SurveyedBackup> =
        backups.iter().filter(|backup| backup.backup_type == BackupType::Full).collect();
    fulls.sort_by(|a, b| b.label.cmp(&a.label));
    let (mut sound, mut uncounted) = (0, Vec::new());
    for full in fulls {
        if sound == wanted {
            break;
        }
        if worth(full, backups).is_sound() {
            sound += 1;
        } else {
            uncounted.push(full.label.clone());
        }
    }
    let more = u32::try_from(uncounted.len()).unwrap_or(u32::MAX);
    (wanted.saturating_add(more), uncounted)
}

/// The WAL that is in `before` and not in `after`, as ranges of segments that lie next to each other.
///
/// What pgBackRest logs is not enough: 2.45 names that of one timeline only.
#[must_use]
pub fn wal_gone(archive: &str, before: &Archive, after: &Archive) -> Vec<WalRange> {
    let mut ranges: Vec<(Segment, Segment)> = Vec::new();
    for (timeline, numbers) in &before.segments {
        for number in numbers {
            let segment = Segment { timeline: *timeline, number: *number };
            match ranges.last_mut() {
                _ if after.has(&segment) => {}
                Some((_, last)) if last.timeline == *timeline && last.number + 1 == *number => {
                    *last = segment;
                }
                _ => ranges.push((segment, segment)),
            }
        }
    }
    let name = |segment| before.size.file_name(segment);
    let range =
        |(start, stop)| WalRange { archive: archive.to_owned(), start: name(start), stop: name(stop) };
    ranges.into_iter().map(range).collect()
}

/// What goes with a backup that is deleted by name: itself, and all that builds on it.
#[must_use]
pub fn going_with(label: &BackupLabel, backups: &[SurveyedBackup]) -> Vec<BackupLabel> {
    // The label of what builds on a full backup begins with that one's, whether or not it has files of it.
    let builds_on = |backup: &&SurveyedBackup| {
        backup.label.as_str().starts_with(label.as_str()) || backup.bases.contains(label)
    };
    backups.iter().filter(builds_on).map(|backup| backup.label.clone()).collect()
}

/// Whether an expiry may be done, given what a dry run of it said would be deleted; what an operator should know if so.
///
/// pgBackRest counts full backups of all timelines, and builds on the newest, whatever its timeline. After a rollback all
/// that leads to the present may build on one of a timeline that was left behind.
///
/// # Errors
/// Refused when no proven backup would stay that leads to the primary's timeline, or no sound one though there is one
/// now; or when somebody needs a backup that would go.
pub fn check_expiry(survey: &Survey, going: &[BackupLabel]) -> Result<Option<String>, Refusal> {
    let is_going = |backup: &&SurveyedBackup| going.contains(&backup.label);
    let held = survey.backups.iter().filter(is_going).find_map(|backup| Some((backup, backup.held?)));
    if let Some((backup, held)) = held {
        return Err(needed(&backup.label, held));
    }
    if going.is_empty() {
        return Ok(None);
    }
    let lineage = survey.lineage(survey.current)?;
    let staying: Vec<SurveyedBackup> =
        survey.backups.iter().filter(|backup| !is_going(backup)).cloned().collect();
    let best = |backups: &[SurveyedBackup]| best_on(backups, &lineage).map(|best| worth(best, backups));
    let (now, then) = (best(&survey.backups), best(&staying));
    let loses_the_sound_ones = now.is_some_and(Worth::is_sound) && !then.is_some_and(Worth::is_sound);
    if loses_the_sound_ones || then.is_none_or(|then| then == Worth::Unproven) {
        let flaw = then.and_then(Worth::flaw).map(|flaw| format!(" (of the best that would stay {flaw})"));
        return Err(Refusal::new(
            Code::LastBackup,
            format!(
                "no proven backup without page errors would be left that leads to timeline {}, which the primary is on{}",
                survey.current,
                flaw.unwrap_or_default()
            ),
        )
        .hint("take a full backup first (`cellar backup --type full --from` a standby)"));
    }
    let aside = |backup: &&SurveyedBackup| {
        backup.backup_type == BackupType::Full && !lineage.contains(backup.timeline, backup.stop_lsn)
    };
    let aside: Vec<&str> = staying.iter().filter(aside).map(|backup| backup.label.as_str()).collect();
    Ok((!aside.is_empty()).then(|| {
        format!(
            "the retention counts full backups of timelines that were left behind: {} (`cellar expire --backup` deletes one)",
            aside.join(", ")
        )
    }))
}

fn needed(label: &BackupLabel, held: Held) -> Refusal {
    match held {
        Held::Drill(job) => Refusal::new(
            Code::Busy,
            format!("backup {label} would be deleted, and drill {job} was restoring it when this was asked for"),
        )
        .hint(format!("wait for it (`cellar jobs watch {job}`), then ask again"))
        .about("job", job),
        Held::OpenRestore(job) => Refusal::new(
            Code::RestoreOpen,
            format!("backup {label} would be deleted, and restore {job} is neither confirmed nor rolled back: a rollback may need it"),
        )
        .hint(format!("`cellar restore confirm {job}` or `cellar restore rollback {job}` first"))
        .about("job", job),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::mark::Mark;
    use crate::decide::survey::example::{label, survey};
    use crate::records::job::id::JobId;
    use crate::types::lsn::Timeline;

    fn refused(survey: &Survey, going: &[BackupLabel]) -> Code {
        check_expiry(survey, going).unwrap_err().code
    }

    #[test]
    fn last_backup_that_leads_to_the_present_is_not_expired() {
        let (one, two) = (label(1), label(2));
        let mut survey = survey(&[2, 3, 4, 5, 6, 7, 8]);
        let all = [one, two];
        assert_eq!(check_expiry(&survey, &all[..1]), Ok(None));
        assert_eq!(check_expiry(&survey, &[]), Ok(None));
        assert_eq!(refused(&survey, &all), Code::LastBackup);
        // The second is of timeline 2, which a rollback to the first one's end left behind for timeline 3.
        let size = survey.archive.size;
        survey.backups[1].timeline = Timeline::new(2);
        let at = size.start_of(4);
        survey.histories.insert(Timeline::new(2), format!("1\t{at}\tx\n").parse().unwrap());
        survey.histories.insert(Timeline::new(3), format!("1\t{at}\tx\n").parse().unwrap());
        survey.current = Timeline::new(3);
        assert_eq!(refused(&survey, &all[..1]), Code::LastBackup);
        assert_eq!(check_expiry(&survey, &all[1..]), Ok(None));
        survey.current = Timeline::new(2);
        assert_eq!(check_expiry(&survey, &all[..1]), Ok(None));
        survey.backups.push(SurveyedBackup { label: label(3), ..survey.backups[0].clone() });
        survey.current = Timeline::new(3);
        let told = check_expiry(&survey, &all[..1]).unwrap().unwrap();
        assert!(told.contains(all[1].as_str()) && !told.contains(all[0].as_str()), "{told}");
    }

    #[test]
    fn all_that_builds_on_a_backup_goes_with_it() {
        let mut survey = survey(&[2, 3]);
        let named = |text: &str| text.parse::<BackupLabel>().unwrap();
        let (full, diff) = (named("20260101-000000F"), named("20260101-000000F_20260102-000000D"));
        let (incr, other) = (named("20260101-000000F_20260103-000000I"), named("20260104-000000F"));
        let of = |label: &BackupLabel, bases: &[&BackupLabel]| SurveyedBackup {
            label: label.clone(),
            bases: bases.iter().map(|base| (*base).clone()).collect(),
            ..survey.backups[0].clone()
        };
        let backups = vec![of(&full, &[]), of(&diff, &[&full]), of(&incr, &[&full, &diff]), of(&other, &[])];
        survey.backups = backups;
        assert_eq!(going_with(&full, &survey.backups), [full.clone(), diff.clone(), incr.clone()]);
        assert_eq!(going_with(&diff, &survey.backups), [diff, incr.clone()]);
        assert_eq!(going_with(&incr, &survey.backups), [incr]);
        // The only full backup.
        survey.backups.retain(|backup| backup.label != other);
        let going = going_with(&full, &survey.backups);
        assert_eq!(refused(&survey, &going), Code::LastBackup);
    }

    #[test]
    fn held_backup_is_not_expired() {
        let job = JobId::new(uuid::Uuid::from_u128(1));
        let mut survey = survey(&[2, 3, 4, 5, 6, 7, 8]);
        for (held, code) in [(Held::Drill(job), Code::Busy), (Held::OpenRestore(job), Code::RestoreOpen)] {
            survey.backups[0].held = Some(held);
            assert_eq!(refused(&survey, &[label(1)]), code);
            assert_ne!(refused(&survey, &[label(2), label(1)]), Code::LastBackup);
        }
    }

    #[test]
    fn last_proven_backup_is_not_expired_whatever_unproven_ones_stay() {
        let mut survey = survey(&[2, 3, 4, 5, 6, 7, 8]);
        for mark in [Mark::None, Mark::Unproven] {
            survey.backups[1].mark = mark;
            assert_eq!(refused(&survey, &[label(1)]), Code::LastBackup);
            assert_eq!(check_expiry(&survey, &[label(2)]), Ok(None), "the unproven one may go");
        }
        survey.backups[1].mark = Mark::Proven;
        survey.backups[1].page_errors = true;
        assert_eq!(refused(&survey, &[label(1)]), Code::LastBackup);
        // A primary with a damaged page has no backup without, and its repo must not fill up for that.
        survey.backups[0].page_errors = true;
        assert_eq!(check_expiry(&survey, &[label(1)]), Ok(None));
    }

    #[test]
    fn wal_of_every_timeline_that_is_gone_is_named() {
        let mut before = survey(&[2, 3, 5, 6]).archive;
        before.add(Segment { timeline: Timeline::new(2), number: 6 });
        before.add(Segment { timeline: Timeline::new(3), number: 7 });
        let after = survey(&[6]).archive;
        let gone: Vec<(String, String)> =
            wal_gone("15-1", &before, &after).into_iter().map(|range| (range.start, range.stop)).collect();
        let name = |timeline: u32, number: u64| {
            before.size.file_name(Segment { timeline: Timeline::new(timeline), number })
        };
        assert_eq!(
            gone,
            [
                (name(1, 2), name(1, 3)),
                (name(1, 5), name(1, 5)),
                (name(2, 6), name(2, 6)),
                (name(3, 7), name(3, 7)),
            ]
        );
        assert_eq!(wal_gone("15-1", &after, &before), []);
    }

    #[test]
    fn retention_counts_sound_full_backups_only() {
        let survey = survey(&[2, 3]);
        let mut backups: Vec<SurveyedBackup> =
            (1..=5).map(|n| SurveyedBackup { label: label(n), ..survey.backups[0].clone() }).collect();
        assert_eq!(fulls_to_keep(&backups, 2), (2, vec![]));
        (backups[4].mark, backups[3].page_errors) = (Mark::Unproven, true);
        assert_eq!(fulls_to_keep(&backups, 2), (4, vec![label(5), label(4)]));
        assert_eq!(fulls_to_keep(&backups, 1), (3, vec![label(5), label(4)]));
        backups[4].backup_type = BackupType::Incr;
        assert_eq!(fulls_to_keep(&backups, 2), (3, vec![label(4)]));
        for backup in &mut backups {
            backup.mark = Mark::None;
        }
        assert_eq!(fulls_to_keep(&backups, 2).0, 6, "none goes while none is sound");
    }
}
