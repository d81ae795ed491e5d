//! Processes of older and newer builds in one cluster.

use std::time::Duration;

use crate::support::{World, backup, backup_of, database, db, reason, status, wait_for, zone};
use cellar_admin::Leading;
use cellar_api::v1;
use cellar_api::v1::multi_admin_server::MultiAdmin as Api;
use cellar_model::{Database, Key, PoolerStatus, Protocol, Repository};
use tonic::Request;

fn speaking(n: u32, protocol: Protocol) -> PoolerStatus {
    let mut status = status(n);
    status.versions.protocol = protocol;
    status
}

async fn minimum(world: &World) -> Protocol {
    let found = world.store.get::<Database>(&Key::Database(db())).await.unwrap();
    found.unwrap().record.minimum_protocol
}

#[tokio::test]
async fn minimum_is_raised_when_all_multipoolers_are_new_and_an_older_one_is_given_no_work_then() {
    let world = World::new().await;
    for n in 1..=3 {
        world.put(&Key::Status(db(), zone(n)), &speaking(n, Protocol::OURS)).await;
    }
    let admin = world.admin().await;
    let _leading = Leading::start(&admin, "one".into());
    wait_for("the minimum to be raised", || async { minimum(&world).await == Protocol::OURS }).await;
    world.put(&Key::Status(db(), zone(2)), &speaking(2, Protocol::UNNUMBERED)).await;
    let notes = || async {
        let request = Request::new(v1::ListPoolersRequest::default());
        let poolers = Api::list_poolers(&admin, request).await.unwrap().into_inner().poolers;
        let of = |pooler: v1::PoolerView| pooler.status.and_then(|status| status.versions);
        poolers.into_iter().filter_map(of).flat_map(|versions| versions.notes).collect::<Vec<_>>()
    };
    wait_for("the older one to be named", || async { !notes().await.is_empty() }).await;
    let notes = notes().await;
    assert!(notes.len() == 1 && notes[0].contains("multipooler of cell zone2 is too old"), "{notes:?}");
    let request = Request::new(v1::ListDatabasesRequest::default());
    let listed = Api::list_databases(&admin, request).await.unwrap().into_inner().databases;
    assert!(listed[0].conditions.iter().any(|condition| condition.kind == "outdated"), "{listed:?}");
    assert_eq!(reason(backup(&admin, backup_of(2)).await), "UNSUPPORTED");
    assert!(backup(&admin, backup_of(3)).await.is_ok());
    assert_eq!(minimum(&world).await, Protocol::OURS, "it does not sink");
}

#[tokio::test]
async fn cells_with_another_pgbackrest_than_the_host_of_the_repository_are_named() {
    let world = World::new().await;
    let repository = Repository::in_cell(zone(3), "/mnt/repo".parse().unwrap());
    let put = async |n: u32, pgbackrest: &str| {
        let mut status = speaking(n, Protocol::OURS);
        pgbackrest.clone_into(&mut status.versions.pgbackrest);
        world.put(&Key::Status(db(), zone(n)), &status).await;
    };
    // Of one it is not known.
    for (n, version) in [(1, "2.45"), (2, ""), (3, "2.55.1")] {
        put(n, version).await;
    }
    let admin = world.admin().await;
    let noted = || async {
        let request = Request::new(v1::ListPoolersRequest::default());
        let poolers = Api::list_poolers(&admin, request).await.unwrap().into_inner().poolers;
        let of = |view: v1::PoolerView| {
            let notes = view.status?.versions?.notes;
            (!notes.is_empty()).then(|| (view.pooler.unwrap().cell, notes.concat()))
        };
        poolers.into_iter().filter_map(of).collect::<Vec<_>>()
    };
    assert!(noted().await.is_empty(), "all hosts have the repository");
    world.put(&Key::Database(db()), &Database { repository, ..database("app") }).await;
    wait_for("the other one to be named", || async { !noted().await.is_empty() }).await;
    let (cell, note) = noted().await.remove(0);
    assert!(cell == "zone1" && note.contains("2.45 here and 2.55.1 in cell zone3"), "{cell}: {note}");
    put(1, "2.55.1").await;
    wait_for("no cell to be named", || async { noted().await.is_empty() }).await;
    put(2, "2.60").await;
    wait_for("the second to be named", || async { noted().await.len() == 1 }).await;
}

#[tokio::test(start_paused = true)]
async fn a_multiadmin_does_not_lead_and_takes_no_requests_with_the_records_of_another_cluster() {
    let world = World::new().await;
    let (ours, others) = (uuid::Uuid::from_u128(1), uuid::Uuid::from_u128(2));
    let foreign = Database { cluster_id: Some(others), ..database("app") };
    world.put(&Key::Database(db()), &foreign).await;
    let admin = world.admin().await.of_cluster(Some(ours));
    let _leading = Leading::start(&admin, "one".into());
    // The time is not real: it passes while nobody has anything to do.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(world.store.get::<String>(&Key::AdminLeader).await.unwrap().is_none());
    // A request's deadline is of real time again.
    tokio::time::resume();
    assert_eq!(reason(backup(&admin, backup_of(3)).await), "WRONG_INSTANCE");
    world.put(&Key::Database(db()), &Database { cluster_id: Some(ours), ..foreign }).await;
    wait_for("it to lead", || async {
        world.store.get::<String>(&Key::AdminLeader).await.unwrap().is_some()
    })
    .await;
    assert!(backup(&admin, backup_of(3)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_multiadmin_that_is_too_old_does_not_lead_and_takes_no_requests() {
    let world = World::new().await;
    let newer = Database { minimum_protocol: Protocol::new(1000), ..database("app") };
    world.put(&Key::Database(db()), &newer).await;
    let admin = world.admin().await;
    let _leading = Leading::start(&admin, "one".into());
    // The time is not real: it passes while nobody has anything to do.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(world.store.get::<String>(&Key::AdminLeader).await.unwrap().is_none());
    // A request's deadline is of real time again.
    tokio::time::resume();
    assert_eq!(reason(backup(&admin, backup_of(3)).await), "UNSUPPORTED");
}
