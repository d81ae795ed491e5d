//! The audit trail: complete in the file, bounded in etcd, and before the deed.

use std::time::Duration;

use crate::support::{World, backup, backup_of, cancel, reason, wait_for};
use cellar_admin::{Admin, Leading};
use cellar_api::v1;
use cellar_api::v1::multi_admin_server::MultiAdmin as Api;
use cellar_model::{AuditId, AuditOutcome, AuditRecord, Code, Key, MAX_AUDIT_RECORDS};
use futures_util::FutureExt;
use tonic::{Request, Response, Status};

async fn list(admin: &Admin, request: v1::ListAuditRequest) -> Result<v1::ListAuditResponse, Status> {
    Api::list_audit(admin, Request::new(request)).await.map(Response::into_inner)
}

async fn all(admin: &Admin) -> Vec<v1::AuditRecord> {
    list(admin, v1::ListAuditRequest::default()).await.unwrap().records
}

/// Waits until so many records are listed.
async fn listed(admin: &Admin, count: usize) -> Vec<v1::AuditRecord> {
    wait_for(&format!("{count} records"), || async { all(admin).await.len() == count }).await;
    all(admin).await
}

fn rpcs(records: &[v1::AuditRecord]) -> Vec<&str> {
    records.iter().map(|record| record.rpc.as_str()).collect()
}

#[tokio::test]
async fn mutating_calls_are_recorded_and_reads_are_not() {
    let world = World::new().await;
    let admin = world.admin().await;
    let job = backup(&admin, backup_of(3)).await.unwrap();
    assert_eq!(reason(backup(&admin, backup_of(9)).await), "UNKNOWN_CELL");
    let _ = crate::support::get_job(&admin, &job.id).await.unwrap();
    let _ = cancel(&admin, &job.id).await.unwrap();

    let lines = world.audit_lines();
    let told: Vec<(&str, AuditOutcome)> =
        lines.iter().map(|record| (record.rpc.as_str(), record.outcome)).collect();
    use AuditOutcome::{Allowed, Begun, Failed};
    let expected = [("Backup", Begun), ("Backup", Allowed), ("Backup", Begun), ("Backup", Failed)];
    assert_eq!(told, [&expected[..], &[("CancelJob", Begun), ("CancelJob", Allowed)]].concat());
    for pair in lines.chunks(2) {
        assert_eq!(pair[0].id, pair[1].id);
        assert_eq!(pair[0].arguments, pair[1].arguments);
        assert!(pair[0].end_time.is_none() && pair[1].end_time >= Some(pair[0].time));
    }
    assert_eq!(lines[1].job.unwrap().to_string(), job.id);
    assert_eq!((lines[0].job, lines[1].arguments["cell"].as_str()), (None, Some("zone3")));
    assert_eq!((lines[3].code, lines[3].job), (Some(Code::UnknownCell), None));
    assert!(lines[3].message.contains("zone9"), "{}", lines[3].message);
    assert_eq!(lines[5].arguments["id"], job.id.as_str());

    // etcd has the records of the ends, and lists them newest first, with the same content as in the file.
    let records = listed(&admin, 3).await;
    for (listed, line) in records.iter().rev().zip(lines.iter().skip(1).step_by(2)) {
        assert_eq!(serde_json::to_value(listed).unwrap(), serde_json::to_value(line).unwrap());
    }
}

#[tokio::test]
async fn records_are_listed_filtered_and_by_pages() {
    let world = World::new().await;
    let call = |n: u8, identity: &str, rpc: &str, outcome, job: Option<u128>| AuditRecord {
        id: AuditId::new(uuid::Uuid::from_u128(n.into())),
        time: jiff::Timestamp::from_second(n.into()).unwrap(),
        end_time: None,
        identity: format!("spiffe://demo/{identity}"),
        peer: String::new(),
        rpc: rpc.into(),
        arguments: serde_json::Map::new(),
        outcome,
        code: None,
        message: String::new(),
        job: job.map(|job| cellar_model::JobId::new(uuid::Uuid::from_u128(job))),
    };
    for record in [
        call(1, "admin/ann", "Backup", AuditOutcome::Allowed, Some(7)),
        call(2, "viewer/bob", "RestoreDatabase", AuditOutcome::Refused, None),
        call(3, "operator/ci", "Backup", AuditOutcome::Failed, None),
        call(4, "admin/ann", "CancelJob", AuditOutcome::Allowed, Some(7)),
        call(5, "admin/ann", "AddCell", AuditOutcome::Allowed, None),
    ] {
        world.put(&Key::Audit(record.id), &record).await;
    }
    let admin = world.admin().await;
    let found = async |request| {
        let records = list(&admin, request).await.unwrap().records;
        rpcs(&records).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let none = v1::ListAuditRequest::default;
    assert_eq!(found(none()).await, ["AddCell", "CancelJob", "Backup", "RestoreDatabase", "Backup"]);
    let ann = v1::ListAuditRequest { identity: "admin/ann".into(), ..none() };
    assert_eq!(found(ann).await, ["AddCell", "CancelJob", "Backup"]);
    assert_eq!(found(v1::ListAuditRequest { rpc: "backup".into(), ..none() }).await, ["Backup", "Backup"]);
    let refused = v1::AuditOutcome::Refused.into();
    assert_eq!(found(v1::ListAuditRequest { outcome: refused, ..none() }).await, ["RestoreDatabase"]);
    let since = Some(cellar_api::wkt::Timestamp { seconds: 4, nanos: 0 });
    assert_eq!(found(v1::ListAuditRequest { since, ..none() }).await, ["AddCell", "CancelJob"]);
    let job = uuid::Uuid::from_u128(7).to_string();
    assert_eq!(found(v1::ListAuditRequest { job, ..none() }).await, ["CancelJob", "Backup"]);

    let mut request = v1::ListAuditRequest { page_size: 2, identity: "demo".into(), ..none() };
    let mut pages = Vec::new();
    loop {
        let page = list(&admin, request.clone()).await.unwrap();
        pages.push(page.records.len());
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, [2, 2, 1]);
    for bad in [
        v1::ListAuditRequest { page_token: "00".into(), ..none() },
        v1::ListAuditRequest { job: "x".into(), ..none() },
        v1::ListAuditRequest { outcome: 77, ..none() },
        v1::ListAuditRequest {
            since: Some(cellar_api::wkt::Timestamp { seconds: i64::MAX, nanos: 0 }),
            ..none()
        },
    ] {
        assert_eq!(reason(list(&admin, bad).await), "INVALID_ARGUMENT");
    }
}

#[tokio::test]
async fn a_call_that_cannot_be_recorded_is_refused() {
    let world = World::new().await;
    let admin = world.admin().await;
    let old = world.audit_log().with_extension("old");
    std::fs::rename(world.audit_log(), &old).unwrap();
    std::fs::create_dir(world.audit_log()).unwrap();
    let before = world.contents().await;
    let status = backup(&admin, backup_of(3)).await.unwrap_err();
    assert!(status.message().contains("audit.log"), "{status}");
    assert!(cellar_api::hint_of(&status).unwrap().contains("nothing was changed"));
    assert_eq!(reason::<()>(Err(status)), "UNAVAILABLE");
    assert_eq!(world.contents().await, before);
    // Reads are still served, and etcd has a record of the attempt.
    let record = listed(&admin, 1).await.remove(0);
    assert_eq!((record.outcome(), record.code.as_deref()), (v1::AuditOutcome::Failed, Some("UNAVAILABLE")));
    std::fs::remove_dir(world.audit_log()).unwrap();
    let _ = backup(&admin, backup_of(3)).await.unwrap();
    assert_eq!(world.audit_lines().len(), 2, "the file was created again");
}

#[tokio::test]
async fn the_file_is_complete_while_etcd_is_away() {
    let world = World::new().await;
    let admin = world.admin().await;
    world.kv.set_unreachable(true);
    let mut request = Request::new(backup_of(3));
    request.set_timeout(Duration::from_millis(300));
    assert_eq!(reason(Api::backup(&admin, request).await), "UNAVAILABLE");
    let outcomes: Vec<AuditOutcome> = world.audit_lines().iter().map(|record| record.outcome).collect();
    assert_eq!(outcomes, [AuditOutcome::Begun, AuditOutcome::Failed]);
}

/// A caller that hangs up in the middle does not keep the end of what it asked for out of the log.
#[tokio::test]
async fn a_call_whose_caller_hangs_up_is_recorded_with_its_outcome() {
    let world = World::new().await;
    let admin = world.admin().await;
    let call = Api::backup(&admin, Request::new(backup_of(3)));
    // Polled once and dropped, as the server does when the connection is lost.
    assert!(call.now_or_never().is_none(), "it waits for the log");
    let complete = || std::fs::read_to_string(world.audit_log()).unwrap().matches('\n').count();
    wait_for("its end is in the log", || async { complete() == 2 }).await;
    let lines = world.audit_lines();
    assert_eq!(lines[1].outcome, AuditOutcome::Allowed);
    assert!(world.job(&lines[1].job.unwrap()).await.is_some(), "it was done to its end");
}

#[tokio::test]
async fn copies_of_failed_calls_are_limited() {
    let world = World::new().await;
    let admin = world.admin().await;
    let begin = std::time::Instant::now();
    for _ in 0..300 {
        assert_eq!(reason(backup(&admin, backup_of(9)).await), "UNKNOWN_CELL");
    }
    let _ = backup(&admin, backup_of(3)).await.unwrap();
    wait_for("the last is listed", || async {
        all(&admin).await.first().is_some_and(|record| record.outcome() == v1::AuditOutcome::Allowed)
    })
    .await;
    let seconds = usize::try_from(begin.elapsed().as_secs()).unwrap();
    let copies = list(&admin, v1::ListAuditRequest { page_size: 1000, ..Default::default() }).await.unwrap();
    let failed = copies.records.len() - 1;
    assert!((10..=10 * (seconds + 1)).contains(&failed), "{failed} copies in {seconds} s");
    assert_eq!(world.audit_lines().len(), 2 * 301);
}

#[tokio::test]
async fn the_leader_deletes_all_but_the_newest_records() {
    let world = World::new().await;
    let admin = world.admin().await;
    for n in 0..MAX_AUDIT_RECORDS + 130 {
        let id = AuditId::new(uuid::Uuid::from_u128(n as u128));
        let record = serde_json::json!({
            "id": id, "time": "2026-03-01T10:00:00Z", "rpc": "Backup", "outcome": "AUDIT_OUTCOME_ALLOWED",
        });
        world.put(&Key::Audit(id), &record).await;
    }
    let _leading = Leading::start(&admin, "1/a".into());
    let count = async || world.store.list(&world.store.keys().kind("audit")).await.unwrap().entries.len();
    wait_for("the old ones to go", || async { count().await == MAX_AUDIT_RECORDS }).await;
    let first = world.store.list(&world.store.keys().kind("audit")).await.unwrap().entries.remove(0);
    assert_eq!(first.key, world.store.keys().path(&Key::Audit(AuditId::new(uuid::Uuid::from_u128(130)))));
}
