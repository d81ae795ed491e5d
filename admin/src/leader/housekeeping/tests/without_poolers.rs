//! Jobs whose poolers are gone.

use super::*;

/// Kinds that poolers run, with and without the lock.
fn specs() -> impl Strategy<Value = JobSpec> {
    prop_oneof![
        Just(record(1, "zone1").spec),
        Just(JobSpec::Rebuild(RebuildParams::default())),
        Just(JobSpec::Verify),
        Just(JobSpec::Check),
    ]
}

/// Everything that is to be done, until nothing is.
fn come_to_rest(world: &mut World, now: i64) -> u32 {
    let mut rounds = 0;
    loop {
        world.observe(LOST_TIMEOUT);
        let actions = world.decide(now);
        if actions.is_empty() || rounds == 60 {
            return rounds;
        }
        rounds += 1;
        for action in actions {
            apply(&mut world.view, action);
        }
    }
}

proptest! {
    /// Whatever state the jobs are in when every pooler dies: a cancel of each ends it, and so does its deadline.
    #[test]
    fn every_state_of_a_job_is_left_without_its_pooler(
        draws in proptest::collection::vec(
            (any::<bool>(), 0u8..3, any::<bool>(), any::<bool>(), any::<bool>(), 100i64..200), 0..20),
        specs in proptest::collection::vec(specs(), 20),
        by_cancel: bool,
    ) {
        let mut world = world_of(draws, 0);
        for (record, spec) in world.view.jobs.values_mut().zip(specs) {
            record.spec = spec;
            if by_cancel {
                record.cancel = Some(CancelRequest { requested_by: "me".into(), time: second(1) });
            }
        }
        // With their leases.
        world.view.claims.clear();
        let rounds = come_to_rest(&mut world, if by_cancel { 50 } else { 200 });
        prop_assert!(rounds < 60, "it never rests");
        for record in world.view.jobs.values() {
            prop_assert_eq!(stage(&world.view, record), Stage::Ended, "{}", record.kind());
        }
        let lock = world.view.locks.get(&"app".parse().unwrap()).cloned().unwrap_or_default();
        prop_assert_eq!(lock, Lock::default());
    }
}
