//! A primary that does not report.

use super::*;

fn latest() -> RestoreParams {
    to(Target::Latest {}, false)
}

fn vouching() -> JobRequest {
    JobRequest { primary_is_dead: true, ..whole(None) }
}

/// The multipooler of zone1 is silent.
fn silent() -> World {
    let mut world = made(World::healthy());
    world.status.remove(&("app".parse().unwrap(), "zone1".parse().unwrap()));
    world
}

/// So are its replication connections.
fn cut_off() -> World {
    let mut world = silent();
    for cell in ["zone2", "zone3"] {
        world.status(cell).streams_from = None;
    }
    world
}

fn rollback(world: &World, request: &JobRequest) -> Result<JobRecord, Refusal> {
    let mut world = world.snapshot();
    let incarnation = Incarnation {
        number: 2,
        cell: Some("zone1".parse().unwrap()),
        job: Some(job_id(7)),
        kept_in: Some("zone2".parse().unwrap()),
        ..Incarnation::default()
    };
    let incarnations = BTreeMap::from([("app".parse().unwrap(), incarnation)]);
    world.incarnations = &incarnations;
    plan_rollback(&world, request, job_id(7), None, job_id(1), Timestamp::UNIX_EPOCH)
}

fn plan(world: &World, request: &JobRequest) -> Result<JobRecord, Refusal> {
    plan_restore_plan(&world.snapshot(), request, &latest(), job_id(1), Timestamp::UNIX_EPOCH)
}

/// A restore took effect in zone2, which has not recorded itself as the primary.
fn restored_in_zone2() -> BTreeMap<DatabaseName, Incarnation> {
    let incarnation = Incarnation {
        number: 2,
        cell: Some("zone2".parse().unwrap()),
        job: Some(job_id(7)),
        timeline: Some(Timeline::new(9)),
        ..Incarnation::default()
    };
    BTreeMap::from([("app".parse().unwrap(), incarnation)])
}

#[test]
fn restored_primary_that_has_not_recorded_itself_counts_as_the_primary() {
    let incarnations = restored_in_zone2();
    let restore = |world: &World, request: &JobRequest| {
        let mut snapshot = world.snapshot();
        snapshot.incarnations = &incarnations;
        let onto = RestoreParams { onto: Some("zone3".parse().unwrap()), ..latest() };
        plan_restore(&snapshot, request, &onto, job_id(1), Timestamp::UNIX_EPOCH)
    };
    let mut world = made(World::healthy());
    assert_eq!(restore(&world, &whole(None)).unwrap().dead_primary, None, "it is fenced");
    world.status.remove(&("app".parse().unwrap(), "zone2".parse().unwrap()));
    let refusal = restore(&world, &whole(None)).unwrap_err();
    assert!(refusal.message.contains("the primary in zone2 cannot be fenced"), "{refusal}");
    let dead = restore(&world, &vouching()).unwrap().dead_primary.unwrap();
    assert_eq!((dead.cell.as_str(), dead.also), ("zone2", None));
    // The recorded one is silent, too: the word is for both.
    world.status.remove(&("app".parse().unwrap(), "zone1".parse().unwrap()));
    world.status("zone3").streams_from = None;
    let dead = restore(&world, &vouching()).unwrap().dead_primary.unwrap();
    assert_eq!((dead.cell.as_str(), dead.also.unwrap().as_str()), ("zone2", "zone1"));
}

/// The recorded primary is of a timeline that was left: by it an expiry would delete what leads to the present one.
#[test]
fn nothing_is_deleted_until_the_restored_primary_has_recorded_itself() {
    let world = made(World::healthy());
    let decide = |term: u32| {
        let mut snapshot = world.snapshot();
        let incarnations = restored_in_zone2();
        let mut leaders = snapshot.leaders.clone();
        for leader in leaders.values_mut() {
            leader.term = Timeline::new(term);
        }
        (snapshot.incarnations, snapshot.leaders) = (&incarnations, &leaders);
        let expire =
            plan_expire(&snapshot, &whole(None), &ExpireParams::default(), job_id(1), Timestamp::UNIX_EPOCH);
        let confirm =
            plan_confirm(&snapshot, &whole(None), job_id(7), None, &[], job_id(1), Timestamp::UNIX_EPOCH);
        [expire, confirm].map(|decided| decided.map_err(|refusal| (refusal.code, refusal.to_string())))
    };
    for decided in decide(8) {
        let (code, text) = decided.unwrap_err();
        assert_eq!(code, Code::RestoreOpen);
        assert!(text.contains("took effect in cell zone2"), "{text}");
    }
    assert!(decide(9).iter().all(Result::is_ok));
}

#[test]
fn replacing_the_data_is_refused_when_a_standby_streams_from_a_silent_primary() {
    for request in [whole(None), vouching()] {
        for refusal in [
            plan_restore(&silent().snapshot(), &request, &latest(), job_id(1), Timestamp::UNIX_EPOCH),
            rollback(&silent(), &request),
            plan(&silent(), &request),
        ] {
            let refusal = refusal.unwrap_err();
            assert_eq!(refusal.code, Code::CellDown);
            assert!(refusal.message.contains("zone2 streams from it"), "{refusal}");
        }
    }
}

#[test]
fn replacing_the_data_is_refused_when_the_primary_is_silent_and_nobody_vouches_for_its_death() {
    for refusal in [restore(&cut_off(), &latest()), rollback(&cut_off(), &whole(None))] {
        let refusal = refusal.unwrap_err();
        assert_eq!((refusal.code, refusal.about["cell"].as_str()), (Code::CellDown, "zone1"));
        assert!(refusal.message.contains("the primary in zone1 cannot be fenced"), "{refusal}");
        assert!(refusal.hint.contains("--primary-is-dead"), "{}", refusal.hint);
    }
}

#[test]
fn who_vouches_for_the_death_of_a_silent_primary_is_believed() {
    for record in [
        restore_beside_a_dead_primary(&cut_off(), &latest()).unwrap(),
        rollback(&cut_off(), &vouching()).unwrap(),
    ] {
        let dead = record.dead_primary.unwrap();
        assert_eq!((dead.cell.as_str(), dead.reported), ("zone1", false));
    }
}

#[test]
fn who_vouches_for_the_death_of_a_primary_that_reports_is_not_believed() {
    let world = made(World::healthy());
    for refusal in [
        restore_beside_a_dead_primary(&world, &latest()),
        rollback(&world, &vouching()),
        plan(&world, &vouching()),
    ] {
        let refusal = refusal.unwrap_err();
        assert_eq!(refusal.code, Code::InvalidArgument);
        assert!(refusal.message.contains("zone1 is not dead"), "{refusal}");
        assert!(refusal.hint.contains("leave --primary-is-dead out"), "{}", refusal.hint);
    }
    // Nor has one that is fenced as ever anything recorded about it.
    assert_eq!(restore(&world, &latest()).unwrap().dead_primary, None);
    assert_eq!(rollback(&world, &whole(None)).unwrap().dead_primary, None);
}

#[test]
fn plan_beside_a_silent_primary_is_made_whoever_vouches() {
    for request in [whole(None), vouching()] {
        let record = plan(&cut_off(), &request).unwrap();
        assert_eq!((record.kind(), record.cell.as_str()), (JobKind::Plan, "zone2"));
    }
}
