//! etcd commits, and its answer never arrives.

use cellar_tests::{Cluster, Direction, Proxy, Rule, eventually};
use serde_json::Value;

use super::{at_rest, hold_next_write, run_record, succeeded, wait_for_held_write};

/// The pooler's next write is held, which is the claim of the next job: what it has to report of its start, it has reported.
fn hold_the_claim(cluster: &Cluster, proxy: &Proxy, cell: &str) {
    eventually("the pooler to report its TLS server", || {
        cluster.status(cell).is_some_and(|status| status.tls_server_up)
    });
    hold_next_write(proxy);
}

/// Lets a pooler's claim reach etcd. From then on its connection gets no answer, and other connections do.
fn lose_the_answer_to_the_claim(cluster: &Cluster, proxy: &Proxy, cell: &str, job: &str) {
    wait_for_held_write(proxy);
    assert_eq!(run_record(cluster, cell, job), Value::Null, "it was to be the claim that is held");
    proxy.set(Direction::Answers, Rule::Swallow);
    proxy.set(Direction::Requests, Rule::Pass);
    eventually("the claim to be committed", || {
        run_record(cluster, cell, job)["state"] == "JOB_STATE_RUNNING"
    });
    eventually("the answer to be lost", || proxy.stopped(Direction::Answers) > 0);
    proxy.pass();
}

#[test]
fn a_job_whose_claim_was_not_answered_is_run_all_the_same() {
    let cluster = Cluster::up("zone1,zone2");
    let proxy = cluster.proxy_to_etcd();
    cluster.put_pooler_behind(&proxy, "zone2");
    cluster.wait_streaming("zone2");
    let pooler = cluster.pid("zone2/pid/multipooler.pid");

    // The connection is silent, until its keepalive finds that out.
    hold_the_claim(&cluster, &proxy, "zone2");
    let backup = cluster.begin_backup("zone2", "incr");
    lose_the_answer_to_the_claim(&cluster, &proxy, "zone2", &backup);
    let job = succeeded(&cluster, &backup);
    assert_eq!(job["result"]["backup"]["source"]["verified"], true, "{job:#}");

    // The connection breaks, and the job is one of those that only read.
    hold_the_claim(&cluster, &proxy, "zone2");
    let verify = cluster.json(&["verify", "--on", "zone2", "--no-wait"]);
    let verify = verify["id"].as_str().expect("an id");
    lose_the_answer_to_the_claim(&cluster, &proxy, "zone2", verify);
    proxy.cut();
    succeeded(&cluster, verify);

    // A claim that never arrives is made again.
    hold_the_claim(&cluster, &proxy, "zone2");
    let backup = cluster.begin_backup("zone2", "incr");
    wait_for_held_write(&proxy);
    proxy.set(Direction::Requests, Rule::Pass);
    proxy.cut();
    succeeded(&cluster, &backup);

    assert_eq!(cluster.pid("zone2/pid/multipooler.pid"), pooler, "nobody restarted it");
    at_rest(&cluster);
}
