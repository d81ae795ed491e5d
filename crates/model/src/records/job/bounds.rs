//! How large the record of what came of a job may be.
//!
//! etcd takes no record above 1.5 MiB, keeps hundreds of them, and every list of jobs carries them. So long lists are
//! cut, and the outcome says how many more there are. The job's log has what was cut.

use std::cmp::Reverse;

use crate::records::job::outcome::JobOutcome;
use crate::records::job::run::JobError;
use crate::records::maintenance::Verified;
use crate::records::recovery::RecoveryWindow;
use crate::types::lsn::Timeline;

/// Recovery windows: there is one for each backup on each timeline that it leads to.
const MAX_WINDOWS: usize = 40;

/// Backups that expired, stay, or were verified.
const MAX_BACKUPS: usize = 100;

/// Archives, ranges of WAL, and damaged files.
const MAX_RANGES: usize = 100;

/// Sentences for an operator.
const MAX_WARNINGS: usize = 30;

/// Characters of all sentences of a list together.
const MAX_SENTENCES: usize = 30_000;

/// Characters of one text. Some list names.
const MAX_TEXT: usize = 2000;

/// Characters of a tool's output.
const MAX_OUTPUT: usize = 16_000;

fn cut_text(text: &mut String, most: usize) {
    if let Some((at, _)) = text.char_indices().nth(most) {
        text.truncate(at);
        text.push_str(" …");
    }
}

/// Keeps the first of a list; returns how many more there were.
fn cut<T>(list: &mut Vec<T>, most: usize) -> u32 {
    let more = list.len().saturating_sub(most);
    list.truncate(most);
    u32::try_from(more).unwrap_or(u32::MAX)
}

/// Keeps the last of a list, which are the newest.
fn cut_oldest<T>(list: &mut Vec<T>, most: usize) -> u32 {
    let more = list.len().saturating_sub(most);
    list.drain(..more);
    u32::try_from(more).unwrap_or(u32::MAX)
}

/// Keeps what is damaged, then the newest.
fn cut_valid(list: &mut Vec<Verified>, most: usize) -> u32 {
    if list.len() <= most {
        return 0;
    }
    list.sort_by(|a, b| (a.valid, &b.name).cmp(&(b.valid, &a.name)));
    let more = cut(list, most);
    list.sort_by(|a, b| a.name.cmp(&b.name));
    more
}

fn cut_sentences(list: &mut Vec<String>, most: usize) {
    list.iter_mut().for_each(|text| cut_text(text, MAX_SENTENCES / most));
    let more = cut(list, most);
    if more > 0 {
        list.push(format!("… and {more} more, which are in the job's log"));
    }
}

/// Keeps the windows of the newest backups, first those of one timeline, or else those of the newest.
fn cut_windows(windows: &mut Vec<RecoveryWindow>, first: Option<Timeline>) -> u32 {
    if windows.len() <= MAX_WINDOWS {
        return 0;
    }
    windows.sort_by_key(|window| {
        (Some(window.timeline) != first, Reverse(window.timeline), Reverse(window.backup.clone()))
    });
    let more = cut(windows, MAX_WINDOWS);
    windows.sort_by(|a, b| (a.timeline, &a.backup).cmp(&(b.timeline, &b.backup)));
    more
}

impl JobOutcome {
    /// The outcome with its long lists cut.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        match &mut self {
            Self::Plan(plan) => {
                plan.more_windows += cut_windows(&mut plan.windows, Some(plan.timeline));
                cut_sentences(&mut plan.warnings, MAX_WARNINGS);
            }
            Self::Verify(found) => {
                found.more_backups += cut_valid(&mut found.backups, MAX_BACKUPS);
                found.more_archives += cut_valid(&mut found.archives, MAX_RANGES);
                found.more_windows += cut_windows(&mut found.windows, None);
                cut_sentences(&mut found.damaged, MAX_RANGES);
                cut_sentences(&mut found.warnings, MAX_WARNINGS);
            }
            Self::Expire(expired) => {
                expired.more_backups += cut_oldest(&mut expired.backups, MAX_BACKUPS);
                expired.more_kept += cut_oldest(&mut expired.kept, MAX_BACKUPS);
                expired.more_wal += cut_oldest(&mut expired.wal, MAX_RANGES);
                cut_sentences(&mut expired.warnings, MAX_WARNINGS);
            }
            Self::Backup(backup) => cut_sentences(&mut backup.warnings, MAX_WARNINGS),
            Self::Drill(drill) => {
                drill.checks.iter_mut().for_each(|check| {
                    cut_text(&mut check.name, MAX_TEXT);
                    cut_text(&mut check.detail, MAX_TEXT);
                });
            }
            Self::Fence(_) | Self::Recovery(_) | Self::Restore(_) | Self::Rebuild(_) | Self::Check(_) => {}
        }
        self
    }
}

impl JobError {
    /// The error with its long texts cut.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        cut_text(&mut self.message, 2 * MAX_TEXT);
        cut_text(&mut self.hint, MAX_TEXT);
        cut_text(&mut self.tool_output, MAX_OUTPUT);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::backup::BackupLabel;
    use crate::records::maintenance::{ExpireResult, VerifyResult, WalRange};
    use crate::types::code::Code;
    use crate::types::lsn::Lsn;
    use jiff::Timestamp;

    /// What a list of 500 jobs must not exceed by far.
    const MAX_BYTES: usize = 100_000;

    fn label(n: usize) -> BackupLabel {
        format!("{:08}-101500F", 20_260_101 + n).parse().unwrap()
    }

    fn windows(backups: usize, timelines: u32) -> Vec<RecoveryWindow> {
        let of = |timeline| {
            (0..backups).map(move |n| RecoveryWindow {
                backup: label(n),
                timeline: Timeline::new(timeline),
                from_lsn: Lsn::new(u64::MAX),
                from_time: Timestamp::UNIX_EPOCH,
                to_lsn: Lsn::new(u64::MAX),
                to_time: Some(Timestamp::UNIX_EPOCH),
                gap: "000000010000000000000001".to_owned(),
            })
        };
        (1..=timelines).flat_map(of).collect()
    }

    fn verified(n: usize) -> Verified {
        Verified { name: label(n).to_string(), valid: n != 3, files: u64::MAX, ..Verified::default() }
    }

    fn size(outcome: &JobOutcome) -> usize {
        serde_json::to_string(outcome).unwrap().len()
    }

    #[test]
    fn verification_of_many_backups_and_timelines_is_bounded() {
        let outcome = JobOutcome::Verify(VerifyResult {
            backups: (0..400).map(verified).collect(),
            archives: (0..400).map(verified).collect(),
            damaged: vec!["x".repeat(9999); 400],
            windows: windows(40, 250),
            warnings: vec!["x".repeat(100); 400],
            ..VerifyResult::default()
        });
        assert!(size(&outcome) > 1_500_000);
        let bounded = outcome.bounded();
        assert!(size(&bounded) < MAX_BYTES, "{}", size(&bounded));
        let JobOutcome::Verify(found) = &bounded else { panic!() };
        assert_eq!((found.more_backups, found.more_windows, found.more_archives), (300, 9960, 300));
        assert!(found.backups.iter().any(|backup| !backup.valid), "what is damaged is told first");
        let newest = found.windows.last().unwrap();
        assert_eq!((newest.timeline, &newest.backup), (Timeline::new(250), &label(39)));
    }

    #[test]
    fn expiry_of_many_backups_is_bounded_and_short_outcomes_stay_as_they_are() {
        let range = WalRange { archive: "15-1".into(), start: "x".repeat(24), stop: "x".repeat(24) };
        let expired = |n: usize| {
            JobOutcome::Expire(ExpireResult {
                backups: (0..n).map(label).collect(),
                kept: (0..n).map(label).collect(),
                wal: vec![range.clone(); n],
                warnings: vec!["x".to_owned(); n],
                ..ExpireResult::default()
            })
        };
        let bounded = expired(3000).bounded();
        assert!(size(&bounded) < MAX_BYTES, "{}", size(&bounded));
        let JobOutcome::Expire(found) = bounded else { panic!() };
        assert_eq!((found.more_backups, found.more_kept, found.more_wal), (2900, 2900, 2900));
        assert_eq!(found.kept.last(), Some(&label(2999)), "the newest are named");
        assert_eq!(expired(30).bounded(), expired(30));
    }

    #[test]
    fn long_error_is_cut() {
        let error = JobError {
            code: Code::Internal,
            message: "é".repeat(99_999),
            hint: String::new(),
            tool_output: "x".repeat(999_999),
        };
        assert!(serde_json::to_string(&error.bounded()).unwrap().len() < MAX_BYTES);
    }
}
