use std::collections::BTreeMap;

use super::*;
use crate::decide::mark::Mark;
use crate::decide::survey::windows;
use crate::decide::worth::best_on;
use crate::records::backup::BackupType;
use crate::types::code::Code;
use crate::types::lsn::{Lsn, SystemIdentifier};
use crate::types::wal::{Ancestor, Archive, History, Segment};

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
        mark: Mark::Proven,
        page_errors: false,
        bases: Vec::new(),
        drill_passed: None,
        held: None,
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
    let choice = choose(survey, target, None, None, None).unwrap();
    (choice.backup.label.to_string(), choice.segments)
}

fn refused(survey: &Survey, target: &Target) -> Refusal {
    choose(survey, target, None, None, None).unwrap_err()
}

#[test]
fn newest_backup_before_the_target_is_chosen() {
    let survey = survey();
    assert_eq!(chosen(&survey, &Target::Latest {}).0, "20260301-101502F");
    assert_eq!(chosen(&survey, &Target::Time(at(550))), ("20260301-101501F".into(), 4), "segments 2 to 5");
    assert_eq!(
        chosen(&survey, &Target::Time(at(600))).0,
        "20260301-101501F",
        "the backup ended within that second"
    );
    assert_eq!(chosen(&survey, &Target::Time(at(661))).0, "20260301-101502F");
    assert_eq!(chosen(&survey, &Target::Lsn(Lsn::new(6 * SEG + 0x100))).0, "20260301-101502F");
    assert_eq!(
        chosen(&survey, &Target::Lsn(Lsn::new(6 * SEG + 0xff))).0,
        "20260301-101501F",
        "inside the second backup"
    );
}

/// Timeline 2 began in segment 8, which 1 went on to fill, and its primary is gone before it archived its own.
#[test]
fn what_a_timeline_that_was_left_wrote_is_not_taken_for_its_childs() {
    let mut survey = survey();
    let left_at = Lsn::new(8 * SEG + 0x2000);
    survey.histories.insert(tl(2), History(vec![Ancestor { timeline: tl(1), left_at }]));
    survey.begun_at.insert(tl(2), at(820));
    survey.current = tl(2);
    assert_eq!(chosen(&survey, &Target::Latest {}).0, "20260301-101502F", "its own comes when it is fenced");
    survey.write_lsn = None;
    for target in [Target::Latest {}, Target::Time(at(1000))] {
        let refusal = refused(&survey, &target);
        assert_eq!(refusal.code, Code::WalMissing);
        assert!(refusal.message.contains("000000020000000000000008"), "{refusal:?}");
        assert!(
            refusal.hint.contains("--timeline 1") && refusal.hint.contains(&left_at.to_string()),
            "{refusal:?}"
        );
    }
    assert_eq!(
        chosen(&survey, &Target::Time(at(700))).0,
        "20260301-101502F",
        "before the segment in question"
    );
    assert_eq!(chosen(&survey, &Target::Lsn(Lsn::new(7 * SEG))).0, "20260301-101502F");
    assert_eq!(
        choose(&survey, &Target::Latest {}, Some(tl(1)), None, None).unwrap().backup.label.as_str(),
        "20260301-101502F"
    );
    assert!(windows(&survey).iter().all(|window| window.timeline == tl(1)), "no window leads to timeline 2");
    add(&mut survey, 2, 8, 1100);
    assert_eq!(chosen(&survey, &Target::Latest {}), ("20260301-101502F".into(), 3));
}

#[test]
fn name_and_transaction_need_a_backup_before_them() {
    let survey = survey();
    let found = Found { lsn: Lsn::new(5 * SEG + 40), record: "RESTORE_POINT x".into() };
    let name = Target::Name("x".parse().unwrap());
    let choice = choose(&survey, &name, None, Some(&found), None).unwrap();
    assert_eq!(
        (choice.backup.label.as_str(), &choice.resolved),
        ("20260301-101501F", &Target::Lsn(found.lsn))
    );
    assert_eq!(refused(&survey, &name).code, Code::TargetUnreachable);
}

#[test]
fn unreachable_target_is_refused_with_the_nearest_reachable() {
    let survey = survey();
    let future = refused(&survey, &Target::Time(at(5000)));
    assert!(future.message.contains("future") && future.hint.contains("--latest"), "{future:?}");
    // The clock that dates the commits may be ahead of the one that plans.
    let ahead = choose(&survey, &Target::Time(at(1750)), None, None, None).unwrap();
    assert!(ahead.warnings.iter().any(|warning| warning.contains("future")), "{:?}", ahead.warnings);
    let early = refused(&survey, &Target::Time(at(100)));
    assert!(early.hint.contains(&timestamp_text(at(201))), "{early:?}");
    assert!(
        choose(&survey, &Target::Time(at(201)), None, None, None).is_ok(),
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
fn gap_before_the_target_is_refused_and_one_after_it_is_not() {
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
fn backup_after_the_branch_is_not_used_for_the_new_timeline() {
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
    assert_eq!(best_on(&survey.backups, &lineage).unwrap().label.as_str(), "20260301-101501F");
    // The time in between was on the old timeline: told, and reachable by name.
    let choice = choose(&survey, &Target::Time(at(800)), None, None, None).unwrap();
    assert!(choice.warnings.iter().any(|text| text.contains("--timeline 1")), "{:?}", choice.warnings);
    let old = choose(&survey, &Target::Time(at(800)), Some(tl(1)), None, None).unwrap();
    assert_eq!((old.backup.label.as_str(), old.timeline), ("20260301-101502F", tl(1)));
    assert_eq!(
        choose(&survey, &Target::Latest {}, Some(tl(9)), None, None).unwrap_err().code,
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
fn warning_names_the_timeline_that_was_written_at_the_time() {
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
        let choice = choose(&survey, &Target::Time(at(seconds)), Some(tl(timeline)), None, None).unwrap();
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
fn backup_of_another_database_is_refused() {
    let mut survey = survey();
    survey.backups[1].system_identifier = Some(SystemIdentifier::new(8));
    assert_eq!(refused(&survey, &Target::Latest {}).code, Code::WrongInstance);
}

#[test]
fn sound_backup_is_chosen_rather_than_a_newer_one_with_a_flaw() {
    let spoiled = |change: fn(&mut SurveyedBackup)| {
        let mut survey = survey();
        change(&mut survey.backups[1]);
        choose(&survey, &Target::Latest {}, None, None, None).unwrap()
    };
    let flaws: [fn(&mut SurveyedBackup); 2] = [|b| b.page_errors = true, |b| b.mark = Mark::None];
    for change in flaws {
        let choice = spoiled(change);
        assert_eq!(choice.backup.label.as_str(), "20260301-101501F");
        assert!(choice.why.contains("20260301-101502F is newer, but"), "{}", choice.why);
        assert!(choice.warnings.is_empty(), "{:?}", choice.warnings);
    }
    // WAL that only the older one needs is missing: the newer one is all there is, and its flaw is told.
    let mut gap = survey();
    gap.backups[1].mark = Mark::Unproven;
    gap.archive.segments.get_mut(&tl(1)).unwrap().remove(&4);
    let choice = choose(&gap, &Target::Latest {}, None, None, None).unwrap();
    assert_eq!(choice.backup.label.as_str(), "20260301-101502F");
    assert!(choice.warnings[0].contains("not proven"), "{:?}", choice.warnings);
    let named = choose(&gap, &Target::Backup(choice.backup.label), None, None, None).unwrap();
    assert!(named.warnings[0].contains("not proven"), "{:?}", named.warnings);
}

/// The backup was dated by the clock of the primary of that time, and the commits by that of the next one.
#[test]
fn backup_that_ended_about_when_the_target_was_is_taken_only_for_want_of_another() {
    let survey = survey();
    for seconds in [601, 660] {
        let choice = choose(&survey, &Target::Time(at(seconds)), None, None, None).unwrap();
        assert_eq!(choice.backup.label.as_str(), "20260301-101501F", "{seconds}");
        assert!(choice.why.contains("20260301-101502F ended within 60 s"), "{}", choice.why);
        assert!(choice.warnings.is_empty(), "{:?}", choice.warnings);
    }
    let only = choose(&survey, &Target::Time(at(210)), None, None, None).unwrap();
    assert_eq!(only.backup.label.as_str(), "20260301-101501F");
    assert!(only.warnings[0].contains("--backup"), "{:?}", only.warnings);
    // A position needs no clock.
    let position = Target::Lsn(Lsn::new(6 * SEG + 0x100));
    assert_eq!(chosen(&survey, &position).0, "20260301-101502F");
}

#[test]
fn person_may_name_the_backup() {
    let survey = survey();
    let from = |label: &str, target: &Target, timeline: Option<Timeline>| {
        choose(&survey, target, timeline, None, Some(&label.parse().unwrap()))
    };
    let older = from("20260301-101501F", &Target::Latest {}, None).unwrap();
    assert_eq!(
        (older.backup.label.as_str(), older.why.as_str()),
        ("20260301-101501F", "it is the one that you named")
    );
    assert_eq!(older.segments, 9, "segments 2 to 10");
    let late = from("20260301-101502F", &Target::Time(at(550)), None).unwrap_err();
    assert_eq!(late.code, Code::TargetUnreachable);
    let unknown = from("20260101-000000F", &Target::Latest {}, None).unwrap_err();
    assert_eq!(unknown.code, Code::UnknownBackup);
    let end = Target::Backup("20260301-101501F".parse().unwrap());
    assert!(from("20260301-101501F", &end, None).is_ok());
    assert_eq!(from("20260301-101502F", &end, None).unwrap_err().code, Code::InvalidArgument);
}

/// Timeline 2 left 1 within segment 8 at 900 s, and its own file of that segment is not in the archive.
#[test]
fn time_of_a_file_does_not_say_that_a_commit_lies_before_a_fork() {
    let mut survey = survey();
    let left = Ancestor { timeline: tl(1), left_at: Lsn::new(8 * SEG + 77) };
    survey.histories.insert(tl(2), History(vec![left]));
    survey.begun_at.insert(tl(2), at(900));
    (survey.current, survey.write_lsn, survey.now) = (tl(2), None, at(5000));
    let reached = |survey: &Survey, seconds: i64| {
        choose(survey, &Target::Time(at(seconds)), None, None, None).map(|choice| choice.timeline)
    };
    assert_eq!(reached(&survey, 750), Ok(tl(2)), "segment 7 came at 799 s");
    let refused = |survey: &Survey, seconds: i64| reached(survey, seconds).unwrap_err().code;
    assert_eq!(refused(&survey, 850), Code::WalMissing, "nothing came between then and the fork");
    assert_eq!(refused(&survey, 1000), Code::WalMissing, "behind the fork");
    // Archived late, or copied without times.
    survey.archived_at.values_mut().for_each(|came| *came = at(4000));
    assert_eq!(refused(&survey, 1000), Code::WalMissing);
    assert_eq!(refused(&survey, 750), Code::WalMissing, "nothing tells any more");
    // Also the history: what its backups say of the time is their own.
    survey.begun_at.insert(tl(2), at(4001));
    survey.backups.push(backup(3, 2, 9, 9 * SEG + 0x100, 950));
    assert_eq!(refused(&survey, 1000), Code::WalMissing);
}
