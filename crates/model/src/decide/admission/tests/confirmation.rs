//! What can be confirmed.

use super::*;

#[test]
fn open_restore_can_be_confirmed_whatever_its_job_recorded() {
    let mut world = made(World::healthy());
    let job = ended(JobState::Failed, true);
    let incarnation = Incarnation {
        number: 2,
        cell: Some("zone1".parse().unwrap()),
        job: Some(job.record.id),
        fence: None,
        kept_in: Some("zone2".parse().unwrap()),
        timeline: None,
    };
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
    let incarnation = Incarnation {
        number: 3,
        cell: Some("zone1".parse().unwrap()),
        job: Some(rollback.record.id),
        fence: None,
        kept_in: None,
        timeline: None,
    };
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
