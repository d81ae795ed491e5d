use crate::decide::driven::tests::world::{World, cell};
use crate::records::job::run::JobState;
use crate::records::job::spec::JobKind;

#[test]
fn confirmation_deletes_the_old_data() {
    let mut world = World::new(JobKind::Confirm, false);
    world.run(|_, _| true);
    assert_eq!((world.incarnation.number, &world.incarnation.kept_in), (2, &None));
    assert_eq!(world.kinds(), ["discard"]);
    assert_eq!(world.closed.unwrap().0, JobState::Succeeded);
}

#[test]
fn confirmation_fails_and_says_where_old_data_is_left() {
    let mut world = World::new(JobKind::Confirm, false);
    world.alive = vec![cell("zone1"), cell("zone2")];
    world.run(|_, _| true);
    let (state, error, _) = world.closed.unwrap();
    assert_eq!(state, JobState::Failed);
    assert!(error.unwrap().message.ends_with("not in zone3"));
}
