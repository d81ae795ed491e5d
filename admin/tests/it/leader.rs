//! The leading multiadmin over a living store.

use std::time::Duration;

use crate::support::{World, backup, backup_of, cancel, db, reaches, wait_for, zone};
use cellar_admin::Leading;
use cellar_api::v1;
use cellar_model::{JobRecord, JobState, Key};
use cellar_topology::Kv;
use jiff::Timestamp;

fn queued(n: u32) -> v1::BackupRequest {
    v1::BackupRequest { queue: true, ..backup_of(n) }
}

async fn leader(world: &World) -> Option<String> {
    world.store.get(&Key::AdminLeader).await.unwrap().map(|found| found.record)
}

#[tokio::test]
async fn the_lock_goes_to_the_next_job_when_its_holder_ends() {
    let world = World::new().await;
    let admin = world.admin().await;
    let _leading = Leading::start(&admin, "one".into());
    let first = backup(&admin, queued(3)).await.unwrap();
    let second = backup(&admin, queued(2)).await.unwrap();
    let third = backup(&admin, queued(3)).await.unwrap();
    assert!(world.claim(&first).await);
    world.finish(&first, JobState::Failed).await;
    wait_for("the second may run", || world.claim(&second)).await;
    cancel(&admin, &second.id).await.unwrap();
    world.finish(&second, JobState::Canceled).await;
    wait_for("the third may run", || world.claim(&third)).await;
    world.finish(&third, JobState::Succeeded).await;
    wait_for("the lock is free", || async { world.lock().await == cellar_model::Lock::default() }).await;
}

#[tokio::test]
async fn a_job_past_its_deadline_is_closed_and_cannot_be_claimed() {
    let world = World::new().await;
    let admin = world.admin().await;
    let job = backup(&admin, backup_of(3)).await.unwrap();
    let record = world.job(&job.id.parse().unwrap()).await.unwrap();
    let past = Timestamp::new(1, 0).unwrap();
    world.put(&Key::Job(db(), record.id), &JobRecord { deadline: past, ..record }).await;
    let _leading = Leading::start(&admin, "one".into());
    let closed = reaches(&admin, &job.id, v1::JobState::Failed).await;
    assert_eq!(closed.error.unwrap().code, "DEADLINE_EXCEEDED");
    assert!(!world.claim(&job).await);
}

#[tokio::test]
async fn a_pending_job_of_a_removed_cell_ends() {
    let world = World::new().await;
    let admin = world.admin().await;
    let job = backup(&admin, backup_of(3)).await.unwrap();
    let request = v1::RemoveCellRequest { name: zone(3).to_string() };
    v1::multi_admin_server::MultiAdmin::remove_cell(&admin, tonic::Request::new(request)).await.unwrap();
    let _leading = Leading::start(&admin, "one".into());
    assert_eq!(reaches(&admin, &job.id, v1::JobState::Failed).await.error.unwrap().code, "UNKNOWN_CELL");
}

#[tokio::test]
async fn one_leads_and_another_takes_over() {
    let world = World::new().await;
    let (one, two) = (world.admin().await, world.admin().await);
    let first = Leading::start(&one, "one".into());
    wait_for("one leads", || async { leader(&world).await.as_deref() == Some("one") }).await;
    let second = Leading::start(&two, "two".into());
    let job = backup(&one, queued(3)).await.unwrap();
    let next = backup(&one, queued(2)).await.unwrap();
    first.resign().await;
    wait_for("two leads", || async { leader(&world).await.as_deref() == Some("two") }).await;
    // The new leader does what the old one did.
    assert!(world.claim(&job).await);
    world.finish(&job, JobState::Succeeded).await;
    wait_for("the second may run", || world.claim(&next)).await;
    second.resign().await;
    assert_eq!(leader(&world).await, None);
}

#[tokio::test]
async fn a_leader_that_was_replaced_writes_nothing() {
    let world = World::new().await;
    let admin = world.admin().await;
    let leading = Leading::start(&admin, "one".into());
    wait_for("one leads", || async { leader(&world).await.as_deref() == Some("one") }).await;
    world.put(&Key::AdminLeader, &"other".to_owned()).await;
    let job = backup(&admin, backup_of(3)).await.unwrap();
    assert!(world.claim(&job).await);
    world.finish(&job, JobState::Succeeded).await;
    reaches(&admin, &job.id, v1::JobState::Succeeded).await;
    let holder = world.lock().await.holder;
    assert_eq!(holder, Some(job.id.parse().unwrap()), "only the leader moves locks on");
    world.delete(&Key::AdminLeader).await;
    wait_for("it leads again and moves the lock on", || async { world.lock().await.holder.is_none() }).await;
    drop(leading);
}

#[tokio::test]
async fn an_outage_shorter_than_the_lease_changes_nothing() {
    let world = World::new().await;
    let admin = world.admin().await;
    let _leading = Leading::start(&admin, "one".into());
    wait_for("one leads", || async { leader(&world).await.is_some() }).await;
    world.kv.set_unreachable(true);
    wait_for("it is noticed", || async { !admin.is_current() }).await;
    world.kv.set_unreachable(false);
    let job = backup(&admin, backup_of(3)).await.unwrap();
    assert!(world.claim(&job).await);
    world.finish(&job, JobState::Succeeded).await;
    wait_for("the lock is free", || async { world.lock().await.holder.is_none() }).await;
    assert_eq!(leader(&world).await.as_deref(), Some("one"));
}

/// etcd lets every user keep any lease alive, so a lease shows nothing.
#[tokio::test(start_paused = true)]
async fn a_dead_leader_whose_lease_others_keep_alive_is_replaced() {
    let world = World::new().await;
    let admin = world.admin().await;
    let lease = world.kv.grant(10).await.unwrap();
    let dead = world.store.transaction().put_leased(&Key::AdminLeader, &"dead".to_owned(), lease);
    dead.commit().await.unwrap();
    let kv = world.kv.clone();
    let keeping = tokio::spawn(async move {
        while kv.keep_alive(lease).await.unwrap() {
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    });
    let _leading = Leading::start(&admin, "one".into());
    // The time is not real, here and below: it passes while nobody has anything to do.
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(leader(&world).await.as_deref(), Some("dead"), "a leader may be slow for a moment");
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(leader(&world).await.as_deref(), Some("one"));
    assert!(!keeping.is_finished(), "the old lease still stands");
    keeping.abort();
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_lives_is_not_replaced() {
    let world = World::new().await;
    let (one, two) = (world.admin().await, world.admin().await);
    let _first = Leading::start(&one, "one".into());
    wait_for("one leads", || async { leader(&world).await.is_some() }).await;
    let _second = Leading::start(&two, "two".into());
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(leader(&world).await.as_deref(), Some("one"));
    }
}
