//! A request to cancel that reaches etcd when what it was decided on is past.

use std::process::Stdio;

use cellar_tests::{Direction, Rule, eventually, run, signal};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{CELLS, at_rest, hold_next_write, incarnation, wait_for_held_write, wait_for_state, with_ledger};
use crate::ledger::{self, check, hold_backup, id, release, restore};

#[test]
fn a_cancel_that_arrives_after_a_rollback_began_does_not_say_that_nothing_was_done() {
    let (cluster, mut rows) = with_ledger();
    let restored = restore(&cluster, &["--latest"]);
    let proxy = cluster.proxy_to_etcd();
    let second = cluster.second_multiadmin(&proxy);

    // The rollback waits behind a backup when the second multiadmin decides to cancel it.
    let (backup, held) = hold_backup(&cluster, "zone2", "full");
    let rollback = cluster.json(&["restore", "rollback", id(&restored), "--yes", "--queue", "--no-wait"]);
    let rollback = id(&rollback).to_owned();
    wait_for_state(&cluster, &rollback, "PENDING");
    eventually("the second multiadmin to know it", || {
        run(cluster.command(&["jobs", "show", &rollback]).args(&second)).code == 0
    });
    hold_next_write(&proxy);
    let cancel = cluster
        .command(&["jobs", "cancel", &rollback])
        .args(&second)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cellar runs");
    wait_for_held_write(&proxy);
    // The backup's place becomes free, and the rollback begins.
    cluster.cellar(&["jobs", "cancel", &backup]);
    // It gets no further than the fence, which the primary's pooler would have to carry out.
    let pooler = cluster.pid("zone1/pid/multipooler.pid");
    signal(pooler, Signal::SIGSTOP);
    release(&held);
    eventually("the rollback to fence the database", || incarnation(&cluster)["fence"] == rollback.as_str());
    proxy.set(Direction::Requests, Rule::Pass);
    eventually("the request to cancel to arrive", || {
        let record = cluster.etcd_get(&format!("/cellar/demo/jobs/app/{rollback}"));
        let record: Value = serde_json::from_str(&record).unwrap_or_default();
        record["cancel"].is_object()
    });
    signal(pooler, Signal::SIGCONT);

    let job = cluster.ended(&rollback);
    let told = cancel.wait_with_output().expect("cellar runs");
    assert!(told.status.success(), "{told:?}");
    assert_eq!(job["state"], "JOB_STATE_CANCELED", "{job:#}");
    let message = job["error"]["message"].as_str().expect("a message");
    assert!(!message.contains("nothing was done") && message.contains("as it was before"), "{job:#}");
    at_rest(&cluster);
    ledger::wait_for_primary(&cluster);
    rows.push(ledger::insert(&cluster, "after the cancel"));
    check(&cluster, &CELLS, &rows);
}
