//! When etcd does not answer.

use std::time::{Duration, Instant};

use crate::support::{World, backup, backup_of, get_job, reason, wait_for};
use cellar_api::v1::multi_admin_server::MultiAdmin as Api;
use cellar_api::{hint_of, v1};
use futures_util::StreamExt;
use tonic::Request;

fn soon<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(1));
    request
}

#[tokio::test]
async fn requests_are_unavailable_until_the_first_listing() {
    let world = World::new().await;
    world.kv.set_unreachable(true);
    let admin = world.starting(crate::support::no_pooler());
    assert!(!admin.ready(Duration::from_millis(50)).await);
    let begin = Instant::now();
    let status = Api::backup(&admin, soon(backup_of(3))).await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(1), "before the caller gives up");
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains("etcd") && hint_of(&status).unwrap().contains("etcdctl"), "{status}");
    assert_eq!(
        reason(Api::get_database(&admin, soon(v1::GetDatabaseRequest::default())).await),
        "UNAVAILABLE"
    );
    world.kv.set_unreachable(false);
    assert!(backup(&admin, backup_of(3)).await.is_ok(), "waits and recovers");
}

#[tokio::test]
async fn requests_wait_through_a_short_outage() {
    let world = World::new().await;
    let admin = world.admin().await;
    world.kv.set_unreachable(true);
    wait_for("it is noticed", || async { !admin.is_current() }).await;
    let waiting = {
        let admin = admin.clone();
        tokio::spawn(async move { backup(&admin, backup_of(3)).await })
    };
    // The request has begun, and the store refuses its calls.
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    world.kv.set_unreachable(false);
    let job = waiting.await.unwrap().unwrap();
    assert_eq!(get_job(&admin, &job.id).await.unwrap().id, job.id);
}

#[tokio::test]
async fn every_call_ends_in_time_while_etcd_is_down() {
    let world = World::new().await;
    let admin = world.admin().await;
    let job = backup(&admin, backup_of(3)).await.unwrap();
    world.kv.set_unreachable(true);
    wait_for("it is noticed", || async { !admin.is_current() }).await;
    let begin = Instant::now();
    let cancel = v1::CancelJobRequest { id: job.id.clone() };
    assert_eq!(reason(Api::cancel_job(&admin, soon(cancel)).await), "UNAVAILABLE");
    let add = v1::AddCellRequest {
        name: "zone4".into(),
        host: "h".into(),
        directory: "/d".into(),
        listen: String::new(),
    };
    assert_eq!(reason(Api::add_cell(&admin, soon(add)).await), "UNAVAILABLE");
    let remove = v1::RemoveCellRequest { name: "zone3".into() };
    assert_eq!(reason(Api::remove_cell(&admin, soon(remove)).await), "UNAVAILABLE");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_watch_survives_an_outage() {
    let world = World::new().await;
    let admin = world.admin().await;
    let job = backup(&admin, backup_of(3)).await.unwrap();
    let request = Request::new(v1::GetJobRequest { id: job.id.clone() });
    let mut jobs = Api::watch_job(&admin, request).await.unwrap().into_inner();
    jobs.next().await.unwrap().unwrap();
    world.kv.set_unreachable(true);
    wait_for("it is noticed", || async { !admin.is_current() }).await;
    world.kv.set_unreachable(false);
    assert!(world.claim(&job).await);
    let next = tokio::time::timeout(crate::support::WAIT_TIMEOUT, jobs.next()).await.unwrap();
    assert_eq!(next.unwrap().unwrap().state(), v1::JobState::Running);
}

#[tokio::test]
async fn full_etcd_is_named_with_its_remedy() {
    let world = World::new().await;
    let admin = world.admin().await;
    let alarms = async || {
        let request = Request::new(v1::ListPoolersRequest::default());
        admin.list_poolers(request).await.unwrap().into_inner().etcd_alarms
    };
    assert_eq!(alarms().await, Vec::<String>::new());
    world.kv.set_full(true);
    let status = backup(&admin, backup_of(2)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
    assert_eq!(cellar_api::reason_of(&status), Some(cellar_model::Code::EtcdFull));
    let hint = cellar_api::hint_of(&status).unwrap();
    for command in ["compact", "defrag", "alarm disarm"] {
        assert!(hint.contains(command), "{hint}");
        assert!(alarms().await[0].contains(command));
    }
    world.kv.set_full(false);
    backup(&admin, backup_of(2)).await.unwrap();
    assert_eq!(alarms().await, Vec::<String>::new());
}
