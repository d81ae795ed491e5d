use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::decide::driven::scene::MAX_STEPS_AT_ONCE;
use crate::decide::driven::tests::world::{World, cell, restored};
use crate::records::incarnation::Incarnation;
use crate::records::job::outcome::JobOutcome;
use crate::records::job::record::{CancelRequest, Job};
use crate::records::job::run::JobState;
use crate::records::job::spec::{JobKind, JobSpec};
use crate::types::lsn::Timeline;
use crate::types::name::CellName;

#[test]
fn restore_runs_its_steps_in_order() {
    let mut world = World::new(JobKind::Restore, false);
    world.run(|_, _| true);
    assert_eq!(world.kinds(), ["plan", "fence", "recover", "swap", "rebuild", "backup"]);
    let (state, error, result) = world.closed.unwrap();
    assert_eq!((state, error), (JobState::Succeeded, None));
    let restore = restored(result);
    assert_eq!((restore.incarnation, restore.left_out.len(), restore.kept), (2, 0, true));
    assert_eq!(world.incarnation.kept_in, Some(cell("zone1")), "the old primary has every row");
    assert!(!world.incarnation.is_in_use(Some(&world.leader)), "the recorded primary is the old one");
    world.leader.term = Timeline::new(2);
    assert!(world.incarnation.is_in_use(Some(&world.leader)));
    let recover = world
        .steps
        .iter()
        .find_map(|step| if let JobSpec::Recover(params) = &step.record.spec { Some(params) } else { None })
        .unwrap();
    assert_eq!(recover.last_segment.as_deref(), Some("000000010000000000000007"));
    let backup = world.steps.iter().find(|step| step.record.kind() == JobKind::Backup).unwrap();
    assert_eq!(backup.record.cell, cell("zone1"), "a standby that was rebuilt");
}

/// etcd has lost its data, or a restore in place was given up: data has a higher mark than the record.
#[test]
fn next_incarnation_is_above_that_of_any_data() {
    for (highest, next) in [(0, 2), (1, 2), (2, 3), (7, 8)] {
        let mut world = World::new(JobKind::Restore, false);
        world.highest_mark = highest;
        world.run(|_, _| true);
        assert_eq!(world.closed.as_ref().unwrap().0, JobState::Succeeded);
        assert_eq!(
            (world.incarnation.number, world.incarnation.job),
            (next, Some(world.job.id)),
            "{highest}"
        );
        assert_eq!(restored(world.closed.unwrap().2).incarnation, next);
    }
}

#[test]
fn failure_before_the_point_of_no_return_leaves_the_database_as_it_was() {
    for kind in [JobKind::Plan, JobKind::Fence, JobKind::Recover] {
        let mut world = World::new(JobKind::Restore, false);
        world.run(|step, _| step != kind);
        let (state, error, _) = world.closed.unwrap();
        assert_eq!(state, JobState::Failed);
        assert!(error.unwrap().message.ends_with("the database is as it was before"));
        assert_eq!(world.incarnation, Incarnation::default(), "no fence is left, and no new incarnation");
    }
}

#[test]
fn swap_is_tried_until_it_succeeds() {
    let mut world = World::new(JobKind::Restore, false);
    let mut failures = 3;
    world.run(|step, _| {
        if step == JobKind::Swap && failures > 0 {
            failures -= 1;
            return false;
        }
        true
    });
    assert_eq!(world.closed.unwrap().0, JobState::Succeeded);
    assert_eq!(world.steps.iter().filter(|step| step.record.kind() == JobKind::Swap).count(), 4);
}

/// The leader's clock is years ahead of the one by which the job's deadline was set.
#[test]
fn clock_of_the_leader_does_not_make_a_job_late() {
    let mut world = World::new(JobKind::Restore, false);
    world.now = world.job.deadline + SignedDuration::from_hours(24 * 365);
    world.waited = Some(Duration::from_secs(5));
    world.run(|_, _| true);
    assert_eq!(world.closed.as_ref().unwrap().0, JobState::Succeeded);
    let limit = world.job.time_limit() - Duration::from_secs(5);
    assert!(
        world.steps.iter().all(|step| step.record.time_limit() == limit),
        "what is left of the job's time"
    );
}

#[test]
fn clock_of_another_leader_changes_neither_the_order_of_steps_nor_their_number() {
    // The clock of each leader is an hour before, or behind, that of the one before it.
    for hour in [SignedDuration::from_hours(1), SignedDuration::from_hours(-1)] {
        let mut world = World::new(JobKind::Restore, false);
        world.now = Timestamp::from_second(50_000).unwrap();
        let (mut failures, mut offset) = (3, hour);
        for _ in 0..200 {
            let begun = world.steps.len();
            world.round();
            if world.steps.len() > begun {
                world.now += offset;
                offset = -offset;
            }
            let open = world.steps.iter().find(|step| !step.state.is_terminal());
            let Some(kind) = open.map(|step| step.record.kind()) else { continue };
            let fails = match kind {
                JobKind::Swap => failures > 0,
                // The first backup of the new timeline fails once.
                JobKind::Backup => failures == 0,
                _ => false,
            };
            failures -= i32::from(fails);
            world.end(0, !fails);
        }
        let (state, error, _) = world.closed.expect("closed");
        assert_eq!(state, JobState::Succeeded, "{error:?}");
        let count = |kind| world.steps.iter().filter(|step| step.record.kind() == kind).count();
        assert_eq!((count(JobKind::Swap), count(JobKind::Backup)), (4, 2));
        assert!(world.steps.iter().all(|step| step.state.is_terminal()));
    }
}

#[test]
fn swap_that_keeps_failing_is_tried_less_and_less_often() {
    let mut world = World::new(JobKind::Restore, false);
    for _ in 0..3600 {
        world.round();
        let is_swap = |step: &Job| !step.state.is_terminal() && step.record.kind() == JobKind::Swap;
        let fails = world.steps.iter().any(is_swap);
        world.end(0, !fails);
    }
    let begun = world.steps.iter().filter(|step| step.record.kind() == JobKind::Swap).count();
    // 3 + 6 + … + 192 s, then one in 300 s.
    assert!((15..=20).contains(&begun), "{begun} swaps in an hour");
}

#[test]
fn cell_that_cannot_be_rebuilt_is_left_out() {
    let mut world = World::new(JobKind::Restore, false);
    world.run(|step, cell| !(step == JobKind::Rebuild && cell == "zone1"));
    let (state, _, result) = world.closed.unwrap();
    assert_eq!(state, JobState::Succeeded);
    assert_eq!(restored(result).left_out, [cell("zone1")]);
}

#[test]
fn old_data_of_the_chosen_cell_is_kept_when_the_primary_is_down() {
    let mut world = World::new(JobKind::Restore, false);
    world.silence_primary();
    world.vouch();
    world.run(|_, _| true);
    assert_eq!(world.closed.as_ref().unwrap().0, JobState::Succeeded);
    assert_eq!(world.incarnation.kept_in, Some(cell("zone2")));
    assert_eq!(restored(world.closed.unwrap().2).left_out, [cell("zone1")]);
}

#[test]
fn old_data_of_another_cell_is_kept_when_the_primary_has_none() {
    let mut world = World::new(JobKind::Restore, false);
    for _ in 0..200 {
        world.round();
        let fenced = world.steps.iter_mut().filter_map(|step| {
            let of_primary = step.record.kind() == JobKind::Fence && step.record.cell == cell("zone1");
            match &mut step.result {
                Some(JobOutcome::Fence(fence)) if of_primary => Some(fence),
                _ => None,
            }
        });
        fenced.for_each(|fence| fence.whole = false);
        for _ in 0..3 {
            world.end(0, true);
        }
    }
    assert_eq!(world.closed.unwrap().0, JobState::Succeeded);
    assert_eq!(world.incarnation.kept_in, Some(cell("zone2")));
}

#[test]
fn restore_in_place_keeps_no_old_data() {
    let mut world = World::new(JobKind::Restore, true);
    world.run(|_, _| true);
    assert_eq!(world.incarnation.kept_in, None);
    assert!(
        world
            .steps
            .iter()
            .all(|step| !matches!(&step.record.spec, JobSpec::Rebuild(p) if p.keep_for.is_some()))
    );
}

#[test]
fn failed_restore_over_a_standby_says_that_its_data_may_be_lost() {
    let mut world = World::new(JobKind::Restore, true);
    world.run(|step, _| step != JobKind::Recover);
    let (state, error, _) = world.closed.unwrap();
    let message = error.unwrap().message;
    assert_eq!(state, JobState::Failed);
    assert!(
        message.contains("as it was before, but the standby in") && message.contains("cellar rebuild"),
        "{message}"
    );
    // Before the recovery has begun nothing was overwritten.
    let mut world = World::new(JobKind::Restore, true);
    world.run(|step, _| step != JobKind::Fence);
    assert!(world.closed.unwrap().1.unwrap().message.ends_with("the database is as it was before"));
}

#[test]
fn restore_fails_when_its_first_backup_fails_twice() {
    let mut world = World::new(JobKind::Restore, false);
    world.run(|step, _| step != JobKind::Backup);
    let (state, error, result) = world.closed.unwrap();
    assert_eq!(state, JobState::Failed);
    assert!(error.unwrap().message.contains("is restored"));
    assert!(matches!(result, Some(JobOutcome::Restore(_))));
    assert_eq!(world.steps.iter().filter(|step| step.record.kind() == JobKind::Backup).count(), 2);
}

#[test]
fn cancel_undoes_before_the_point_of_no_return_and_ends_the_job_after_it() {
    let cancel = Some(CancelRequest { requested_by: "you".into(), time: Timestamp::UNIX_EPOCH });
    let mut world = World::new(JobKind::Restore, false);
    for _ in 0..4 {
        world.round();
        world.end(0, true);
    }
    world.job.cancel.clone_from(&cancel);
    world.run(|_, _| true);
    assert_eq!(world.closed.unwrap().0, JobState::Canceled);
    assert_eq!(world.incarnation, Incarnation::default());
    // The chosen cell has died for good: the job must not wait for it until its deadline.
    let mut world = World::new(JobKind::Restore, false);
    while world.steps.iter().all(|step| step.record.kind() != JobKind::Swap) {
        world.round();
        if world.steps.iter().all(|step| step.record.kind() != JobKind::Swap) {
            world.end(0, true);
        }
    }
    world.job.cancel = cancel;
    world.run(|_, _| true);
    let (state, error, result) = world.closed.unwrap();
    assert_eq!(state, JobState::Canceled);
    assert!(error.unwrap().message.contains("is the restored one"));
    assert!(restored(result).kept, "it can still be rolled back");
}

#[test]
fn primary_whose_pooler_returns_is_fenced_before_the_recovery_ends() {
    let mut world = World::new(JobKind::Restore, false);
    world.silence_primary();
    world.vouch();
    while !world.steps.iter().any(|step| step.record.kind() == JobKind::Recover) {
        world.end(0, true);
        world.round();
    }
    world.alive.insert(0, cell("zone1"));
    world.run(|_, _| true);
    assert_eq!(world.closed.clone().unwrap().0, JobState::Succeeded);
    let of_primary = |step: &&Job| step.record.kind() == JobKind::Fence && step.record.cell == cell("zone1");
    assert!(world.steps.iter().find(of_primary).is_some_and(|step| step.state == JobState::Succeeded));
    assert_eq!(restored(world.closed.clone().unwrap().2).not_fenced, None);
    // The recovery that had begun did not read what the primary archived since: it is done again, to that end.
    let recoveries = world.steps.iter().filter_map(|step| match &step.record.spec {
        JobSpec::Recover(params) => Some(params.last_segment.as_deref()),
        _ => None,
    });
    assert_eq!(recoveries.collect::<Vec<_>>(), [None, Some("000000010000000000000007")]);
}

#[test]
fn more_cells_than_a_transaction_holds_are_fenced_and_rebuilt() {
    let mut world = World::new(JobKind::Restore, false);
    let cells: Vec<CellName> = (1..=250).map(|n| cell(&format!("zone{n}"))).collect();
    (world.alive, world.members) = (cells.clone(), cells);
    world.run(|_, _| true);
    assert_eq!(world.closed.clone().unwrap().0, JobState::Succeeded);
    let count = |kind| world.steps.iter().filter(|step| step.record.kind() == kind).count();
    assert_eq!((count(JobKind::Fence), count(JobKind::Rebuild)), (250, 249));
    assert!(world.most_at_once <= MAX_STEPS_AT_ONCE, "{}", world.most_at_once);
}
