//! Quorum commit, and moves of the primary, that are given up in the middle.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cellar_tests::{Cluster, is_alive, kill_hard, release, signal, wait_for};
use nix::sys::signal::Signal;

use crate::failover_bad_days::processes_titled;
use crate::quorum::{CELLS, Ledger, is_acknowledged, leadership, others, wait_for_cohort, with_quorum};
use crate::routing::{ask, ask_at, health_port};

/// A primary whose commits wait for longer than five seconds is told of as one that is cut off.
const LONGER_THAN_ISOLATION: Duration = Duration::from_secs(8);

/// A move of the primary is asked for, and is in the record.
fn begin_move(cluster: &Cluster) -> Child {
    let ask = || {
        let mut command = cluster.command(&["switchover"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("cellar runs")
    };
    let mut moving = ask();
    wait_for("the move to be recorded", Duration::from_secs(30), || {
        // It is refused while no standby is close enough.
        if moving.try_wait().expect("cellar is ours").is_some_and(|status| !status.success()) {
            moving = ask();
        }
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
    let health = health_port(&cluster, primary);
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
    // It leads as ever, for as long as etcd is away: balancers find it, and it archives.
    std::thread::sleep(LONGER_THAN_ISOLATION);
    let found = ask_at(&cluster, health, "GET", "/primary").expect("an answer");
    assert_eq!(found.0, 200, "{found:?}");
    let segment = cluster.sql(primary, "SELECT pg_walfile_name(pg_switch_wal())").trim().to_owned();
    wait_for(&format!("{segment} to be archived"), Duration::from_secs(60), || {
        let last = cluster.sql(primary, "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver");
        (last.trim() >= segment.as_str()).then_some(())
    });
    signal(etcd, Signal::SIGCONT);
    end(moving);
    wait_for_cohort(&cluster);
    let _ = ledger.wait_for_write(&CELLS);
    ledger.check(&cluster);
}

/// Nobody knows how long the shutdown's own checkpoint would take, and nobody can write meanwhile.
#[test]
fn a_primary_whose_checkpoint_takes_too_long_is_not_stopped_for_a_move() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    let postmaster = cluster.postmaster(primary);
    let before = cluster.json(&["history"])["failovers"].clone();
    let checkpointer = processes_titled(&cluster, primary, "checkpointer");
    checkpointer.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    let moved = cluster.try_cellar(&["switchover"]);
    assert!(moved.code != 0 && moved.stderr.contains(&format!("{primary} as before")), "{moved:?}");
    assert!(is_alive(postmaster), "it was stopped");
    assert_eq!(ledger.wait_for_write(&CELLS), primary);
    release(&checkpointer);
    let longest = ledger.rows().windows(2).map(|rows| rows[1].at.saturating_duration_since(rows[0].at)).max();
    assert!(longest < Some(Duration::from_secs(5)), "nobody could write for {longest:?}");
    let after = cluster.json(&["history"])["failovers"].clone();
    let lost = |all: &serde_json::Value| {
        all.as_array().map_or(0, |all| all.iter().filter(|it| it["kind"] == "FAILOVER_KIND_LOST").count())
    };
    assert_eq!(lost(&after), lost(&before), "{after}");
    cluster.cellar(&["switchover"]);
    wait_for_cohort(&cluster);
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
    // It is refused while the other one was appointed, and is not established yet.
    wait_for("quorum commit to be given up", Duration::from_secs(60), || {
        (cluster.try_cellar(&["durability", "async"]).code == 0).then_some(())
    });
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
