use std::collections::BTreeMap;

use jiff::SignedDuration;
use proptest::prelude::*;

use crate::decide::condition::{Condition, ConditionKind, ConditionScene, conditions};
use crate::decide::driven::tests::world::World;
use crate::decide::outcome::join;
use crate::decide::snapshot::Snapshot;
use crate::records::job::record::CancelRequest;
use crate::records::job::run::JobState;
use crate::records::job::spec::{JobKind, JobSpec};
use crate::records::lock::Lock;
use crate::types::lsn::SystemIdentifier;

/// Decisions after which a job that was canceled has ended, if no step of it is under way any more.
const MAX_ROUNDS_AFTER_CANCEL: u32 = 4;

/// Decisions after which a job has ended whose deadline has passed, if every step of it fails.
const MAX_ROUNDS_AFTER_DEADLINE: u32 = 30;

/// What `cellar status` says of the database.
fn told(world: &World) -> Vec<Condition> {
    let database = &world.job.database;
    let mut leader = world.leader.clone();
    leader.system_identifier = Some(SystemIdentifier::new(7));
    let snapshot = Snapshot {
        cells: &BTreeMap::new(),
        databases: &BTreeMap::new(),
        poolers: &BTreeMap::new(),
        status: &BTreeMap::new(),
        leaders: &BTreeMap::from([(database.clone(), leader)]),
        incarnations: &BTreeMap::from([(database.clone(), world.incarnation.clone())]),
    };
    let lock = Lock { holder: world.closed.is_none().then_some(world.job.id), queue: vec![] };
    let open = world.closed.is_none().then(|| join(&world.job, None, false, Some(&lock)));
    let steps = world.steps.iter().filter(|step| !step.state.is_terminal()).cloned();
    let jobs: Vec<_> = open.into_iter().chain(steps).collect();
    conditions(&ConditionScene {
        database,
        snapshot: &snapshot,
        lock: &lock,
        open_jobs: &jobs,
        unreadable: &[],
    })
}

/// A driven job that has come some way, in whatever way: what was begun, what ended how, and who is there.
fn underway(
    kind: JobKind,
    in_place: bool,
    acts: &[(usize, bool)],
    alive: u8,
    (followed, vouched): (bool, bool),
) -> World {
    let mut world = World::new(kind, in_place);
    if vouched {
        world.vouch();
    }
    for (which, well) in acts {
        world.round();
        world.end(*which, *well);
    }
    let members = world.members.clone();
    world.alive =
        (0..).zip(members).filter(|(bit, _)| alive & (1 << bit) != 0).map(|(_, cell)| cell).collect();
    world.primary_is_followed = followed;
    world
}

fn cancel(world: &mut World) {
    world.job.cancel = Some(CancelRequest { requested_by: "you".into(), time: world.now });
}

/// Every pooler is gone: what is under way is closed as failed.
fn fail_steps(world: &mut World) {
    for _ in 0..world.steps.len() {
        world.end(0, false);
    }
}

fn kinds() -> impl Strategy<Value = (JobKind, bool)> {
    prop_oneof![
        Just((JobKind::Restore, false)),
        Just((JobKind::Restore, true)),
        Just((JobKind::Rollback, false)),
        Just((JobKind::Confirm, false)),
    ]
}

proptest! {
    /// Wherever a driven job stands, and whoever is alive: what is told names the command that ends it, and that
    /// command does. What stays then is a restore that can be confirmed, also when every other cell is gone.
    #[test]
    fn every_state_of_a_driven_job_is_left_by_the_command_that_is_named(
        (kind, in_place) in kinds(),
        acts in proptest::collection::vec((0usize..6, any::<bool>()), 0..40),
        alive in 0u8..8,
        seen: (bool, bool),
    ) {
        let mut world = underway(kind, in_place, &acts, alive, seen);
        let told_before = told(&world);
        for condition in &told_before {
            prop_assert!(condition.way_out.contains("`cellar "), "{:?}", condition);
        }
        if world.closed.is_none() {
            let command = format!("`cellar jobs cancel {}`", world.job.id);
            prop_assert!(told_before.iter().any(|condition| condition.way_out.contains(&command)));
            cancel(&mut world);
            fail_steps(&mut world);
            for _ in 0..MAX_ROUNDS_AFTER_CANCEL {
                world.round();
            }
        }
        prop_assert!(world.closed.is_some(), "it goes on: {:?}", world.decide());
        // Until the restored primary has recorded itself that is told, too.
        let unused = told(&world).into_iter().filter(|condition| condition.kind != ConditionKind::RestoreOpen);
        for condition in unused {
            prop_assert_eq!(condition.kind, ConditionKind::RestoreUnused);
            prop_assert!(condition.way_out.contains("`cellar status`"), "{:?}", condition);
        }
        if let Some(timeline) = world.incarnation.timeline {
            world.leader.term = world.leader.term.max(timeline);
        }
        let left = told(&world);
        prop_assert!(left.iter().all(|condition| condition.kind == ConditionKind::RestoreOpen), "{:?}", left);
        let Some(restore) = world.incarnation.job.filter(|_| !left.is_empty()) else { return Ok(()) };
        let command = format!("`cellar restore confirm {restore}`");
        prop_assert!(left[0].way_out.contains(&command));
        let mut confirmation = World::new(JobKind::Confirm, false);
        confirmation.job.spec = JobSpec::Confirm(restore);
        confirmation.incarnation = world.incarnation.clone();
        confirmation.leader = world.leader.clone();
        confirmation.alive = world.alive.clone();
        confirmation.run(|_, _| false);
        prop_assert_eq!(told(&confirmation), []);
    }

    /// Nobody does anything: the deadline ends the job, and no fence stays.
    #[test]
    fn every_state_of_a_driven_job_is_left_after_its_deadline(
        (kind, in_place) in kinds(),
        acts in proptest::collection::vec((0usize..6, any::<bool>()), 0..40),
        alive in 0u8..8,
        seen: (bool, bool),
    ) {
        let mut world = underway(kind, in_place, &acts, alive, seen);
        world.now = world.job.deadline + SignedDuration::from_secs(1);
        for _ in 0..MAX_ROUNDS_AFTER_DEADLINE {
            world.round();
            fail_steps(&mut world);
        }
        let Some((state, ..)) = &world.closed else { panic!("it goes on: {:?}", world.decide()) };
        prop_assert!(state.is_terminal());
        prop_assert!(world.steps.iter().all(|step| step.state.is_terminal()));
        prop_assert_eq!(world.incarnation.fence, None);
    }
}

#[test]
fn canceled_confirmation_ends_and_says_what_is_left() {
    let mut world = World::new(JobKind::Confirm, false);
    world.round();
    world.round();
    assert_eq!(world.kinds(), ["discard"]);
    world.end(0, true);
    cancel(&mut world);
    world.round();
    world.round();
    let (state, error, _) = world.closed.unwrap();
    assert_eq!(state, JobState::Canceled);
    let error = error.unwrap();
    assert!(error.message.ends_with("but not in zone2, zone3"), "{error:?}");
    assert!(error.hint.contains("`cellar restore confirm "), "{error:?}");
}

#[test]
fn rollback_that_ends_early_after_it_took_effect_names_the_command_that_deletes_what_it_kept() {
    let mut world = World::new(JobKind::Rollback, false);
    let command = format!("`cellar restore confirm {}`", world.job.id);
    world.run(|kind, _| kind != JobKind::Backup);
    let (state, error, _) = world.closed.unwrap();
    assert_eq!(state, JobState::Failed);
    assert!(error.unwrap().hint.contains(&command));
    let mut world = World::new(JobKind::Rollback, false);
    while world.incarnation.number == 2 {
        world.round();
        world.end(0, true);
    }
    cancel(&mut world);
    world.run(|_, _| true);
    let (state, error, _) = world.closed.unwrap();
    assert_eq!(state, JobState::Canceled);
    assert!(error.unwrap().hint.contains(&command));
}
