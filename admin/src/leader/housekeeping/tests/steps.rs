//! The steps of a job that multiadmin drives.

use super::dead_primary::world;
use super::*;

#[test]
fn step_that_begins_changes_the_record_of_its_job_so_that_nothing_is_decided_without_it() {
    let world = world();
    let begun = world.decide(10).into_iter().find_map(|action| match action {
        Action::Drive(drive) if drive.records.iter().any(|record| record.parent == Some(id(1))) => {
            Some(drive)
        }
        _ => None,
    });
    let begun = begun.expect("the restore begins with a step");
    assert!(begun.records.iter().any(|record| record.id == id(1) && record.closure.is_none()));
    assert!(begun.guards.iter().any(|(key, _)| matches!(key, Key::Job(_, job) if *job == id(1))));
}

/// As an older leader may have left it, which decided on an older view.
#[test]
fn step_of_a_job_that_has_ended_is_closed_when_it_had_not_begun() {
    let mut world = world();
    let step = JobRecord { parent: Some(id(1)), ..record(3, "zone1") };
    world.add(step);
    let closed = |world: &World| {
        world.decide(20).into_iter().find_map(|action| match action {
            Action::Close { record, .. } if record.id == id(3) => record.closure,
            _ => None,
        })
    };
    assert!(closed(&world).is_none());
    let parent = world.view.jobs[&id(1)].clone();
    let ended = crate::jobs::closure::ended(&parent, JobState::Succeeded, None, None, second(15));
    world.view.jobs.insert(id(1), ended);
    let closure = closed(&world).expect("closed");
    assert_eq!(
        (closure.state, closure.error.map(|error| error.code)),
        (JobState::Canceled, Some(Code::Canceled))
    );
}
