//! Invariant 4: one writer per stanza.

use cellar_api::v1;
use cellar_tests::Cluster;

use crate::ledger;

#[test]
fn of_two_simultaneous_requests_exactly_one_runs() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    let request = |cell: &str| v1::BackupRequest {
        cell: cell.to_owned(),
        r#type: v1::BackupType::Incr.into(),
        ..Default::default()
    };
    // Two commands might come one after the other.
    let (one, other) = cluster.ask(async |client| {
        let (mut first, mut second) = (client.clone(), client.clone());
        tokio::join!(first.backup(request("zone2")), second.backup(request("zone3")))
    });
    let (running, refused) = match (one, other) {
        (Ok(job), Err(refused)) | (Err(refused), Ok(job)) => (job.into_inner().id, refused),
        both => panic!("exactly one is to run: {both:?}"),
    };
    // The refusal names the job that holds the lock, and that job is the one that ran.
    assert_eq!(cellar_api::exit_code(refused.code()), 3, "{refused:?}");
    assert!(refused.message().contains(&running), "{refused:?}");
    let job = cluster.ended(&running);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
}

#[test]
fn a_queued_backup_follows_and_a_repeated_request_is_the_same_job() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    let first = cluster.begin_backup("zone2", "full");
    let ask =
        ["backup", "--from", "zone3", "--type", "incr", "--queue", "--no-wait", "--request-id", "nightly-1"];
    let second = cluster.json(&ask)["id"].as_str().expect("an id").to_owned();
    let again = cluster.json(&ask)["id"].as_str().expect("an id").to_owned();
    assert_eq!(second, again);
    let (first, second) = (cluster.ended(&first), cluster.ended(&second));
    assert_eq!(first["state"], "JOB_STATE_SUCCEEDED", "{first:#}");
    assert_eq!(second["state"], "JOB_STATE_SUCCEEDED", "{second:#}");
    let (ended, begun) = (first["endTime"].as_str(), second["startTime"].as_str());
    assert!(ended <= begun, "{ended:?} {begun:?}");
    // The same name for another request is a mistake of the caller's.
    let other = ["backup", "--from", "zone2", "--type", "full", "--request-id", "nightly-1", "--no-wait"];
    let _ = cluster.try_cellar(&other).refused(2);
}

#[test]
fn a_canceled_backup_ends_cleanly_and_frees_the_way() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.load(5);
    let (id, held) = ledger::hold_backup(&cluster, "zone2", "full");
    cluster.cellar(&["jobs", "cancel", &id]);
    ledger::release(&held);
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_CANCELED", "{job:#}");
    let _ = cluster.backup("zone2", "full");
}
