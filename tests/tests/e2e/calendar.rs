//! Schedules: each due time has one job, from the cell that was named or the next one.
//!
//! Its test waits for two or three full minutes. Tests start in the order of their names, and it is not to be the last.

use std::time::Duration;

use cellar_tests::{Cluster, eventually, kill_hard, wait_for};
use serde_json::Value;

use crate::access::{as_client, issue};

/// The only schedule with what is known of it.
fn view(cluster: &Cluster) -> Value {
    cluster.json(&["schedules", "list"])["schedules"][0].clone()
}

/// Waits until a due time after `before` has a job; the job when it has ended, and the time.
fn next_run(cluster: &Cluster, before: &str) -> (Value, String) {
    wait_for("a scheduled run to end", Duration::from_secs(150), || {
        let view = view(cluster);
        let due = view["schedule"]["last"]["due"].as_str().unwrap_or_default().to_owned();
        let run = view["schedule"]["last"]["job"].clone();
        let ended = run.is_string() && view["lastJob"]["endTime"].is_string();
        (due.as_str() > before && ended).then(|| (view["lastJob"].clone(), due))
    })
}

#[test]
fn a_schedule_runs_once_whoever_dies_and_takes_the_next_cell_when_the_first_is_down() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    let work = ["backup", "--from", "zone3", "--from", "zone2"];
    let set = [&["schedules", "set", "often", "--cron", "* * * * *"], &work[..]].concat();
    let told = cluster.cellar(&set);
    assert_eq!(
        told.trim(),
        "schedule often of database app: backup incr of zone3, else zone2 at * * * * * UTC"
    );
    // A multiadmin that dies, or is replaced, misses nothing and does nothing twice.
    kill_hard(cluster.pid("pid/multiadmin.pid"));
    cluster.cellar(&["up"]);

    let (job, first) = next_run(&cluster, "");
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    let source = &job["result"]["backup"]["source"];
    assert_eq!(
        (source["cell"].as_str(), source["verified"].as_bool()),
        (Some("zone3"), Some(true)),
        "{job:#}"
    );
    assert_eq!(job["requestId"], format!("schedule/often/{first}"), "{job:#}");
    let trail = cluster.cellar(&["audit", "list", "--identity", "schedule often"]);
    assert!(trail.contains(job["id"].as_str().unwrap()) && trail.contains("allowed"), "{trail}");

    cluster.kill_cell("zone3");
    eventually("zone3 to be known as down", || cluster.status("zone3").is_none());
    let (mut job, mut second) = next_run(&cluster, &first);
    if job["cell"] == "zone3" {
        // It was due within the seconds in which zone3 was dead and not known to be.
        assert_eq!(job["error"]["code"], "CELL_DOWN", "{job:#}");
        (job, second) = next_run(&cluster, &second);
    }
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    assert_eq!(job["result"]["backup"]["source"]["cell"], "zone2", "{job:#}");

    // Nothing more once it is paused; each due time had one job.
    cluster.cellar(&["schedules", "set", "often", "--paused"]);
    let jobs = cluster.json(&["jobs", "list"]);
    let by_schedule =
        |job: &&Value| job["requestedBy"].as_str().is_some_and(|by| by.starts_with("schedule often"));
    let runs: Vec<&Value> = jobs["jobs"].as_array().unwrap().iter().filter(by_schedule).collect();
    let mut asked: Vec<&str> = runs.iter().filter_map(|job| job["requestId"].as_str()).collect();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), runs.len(), "{jobs:#}");
    assert!(view(&cluster)["nextTime"].is_null() && second > first);

    // What is on the table: pausing it took the role of an operator, and so does running it now.
    let viewer = issue(&cluster, "viewer", "eve");
    let _ = as_client(&cluster, &viewer, &["schedules", "list"]).ok();
    let _ = as_client(&cluster, &viewer, &["schedules", "set", "often", "--paused=false"]).refused(5);
    let operator = issue(&cluster, "operator", "ci");
    let _ = as_client(&cluster, &operator, &["schedules", "set", "tidy", "--cron", "0 5 * * *", "expire"])
        .refused(5);
    let run = as_client(&cluster, &operator, &["schedules", "run", "often", "--output", "json"]).ok();
    let job: Value = serde_json::from_str(&run).unwrap();
    assert_eq!(job["result"]["backup"]["source"]["cell"], "zone2", "{job:#}");
    cluster.cellar(&["schedules", "remove", "often"]);
    let _ = cluster.try_cellar(&["schedules", "run", "often"]).refused(2);
    let _ = cluster.try_cellar(&["schedules", "remove", "often"]).refused(2);
}
