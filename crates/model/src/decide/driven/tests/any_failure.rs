use crate::decide::driven::tests::world::World;
use crate::records::job::outcome::JobOutcome;
use crate::records::job::record::CancelRequest;
use crate::records::job::run::JobState;
use crate::records::job::spec::JobKind;
use proptest::prelude::*;

proptest! {
    /// Whatever fails and whenever, the job ends, and the database is as before or restored.
    #[test]
    fn database_is_as_before_or_restored_whatever_fails(
        acts in proptest::collection::vec((0usize..6, any::<bool>()), 1..60),
        rollback in any::<bool>(),
        cancel_at in 0usize..80,
    ) {
        let kind = if rollback { JobKind::Rollback } else { JobKind::Restore };
        let mut world = World::new(kind, false);
        let before = world.incarnation.clone();
        for (at, (which, well)) in acts.into_iter().enumerate() {
            if at == cancel_at {
                world.job.cancel = Some(CancelRequest { requested_by: "you".into(), time: world.now });
            }
            world.round();
            world.end(which, well);
        }
        world.run(|_, _| true);
        let (state, error, result) = world.closed.clone().unwrap();
        prop_assert_eq!(world.incarnation.fence, None);
        if world.incarnation.number == before.number {
            prop_assert_eq!(&world.incarnation, &before);
            prop_assert!(state != JobState::Succeeded);
            prop_assert!(error.unwrap().message.contains("as it was before"));
        } else {
            prop_assert_eq!(world.incarnation.job, Some(world.job.id));
            prop_assert!(matches!(result, Some(JobOutcome::Restore(_))));
        }
        prop_assert!(world.steps.iter().all(|step| step.state.is_terminal()));
    }
}
