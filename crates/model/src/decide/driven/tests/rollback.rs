use crate::decide::driven::tests::world::World;
use crate::records::job::id::JobId;
use crate::records::job::outcome::JobOutcome;
use crate::records::job::run::JobState;
use crate::records::job::spec::{JobKind, JobSpec};
use crate::types::code::Code;
use uuid::Uuid;

#[test]
fn rollback_reinstates_the_old_data_and_deletes_what_is_left_of_it() {
    let mut world = World::new(JobKind::Rollback, false);
    world.run(|_, _| true);
    assert_eq!(world.kinds(), ["fence", "recover", "swap", "rebuild", "backup", "discard"]);
    assert_eq!((world.incarnation.number, world.incarnation.kept_in), (3, None));
    for step in &world.steps {
        match &step.record.spec {
            JobSpec::Recover(params) => assert_eq!(params.kept, world.job.spec.subject()),
            JobSpec::Rebuild(params) => {
                assert_eq!((params.keep_for, params.reinstate), (None, world.job.spec.subject()));
            }
            spec => assert!(
                !matches!(spec, JobSpec::Discard(restore) if Some(*restore) != world.job.spec.subject())
            ),
        }
    }
}

#[test]
fn rollback_is_refused_when_another_restore_took_effect_while_it_waited() {
    let mut world = World::new(JobKind::Rollback, false);
    world.incarnation.job = Some(JobId::new(Uuid::from_u128(77)));
    let before = world.incarnation.clone();
    world.run(|_, _| true);
    let (state, error, _) = world.closed.unwrap();
    assert_eq!((state, error.unwrap().code), (JobState::Failed, Code::NothingKept));
    assert_eq!((world.incarnation, world.steps.len()), (before, 0), "nothing was done");
}

#[test]
fn rollback_is_refused_when_the_restore_was_confirmed_while_it_waited() {
    let mut world = World::new(JobKind::Rollback, false);
    world.incarnation.kept_in = None;
    world.run(|_, _| true);
    assert_eq!(world.closed.unwrap().1.unwrap().code, Code::NothingKept);
    assert_eq!(world.steps.len(), 0);
}

#[test]
fn rollback_says_when_a_cell_that_was_down_still_has_old_data() {
    for (alive, kept) in [(3, false), (2, true)] {
        let mut world = World::new(JobKind::Rollback, false);
        world.alive.truncate(alive);
        world.run(|_, _| true);
        let (state, _, result) = world.closed.unwrap();
        let result = result.as_ref().and_then(JobOutcome::restore).map(|result| result.kept);
        assert_eq!((state, result), (JobState::Succeeded, Some(kept)), "{alive} cells");
    }
}

#[test]
fn rollback_says_when_old_data_could_not_be_deleted() {
    let mut world = World::new(JobKind::Rollback, false);
    world.run(|kind, cell| !(kind == JobKind::Discard && cell == "zone2"));
    let (_, _, result) = world.closed.unwrap();
    assert!(result.as_ref().and_then(JobOutcome::restore).is_some_and(|result| result.kept));
}
