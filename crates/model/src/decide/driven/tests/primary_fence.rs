//! A primary that does not report.

use crate::decide::driven::scene::Decision;
use crate::decide::driven::tests::world::{World, cell, restored};
use crate::decide::primary_fence::contradicted;
use crate::records::job::record::DeadPrimary;
use crate::records::job::run::{JobError, JobState};
use crate::records::job::spec::JobKind;
use crate::types::code::Code;
use crate::types::lsn::Timeline;

const KINDS: [JobKind; 2] = [JobKind::Restore, JobKind::Rollback];

/// Runs to the end, at which nothing was done.
fn given_up(world: &mut World) -> JobError {
    let before = world.incarnation.clone();
    world.run(|_, _| true);
    let (state, error, _) = world.closed.clone().unwrap();
    let error = error.unwrap();
    assert_eq!((state, error.code), (JobState::Failed, Code::CellDown));
    assert!(error.message.contains("the primary in zone1 cannot be fenced"), "{error:?}");
    assert!(error.message.ends_with("the database is as it was before"), "{error:?}");
    assert_eq!(world.incarnation, before);
    error
}

#[test]
fn job_is_given_up_when_the_primary_is_silent_and_nobody_vouches_for_its_death() {
    for kind in KINDS {
        let mut world = World::new(kind, false);
        world.silence_primary();
        let error = given_up(&mut world);
        assert!(error.hint.contains("--primary-is-dead"), "{error:?}");
        assert!(world.kinds().iter().all(|kind| *kind == "plan"), "before any cell was fenced");
    }
}

/// A restore took effect in zone3, which has not recorded itself as the primary, and is silent.
fn unrecorded_primary(kind: JobKind) -> World {
    let mut world = World::new(kind, false);
    world.incarnation.cell = Some(cell("zone3"));
    world.incarnation.timeline = Some(Timeline::new(2));
    world.alive = vec![cell("zone1"), cell("zone2")];
    world
}

#[test]
fn restored_primary_that_has_not_recorded_itself_is_fenced_or_vouched_for() {
    for kind in KINDS {
        let mut world = unrecorded_primary(kind);
        let before = world.incarnation.clone();
        world.run(|_, _| true);
        let (state, error, _) = world.closed.clone().unwrap();
        let message = error.unwrap().message;
        assert_eq!(state, JobState::Failed);
        assert!(message.contains("the primary in zone3 cannot be fenced"), "{message}");
        assert_eq!(world.incarnation, before);

        let mut world = unrecorded_primary(kind);
        world.job.dead_primary = Some(DeadPrimary { cell: cell("zone3"), also: None, reported: false });
        world.run(|_, _| true);
        let (state, _, result) = world.closed.unwrap();
        let result = restored(result);
        assert_eq!((state, result.not_fenced), (JobState::Succeeded, Some(cell("zone3"))));

        // It is back: it is fenced as the recorded one is, and a fence that fails ends the job.
        let mut world = unrecorded_primary(kind);
        world.alive.push(cell("zone3"));
        world.run(|kind, cell| kind != JobKind::Fence || cell != "zone3");
        assert_eq!(world.closed.unwrap().0, JobState::Failed);
    }
}

#[test]
fn job_is_given_up_when_a_standby_streams_from_the_silent_primary_whoever_vouches() {
    for (kind, vouched) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let mut world = World::new(kind, false);
        world.silence_primary();
        world.primary_is_followed = true;
        if vouched {
            world.vouch();
        }
        assert!(given_up(&mut world).message.contains("streams from it"));
    }
}

#[test]
fn job_goes_on_beside_a_primary_that_is_vouched_for_as_dead_and_says_so() {
    for kind in KINDS {
        let mut world = World::new(kind, false);
        world.silence_primary();
        world.vouch();
        world.run(|_, _| true);
        let (state, _, result) = world.closed.unwrap();
        assert_eq!(state, JobState::Succeeded);
        assert_eq!(restored(result).not_fenced, Some(cell("zone1")));
    }
}

/// What is seen in the last round before the point of no return counts.
#[test]
fn copy_is_not_taken_into_use_when_the_silent_primary_is_seen_to_run() {
    for kind in KINDS {
        let mut world = World::new(kind, false);
        world.silence_primary();
        world.vouch();
        while !matches!(world.decide(), Decision::Write(incarnation) if incarnation.fence.is_none()) {
            world.round();
            world.end(0, true);
        }
        world.primary_is_followed = true;
        let number = world.incarnation.number;
        world.run(|_, _| true);
        assert_eq!(world.closed.unwrap().1.unwrap().code, Code::CellDown);
        assert_eq!((world.incarnation.number, world.incarnation.fence), (number, None));
    }
}

#[test]
fn vouching_ends_when_the_primary_reports() {
    for kind in KINDS {
        let mut world = World::new(kind, false);
        world.vouch();
        assert_eq!(contradicted(&world.job, false), None);
        world.job = contradicted(&world.job, true).unwrap();
        assert_eq!(contradicted(&world.job, true), None, "once");
        // It falls silent again before the job's turn comes.
        world.silence_primary();
        let error = given_up(&mut world);
        assert!(error.message.contains("It did report after --primary-is-dead was given"), "{error:?}");
    }
}

#[test]
fn vouching_is_for_one_primary() {
    for kind in KINDS {
        let mut world = World::new(kind, false);
        world.silence_primary();
        world.job.dead_primary = Some(DeadPrimary { cell: cell("zone3"), also: None, reported: false });
        given_up(&mut world);
    }
}

/// It is asked for its fence, and dies: whether it was stopped nobody knows, and the word that was given was about
/// another time.
#[test]
fn primary_that_returned_and_died_while_it_was_fenced_is_not_passed_over() {
    for kind in KINDS {
        let mut world = World::new(kind, false);
        world.silence_primary();
        world.vouch();
        while !world.steps.iter().any(|step| step.record.kind() == JobKind::Recover) {
            world.end(0, true);
            world.round();
        }
        world.alive.insert(0, cell("zone1"));
        world.round();
        world.silence_primary();
        world.run(|kind, cell| !(kind == JobKind::Fence && cell == "zone1"));
        let (state, error, _) = world.closed.unwrap();
        assert_eq!(state, JobState::Failed);
        assert!(error.unwrap().message.contains("fence of cell zone1"));
    }
}

/// Its record has no word on the primary. A release that demands one takes it over.
#[test]
fn job_that_an_older_release_began_beside_a_silent_primary_is_left_either_way() {
    for kind in KINDS {
        let begun = || {
            let mut world = World::new(kind, false);
            world.silence_primary();
            world.vouch();
            world
        };
        let mut before = begun();
        while !before.steps.iter().any(|step| step.record.kind() == JobKind::Recover) {
            before.round();
            before.end(0, true);
        }
        before.job.dead_primary = None;
        before.run(|_, _| true);
        let (state, error, _) = before.closed.unwrap();
        assert_eq!(state, JobState::Failed);
        assert!(error.unwrap().message.ends_with("the database is as it was before"));
        assert_eq!(before.incarnation.fence, None);

        let mut after = begun();
        let number = after.incarnation.number;
        while after.incarnation.number == number {
            after.round();
            after.end(0, true);
        }
        after.job.dead_primary = None;
        after.run(|_, _| true);
        assert_eq!(after.closed.unwrap().0, JobState::Succeeded);
    }
}
