//! Failovers that do not go as they usually do: further losses in the middle, a replica that lags, no room, no etcd. No
//! acknowledged row is lost by any of it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cellar_tests::{Cluster, children_named, command_line, eventually, signal, wait_for};
use nix::sys::signal::Signal;

use crate::quorum::{
    CELLS, FAILOVER_TIMEOUT, Ledger, WRITE_TIMEOUT, leadership, others, term, wait_for_cohort,
    wait_for_members, with_quorum,
};
use crate::restore_bad_days::SmallDisk;

/// The processes of an instance with this word in their titles.
pub(crate) fn processes_titled(cluster: &Cluster, cell: &str, word: &str) -> Vec<i32> {
    let children = children_named(cluster.postmaster(cell), "postgres");
    children.into_iter().filter(|pid| command_line(*pid).concat().contains(word)).collect()
}

/// The primary's process that sends WAL to a standby.
#[track_caller]
fn sender_to(cluster: &Cluster, primary: &str, standby: &str) -> i32 {
    let asked = format!("SELECT pid FROM pg_stat_replication WHERE application_name LIKE '{standby}:%'");
    cluster.sql(primary, &asked).trim().parse().expect("it streams")
}

#[track_caller]
fn wait_for_phase(cluster: &Cluster, phase: &str) {
    wait_for(&format!("the phase {phase}"), FAILOVER_TIMEOUT, || {
        (leadership(cluster)["phase"] == phase).then_some(())
    });
}

/// `first` has rows that were acknowledged with its help alone, and `second` lacks them. The primary that acknowledged them is
/// lost then.
#[track_caller]
fn lose_with_one_ahead(cluster: &Cluster, ledger: &Ledger, primary: &str, first: &str, second: &str) {
    let received = |cell: &str| -> u64 {
        let lsn = "SELECT (pg_last_wal_receive_lsn() - '0/0')::bigint";
        cluster.sql(cell, lsn).trim().parse().expect("a position")
    };
    let sender = sender_to(cluster, primary, second);
    let receiver = processes_titled(cluster, second, "walreceiver");
    signal(sender, Signal::SIGSTOP);
    receiver.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    let begun = Instant::now();
    let has_more = || (ledger.since(begun) >= 5).then_some(());
    wait_for("rows that one standby has alone", Duration::from_secs(20), has_more);
    cluster.kill_cell(primary);
    assert!(received(first) > received(second), "{first} is not ahead");
    receiver.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
}

#[test]
fn a_standby_that_lags_does_not_lead() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    // Of equals the first by name would lead.
    let [lags, ahead] = others(primary)[..] else { panic!("two standbys") };
    lose_with_one_ahead(&cluster, &ledger, primary, ahead, lags);
    assert_eq!(ledger.wait_for_write(&others(primary)), ahead);
    cluster.cellar(&["up"]);
    wait_for_cohort(&cluster);
    ledger.check(&cluster);
}

#[test]
fn three_primaries_are_lost_in_a_row_and_etcd_stands_still_meanwhile() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let etcd = cluster.pid("pid/etcd.pid");
    for still in [false, true, true] {
        let primary = ledger.wait_for_write(&CELLS);
        if still {
            signal(etcd, Signal::SIGSTOP);
        }
        cluster.kill_cell(primary);
        if still {
            // Nobody can be appointed without it.
            let lost = Instant::now();
            std::thread::sleep(Duration::from_secs(6));
            assert_eq!(ledger.since(lost + WRITE_TIMEOUT), 0, "who appointed it?");
            signal(etcd, Signal::SIGCONT);
        }
        let next = ledger.wait_for_write(&others(primary));
        cluster.cellar(&["up"]);
        wait_for_cohort(&cluster);
        assert_eq!(cluster.primary(), next);
    }
    assert_eq!(term(&cluster), 4);
    ledger.check(&cluster);
}

#[test]
fn the_next_primary_is_lost_before_it_leads() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    cluster.kill_cell(primary);
    wait_for_phase(&cluster, "LEADERSHIP_PHASE_APPOINTED");
    let appointed = leadership(&cluster)["cell"].as_str().expect("a cell").to_owned();
    cluster.kill_cell(&appointed);
    cluster.cellar(&["up"]);
    let _ = ledger.wait_for_write(&CELLS);
    wait_for_cohort(&cluster);
    ledger.check(&cluster);
}

#[test]
fn the_old_primary_comes_back_in_the_middle_of_an_election() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    // What they receive is not final while this process is there, so nobody can be appointed.
    let receivers: Vec<i32> = others(primary)
        .into_iter()
        .flat_map(|cell| processes_titled(&cluster, cell, "walreceiver"))
        .collect();
    assert_eq!(receivers.len(), 2);
    receivers.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    cluster.kill_cell(primary);
    wait_for_phase(&cluster, "LEADERSHIP_PHASE_RECRUITING");
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.cellar(&["up"]));
        // It has everything that it acknowledged, and nobody else acknowledged anything.
        wait_for_phase(&cluster, "LEADERSHIP_PHASE_APPOINTED");
        receivers.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    });
    assert_eq!(ledger.wait_for_write(&CELLS), primary);
    wait_for_cohort(&cluster);
    assert_eq!(term(&cluster), 3, "the term that was asked for is spent");
    ledger.check(&cluster);
}

#[test]
fn a_backup_ends_true_when_its_primary_is_lost() {
    let cluster = with_quorum();
    cluster.load(10);
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    let source = others(primary)[1];
    let job = cluster.begin_backup(source, "full");
    let held = cluster.hold_backup(source, &job);
    cluster.kill_cell(primary);
    let next = ledger.wait_for_write(&others(primary));
    held.into_iter().for_each(|pid| signal(pid, Signal::SIGCONT));
    let ended = cluster.ended(&job);
    println!("{source} was backed up and {next} leads: {}", ended["state"]);
    if ended["state"] == "JOB_STATE_SUCCEEDED" {
        assert_ne!(next, source, "a backup of a primary passes for one of a standby: {ended:#}");
    } else {
        let why = ended["error"]["message"].as_str().unwrap_or_default();
        assert!(
            why.contains("pgbackrest") || why.contains(source),
            "it does not say why it failed: {ended:#}"
        );
    }
    cluster.cellar(&["up"]);
    wait_for_cohort(&cluster);
    let standby = others(next)[0];
    let _ = cluster.backup(standby, "full");
    ledger.check(&cluster);
}

#[test]
fn an_authority_is_replaced_while_the_primary_is() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    std::thread::scope(|scope| {
        let rotation = scope.spawn(|| cluster.try_cellar(&["certs", "rotate", "--ca"]));
        eventually("the new authority to be trusted", || cluster.directory().join("ca/next/ca.crt").exists());
        cluster.kill_cell(primary);
        let _ = ledger.wait_for_write(&others(primary));
        cluster.cellar(&["up"]);
        // It waits for the servers of the cell that was lost, or gives up and says so.
        let rotated = rotation.join().expect("it ends");
        println!("the rotation ended with {}: {}", rotated.code, rotated.stderr);
    });
    cluster.cellar(&["certs", "rotate", "--ca"]);
    wait_for_cohort(&cluster);
    let _ = ledger.wait_for_write(&CELLS);
    let _ = cluster.backup(others(&cluster.primary())[0], "full");
    ledger.check(&cluster);
}

#[test]
fn a_primary_is_lost_while_a_cell_is_added() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    std::thread::scope(|scope| {
        let adding = scope.spawn(|| cluster.try_cellar(&["cells", "add", "zone4"]));
        eventually("the new cell to be filled", || cluster.directory().join("zone4/pg_data").exists());
        cluster.kill_cell(primary);
        let _ = ledger.wait_for_write(&others(primary));
        cluster.cellar(&["up"]);
        let added = adding.join().expect("it ends");
        println!("the addition ended with {}: {}", added.code, added.stderr);
    });
    // Whether it was done or given up: this does what is left.
    let again = cluster.try_cellar(&["cells", "add", "zone4"]);
    assert!(again.code == 0 || again.stderr.contains("already"), "{again:?}");
    wait_for_members(&cluster, 4);
    let _ = ledger.wait_for_write(&CELLS);
    ledger.check(&cluster);
}

#[test]
fn all_members_are_replaced_one_by_one() {
    let cluster = with_quorum();
    let mut ledger = Ledger::begin(&cluster);
    for (old, new) in CELLS.into_iter().zip(["zone4", "zone5", "zone6"]) {
        cluster.cellar(&["cells", "add", new]);
        wait_for_members(&cluster, 4);
        ledger.write_at(&cluster, new);
        if cluster.primary() == old {
            cluster.cellar(&["switchover", "--to", new]);
        }
        cluster.cellar(&["cells", "remove", old]);
        wait_for_members(&cluster, 3);
    }
    let _ = ledger.wait_for_write(&["zone4", "zone5", "zone6"]);
    ledger.check(&cluster);
}

/// Moves a stopped instance's WAL onto a disk of its own.
fn put_wal_on(cluster: &Cluster, cell: &str, size: &str) -> SmallDisk {
    let wal = cluster.directory().join(cell).join("pg_data/pg_wal");
    let kept = cluster.directory().join("kept_wal");
    let run = |program: &str, arguments: &[&Path]| {
        let status = Command::new(program).args(arguments).status().expect("a program");
        assert!(status.success(), "{program} {arguments:?}");
    };
    run("cp", &[Path::new("-a"), &wal, &kept]);
    let disk = SmallDisk::mount(&wal, size);
    run("cp", &[Path::new("-aT"), &kept, &wal]);
    disk
}

/// Mounting needs root.
#[test]
fn the_only_one_that_can_lead_has_no_room_and_leads_once_it_has() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("NOT RUN: a small disk can only be mounted by root");
        return;
    }
    let cluster = with_quorum();
    let primary = cluster.primary();
    let [full, lags] = others(&primary)[..] else { panic!("two standbys") };
    cluster.kill_cell(full);
    let disk = put_wal_on(&cluster, full, "200m");
    cluster.cellar(&["up"]);
    wait_for_cohort(&cluster);
    let ledger = Ledger::begin(&cluster);
    assert_eq!(ledger.wait_for_write(&CELLS), primary);
    let filler = disk.leave(1 << 20);
    lose_with_one_ahead(&cluster, &ledger, &primary, full, lags);
    let lost = Instant::now();
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(ledger.since(lost + WRITE_TIMEOUT), 0, "{lags} lacks what was acknowledged");
    std::fs::remove_file(filler).expect("room again");
    assert_eq!(ledger.wait_for_write(&others(&primary)), full);
    cluster.cellar(&["up"]);
    wait_for_cohort(&cluster);
    ledger.check(&cluster);
}
