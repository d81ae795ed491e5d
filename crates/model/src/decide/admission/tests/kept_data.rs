//! What can be rolled back, and what can be confirmed.

use super::*;

/// The incarnation that a restore has made in zone1, with the old data in the given cell.
fn made_by(job: JobId, kept_in: Option<&str>) -> Incarnation {
    Incarnation {
        number: 2,
        cell: Some("zone1".parse().unwrap()),
        job: Some(job),
        kept_in: kept_in.map(|cell| cell.parse().unwrap()),
        ..Incarnation::default()
    }
}

/// A restore of zone1 that has ended, with what it recorded.
fn ended(state: JobState, kept: bool) -> Job {
    let world = made(World::healthy());
    let mut record = restore(&world, &to(Target::Latest {}, false)).unwrap();
    let recovery = RecoveryResult {
        timeline: Timeline::new(2),
        from_timeline: Timeline::new(1),
        lsn: Lsn::new(1),
        last_commit: None,
        stopped: String::new(),
        size_bytes: 0,
        restore_millis: 0,
        recovery_millis: 0,
    };
    let restored = RestoreResult {
        cell: record.cell.clone(),
        incarnation: 2,
        recovery,
        backup: None,
        left_out: vec![],
        kept,
        first_backup: None,
        not_fenced: None,
    };
    let result = (state == JobState::Succeeded).then_some(JobOutcome::Restore(restored));
    record.closure = Some(Closure { state, time: Timestamp::UNIX_EPOCH, error: None, result });
    join(&record, None, false, None)
}

#[test]
fn rollback_and_confirmation_are_refused_when_nothing_is_kept() {
    let mut world = made(World::healthy());
    let db: DatabaseName = "app".parse().unwrap();
    let now = Timestamp::UNIX_EPOCH;
    let roll = |world: &World, job: &Job| {
        plan_rollback(&world.snapshot(), &whole(None), job.record.id, Some(job), job_id(2), now)
            .map(|r| r.cell)
            .map_err(|r| r.code)
    };
    let confirm = |world: &World, job: &Job, related: &[Job]| {
        plan_confirm(&world.snapshot(), &whole(None), job.record.id, Some(job), related, job_id(2), now)
            .map(drop)
            .map_err(|r| r.code)
    };
    let job = ended(JobState::Succeeded, true);
    assert_eq!(roll(&world, &job), Err(Code::NothingKept), "it never became the true copy");
    let incarnation = made_by(job.record.id, Some("zone2"));
    world.incarnations.insert(db.clone(), incarnation.clone());
    assert_eq!(roll(&world, &job), Ok("zone2".parse().unwrap()));
    assert_eq!(confirm(&world, &job, &[]), Ok(()));
    let open = incarnation.clone();
    world.incarnations.insert(db.clone(), Incarnation { kept_in: None, ..open });
    assert_eq!(roll(&world, &job), Err(Code::NothingKept), "confirmed");
    let mut confirmed = ended(JobState::Succeeded, true);
    confirmed.record.spec = JobSpec::Confirm(job.record.id);
    assert_eq!(confirm(&world, &job, std::slice::from_ref(&confirmed)), Err(Code::NothingKept));
    let mut rolled_back = ended(JobState::Succeeded, false);
    rolled_back.record.spec = JobSpec::Rollback(job.record.id);
    assert_eq!(confirm(&world, &job, &[rolled_back]), Err(Code::NothingKept));
    assert_eq!(confirm(&world, &job, &[]), Ok(()), "a cell was away when it was confirmed");
    // Data that is not whole is kept too, though no rollback returns to it.
    let mut not_whole = ended(JobState::Succeeded, false);
    assert_eq!(confirm(&world, &not_whole, &[]), Ok(()));
    if let JobSpec::Restore(params) = &mut not_whole.record.spec {
        params.in_place = true;
    }
    assert_eq!(confirm(&world, &not_whole, &[]), Err(Code::NothingKept), "in place");
    assert_eq!(confirm(&world, &ended(JobState::Failed, true), &[]), Err(Code::NothingKept), "as before");
    // A rollback keeps nothing, but one that ended early has not deleted what it replaced.
    let rollback = |state: JobState| {
        let mut rollback = ended(JobState::Succeeded, false);
        rollback.record.spec = JobSpec::Rollback(job.record.id);
        rollback.state = state;
        rollback
    };
    assert_eq!(confirm(&world, &rollback(JobState::Succeeded), &[]), Err(Code::NothingKept));
    // Nor has one that could not delete it in a cell that was down: by either's number it is deleted there.
    let mut incomplete = ended(JobState::Succeeded, true);
    incomplete.record.spec = JobSpec::Rollback(job.record.id);
    assert_eq!(confirm(&world, &incomplete, &[]), Ok(()));
    assert_eq!(confirm(&world, &job, std::slice::from_ref(&incomplete)), Ok(()));
    assert_eq!(confirm(&world, &rollback(JobState::Canceled), &[]), Ok(()));
    assert_eq!(confirm(&world, &rollback(JobState::Running), &[]), Err(Code::Busy));
    assert_eq!(roll(&world, &rollback(JobState::Canceled)), Err(Code::InvalidArgument));
    world.incarnations.insert(db.clone(), Incarnation { kept_in: None, ..incarnation.clone() });
    assert_eq!(roll(&world, &job), Err(Code::NothingKept), "confirmed");
    world.incarnations.insert(db, Incarnation { job: Some(job_id(9)), ..incarnation });
    assert_eq!(roll(&world, &job), Err(Code::NothingKept), "a later restore has taken its place");
    let mut backup = job.clone();
    backup.record.spec = JobSpec::Fence;
    assert_eq!(roll(&world, &backup), Err(Code::InvalidArgument));
    let mut running = job;
    running.state = JobState::Running;
    assert_eq!(roll(&world, &running), Err(Code::Busy));
}

#[test]
fn restore_whose_job_is_forgotten_can_be_rolled_back_and_confirmed_by_its_incarnation() {
    let mut world = made(World::healthy());
    let db: DatabaseName = "app".parse().unwrap();
    let (now, subject) = (Timestamp::UNIX_EPOCH, ended(JobState::Succeeded, true).record.id);
    let roll = |world: &World| {
        plan_rollback(&world.snapshot(), &whole(None), subject, None, job_id(2), now)
            .map(|record| (record.cell, record.spec))
            .map_err(|refusal| refusal.code)
    };
    let confirm = |world: &World| {
        plan_confirm(&world.snapshot(), &whole(None), subject, None, &[], job_id(2), now)
            .map(|record| record.spec)
            .map_err(|refusal| refusal.code)
    };
    assert_eq!(roll(&world), Err(Code::UnknownJob));
    assert_eq!(confirm(&world), Err(Code::UnknownJob));
    let kept: CellName = "zone2".parse().unwrap();
    let incarnation = made_by(subject, Some("zone2"));
    world.incarnations.insert(db.clone(), incarnation.clone());
    assert_eq!(roll(&world), Ok((kept, JobSpec::Rollback(subject))));
    assert_eq!(confirm(&world), Ok(JobSpec::Confirm(subject)));
    world.incarnations.insert(db, Incarnation { kept_in: None, ..incarnation });
    assert_eq!(roll(&world), Err(Code::UnknownJob));
    assert_eq!(
        confirm(&world),
        Ok(JobSpec::Confirm(subject)),
        "a cell may have been away when it was confirmed"
    );
}

#[test]
fn open_restore_can_be_confirmed_whatever_its_job_recorded() {
    let mut world = made(World::healthy());
    let job = ended(JobState::Failed, true);
    let incarnation = made_by(job.record.id, Some("zone2"));
    world.incarnations.insert("app".parse().unwrap(), incarnation);
    let now = Timestamp::UNIX_EPOCH;
    let confirmed =
        plan_confirm(&world.snapshot(), &whole(None), job.record.id, Some(&job), &[], job_id(2), now);
    assert_eq!(confirmed.map(|record| record.spec), Ok(JobSpec::Confirm(job.record.id)));
}

#[test]
fn rollback_that_took_effect_and_did_not_succeed_can_be_confirmed() {
    let mut world = made(World::healthy());
    let mut rollback = ended(JobState::Succeeded, false);
    rollback.record.spec = JobSpec::Rollback(job_id(7));
    let (db, now) = ("app".parse().unwrap(), Timestamp::UNIX_EPOCH);
    let incarnation = made_by(rollback.record.id, None);
    world.incarnations.insert(db, incarnation);
    let confirm = |rollback: &Job, related: &[Job]| {
        let id = rollback.record.id;
        plan_confirm(&world.snapshot(), &whole(None), id, Some(rollback), related, job_id(2), now)
            .map(|record| record.spec)
            .map_err(|refusal| refusal.code)
    };
    assert_eq!(confirm(&rollback, &[]), Err(Code::NothingKept), "it deletes what it kept by itself");
    rollback.state = JobState::Canceled;
    assert_eq!(confirm(&rollback, &[]), Ok(JobSpec::Confirm(rollback.record.id)));
    let mut confirmation = ended(JobState::Succeeded, true);
    confirmation.record.spec = JobSpec::Confirm(rollback.record.id);
    assert_eq!(confirm(&rollback, &[confirmation]), Err(Code::NothingKept));
    rollback.record.closure = None;
    assert_eq!(confirm(&rollback, &[]), Err(Code::NothingKept), "it never took effect");
}
