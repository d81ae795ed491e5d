//! Recording, finding, listing, watching and canceling jobs.

use std::time::Duration;

use crate::support::{
    World, backup, backup_of, cancel, db, get_job, no_pooler, reaches, reason, status, wait_for, zone,
};
use cellar_admin::{Admin, AuditLog};
use cellar_api::v1::multi_admin_server::MultiAdmin as Api;
use cellar_api::{reason_of, v1};
use cellar_model::{JobState, Key, PoolerStatus};
use futures_util::{FutureExt, StreamExt};
use tonic::{Request, Response};
use tonic_types::StatusExt;

fn with_id(n: u32, request_id: &str) -> v1::BackupRequest {
    v1::BackupRequest { request_id: request_id.into(), ..backup_of(n) }
}

fn queued(n: u32) -> v1::BackupRequest {
    v1::BackupRequest { queue: true, ..backup_of(n) }
}

#[tokio::test]
async fn a_backup_is_recorded_and_takes_the_lock() {
    let world = World::new().await;
    let admin = world.admin().await;
    let job = backup(&admin, backup_of(3)).await.unwrap();
    assert_eq!(
        (job.state(), job.cell.as_str(), job.kind()),
        (v1::JobState::Pending, "zone3", v1::JobKind::Backup)
    );
    assert_eq!(job.backup().unwrap().r#type(), v1::BackupType::Incr);
    assert_eq!(world.lock().await.holder, Some(job.id.parse().unwrap()));
    assert_eq!(world.job(&job.id.parse().unwrap()).await.unwrap().requested_by, "unknown");
}

/// A primary that starts again is looked for by its standbys, and a backup waits for them.
#[tokio::test]
async fn a_request_waits_for_a_reconnecting_standby_within_the_callers_deadline() {
    let world = World::new().await;
    let lost = PoolerStatus { streams_from: None, ..status(2) };
    world.put(&Key::Status(db(), zone(2)), &lost).await;
    let admin = world.admin().await;
    let mut request = Request::new(backup_of(2));
    request.set_timeout(Duration::from_secs(1));
    assert_eq!(reason(admin.backup(request).await), "WRONG_PRIMARY");
    let found = async {
        // A waiting request cannot be observed. If it has not begun yet, it is accepted at once.
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.put(&Key::Status(db(), zone(2)), &status(2)).await;
    };
    let (job, ()) = tokio::join!(backup(&admin, backup_of(2)), found);
    assert_eq!(job.unwrap().cell, "zone2");
}

/// All waiting is by one clock, which a simulation can set.
#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_a_standby_gives_up_by_simulated_time() {
    let world = World::new().await;
    let lost = PoolerStatus { streams_from: None, ..status(2) };
    world.put(&Key::Status(db(), zone(2)), &lost).await;
    // Without a file: its thread works in real time.
    let admin = Admin::start(world.store.clone(), no_pooler(), AuditLog::discarding());
    assert!(admin.ready(Duration::from_secs(20)).await);
    let begun = tokio::time::Instant::now();
    let answer = tokio::time::timeout(Duration::from_secs(60), backup(&admin, backup_of(2))).await;
    assert_eq!(reason(answer.expect("an answer")), "WRONG_PRIMARY");
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(4) && waited < Duration::from_secs(9), "{waited:?}");
}

#[tokio::test]
async fn a_backup_that_cannot_work_is_refused_and_changes_nothing() {
    let world = World::new().await;
    world.delete(&Key::Status(db(), zone(2))).await;
    let admin = world.admin().await;
    let before = world.contents().await;
    let refused = |request| async { reason(backup(&admin, request).await) };
    assert_eq!(refused(backup_of(1)).await, "IS_PRIMARY");
    assert_eq!(refused(backup_of(2)).await, "CELL_DOWN");
    assert_eq!(refused(backup_of(9)).await, "UNKNOWN_CELL");
    assert_eq!(
        refused(v1::BackupRequest { database: "web".into(), ..backup_of(3) }).await,
        "UNKNOWN_DATABASE"
    );
    for (field, request) in [
        ("cell", v1::BackupRequest { cell: "../x".into(), ..backup_of(3) }),
        ("database", v1::BackupRequest { database: "A B".into(), ..backup_of(3) }),
        ("type", v1::BackupRequest { r#type: 77, ..backup_of(3) }),
        ("request_id", with_id(3, "a b")),
        (
            "timeout",
            v1::BackupRequest {
                timeout: Some(cellar_api::wkt::Duration { seconds: -1, nanos: 0 }),
                ..backup_of(3)
            },
        ),
        (
            "timeout",
            v1::BackupRequest {
                timeout: Some(cellar_api::wkt::Duration { seconds: i64::MAX, nanos: 0 }),
                ..backup_of(3)
            },
        ),
    ] {
        let status = backup(&admin, request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{field}");
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, field);
    }
    let rebuild = v1::RebuildStandbyRequest { cell: "zone1".into(), ..Default::default() };
    assert_eq!(reason(Api::rebuild_standby(&admin, Request::new(rebuild)).await), "IS_PRIMARY");
    assert_eq!(world.contents().await, before);
}

#[tokio::test]
async fn a_second_backup_is_refused_naming_the_first() {
    let world = World::new().await;
    let admin = world.admin().await;
    let first = backup(&admin, backup_of(3)).await.unwrap();
    assert!(world.claim(&first).await);
    reaches(&admin, &first.id, v1::JobState::Running).await;
    let status = backup(&admin, backup_of(2)).await.unwrap_err();
    assert_eq!(reason_of(&status), Some(cellar_model::Code::Busy));
    assert!(
        status.message().contains(&first.id) && status.message().contains("backup of cell zone3"),
        "{status}"
    );
    assert_eq!(status.get_details_error_info().unwrap().metadata["job"], first.id);
    assert!(cellar_api::hint_of(&status).unwrap().contains("--queue"));
    // After its end, the next is accepted before the leader has updated the lock.
    world.finish(&first, JobState::Succeeded).await;
    assert!(backup(&admin, backup_of(2)).await.is_ok());
}

#[tokio::test]
async fn the_queue_is_in_order_and_bounded() {
    let world = World::new().await;
    let admin = world.admin().await;
    let first = backup(&admin, queued(3)).await.unwrap();
    let second = backup(&admin, queued(2)).await.unwrap();
    let third = backup(&admin, queued(3)).await.unwrap();
    assert_eq!(third.waits_for, [first.id.clone(), second.id.clone()]);
    for _ in 0..30 {
        backup(&admin, queued(2)).await.unwrap();
    }
    assert_eq!(reason(backup(&admin, queued(2)).await), "QUEUE_FULL");
    assert!(!world.claim(&second).await, "only the holder may be claimed");
    assert!(world.claim(&first).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_one_of_simultaneous_requests_to_two_admins_runs() {
    for _ in 0..20 {
        let world = World::new().await;
        let (one, two) = (world.admin().await, world.admin().await);
        let spawn = |admin: &cellar_admin::Admin, n| {
            let admin = admin.clone();
            tokio::spawn(async move { backup(&admin, backup_of(n)).await })
        };
        let (a, b, c) = (spawn(&one, 2), spawn(&two, 3), spawn(&one, 3));
        let results = [a.await.unwrap(), b.await.unwrap(), c.await.unwrap()];
        let won: Vec<_> = results.iter().flatten().collect();
        assert_eq!(won.len(), 1, "{results:?}");
        for refused in results.iter().filter_map(|result| result.as_ref().err()) {
            assert_eq!(reason_of(refused), Some(cellar_model::Code::Busy));
            assert!(refused.message().contains(&won[0].id));
        }
        assert_eq!(world.lock().await.holder, Some(won[0].id.parse().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_at_two_admins_is_one_job() {
    for _ in 0..20 {
        let world = World::new().await;
        let (one, two) = (world.admin().await, world.admin().await);
        let (a, b) = {
            let (one, two) = (one.clone(), two.clone());
            let a = tokio::spawn(async move { backup(&one, with_id(3, "nightly")).await });
            let b = tokio::spawn(async move { backup(&two, with_id(3, "nightly")).await });
            (a.await.unwrap().unwrap(), b.await.unwrap().unwrap())
        };
        assert_eq!(a.id, b.id);
        let jobs = world.contents().await.into_iter().filter(|(key, _)| key.contains("/jobs/")).count();
        assert_eq!(jobs, 1);
    }
}

#[tokio::test]
async fn a_repeated_request_returns_its_job_in_any_later_state() {
    let world = World::new().await;
    let admin = world.admin().await;
    let first = backup(&admin, with_id(3, "nightly")).await.unwrap();
    assert!(world.claim(&first).await);
    world.finish(&first, JobState::Succeeded).await;
    world.delete(&Key::Status(db(), zone(3))).await;
    wait_for("the cell is seen down", || async {
        let request = v1::GetPoolerRequest { database: "app".into(), cell: "zone3".into() };
        Api::get_pooler(&admin, Request::new(request)).await.unwrap().into_inner().status.is_none()
    })
    .await;
    assert_eq!(reason(backup(&admin, backup_of(3)).await), "CELL_DOWN");
    let again = backup(&admin, with_id(3, "nightly")).await.unwrap();
    assert_eq!((again.id.as_str(), again.state()), (first.id.as_str(), v1::JobState::Succeeded));
    // Also from an admin that has just started.
    assert_eq!(backup(&world.admin().await, with_id(3, "nightly")).await.unwrap().id, first.id);
    // Another request with the same id is refused.
    for other in [
        with_id(2, "nightly"),
        v1::BackupRequest { r#type: v1::BackupType::Full.into(), ..with_id(3, "nightly") },
        v1::BackupRequest { max_lag_bytes: 5, ..with_id(3, "nightly") },
    ] {
        assert_eq!(reason(backup(&admin, other).await), "REQUEST_ID_REUSED");
    }
}

#[tokio::test]
async fn a_corrupt_lock_is_not_overwritten() {
    let world = World::new().await;
    let key = world.store.keys().path(&Key::Lock(db()));
    world.put_raw(&key, b"{ nonsense").await;
    let admin = world.admin().await;
    let status = backup(&admin, backup_of(3)).await.unwrap_err();
    assert_eq!(reason_of(&status), Some(cellar_model::Code::Internal));
    assert!(status.message().contains("locks/app"), "{status}");
    assert_eq!(world.store.kv().get(&key).await.unwrap().unwrap().value, b"{ nonsense");
}

#[tokio::test]
async fn a_holder_whose_record_is_corrupt_keeps_the_lock_while_it_runs() {
    let world = World::new().await;
    let admin = world.admin().await;
    let first = backup(&admin, backup_of(3)).await.unwrap();
    assert!(world.claim(&first).await);
    let key = Key::Job(db(), first.id.parse().unwrap());
    world.put_raw(&world.store.keys().path(&key), b"{").await;
    wait_for("the record is seen corrupt", || async { get_job(&admin, &first.id).await.is_err() }).await;
    assert_eq!(reason(backup(&admin, backup_of(2)).await), "BUSY");
}

#[tokio::test]
async fn jobs_are_listed_newest_first_by_pages() {
    let world = World::new().await;
    let admin = world.admin().await;
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.insert(0, backup(&admin, queued(3)).await.unwrap().id);
    }
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let request = v1::ListJobsRequest { database: "app".into(), page_size: 3, page_token: token };
        let page = Api::list_jobs(&admin, Request::new(request)).await.unwrap().into_inner();
        assert!(page.jobs.len() <= 3);
        seen.extend(page.jobs.into_iter().map(|job| job.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ids);
    let list = |database: &str, token: &str| {
        let request =
            v1::ListJobsRequest { database: database.into(), page_size: 0, page_token: token.into() };
        let admin = admin.clone();
        async move { Api::list_jobs(&admin, Request::new(request)).await }
    };
    assert_eq!(reason(list("web", "").await), "UNKNOWN_DATABASE");
    assert_eq!(reason(list("", "zz").await), "INVALID_ARGUMENT");
}

#[tokio::test]
async fn a_job_of_another_admin_is_found_before_the_mirror_has_it() {
    let world = World::new().await;
    let (one, two) = (world.admin().await, world.admin().await);
    for _ in 0..10 {
        let job = backup(&one, queued(3)).await.unwrap();
        assert_eq!(get_job(&two, &job.id).await.unwrap().id, job.id);
        let request = v1::GetJobRequest { id: job.id.clone() };
        let mut jobs = Api::watch_job(&two, Request::new(request)).await.unwrap().into_inner();
        assert_eq!(jobs.next().await.unwrap().unwrap().id, job.id);
        cancel(&two, &job.id).await.unwrap();
    }
    let unknown = "018f0000-0000-7000-8000-000000000000";
    assert_eq!(reason(get_job(&one, unknown).await), "UNKNOWN_JOB");
    assert_eq!(reason(get_job(&one, "x").await), "INVALID_ARGUMENT");
    assert_eq!(reason(cancel(&one, unknown).await), "UNKNOWN_JOB");
}

#[tokio::test]
async fn a_watcher_sees_every_state_until_the_end() {
    let world = World::new().await;
    let admin = world.admin().await;
    let job = backup(&admin, backup_of(3)).await.unwrap();
    let request = v1::GetJobRequest { id: job.id.clone() };
    let mut jobs = Api::watch_job(&admin, Request::new(request)).await.unwrap().into_inner();
    let mut next = async || tokio::time::timeout(crate::support::WAIT_TIMEOUT, jobs.next()).await.unwrap();
    assert_eq!(next().await.unwrap().unwrap().state(), v1::JobState::Pending);
    assert!(world.claim(&job).await);
    assert_eq!(next().await.unwrap().unwrap().state(), v1::JobState::Running);
    world.lose(&job).await;
    assert_eq!(next().await.unwrap().unwrap().state(), v1::JobState::Lost);
    world.finish(&job, JobState::Failed).await;
    assert_eq!(next().await.unwrap().unwrap().state(), v1::JobState::Failed);
    assert!(next().await.is_none(), "the stream ends with the job");
}

#[tokio::test]
async fn a_watcher_is_not_woken_by_other_jobs() {
    let world = World::new().await;
    let admin = world.admin().await;
    let job = backup(&admin, backup_of(3)).await.unwrap();
    let request = v1::GetJobRequest { id: job.id.clone() };
    let mut jobs = Api::watch_job(&admin, Request::new(request)).await.unwrap().into_inner();
    jobs.next().await.unwrap().unwrap();
    world.put(&Key::Status(db(), zone(2)), &crate::support::status(2)).await;
    let mut changed = crate::support::status(3);
    changed.message = "changed".into();
    world.put(&Key::Status(db(), zone(3)), &changed).await;
    wait_for("the mirror has it", || async {
        let request = v1::GetPoolerRequest { database: "app".into(), cell: "zone3".into() };
        let pooler = Api::get_pooler(&admin, Request::new(request)).await.unwrap().into_inner();
        pooler.status.unwrap().message == "changed"
    })
    .await;
    assert!(jobs.next().now_or_never().is_none());
    admin.end_streams();
    let last = jobs.next().await.unwrap();
    assert_eq!(reason(last), "UNAVAILABLE", "streams end when the server does");
    assert!(jobs.next().await.is_none());
}

#[tokio::test]
async fn a_pending_job_is_canceled_at_once_and_cannot_be_claimed() {
    let world = World::new().await;
    let admin = world.admin().await;
    let job = backup(&admin, backup_of(3)).await.unwrap();
    let canceled = cancel(&admin, &job.id).await.unwrap();
    assert_eq!(canceled.state(), v1::JobState::Canceled);
    assert_eq!(canceled.error.unwrap().code, "CANCELED");
    assert!(!world.claim(&job).await);
    assert_eq!(
        cancel(&admin, &job.id).await.unwrap().state(),
        v1::JobState::Canceled,
        "repeating is harmless"
    );
    assert!(backup(&admin, backup_of(2)).await.is_ok(), "it no longer counts at the lock");
}

#[tokio::test]
async fn canceling_a_running_job_is_recorded_and_an_ended_one_refused() {
    let world = World::new().await;
    let admin = world.admin().await;
    let job = backup(&admin, backup_of(3)).await.unwrap();
    assert!(world.claim(&job).await);
    let asked = cancel(&admin, &job.id).await.unwrap();
    assert_eq!(asked.state(), v1::JobState::Running);
    let first = asked.cancel.unwrap();
    assert_eq!(cancel(&admin, &job.id).await.unwrap().cancel.unwrap(), first, "the first request is kept");
    world.finish(&job, JobState::Succeeded).await;
    assert_eq!(reason(cancel(&admin, &job.id).await), "ALREADY_ENDED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_and_a_cancel_never_both_win() {
    for _ in 0..30 {
        let world = World::new().await;
        let admin = world.admin().await;
        let job = backup(&admin, backup_of(3)).await.unwrap();
        let canceling = {
            let (admin, id) = (admin.clone(), job.id.clone());
            tokio::spawn(async move { cancel(&admin, &id).await })
        };
        let claimed = world.claim(&job).await;
        let canceled = canceling.await.unwrap().unwrap();
        let record = world.job(&job.id.parse().unwrap()).await.unwrap();
        assert_ne!(claimed, record.closure.is_some());
        assert!(record.cancel.is_some());
        assert_eq!(canceled.state() == v1::JobState::Canceled, !claimed);
    }
}

#[tokio::test]
async fn a_rebuild_is_recorded_once_for_its_request_id() {
    let world = World::new().await;
    let admin = world.admin().await;
    let request =
        v1::RebuildStandbyRequest { cell: "zone2".into(), request_id: "r".into(), ..Default::default() };
    let rebuild =
        async || Api::rebuild_standby(&admin, Request::new(request.clone())).await.map(Response::into_inner);
    let job = rebuild().await.unwrap();
    assert_eq!(job.kind(), v1::JobKind::Rebuild);
    assert_eq!(rebuild().await.unwrap().id, job.id);
    assert_eq!(reason(backup(&admin, with_id(2, "r")).await), "REQUEST_ID_REUSED");
}

/// They take no lock, so no queue bounds them.
#[tokio::test]
async fn jobs_that_take_no_lock_are_bounded_also_when_asked_for_at_once() {
    let world = World::new().await;
    world.record_made_primary().await;
    let admin = world.admin().await;
    let ask = || admin.check_archive(Request::new(v1::CheckArchiveRequest::default()));
    let answers = futures_util::future::join_all((0..100).map(|_| ask())).await;
    let accepted: Vec<v1::Job> =
        answers.iter().filter_map(|answer| Some(answer.as_ref().ok()?.get_ref().clone())).collect();
    assert_eq!(accepted.len(), 16);
    for status in answers.into_iter().filter_map(Result::err) {
        assert_eq!(reason_of(&status), Some(cellar_model::Code::QueueFull));
        assert!(status.message().contains("16 of unknown"), "{}", status.message());
    }
    // The lock is free, and its queue is another matter.
    backup(&admin, backup_of(3)).await.unwrap();
    cancel(&admin, &accepted[0].id).await.unwrap();
    ask().await.unwrap();
    assert!(ask().await.is_err());
}
