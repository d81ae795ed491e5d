//! Quorum commit: a primary that is lost is replaced, and no acknowledged row is.

use std::time::{Duration, Instant};

use cellar_tests::{Cluster, children_named, command_line, eventually, is_alive, signal, wait_for};
use nix::sys::signal::Signal;

use crate::quorum::{
    CELLS, FAILOVER_TIMEOUT, Ledger, NO_FAILOVER, Row, WRITE_TIMEOUT, is_acknowledged, leadership, others,
    term, wait_for_cohort, wait_for_members, with_quorum,
};

#[test]
fn a_primary_that_is_lost_is_replaced_without_a_lost_row_again_and_again() {
    let cluster = with_quorum();
    assert_eq!(term(&cluster), 1);
    let ledger = Ledger::begin(&cluster);
    let mut primary = ledger.wait_for_write(&CELLS);
    for round in 1..=2 {
        let killed = Instant::now();
        cluster.kill_cell(primary);
        let next = ledger.wait_for_write(&others(primary));
        println!("round {round}: {next} took over from {primary} within {:?}", killed.elapsed());
        eventually("the new primary to be recorded", || cluster.primary() == next);
        // The old one comes back by itself, as a standby with new data.
        cluster.cellar(&["up"]);
        cluster.wait_streaming(primary);
        wait_for_cohort(&cluster);
        primary = next;
    }
    assert_eq!(term(&cluster), 3);
    // The standby that is rebuilt leaves the cohort before, and joins again.
    let _ = cluster.try_cellar(&["rebuild", others(primary)[0]]).ok();
    wait_for_cohort(&cluster);
    // Backups go on from the new primary's standbys.
    let backup = cluster.backup(others(primary)[0], "full");
    assert_eq!(backup["state"], "JOB_STATE_SUCCEEDED", "{backup}");
    ledger.check(&cluster);
}

#[test]
fn nobody_is_promoted_while_too_few_members_are_left() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    let rest = others(primary);
    cluster.kill_cell(rest[0]);
    let _ = ledger.wait_for_write(&[primary]);
    eventually("explain to say that the next loss is one too many", || {
        let said = cluster.cellar(&["explain"]);
        let told = |cell: &str, what: &str| {
            said.lines().any(|line| line.starts_with(&format!("{cell} ")) && line.contains(what))
        };
        told(primary, "nobody is promoted")
            && told(rest[1], "writes wait")
            && said.contains("does not report")
    });
    assert!(cluster.cellar(&["status"]).contains("quorum commit: term 1, steady"));
    cluster.kill_cell(primary);
    let lost = Instant::now();
    std::thread::sleep(NO_FAILOVER);
    assert_eq!(
        ledger.since(lost + WRITE_TIMEOUT),
        0,
        "the last member may lack what the two lost ones acknowledged"
    );
    assert_eq!(cluster.sql(rest[1], "SELECT pg_is_in_recovery()"), "t");
    cluster.cellar(&["up"]);
    let _ = ledger.wait_for_write(&CELLS);
    wait_for_cohort(&cluster);
    ledger.check(&cluster);
}

#[test]
fn writes_wait_without_standbys_and_go_on_when_one_returns() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    for cell in others(primary) {
        cluster.kill_cell(cell);
    }
    let lost = Instant::now();
    std::thread::sleep(NO_FAILOVER);
    assert_eq!(ledger.since(lost + WRITE_TIMEOUT), 0, "acknowledged by the primary alone");
    let says_so = || cluster.cellar(&["status"]).contains(&format!("{primary}: commits wait until"));
    assert!(says_so(), "{}", cluster.cellar(&["status"]));
    // They begin slowly, both at once, so that neither streams for a while: no reason to replace the primary.
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.cellar(&["up"]));
        let begun: Vec<i32> = others(primary).into_iter().map(|cell| next_startup(&cluster, cell)).collect();
        for pid in &begun {
            signal(*pid, Signal::SIGSTOP);
        }
        std::thread::sleep(Duration::from_secs(5));
        for pid in begun {
            signal(pid, Signal::SIGCONT);
        }
    });
    assert_eq!(ledger.wait_for_write(&CELLS), primary);
    assert_eq!(term(&cluster), 1, "there was no failover");
    eventually("status to say nothing of it any more", || !says_so());
    wait_for_cohort(&cluster);
    ledger.check(&cluster);
}

/// The process that recovers, of the PostgreSQL that is started in a cell next.
#[track_caller]
fn next_startup(cluster: &Cluster, cell: &str) -> i32 {
    let file = cluster.directory().join(cell).join("pg_data/postmaster.pid");
    wait_for(&format!("PostgreSQL to be started in {cell}"), Duration::from_secs(60), || {
        let text = std::fs::read_to_string(&file).ok()?;
        let postmaster = text.lines().next()?.parse().ok()?;
        children_named(postmaster, "postgres")
            .into_iter()
            .find(|pid| command_line(*pid).concat().contains("startup"))
    })
}

#[test]
fn writes_go_on_without_etcd_and_nobody_is_promoted() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    let postmaster = cluster.postmaster(primary);
    let etcd = cluster.pid("pid/etcd.pid");
    signal(etcd, Signal::SIGSTOP);
    // Longer than a primary that sees neither etcd nor its quorum goes on.
    for _ in 0..6 {
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(ledger.wait_for_write(&CELLS), primary);
    }
    signal(etcd, Signal::SIGCONT);
    eventually("multiadmin to answer", || cluster.try_cellar(&["durability"]).code == 0);
    assert_eq!(ledger.wait_for_write(&CELLS), primary);
    assert_eq!((term(&cluster), cluster.postmaster(primary)), (1, postmaster));
    ledger.check(&cluster);
}

#[test]
fn a_frozen_multipooler_is_no_failover() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    let pooler = cluster.pid(&format!("{primary}/pid/multipooler.pid"));
    signal(pooler, Signal::SIGSTOP);
    std::thread::sleep(NO_FAILOVER);
    assert_eq!(ledger.wait_for_write(&CELLS), primary);
    signal(pooler, Signal::SIGCONT);
    assert_eq!(term(&cluster), 1, "its standbys stream from it");
    ledger.check(&cluster);
}

#[test]
fn a_primary_that_thaws_after_its_successor_acknowledges_nothing_and_follows() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    let pooler = cluster.pid(&format!("{primary}/pid/multipooler.pid"));
    let postmaster = cluster.postmaster(primary);
    let frozen = children_named(postmaster, "postgres");
    for pid in frozen.iter().copied().chain([pooler, postmaster]) {
        signal(pid, Signal::SIGSTOP);
    }
    let next = ledger.wait_for_write(&others(primary));
    let thawed = Instant::now();
    for pid in frozen.iter().copied().chain([postmaster]).filter(|pid| is_alive(*pid)) {
        signal(pid, Signal::SIGCONT);
    }
    std::thread::sleep(Duration::from_secs(5));
    let rows = ledger.rows();
    let late: Vec<&Row> =
        rows.iter().filter(|row| row.cell == primary && row.at > thawed + WRITE_TIMEOUT).collect();
    assert!(late.is_empty(), "{primary} acknowledged after {next} took over: {late:?}");
    signal(pooler, Signal::SIGCONT);
    cluster.wait_streaming(primary);
    wait_for_cohort(&cluster);
    assert_eq!((cluster.primary().as_str(), term(&cluster)), (next, 2));
    ledger.check(&cluster);
}

#[test]
fn what_was_acknowledged_before_quorum_commit_is_not_lost_when_it_cannot_begin() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    let primary = cluster.primary();
    let receivers: Vec<i32> = others(&primary)
        .into_iter()
        .flat_map(|cell| children_named(cluster.postmaster(cell), "postgres"))
        .filter(|pid| command_line(*pid).concat().contains("walreceiver"))
        .collect();
    assert_eq!(receivers.len(), 2);
    for pid in &receivers {
        signal(*pid, Signal::SIGSTOP);
    }
    cluster.sql(&primary, "CREATE TABLE early AS SELECT generate_series(1, 20000) AS id");
    // Its first commit gets no quorum for longer than an appointed member is waited for.
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.try_cellar(&["durability", "quorum"]));
        std::thread::sleep(Duration::from_secs(40));
        for pid in receivers {
            signal(pid, Signal::SIGCONT);
        }
    });
    wait_for_cohort(&cluster);
    assert_eq!(cluster.primary(), primary, "nobody else has what was acknowledged before");
    assert_eq!(cluster.sql(&primary, "SELECT count(*) FROM early").trim(), "20000");
}

#[test]
fn what_a_lost_primary_archived_behind_the_fork_is_replayed_by_nobody() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    let postmaster = cluster.postmaster(primary);
    let children = children_named(postmaster, "postgres");
    let senders: Vec<i32> =
        children.into_iter().filter(|pid| command_line(*pid).concat().contains("walsender")).collect();
    assert_eq!(senders.len(), 2, "one for each standby");
    signal(cluster.pid(&format!("{primary}/pid/multipooler.pid")), Signal::SIGKILL);
    for pid in &senders {
        signal(*pid, Signal::SIGSTOP);
    }
    // Nobody sends it, and the archive has it in a segment that its successor has begun, too.
    let own = "BEGIN; SET LOCAL synchronous_commit = local; CREATE TABLE of_the_lost_one (); COMMIT";
    cluster.sql(primary, own);
    let file = cluster.sql(primary, "SELECT pg_walfile_name(pg_switch_wal())");
    eventually("the segment to be archived", || {
        cluster.sql(primary, "SELECT last_archived_wal FROM pg_stat_archiver") >= file
    });
    let next = ledger.wait_for_write(&others(primary));
    for pid in senders.into_iter().chain([postmaster]) {
        signal(pid, Signal::SIGKILL);
    }
    cluster.cellar(&["up"]);
    wait_for_cohort(&cluster);
    assert_eq!(cluster.primary(), next);
    ledger.check(&cluster);
    for cell in CELLS {
        let there = cluster.sql(cell, "SELECT to_regclass('of_the_lost_one') IS NOT NULL");
        assert_eq!(there.trim(), "f", "{cell} has what nobody acknowledged");
    }
    // Whoever wants to look for it finds it.
    let kept = cluster.directory().join(primary).join("left-wal/00000001");
    let note = std::fs::read_to_string(kept.join("README")).expect("a note of what was kept");
    assert!(note.contains("led under term 1") && note.contains("transactions"), "{note}");
    assert!(kept.join(file.trim()).exists(), "{note}");
}

#[test]
fn a_postmaster_that_is_killed_comes_back_or_is_replaced() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    signal(cluster.postmaster(primary), Signal::SIGKILL);
    let _ = ledger.wait_for_write(&CELLS);
    wait_for_cohort(&cluster);
    ledger.check(&cluster);
}

#[test]
fn the_primary_is_moved_on_request_and_the_old_one_follows_in_place() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    assert_eq!(ledger.wait_for_write(&CELLS), "zone1");
    let begun = Instant::now();
    cluster.cellar(&["switchover", "--to", "zone3"]);
    assert_eq!(cluster.primary(), "zone3");
    assert_eq!(ledger.wait_for_write(&CELLS), "zone3");
    println!("moved within {:?}", begun.elapsed());
    cluster.wait_streaming("zone1");
    wait_for_cohort(&cluster);
    let log = std::fs::read_to_string(cluster.directory().join("zone1/log/multipooler.log")).expect("a log");
    assert!(!log.contains("restores the newest backup, to follow it"), "its data was replaced:\n{log}");
    // Whichever is furthest, and refusals.
    cluster.cellar(&["switchover"]);
    assert_ne!(cluster.primary(), "zone3");
    let unknown = cluster.try_cellar(&["switchover", "--to", "zone9"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    wait_for_cohort(&cluster);
    // With one standby fewer nobody could be elected once the primary has stopped.
    let primary = ledger.wait_for_write(&CELLS);
    cluster.kill_cell(others(primary)[0]);
    eventually("the lost standby to be missed", || {
        let refused = cluster.try_cellar(&["switchover"]);
        refused.code == 3 && refused.stderr.contains("2 standbys must follow the primary")
    });
    assert_eq!(ledger.wait_for_write(&CELLS), primary);
    cluster.cellar(&["up"]);
    wait_for_cohort(&cluster);
    ledger.check(&cluster);
}

#[test]
fn what_was_promised_holds_when_etcd_has_lost_the_records() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    cluster.cellar(&["down"]);
    std::fs::remove_dir_all(cluster.directory().join("etcd/data")).expect("no data");
    cluster.cellar(&["up"]);
    assert_eq!(ledger.wait_for_write(&CELLS), primary);
    let names = cluster.sql(primary, "SHOW synchronous_standby_names");
    assert!(names.starts_with("ANY 1 (\"zone"), "{names}");
    cluster.cellar(&["durability", "quorum"]);
    assert_eq!(term(&cluster), 2, "the members remember the first");
    wait_for_cohort(&cluster);
    ledger.check(&cluster);
}

/// Nothing but the multipooler's canary writes, so an idle primary says little when it is restarted.
#[test]
fn a_multipooler_that_is_away_is_no_failover_of_an_idle_database() {
    let cluster = with_quorum();
    wait_for_cohort(&cluster);
    let primary = cluster.primary();
    let pooler = cluster.pid(&format!("{primary}/pid/multipooler.pid"));
    signal(pooler, Signal::SIGSTOP);
    std::thread::sleep(NO_FAILOVER);
    assert_eq!((cluster.primary(), term(&cluster)), (primary, 1));
    signal(pooler, Signal::SIGCONT);
}

/// Its host refuses connections to it then, which is noticed sooner; its standbys stream on, and hear little.
#[test]
fn a_multipooler_that_was_killed_is_no_failover_of_an_idle_database() {
    let cluster = with_quorum();
    wait_for_cohort(&cluster);
    let primary = cluster.primary();
    signal(cluster.pid(&format!("{primary}/pid/multipooler.pid")), Signal::SIGKILL);
    std::thread::sleep(NO_FAILOVER);
    assert_eq!((cluster.primary(), term(&cluster)), (primary, 1));
    cluster.cellar(&["up"]);
    wait_for_cohort(&cluster);
    assert_eq!(term(&cluster), 1);
}

#[test]
fn a_cell_that_is_added_joins_the_cohort_and_one_that_is_removed_leaves_it() {
    let cluster = with_quorum();
    wait_for_cohort(&cluster);
    cluster.cellar(&["cells", "add", "zone4"]);
    wait_for_members(&cluster, 4);
    let names = cluster.sql(&cluster.primary(), "SHOW synchronous_standby_names");
    assert!(names.starts_with("ANY 2 (") && names.contains("zone4:"), "{names}");
    cluster.cellar(&["cells", "remove", "zone4"]);
    wait_for_cohort(&cluster);
    cluster.sql(&cluster.primary(), "CREATE TABLE t ()");
    assert_eq!(term(&cluster), 1);
}

#[test]
fn a_restore_ends_the_terms_and_they_begin_again_higher() {
    let cluster = with_quorum();
    cluster.sql(&cluster.primary(), "CREATE TABLE before ()");
    let time = crate::ledger::now(&cluster);
    cluster.sql(&cluster.primary(), "CREATE TABLE after ()");
    cluster.cellar(&["restore", "--to-time", &time, "--onto", "zone2", "--yes"]);
    eventually("zone2 to be recorded", || cluster.primary() == "zone2");
    wait_for_cohort(&cluster);
    assert_eq!((leadership(&cluster)["cell"].clone(), term(&cluster)), ("zone2".into(), 2));
    let tables = cluster.sql("zone2", "SELECT to_regclass('before') IS NULL, to_regclass('after') IS NULL");
    assert_eq!(tables, "f|t");
    // And a failover after it.
    cluster.kill_cell("zone2");
    wait_for("another primary", FAILOVER_TIMEOUT, || (cluster.primary() != "zone2").then_some(()));
    cluster.cellar(&["up"]);
    wait_for_cohort(&cluster);
    for cell in CELLS {
        assert_eq!(cluster.sql(cell, "SELECT to_regclass('after') IS NULL"), "t", "{cell}");
    }
}

#[test]
fn quorum_commit_is_given_up_and_taken_up_again() {
    let cluster = with_quorum();
    let primary = cluster.primary();
    cluster.cellar(&["durability", "async"]);
    eventually("PostgreSQL to wait for nobody", || {
        cluster.sql(&primary, "SHOW synchronous_standby_names").is_empty()
    });
    cluster.cellar(&["durability", "quorum"]);
    assert_eq!(term(&cluster), 2, "no term is given twice");
    assert!(cluster.sql(&primary, "SHOW synchronous_standby_names").starts_with("ANY 1"));
    let two = Cluster::up("zone1,zone2");
    let refused = two.try_cellar(&["durability", "quorum"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stderr.contains("needs 3"), "{}", refused.stderr);
}

/// PostgreSQL would have a standby report as flushed what it has replayed, also behind the point where its primary's timeline
/// begins. It then acknowledges what it does not have.
#[test]
fn a_former_primary_with_more_than_its_successor_acknowledges_nothing_before_it_is_made_again() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    let copy = leadership(&cluster)["rules"][0]["cohort"][primary].clone();
    // Nobody gets what it writes now, and nobody is told of it.
    let standbys: Vec<i32> = others(primary)
        .into_iter()
        .map(|cell| cluster.postmaster(cell))
        .flat_map(|postmaster| children_named(postmaster, "postgres").into_iter().chain([postmaster]))
        .collect();
    standbys.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    // More than the kernel keeps for them on the way.
    let rows = "INSERT INTO ledger SELECT generate_series(1, 500000)";
    assert!(!is_acknowledged(&cluster, primary, rows), "by whom?");
    cluster.kill_cell(primary);
    standbys.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    let next = ledger.wait_for_write(&others(primary));
    cluster.cellar(&["up"]);
    wait_for_cohort(&cluster);
    let cohort = leadership(&cluster)["rules"][0]["cohort"].clone();
    assert_ne!(cohort[primary], copy, "{primary} follows {next} with another copy: {cohort}");
    let log = std::fs::read_to_string(cluster.directory().join(format!("{primary}/log/multipooler.log")))
        .expect("a log");
    assert!(log.contains("this standby cannot follow the leader and is made again"), "{log}");
    ledger.check(&cluster);
}
