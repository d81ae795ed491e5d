//! Requests to etcd that are late, answers that are lost, an etcd that is full or silent, and processes that stand still.
//!
//! The processes under test reach etcd through a proxy of the test's. Whatever happens to their traffic, every job ends
//! in a state that is true, by itself, and no row is lost.

mod frozen;
mod lapsed_lease;
mod late_cancel;
mod lost_answer;
mod refused_write;
mod silent_primary;

use cellar_api::v1;
use cellar_tests::{Cluster, Direction, Proxy, Rule, eventually};
use serde_json::Value;

use crate::ledger;

/// The cells of most clusters here.
const CELLS: [&str; 2] = ["zone1", "zone2"];

/// A cluster with some data, and the ledger with its first row.
fn with_ledger() -> (Cluster, Vec<String>) {
    let cluster = Cluster::up(&CELLS.join(","));
    cluster.load(2);
    ledger::create(&cluster);
    let rows = vec![ledger::insert(&cluster, "before")];
    (cluster, rows)
}

/// A request of so many bytes writes a record: one that reads has a key and little else.
const WRITE_BYTES: usize = 600;

/// The next write of whoever is behind the proxy is held from now on, with all that follows it.
fn hold_next_write(proxy: &Proxy) {
    proxy.set(Direction::Requests, Rule::HoldFrom(WRITE_BYTES));
}

#[track_caller]
fn wait_for_held_write(proxy: &Proxy) {
    eventually("a write to be held", || proxy.stopped(Direction::Requests) >= WRITE_BYTES);
}

/// What a pooler has recorded of a job in etcd; nothing before it has claimed it.
fn run_record(cluster: &Cluster, cell: &str, job: &str) -> Value {
    let text = cluster.etcd_get(&format!("/cellar/demo/runs/app/{cell}/{job}"));
    serde_json::from_str(&text).unwrap_or_default()
}

/// The database's incarnation as etcd has it.
fn incarnation(cluster: &Cluster) -> Value {
    serde_json::from_str(&cluster.etcd_get("/cellar/demo/incarnations/app")).unwrap_or_default()
}

/// Asked on a connection that stands: a state may last for seconds only.
#[track_caller]
fn wait_for_state(cluster: &Cluster, job: &str, state: &str) {
    let (name, request) = (format!("JOB_STATE_{state}"), v1::GetJobRequest { id: job.to_owned() });
    eventually(&format!("job {job} to be {state}"), || {
        let answer = cluster.ask(async |client| client.get_job(request.clone()).await);
        answer.is_ok_and(|job| job.into_inner().state().as_str_name() == name)
    });
}

#[track_caller]
fn succeeded(cluster: &Cluster, job: &str) -> Value {
    let job = cluster.ended(job);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    job
}

/// Nothing is fenced, locked or running.
#[track_caller]
fn at_rest(cluster: &Cluster) {
    assert_eq!(incarnation(cluster)["fence"], Value::Null, "a fence is left");
    eventually("the lock to be free", || !cluster.etcd_get("/cellar/demo/locks/app").contains("holder"));
    let jobs = cluster.json(&["jobs", "list"]);
    let ended = ["JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELED"];
    for job in jobs["jobs"].as_array().expect("jobs") {
        assert!(ended.iter().any(|state| job["state"] == *state), "{job:#}");
    }
}
