//! Quorum commit, and moves of the primary, that are given up in the middle.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cellar_tests::{Cluster, is_alive, kill_hard, release, signal, wait_for};
use nix::sys::signal::Signal;

use crate::failover_bad_days::processes_titled;
use crate::quorum::{CELLS, Ledger, is_acknowledged, leadership, others, wait_for_cohort, with_quorum};
use crate::routing::ask;

/// A move of the primary is asked for, and is in the record.
fn begin_move(cluster: &Cluster) -> Child {
    let mut command = cluster.command(&["switchover"]);
    let moving = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("cellar runs");
    wait_for("the move to be recorded", Duration::from_secs(30), || {
        cluster.etcd_get("/cellar/demo/leaders/app").contains("\"handover\"").then_some(())
    });
    moving
}

fn wait_for_stop(postmaster: i32) {
    wait_for("the primary to stop", Duration::from_secs(60), || (!is_alive(postmaster)).then_some(()));
}

fn end(mut moving: Child) {
    let _ = moving.kill();
    moving.wait().expect("cellar is ours");
}

#[test]
fn a_primary_that_was_stopped_for_a_move_goes_on_without_etcd() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    let (postmaster, etcd) = (cluster.postmaster(primary), cluster.pid("pid/etcd.pid"));
    // It stops only when etcd stands still, so that the record says nothing else any more.
    let checkpointer = processes_titled(&cluster, primary, "checkpointer");
    checkpointer.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    let moving = begin_move(&cluster);
    signal(etcd, Signal::SIGSTOP);
    release(&checkpointer);
    wait_for_stop(postmaster);
    let stopped = Instant::now();
    wait_for("the primary to go on", Duration::from_secs(90), || {
        ledger.rows().iter().any(|row| row.at > stopped && row.cell == primary).then_some(())
    });
    signal(etcd, Signal::SIGCONT);
    end(moving);
    wait_for_cohort(&cluster);
    let _ = ledger.wait_for_write(&CELLS);
    ledger.check(&cluster);
}

#[test]
fn quorum_commit_that_is_given_up_during_a_move_leaves_a_primary_that_runs() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    let postmaster = cluster.postmaster(primary);
    let moving = begin_move(&cluster);
    // Without this one nobody can be elected.
    let third = others(primary).into_iter().find(|cell| leadership(&cluster)["handover"] != *cell);
    kill_hard(cluster.pid(&format!("{}/pid/multipooler.pid", third.expect("a third"))));
    wait_for_stop(postmaster);
    cluster.cellar(&["durability", "async"]);
    end(moving);
    wait_for("a primary that writes", Duration::from_secs(60), || {
        CELLS.iter().find(|cell| is_acknowledged(&cluster, cell, "CREATE TABLE IF NOT EXISTS again ()"))
    });
    let leads = cluster.primary();
    let postmaster = cluster.postmaster(&leads);
    std::thread::sleep(Duration::from_secs(5));
    assert!(is_alive(postmaster), "it was stopped again");
    cluster.cellar(&["up"]);
    cluster.cellar(&["durability", "quorum"]);
    wait_for_cohort(&cluster);
    ledger.check(&cluster);
}

#[test]
fn balancers_find_the_primary_once_quorum_commit_was_given_up_for_want_of_standbys() {
    let cluster = with_quorum();
    let primary = cluster.primary();
    others(&primary).into_iter().for_each(|cell| cluster.kill_cell(cell));
    let status = |wanted: u16| {
        wait_for(&format!("/primary to answer {wanted}"), Duration::from_secs(60), || {
            ask(&cluster, &primary, "GET", "/primary").is_ok_and(|(code, _)| code == wanted).then_some(())
        });
    };
    status(503);
    cluster.cellar(&["durability", "async"]);
    status(200);
    assert!(is_acknowledged(&cluster, &primary, "CREATE TABLE alone ()"));
}
