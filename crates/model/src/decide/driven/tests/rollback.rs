use crate::decide::driven::tests::world::World;
use crate::records::job::spec::{JobKind, JobSpec};

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
