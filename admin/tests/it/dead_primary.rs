//! Restores and rollbacks whose primary does not report.

use cellar_api::v1;
use cellar_api::v1::multi_admin_server::MultiAdmin as Api;
use cellar_model::{Incarnation, JobId, Key, PoolerStatus};
use tonic::{Request, Response, Status};

use crate::support::{World, db, reason, status, zone};

/// The primary's multipooler is silent, and no standby streams from it.
async fn world() -> World {
    let world = World::new().await;
    world.record_made_primary().await;
    world.delete(&Key::Status(db(), zone(1))).await;
    for n in [2, 3] {
        let alone = PoolerStatus { streams_from: None, ..status(n) };
        world.put(&Key::Status(db(), zone(n)), &alone).await;
    }
    world
}

fn restore(primary_is_dead: bool) -> v1::RestoreDatabaseRequest {
    let target = v1::restore_target::Target::Latest(v1::LatestTarget {});
    v1::RestoreDatabaseRequest {
        target: Some(v1::RestoreTarget { target: Some(target) }),
        request_id: "r".into(),
        primary_is_dead,
        ..Default::default()
    }
}

async fn submit(admin: &cellar_admin::Admin, request: v1::RestoreDatabaseRequest) -> Result<v1::Job, Status> {
    Api::restore_database(admin, Request::new(request)).await.map(Response::into_inner)
}

#[tokio::test]
async fn a_restore_needs_somebody_who_vouches_and_the_job_says_for_what() {
    let world = world().await;
    let admin = world.admin().await;
    let before = world.contents().await;
    assert_eq!(reason(submit(&admin, restore(false)).await), "CELL_DOWN");
    assert_eq!(world.contents().await, before);
    let job = submit(&admin, restore(true)).await.unwrap();
    let dead = job.dead_primary.clone().unwrap();
    assert_eq!((dead.cell.as_str(), dead.reported), ("zone1", false));
    // Repeated, it is the same request only with the same word.
    assert_eq!(submit(&admin, restore(true)).await.unwrap().id, job.id);
    assert_eq!(reason(submit(&admin, restore(false)).await), "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn a_rollback_needs_it_too_and_a_confirmation_has_no_use_for_it() {
    let world = world().await;
    let subject = JobId::new(uuid::Uuid::from_u128(5));
    let incarnation = Incarnation {
        number: 2,
        cell: Some(zone(1)),
        job: Some(subject),
        kept_in: Some(zone(2)),
        ..Incarnation::default()
    };
    world.put(&Key::Incarnation(db()), &incarnation).await;
    let admin = world.admin().await;
    let request = |primary_is_dead| {
        Request::new(v1::RestoreJobRequest { id: subject.to_string(), primary_is_dead, ..Default::default() })
    };
    assert_eq!(reason(Api::confirm_restore(&admin, request(true)).await), "INVALID_ARGUMENT");
    assert_eq!(reason(Api::rollback_restore(&admin, request(false)).await), "CELL_DOWN");
    let job = Api::rollback_restore(&admin, request(true)).await.unwrap().into_inner();
    assert_eq!(job.dead_primary.unwrap().cell, "zone1");
}
