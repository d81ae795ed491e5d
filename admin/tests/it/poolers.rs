//! What multiadmin asks of poolers: backups, logs and live numbers.

use std::time::{Duration, Instant};

use crate::support::pooler::{FakePooler, dial_plainly};
use crate::support::{World, backup, backup_of, database, db, get_job, reason, wait_for, zone};
use cellar_admin::Admin;
use cellar_api::v1::multi_admin_server::MultiAdmin as Api;
use cellar_api::{reason_of, v1};
use cellar_model::{
    BackupResult, BackupSource, BackupType, CellLayout, Code, JobOutcome, JobState, Key, Lsn,
    SystemIdentifier, Timeline,
};
use futures_util::StreamExt;
use tonic::{Request, Status};

const LABEL: &str = "20260301-101500F";

/// Serves the fake pooler as the one of zone `n`.
async fn serve(world: &World, n: u32, fake: FakePooler) {
    let cell = cellar_model::Cell {
        name: zone(n),
        index: n - 1,
        host: "localhost".parse().unwrap(),
        directory: format!("/c/zone{n}"),
    };
    let mut pooler = CellLayout::new(&cell.directory).pooler(&database("app"), &cell, "127.0.0.1").unwrap();
    pooler.grpc_port = FakePooler { name: zone(n).to_string(), ..fake }.serve().await;
    world.put(&Key::Pooler(db(), zone(n)), &pooler).await;
}

fn recorded(label: &str, annotations: &[(&str, &str)]) -> v1::Backup {
    v1::Backup {
        label: label.into(),
        annotations: annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        // multiadmin does not rely on these fields of a pooler's answer.
        verified: true,
        job: "x".into(),
        ..Default::default()
    }
}

async fn list(admin: &Admin) -> Result<v1::ListBackupsResponse, Status> {
    Api::list_backups(admin, Request::new(v1::ListBackupsRequest::default()))
        .await
        .map(tonic::Response::into_inner)
}

#[tokio::test]
async fn backups_are_read_by_the_primarys_pooler_else_by_another() {
    let world = World::new().await;
    let fake = FakePooler { backups: vec![recorded(LABEL, &[])], ..Default::default() };
    serve(&world, 1, fake.clone()).await;
    serve(&world, 2, FakePooler { broken: true, ..fake.clone() }).await;
    serve(&world, 3, fake.clone()).await;
    let admin = world.admin_dialing(dial_plainly()).await;
    assert_eq!(list(&admin).await.unwrap().read_by, "zone1");
    world.delete(&Key::Status(db(), zone(1))).await;
    wait_for("the next one is asked", || async { list(&admin).await.unwrap().read_by == "zone3" }).await;
    assert!(fake.asked.lock().unwrap().ends_with(&["zone2".to_owned(), "zone3".to_owned()]));
    // The last pooler's refusal when none can read it.
    world.delete(&Key::Status(db(), zone(3))).await;
    wait_for("nobody can", || async { list(&admin).await.is_err() }).await;
    let status = list(&admin).await.unwrap_err();
    assert_eq!(reason_of(&status), Some(Code::PgbackrestFailed));
    assert_eq!(status.message(), "the repo is not there");
    world.delete(&Key::Status(db(), zone(2))).await;
    wait_for("nobody is up", || async { reason(list(&admin).await) == "CELL_DOWN" }).await;
}

#[tokio::test]
async fn a_backup_is_verified_only_by_the_job_that_made_it() {
    let world = World::new().await;
    let first = backup(&world.admin().await, backup_of(3)).await.unwrap();
    let record = world.job(&first.id.parse().unwrap()).await.unwrap();
    let source = BackupSource {
        cell: zone(3),
        data_directory: "/d".into(),
        system_identifier: "7".parse::<SystemIdentifier>().unwrap(),
        timeline: Timeline::new(1),
        replay_lsn: "0/1".parse::<Lsn>().unwrap(),
        files_from_source: 9,
        files_from_primary: 1,
        verified: true,
    };
    let result = BackupResult {
        label: LABEL.parse().unwrap(),
        backup_type: BackupType::Full,
        prior: None,
        start_lsn: "0/1".parse().unwrap(),
        stop_lsn: "0/2".parse().unwrap(),
        wal_start: "a".into(),
        wal_stop: "b".into(),
        size_bytes: 1,
        repo_bytes: 1,
        source,
        page_errors: false,
        warnings: Vec::new(),
    };
    let mut run = crate::support::run(&record, JobState::Succeeded);
    run.result = Some(JobOutcome::Backup(result));
    world.put(&Key::Run(db(), zone(3), record.id), &run).await;
    let backups = vec![
        recorded(LABEL, &[("cellar-job", &first.id), ("cellar-cell", "zone2"), ("cellar-proof", "proven")]),
        // Another backup whose annotations name the same job.
        recorded(
            "20260302-101500F",
            &[("cellar-job", &first.id), ("cellar-cell", "zone2"), ("cellar-proof", "proven")],
        ),
        recorded(
            "20260303-101500F",
            &[("cellar-proof", "proven"), ("cellar-cell", "../x"), ("cellar-job", "y")],
        ),
    ];
    serve(&world, 1, FakePooler { backups, ..Default::default() }).await;
    let admin = world.admin_dialing(dial_plainly()).await;
    let shown: Vec<_> =
        list(&admin).await.unwrap().backups.into_iter().map(|b| (b.cell, b.verified, b.job)).collect();
    assert_eq!(shown[0], ("zone3".into(), true, first.id.clone()));
    assert_eq!(shown[1], ("zone2".into(), false, first.id));
    assert_eq!(shown[2], (String::new(), false, String::new()));
}

#[tokio::test]
async fn an_unknown_backup_is_refused_naming_some_that_are_known() {
    let world = World::new().await;
    let backups = (1..=9).map(|day| recorded(&format!("2026030{day}-101500F"), &[])).collect();
    serve(&world, 1, FakePooler { backups, ..Default::default() }).await;
    let admin = world.admin_dialing(dial_plainly()).await;
    let get = |label: &str| {
        let request = v1::GetBackupRequest { database: String::new(), label: label.into() };
        let admin = admin.clone();
        async move { Api::get_backup(&admin, Request::new(request)).await }
    };
    assert_eq!(get(LABEL).await.unwrap().into_inner().label, LABEL);
    let status = get("20250101-101500F").await.unwrap_err();
    assert_eq!(reason_of(&status), Some(Code::UnknownBackup));
    assert!(
        status.message().contains("20260309-101500F") && !status.message().contains("20260301"),
        "{status}"
    );
    assert_eq!(reason(get("latest").await), "INVALID_ARGUMENT");
}

#[tokio::test]
async fn live_status_is_answered_or_left_out_within_two_seconds() {
    let world = World::new().await;
    serve(&world, 2, FakePooler::default()).await;
    serve(&world, 3, FakePooler { frozen: true, ..Default::default() }).await;
    let admin = world.admin_dialing(dial_plainly()).await;
    let live = |n: u32| {
        let request = v1::GetPoolerRequest { database: String::new(), cell: zone(n).to_string() };
        let admin = admin.clone();
        async move { Api::get_pooler(&admin, Request::new(request)).await.unwrap().into_inner().live }
    };
    assert_eq!(live(2).await.unwrap().data_directory, "zone2");
    let begin = Instant::now();
    assert!(live(3).await.is_none());
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert!(live(1).await.is_none(), "nobody listens there");
    // After a change of the pooler's address, its new one is called.
    serve(&world, 2, FakePooler::default()).await;
    serve(&world, 3, FakePooler::default()).await;
    wait_for("the new address is used", || async { live(3).await.is_some() }).await;
}

#[tokio::test]
async fn a_jobs_log_comes_from_its_own_pooler() {
    let world = World::new().await;
    serve(&world, 3, FakePooler { log: vec!["one ", "two"], ..Default::default() }).await;
    let admin = world.admin_dialing(dial_plainly()).await;
    let tail = |id: &str, follow: bool| {
        let request = v1::TailJobLogRequest { id: id.into(), follow };
        let admin = admin.clone();
        async move { Api::tail_job_log(&admin, Request::new(request)).await.map(tonic::Response::into_inner) }
    };
    let text = async |id: &str, follow: bool| {
        let mut chunks = tail(id, follow).await.unwrap();
        let mut text = String::new();
        while let Some(chunk) = chunks.next().await {
            text.push_str(std::str::from_utf8(&chunk.unwrap().data).unwrap());
        }
        text
    };
    let job = backup(&admin, backup_of(3)).await.unwrap();
    assert_eq!(text(&job.id, false).await, "", "nothing ran yet");
    // With `follow`, the log waits for the job to begin.
    let mut following = tail(&job.id, true).await.unwrap();
    assert!(world.claim(&job).await);
    let first = tokio::time::timeout(crate::support::WAIT_TIMEOUT, following.next()).await.unwrap();
    assert_eq!(first.unwrap().unwrap().data, b"one ");
    wait_for("it is seen to run", || async { get_job(&admin, &job.id).await.unwrap().start_time.is_some() })
        .await;
    assert_eq!(text(&job.id, false).await, "one two");
    assert_eq!(reason(tail("x", false).await.map(|_| ())), "INVALID_ARGUMENT");
    assert_eq!(reason(tail("018f0000-0000-7000-8000-000000000000", false).await.map(|_| ())), "UNKNOWN_JOB");
}

#[tokio::test]
async fn an_endless_log_ends_when_the_server_shuts_down() {
    let world = World::new().await;
    serve(&world, 3, FakePooler { log: vec!["one"], frozen: true, ..Default::default() }).await;
    let admin = world.admin_dialing(dial_plainly()).await;
    let job = backup(&admin, backup_of(3)).await.unwrap();
    assert!(world.claim(&job).await);
    crate::support::reaches(&admin, &job.id, v1::JobState::Running).await;
    let request = v1::TailJobLogRequest { id: job.id, follow: true };
    let mut chunks = Api::tail_job_log(&admin, Request::new(request)).await.unwrap().into_inner();
    assert_eq!(chunks.next().await.unwrap().unwrap().data, b"one");
    admin.end_streams();
    assert_eq!(reason(chunks.next().await.unwrap()), "UNAVAILABLE");
    assert!(chunks.next().await.is_none());
}
