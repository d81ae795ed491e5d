use jiff::SignedDuration;

use crate::decide::driven::tests::world::{World, cell};
use crate::records::job::record::CancelRequest;
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

#[test]
fn confirmation_that_was_canceled_or_came_too_late_deletes_nothing() {
    let canceled: fn(&mut World) = |world| {
        world.job.cancel = Some(CancelRequest { requested_by: "me".to_owned(), time: world.now });
    };
    let overdue: fn(&mut World) = |world| world.now = world.job.deadline + SignedDuration::from_secs(1);
    for (change, expected) in [(canceled, JobState::Canceled), (overdue, JobState::Failed)] {
        let mut world = World::new(JobKind::Confirm, false);
        change(&mut world);
        world.run(|_, _| true);
        let (state, error, _) = world.closed.take().unwrap();
        assert_eq!(state, expected);
        assert!(error.unwrap().message.ends_with("can still be rolled back"));
        assert!(world.kinds().is_empty(), "{:?}", world.kinds());
        assert_eq!(world.incarnation.kept_in, Some(cell("zone1")));
        // Once it has begun to delete it ends with what is left.
        let mut world = World::new(JobKind::Confirm, false);
        while world.kinds().is_empty() {
            world.round();
        }
        change(&mut world);
        world.run(|_, _| true);
        assert_eq!(world.kinds(), ["discard"]);
        let (state, error, _) = world.closed.unwrap();
        assert_eq!(state, expected);
        assert!(error.unwrap().message.contains("the old data is deleted, but not in "));
    }
}
