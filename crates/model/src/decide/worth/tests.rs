use super::*;
use crate::decide::survey::example::{label, survey};
use crate::types::lsn::Timeline;

fn backups() -> Vec<SurveyedBackup> {
    survey(&[2, 3, 4, 5, 6, 7, 8]).backups
}

fn best(backups: &[SurveyedBackup]) -> &BackupLabel {
    let present = survey(&[2, 3]).lineage(Timeline::new(1)).unwrap();
    &best_on(backups, &present).unwrap().label
}

#[test]
fn backup_without_a_mark_is_not_proven() {
    let mut all = backups();
    all[1].mark = Mark::None;
    assert_eq!(worth(&all[1], &all), Worth::Unproven);
}

#[test]
fn backup_is_as_proven_as_the_backups_that_it_builds_on() {
    let mut all = backups();
    all[1].bases = vec![label(1)];
    assert_eq!(worth(&all[1], &all), Worth::Sound);
    for mark in [Mark::None, Mark::Unproven] {
        all[0].mark = mark;
        assert_eq!(worth(&all[1], &all), Worth::Unproven);
    }
    assert_eq!(worth(&all[1], &all[1..]), Worth::Unproven, "its base is gone");
}

#[test]
fn older_backup_without_flaw_is_better_than_a_newer_one_with_a_flaw() {
    let all = backups();
    assert_eq!(best(&all), &label(2));
    let spoiled = |change: fn(&mut SurveyedBackup)| {
        let mut all = all.clone();
        change(&mut all[1]);
        best(&all).clone()
    };
    assert_eq!(spoiled(|newest| newest.mark = Mark::None), label(1));
    assert_eq!(spoiled(|newest| newest.mark = Mark::Unproven), label(1));
    assert_eq!(spoiled(|newest| newest.page_errors = true), label(1));
    assert_eq!(spoiled(|newest| newest.drill_passed = Some(false)), label(1));
    assert_eq!(spoiled(|newest| newest.timeline = Timeline::new(2)), label(1));
    assert_eq!(spoiled(|newest| newest.drill_passed = Some(true)), label(2));
}

#[test]
fn incremental_is_replaced_by_a_full_one_when_its_base_is_not_sound() {
    let mut all = backups();
    assert_eq!(type_to_take(BackupType::Incr, &all), (BackupType::Incr, None));
    assert_eq!(
        type_to_take(BackupType::Incr, &[]),
        (BackupType::Incr, None),
        "pgBackRest takes a full one itself"
    );
    all[1].mark = Mark::Unproven;
    let (taken, why) = type_to_take(BackupType::Incr, &all);
    assert_eq!(taken, BackupType::Full);
    assert!(why.is_some_and(|why| why.contains(label(2).as_str())));
    assert_eq!(type_to_take(BackupType::Full, &all), (BackupType::Full, None));
    // A diff builds on the newest full one, whatever the incremental ones after it are.
    all[1].backup_type = BackupType::Incr;
    assert_eq!(type_to_take(BackupType::Diff, &all), (BackupType::Diff, None));
    all[0].page_errors = true;
    assert_eq!(type_to_take(BackupType::Diff, &all).0, BackupType::Full);
}
