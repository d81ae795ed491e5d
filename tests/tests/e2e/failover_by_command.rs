//! What a person does about a primary: pauses, asks for a failover, accepts a loss, reads what happened.

use std::time::Instant;

use cellar_tests::{Cluster, children_named, eventually, is_alive, signal, wait_for};
use nix::sys::signal::Signal;

use crate::quorum::{
    CELLS, FAILOVER_TIMEOUT, Ledger, NO_FAILOVER, WRITE_TIMEOUT, leadership, others, term, wait_for_cohort,
    with_quorum,
};

/// The postmaster of a cell; none when it does not run.
fn postmaster(cluster: &Cluster, cell: &str) -> Option<i32> {
    let file = cluster.directory().join(cell).join("pg_data/postmaster.pid");
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().next()?.trim().parse().ok().filter(|pid| is_alive(*pid))
}

#[test]
fn a_stopped_postmaster_is_killed_and_while_the_database_is_paused_nothing_is_done_by_itself() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    // Its sessions would go on, and nobody new is let in.
    let stopped = cluster.postmaster(primary);
    signal(stopped, Signal::SIGSTOP);
    let begun = Instant::now();
    wait_for("another postmaster or another primary", FAILOVER_TIMEOUT, || {
        (cluster.primary() != primary || postmaster(&cluster, primary).is_some_and(|pid| pid != stopped))
            .then_some(())
    });
    let primary = ledger.wait_for_write(&CELLS);
    println!("writes again {:?} after the postmaster was stopped", begun.elapsed());
    wait_for_cohort(&cluster);
    let before = term(&cluster);

    cluster.cellar(&["pause", "--reason", "new disks"]);
    let status = cluster.cellar(&["status"]);
    assert!(status.contains("(new disks): no failover"), "{status}");
    signal(cluster.postmaster(primary), Signal::SIGKILL);
    let lost = Instant::now();
    std::thread::sleep(NO_FAILOVER);
    assert_eq!(ledger.since(lost + WRITE_TIMEOUT), 0, "nobody may write");
    assert_eq!((postmaster(&cluster, primary), term(&cluster)), (None, before), "nothing is done by itself");
    let explained = cluster.cellar(&["explain"]);
    assert!(explained.contains("is paused (`cellar resume`)"), "{explained}");
    // By command it is.
    let next = others(primary)[0];
    let done = cluster.try_cellar(&["failover", "--to", next]);
    // The other standby may have the more.
    let next = if done.code == 0 { next } else { others(primary)[1] };
    if done.code != 0 {
        assert!(done.stderr.contains("has more"), "{done:?}");
        cluster.cellar(&["failover", "--to", next]);
    }
    assert_eq!(ledger.wait_for_write(&others(primary)), next);
    let failovers = cluster.json(&["history"])["failovers"].clone();
    let last = failovers.as_array().and_then(|all| all.last()).expect("a failover").clone();
    assert_eq!(
        (last["kind"].as_str(), last["to"].as_str()),
        (Some("FAILOVER_KIND_FORCED"), Some(next)),
        "{failovers}"
    );
    assert!(last["promises"].is_number() && last["promotion"].is_number(), "{failovers}");
    assert_eq!(postmaster(&cluster, primary), None, "still paused");
    let busy = cluster.try_cellar(&["failover", "--to", others(next)[0]]);
    assert!(busy.code == 3 && busy.stderr.contains("the primary is well"), "{busy:?}");
    cluster.cellar(&["resume"]);
    wait_for_cohort(&cluster);
    ledger.check(&cluster);
}

#[test]
fn the_last_member_leads_alone_when_a_person_accepts_the_loss_and_the_others_follow_it() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    let [gone, last] = [others(primary)[0], others(primary)[1]];
    // For a while the last one gets nothing, and what is acknowledged is on the other two only. What was acknowledged before it has.
    let behind = Instant::now();
    let written = cluster.sql(primary, "SELECT pg_current_wal_lsn()");
    eventually(&format!("{last} to have {written}"), || {
        cluster.sql(last, &format!("SELECT pg_last_wal_receive_lsn() >= '{written}'")) == "t"
    });
    let pooler = cluster.pid(&format!("{last}/pid/multipooler.pid"));
    let parents = [pooler, cluster.postmaster(last)];
    parents.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    let children = children_named(parents[1], "postgres");
    children.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    // What waits in the socket of a frozen walreceiver is read once it goes on, also when the sender is gone by then.
    let ended = format!(
        "SELECT count(*) FROM (SELECT pg_terminate_backend(pid, 10000) AS is_gone FROM pg_stat_replication WHERE application_name LIKE '{last}:%') AS sender WHERE is_gone"
    );
    assert_eq!(cluster.sql(primary, &ended).trim(), "1", "the sender to {last}");
    let lonely = Instant::now();
    // More than are looked for below: the primary is not heard after each row.
    wait_for("rows of which the last one knows nothing", FAILOVER_TIMEOUT, || {
        (ledger.since(lonely) > 60).then_some(())
    });
    cluster.kill_cell(gone);
    cluster.kill_cell(primary);
    children.iter().chain(&parents).for_each(|pid| signal(*pid, Signal::SIGCONT));
    wait_for("the last one to report", FAILOVER_TIMEOUT, || {
        (cluster.try_sql(last, "SELECT 1").code == 0).then_some(())
    });
    let refused = cluster.try_cellar(&["failover", "--to", last]);
    assert!(refused.code == 3 && refused.stderr.contains("--accept-loss"), "{refused:?}");
    let unasked = cluster.try_cellar(&["failover", "--to", last, "--accept-loss"]);
    assert!(unasked.code == 2 && unasked.stderr.contains("--yes"), "{unasked:?}");
    let begun = Instant::now();
    let accepted = cluster.try_cellar(&["failover", "--to", last, "--accept-loss", "--yes"]);
    assert_eq!(accepted.code, 0, "{accepted:?}");
    let told = accepted.stderr.split_whitespace().collect::<Vec<_>>();
    let at = told.iter().position(|word| *word == "transactions").expect("how many transactions");
    let lost: u64 = told[at - 1].parse().expect("a number of transactions");
    assert!(lost > 20, "{accepted:?}");
    ledger.forget(behind);
    assert_eq!(ledger.wait_for_write(&[last]), last);
    println!("writes again {:?} after the loss was accepted", begun.elapsed());
    assert!(cluster.cellar(&["durability"]).contains("the primary alone"), "alone");
    assert_eq!(leadership(&cluster)["rules"][0]["cohort"].as_object().map(serde_json::Map::len), Some(1));
    // The old primary has more, and stops all the same.
    cluster.cellar(&["up"]);
    wait_for_cohort(&cluster);
    assert_eq!(cluster.primary(), last);
    for cell in [primary, gone] {
        eventually(&format!("{cell} to follow"), || {
            cluster.try_sql(cell, "SELECT pg_is_in_recovery()").stdout.trim() == "t"
        });
    }
    ledger.check(&cluster);
}

/// PostgreSQL tells clients of every commit that waits when `synchronous_standby_names` is emptied.
#[test]
fn a_primary_that_thaws_after_quorum_commit_was_given_up_acknowledges_nothing() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    let pooler = cluster.pid(&format!("{primary}/pid/multipooler.pid"));
    let postgres = cluster.postmaster(primary);
    let all: Vec<i32> = children_named(postgres, "postgres").into_iter().chain([postgres, pooler]).collect();
    all.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    ledger.wait_for_write(&others(primary));
    wait_for("the new primary to be recorded", FAILOVER_TIMEOUT, || {
        (cluster.primary() != primary).then_some(())
    });
    cluster.cellar(&["durability", "async"]);
    let thawed = Instant::now();
    all.iter().filter(|pid| is_alive(**pid)).for_each(|pid| signal(*pid, Signal::SIGCONT));
    wait_for("the old primary to be stopped", FAILOVER_TIMEOUT, || {
        postmaster(&cluster, primary).is_none().then_some(())
    });
    std::thread::sleep(WRITE_TIMEOUT);
    let rows = ledger.rows();
    let late: Vec<_> = rows.iter().filter(|row| row.cell == primary && row.at > thawed).collect();
    assert!(late.is_empty(), "{primary} acknowledged what nobody else has: {late:?}");
    let status = cluster.cellar(&["status"]);
    assert!(status.contains(&format!("cellar rebuild {primary}")), "{status}");
    cluster.cellar(&["rebuild", primary]);
    ledger.check(&cluster);
}
