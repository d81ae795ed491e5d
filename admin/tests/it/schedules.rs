//! Schedules over a living store: what is set, what is asked for, once, and what is missed.

use std::time::Duration;

use crate::support::{World, db, status, wait_for, zone};
use cellar_admin::{Admin, Leading, Scheduler};
use cellar_api::v1;
use cellar_api::v1::multi_admin_server::MultiAdmin as Api;
use cellar_api::v1::scheduled_work::Work;
use cellar_model::{AuditOutcome, Code, JobId, JobState, Key, Schedule, ScheduleAction, ScheduleName};
use jiff::{SignedDuration, Timestamp};
use tonic::{Request, Status};
use tonic_types::StatusExt;

fn name() -> ScheduleName {
    "often".parse().unwrap()
}

fn backup_from(cells: &[u32]) -> v1::ScheduledWork {
    let cells = cells.iter().map(|n| zone(*n).to_string()).collect();
    v1::ScheduledWork { work: Some(Work::Backup(v1::ScheduledBackup { cells, ..Default::default() })) }
}

/// Hourly, in the minute of so many minutes ago: due once in a test that goes back further, whatever the clock says.
fn hourly(minutes_ago: i64) -> String {
    let due = Timestamp::now() - SignedDuration::from_mins(minutes_ago);
    due.strftime("%-M * * * *").to_string()
}

fn often(work: v1::ScheduledWork) -> v1::PutScheduleRequest {
    v1::PutScheduleRequest {
        name: name().to_string(),
        cron: hourly(1),
        work: Some(work),
        ..Default::default()
    }
}

async fn put(admin: &Admin, request: v1::PutScheduleRequest) -> Result<v1::Schedule, Status> {
    Ok(admin.put_schedule(Request::new(request)).await?.into_inner())
}

async fn listed(admin: &Admin) -> Vec<v1::ScheduleView> {
    let request = Request::new(v1::ListSchedulesRequest::default());
    admin.list_schedules(request).await.unwrap().into_inner().schedules
}

/// A leader with its scheduler. Ends when dropped.
struct Leader {
    _leading: Leading,
    scheduler: tokio::task::JoinHandle<()>,
}

impl Leader {
    fn start(admin: &Admin, identity: &str) -> Self {
        let scheduler = Scheduler::new(admin.clone(), identity.into());
        Self { _leading: Leading::start(admin, identity.into()), scheduler: tokio::spawn(scheduler.run()) }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.scheduler.abort();
    }
}

async fn stored(world: &World) -> Schedule {
    world.store.get(&Key::Schedule(db(), name())).await.unwrap().unwrap().record
}

/// As if it had been set so long ago.
async fn age(world: &World, span: SignedDuration) {
    let schedule = stored(world).await;
    let settled = schedule.settled - span;
    world.put(&Key::Schedule(db(), name()), &Schedule { settled, ..schedule }).await;
}

async fn jobs(admin: &Admin) -> Vec<v1::Job> {
    let request = Request::new(v1::ListJobsRequest::default());
    admin.list_jobs(request).await.unwrap().into_inner().jobs
}

async fn last_job(world: &World) -> Option<JobId> {
    stored(world).await.last?.job
}

async fn last_code(world: &World) -> Option<Code> {
    Some(stored(world).await.last?.error?.code)
}

const MINUTES: SignedDuration = SignedDuration::from_mins(5);

#[tokio::test]
async fn a_due_job_is_submitted_once_and_recorded() {
    let world = World::new().await;
    let (one, two) = (world.admin().await, world.admin().await);
    put(&one, often(backup_from(&[3]))).await.unwrap();
    age(&world, MINUTES).await;
    let _leaders = (Leader::start(&one, "one"), Leader::start(&two, "two"));
    wait_for("the run is noted", || async { last_job(&world).await.is_some() }).await;
    let all = jobs(&one).await;
    assert_eq!(all.len(), 1, "{all:?}");
    let job = &all[0];
    assert_eq!((job.cell.as_str(), job.state()), ("zone3", v1::JobState::Pending));
    assert_eq!(job.requested_by, "schedule often, set by unknown");
    let due = stored(&world).await.last.unwrap().due;
    assert!(due <= Timestamp::now() && Timestamp::now().duration_since(due) < SignedDuration::from_mins(4));
    let lines = world.audit_lines();
    let asked: Vec<_> = lines.iter().filter(|line| line.rpc == "Backup").collect();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!((asked[0].outcome, asked[1].outcome), (AuditOutcome::Begun, AuditOutcome::Allowed));
    assert_eq!(asked[1].arguments["schedule"], "often");
    assert_eq!(asked[1].job.unwrap().to_string(), job.id);
    let view = listed(&one).await.remove(0);
    assert!(view.last_job.is_some() && view.next_time.is_some());
}

#[tokio::test]
async fn a_recorded_job_that_the_schedule_does_not_name_is_found_again() {
    let world = World::new().await;
    let admin = world.admin().await;
    put(&admin, often(backup_from(&[3]))).await.unwrap();
    age(&world, MINUTES).await;
    let before = stored(&world).await;
    let leader = Leader::start(&admin, "one");
    wait_for("the run is noted", || async { last_job(&world).await.is_some() }).await;
    drop(leader);
    let first = last_job(&world).await;
    // As if the process that recorded the job had died before it wrote the schedule.
    world.put(&Key::Schedule(db(), name()), &before).await;
    let other = world.admin().await;
    world.put(&Key::AdminLeader, &"two".to_owned()).await;
    let scheduler = tokio::spawn(Scheduler::new(other, "two".into()).run());
    wait_for("the run is noted again", || async { last_job(&world).await.is_some() }).await;
    scheduler.abort();
    assert_eq!(last_job(&world).await, first);
    assert_eq!(jobs(&admin).await.len(), 1);
}

#[tokio::test]
async fn the_next_cell_is_used_when_the_first_is_refused() {
    let world = World::new().await;
    let admin = world.admin().await;
    put(&admin, often(backup_from(&[2, 3]))).await.unwrap();
    world.delete(&Key::Status(db(), zone(2))).await;
    age(&world, MINUTES).await;
    let _leader = Leader::start(&admin, "one");
    wait_for("the run is noted", || async { last_job(&world).await.is_some() }).await;
    assert_eq!(jobs(&admin).await[0].cell, "zone3");
}

#[tokio::test]
async fn a_refused_run_shows_its_reason_and_begins_when_it_can() {
    let world = World::new().await;
    let admin = world.admin().await;
    put(&admin, often(backup_from(&[3]))).await.unwrap();
    world.delete(&Key::Status(db(), zone(3))).await;
    age(&world, MINUTES).await;
    let _leader = Leader::start(&admin, "one");
    wait_for("it says why", || async { last_code(&world).await == Some(Code::CellDown) }).await;
    let schedule = stored(&world).await;
    assert!(schedule.settled < schedule.last.unwrap().due, "it is not given up");
    assert_eq!(jobs(&admin).await, []);
    let lines = world.audit_lines();
    assert!(lines.iter().all(|line| line.rpc == "PutSchedule"), "nothing was asked: {lines:?}");
    world.put(&Key::Status(db(), zone(3)), &status(3)).await;
    wait_for("it begins", || async { last_job(&world).await.is_some() }).await;
    // While this one runs, no other begins; once it has ended, the next does.
    // Two minutes earlier than the first: another time even if a minute has passed since.
    put(&admin, v1::PutScheduleRequest { cron: hourly(3), ..often(backup_from(&[3])) }).await.unwrap();
    age(&world, MINUTES).await;
    wait_for("the next one waits", || async { last_code(&world).await == Some(Code::Busy) }).await;
    // Also when it is tried again. An attempt that changes nothing cannot be observed, so this checks for longer
    // than the interval between two attempts.
    let tried = tokio::time::Instant::now() + Duration::from_secs(12);
    while tokio::time::Instant::now() < tried {
        assert_eq!(last_code(&world).await, Some(Code::Busy));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let all = jobs(&admin).await;
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(world.claim(&all[0]).await);
    world.finish(&all[0], JobState::Succeeded).await;
    let first = all[0].id.parse().ok();
    wait_for("the next one begins", || async {
        last_job(&world).await.is_some_and(|job| Some(job) != first)
    })
    .await;
}

#[tokio::test]
async fn a_refused_run_begins_as_the_schedule_is_changed() {
    let world = World::new().await;
    let admin = world.admin().await;
    let from = |zone| v1::PutScheduleRequest { cron: String::new(), ..often(backup_from(&[zone])) };
    put(&admin, often(backup_from(&[3]))).await.unwrap();
    world.delete(&Key::Status(db(), zone(3))).await;
    age(&world, MINUTES).await;
    let _leader = Leader::start(&admin, "one");
    wait_for("it says why", || async { last_code(&world).await == Some(Code::CellDown) }).await;
    put(&admin, from(2)).await.unwrap();
    wait_for("it begins elsewhere", || async { last_job(&world).await.is_some() }).await;
    assert_eq!(jobs(&admin).await[0].cell, "zone2");
    // What a paused schedule has passed over does not begin when it goes on.
    let change = |paused| v1::PutScheduleRequest { paused: Some(paused), work: None, ..from(2) };
    put(&admin, change(true)).await.unwrap();
    age(&world, MINUTES).await;
    put(&admin, change(false)).await.unwrap();
    assert!(stored(&world).await.settled > Timestamp::now() - SignedDuration::from_mins(1));
}

#[tokio::test]
async fn a_run_that_is_long_overdue_is_missed() {
    let world = World::new().await;
    let admin = world.admin().await;
    let now = Timestamp::now();
    // Two hours ago, and not again before tomorrow.
    let due = now - SignedDuration::from_hours(2);
    let cron = due.strftime("%-M %-H * * *").to_string();
    put(&admin, v1::PutScheduleRequest { cron, ..often(backup_from(&[3])) }).await.unwrap();
    age(&world, SignedDuration::from_hours(3)).await;
    let _leader = Leader::start(&admin, "one");
    wait_for("it is missed", || async { last_code(&world).await == Some(Code::Unavailable) }).await;
    let schedule = stored(&world).await;
    assert_eq!(schedule.settled, schedule.last.as_ref().unwrap().due, "it is done with");
    assert!(schedule.last.unwrap().error.unwrap().hint.contains("cellar schedules run often"));
    assert_eq!(jobs(&admin).await, []);
}

#[tokio::test]
async fn fields_that_are_not_given_stay_unchanged() {
    let world = World::new().await;
    let admin = world.admin().await;
    let zone_of = v1::PutScheduleRequest { time_zone: "Europe/Berlin".into(), ..often(backup_from(&[3])) };
    let first = put(&admin, zone_of).await.unwrap();
    let change = |paused| v1::PutScheduleRequest { name: "often".into(), paused, ..Default::default() };
    let paused = put(&admin, change(Some(true))).await.unwrap();
    assert!(paused.paused && paused.calendar == first.calendar && paused.work == first.work);
    assert_eq!(listed(&admin).await[0].next_time, None);
    let still =
        put(&admin, v1::PutScheduleRequest { cron: "0 5 * * *".into(), ..change(None) }).await.unwrap();
    assert!(still.paused);
    assert_eq!(still.calendar.unwrap().time_zone, "Europe/Berlin");
    let request = v1::DeleteScheduleRequest { name: "often".into(), ..Default::default() };
    admin.delete_schedule(Request::new(request.clone())).await.unwrap();
    assert_eq!(listed(&admin).await, []);
    let status = admin.delete_schedule(Request::new(request)).await.unwrap_err();
    assert_eq!(cellar_api::reason_of(&status), Some(Code::UnknownSchedule));
}

#[tokio::test]
async fn a_schedule_that_could_never_run_is_refused() {
    let world = World::new().await;
    let admin = world.admin().await;
    let good = often(backup_from(&[3]));
    for (bad, field) in [
        (v1::PutScheduleRequest { name: "../x".into(), ..good.clone() }, "name"),
        (v1::PutScheduleRequest { cron: "0 0 30 2 *".into(), ..good.clone() }, "cron"),
        (v1::PutScheduleRequest { cron: String::new(), ..good.clone() }, "cron"),
        (v1::PutScheduleRequest { time_zone: "Mars".into(), ..good.clone() }, "time_zone"),
        (v1::PutScheduleRequest { work: None, ..good.clone() }, "work"),
        (often(backup_from(&[])), "cells"),
        (often(backup_from(&[3, 3])), "cells"),
    ] {
        let status = put(&admin, bad).await.unwrap_err();
        assert_eq!(cellar_api::reason_of(&status), Some(Code::InvalidArgument), "{status}");
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, field);
    }
    let status = put(&admin, often(backup_from(&[9]))).await.unwrap_err();
    assert_eq!(cellar_api::reason_of(&status), Some(Code::UnknownCell));
    assert_eq!(listed(&admin).await, []);
    for n in 0..100 {
        put(&admin, v1::PutScheduleRequest { name: format!("s{n}"), ..good.clone() }).await.unwrap();
    }
    let status = put(&admin, good.clone()).await.unwrap_err();
    assert_eq!(cellar_api::reason_of(&status), Some(Code::QueueFull));
    // An existing one can still be changed.
    put(&admin, v1::PutScheduleRequest { name: "s7".into(), ..good }).await.unwrap();
}

#[tokio::test]
async fn request_ids_of_schedules_are_refused_in_requests() {
    let world = World::new().await;
    let admin = world.admin().await;
    put(&admin, often(backup_from(&[3]))).await.unwrap();
    age(&world, MINUTES).await;
    let due = match stored(&world).await.turn(Timestamp::now()) {
        ScheduleAction::Begin(due) => due,
        other => panic!("{other:?}"),
    };
    let id = stored(&world).await.request_id(due).unwrap().to_string();
    let request = v1::CheckArchiveRequest { request_id: id, ..Default::default() };
    let status = admin.check_archive(Request::new(request)).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "request_id");
}

#[tokio::test]
async fn an_unreadable_schedule_is_listed_and_others_still_run() {
    let world = World::new().await;
    let admin = world.admin().await;
    put(&admin, often(backup_from(&[3]))).await.unwrap();
    world.put_raw("/cellar/demo/schedules/app/broken", b"{\"calendar\":{\"cron\":\"x\"}}").await;
    age(&world, MINUTES).await;
    let _leader = Leader::start(&admin, "one");
    wait_for("the other runs", || async { last_job(&world).await.is_some() }).await;
    let request = Request::new(v1::ListSchedulesRequest::default());
    let answer = admin.list_schedules(request).await.unwrap().into_inner();
    assert_eq!(answer.unreadable_records, ["/cellar/demo/schedules/app/broken"]);
    // Setting it again replaces it.
    let again = v1::PutScheduleRequest { name: "broken".into(), ..often(backup_from(&[2])) };
    put(&admin, again).await.unwrap();
    let request = Request::new(v1::ListSchedulesRequest::default());
    let answer = admin.list_schedules(request).await.unwrap().into_inner();
    assert_eq!((answer.schedules.len(), answer.unreadable_records.len()), (2, 0));
    let job = jobs(&admin).await.remove(0);
    assert!(world.claim(&job).await);
    world.finish(&job, JobState::Succeeded).await;
}
