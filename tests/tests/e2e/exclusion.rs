//! Invariant 4: one writer per stanza.

use std::thread;

use cellar_tests::Cluster;

#[test]
fn of_two_simultaneous_requests_exactly_one_runs() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    let finished: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = ["zone2", "zone3"]
            .into_iter()
            .map(|cell| scope.spawn(|| cluster.try_cellar(&["backup", "--from", cell, "--type", "incr"])))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let codes: Vec<i32> = finished.iter().map(|finished| finished.code).collect();
    let mut sorted = codes.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 3], "{finished:?}");
    // The refusal names the job that holds the lock, and that job is the one that ran.
    let refused = finished.iter().find(|finished| finished.code == 3).expect("one");
    let jobs = cluster.json(&["jobs", "list"]);
    let running = jobs["jobs"]
        .as_array()
        .expect("jobs")
        .iter()
        .filter_map(|job| job["id"].as_str())
        .find(|id| refused.stderr.contains(*id));
    assert!(running.is_some(), "{}", refused.stderr);
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
    let id = cluster.begin_backup("zone2", "full");
    cluster.cellar(&["jobs", "cancel", &id]);
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_CANCELED", "{job:#}");
    let _ = cluster.backup("zone2", "full");
}
