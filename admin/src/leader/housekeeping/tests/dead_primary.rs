//! Jobs that were asked for on the word that the primary is dead.

use cellar_model::{DeadPrimary, Leader, RestoreParams, Target, Timeline};

use super::*;

fn restore(n: u64) -> JobRecord {
    let params = RestoreParams {
        target: Target::Latest {},
        timeline: None,
        in_place: false,
        onto: Some("zone2".parse().unwrap()),
        backup: None,
    };
    let dead = DeadPrimary { cell: "zone1".parse().unwrap(), also: None, reported: false };
    JobRecord { spec: JobSpec::Restore(params), dead_primary: Some(dead), ..record(n, "zone2") }
}

fn report(world: &mut World, cell: &str) {
    let status = serde_json::json!({"database": "app", "cell": cell, "epoch": "e"});
    let key = ("app".parse().unwrap(), cell.parse().unwrap());
    world.view.status.insert(key, serde_json::from_value(status).unwrap());
}

/// The first restore holds the lock and the second waits.
pub(super) fn world() -> World {
    let mut world = World::new();
    let leader = Leader {
        cell: "zone1".parse().unwrap(),
        term: Timeline::new(1),
        system_identifier: None,
        lsn: None,
        leadership: None,
    };
    world.view.leaders.insert("app".parse().unwrap(), leader);
    world.add(restore(1));
    world.add(restore(2));
    report(&mut world, "zone2");
    world
}

/// The jobs that say from now on that the primary reports.
fn contradicted(world: &World) -> Vec<JobId> {
    let drives = world.decide(10).into_iter().filter_map(|action| match action {
        Action::Drive(drive) => Some(drive),
        _ => None,
    });
    let records = drives.flat_map(|drive| drive.records.into_iter());
    let reported = |record: &JobRecord| record.dead_primary.as_ref().is_some_and(|dead| dead.reported);
    let already = |record: &JobRecord| world.view.jobs.get(&record.id).is_some_and(reported);
    records.filter(|record| reported(record) && !already(record)).map(|record| record.id).collect()
}

#[test]
fn primary_that_reports_is_not_dead_for_the_job_that_runs_nor_for_those_that_wait() {
    let mut world = world();
    assert_eq!(contradicted(&world), []);
    report(&mut world, "zone1");
    assert_eq!(contradicted(&world), [id(1), id(2)]);
    // Nothing else is done for the job in that round: its record is about to change.
    let drives = world.decide(10).into_iter().filter(|action| matches!(action, Action::Drive(_)));
    assert_eq!(drives.count(), 2);
    for action in world.decide(10) {
        if let Action::Drive(drive) = action {
            assert!(drive.guards.iter().any(|(key, _)| matches!(key, Key::Job(_, job) if *job == drive.job)));
            world.view.jobs.extend(drive.records.into_iter().map(|record| (record.id, record)));
        }
    }
    // It stays so when the primary is silent again.
    assert_eq!(contradicted(&world), []);
    world.view.status.remove(&("app".parse().unwrap(), "zone1".parse().unwrap()));
    assert!(world.view.jobs.values().all(|job| job.dead_primary.as_ref().unwrap().reported));
}

#[test]
fn job_that_has_ended_is_left_as_it_is() {
    let mut world = world();
    report(&mut world, "zone1");
    for job in world.view.jobs.values_mut() {
        let (state, time) = (JobState::Failed, second(5));
        job.closure = Some(cellar_model::Closure { state, time, error: None, result: None });
    }
    assert_eq!(contradicted(&world), []);
}
