//! Processes that stand still (SIGSTOP): their connections stay open, and nobody answers.

use std::time::{Duration, Instant};

use cellar_tests::{children_named, eventually, run, signal};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{CELLS, at_rest, incarnation, succeeded, with_ledger};
use crate::ledger::{self, begin_restore, check, hold_backup, hold_copying, release, result};

/// For so long etcd stands still: longer than a lease of 10 s, and shorter than the 18 s for which a job goes on without
/// a word from it.
const ETCD_STANDSTILL: Duration = Duration::from_secs(12);

#[test]
fn a_backup_goes_on_while_etcd_stands_still_for_longer_than_a_lease() {
    let (cluster, mut rows) = with_ledger();
    let (backup, held) = hold_backup(&cluster, "zone2", "full");
    let (etcd, begun) = (cluster.pid("pid/etcd.pid"), Instant::now());
    signal(etcd, Signal::SIGSTOP);
    // multiadmin has to be asked where the primary is, and cannot say so now.
    let insert = "INSERT INTO ledger (what) VALUES ('meanwhile') RETURNING id || ' ' || what";
    rows.push(cluster.sql("zone1", insert));
    release(&held);
    eventually("a lease to have passed", || begun.elapsed() > ETCD_STANDSTILL);
    signal(etcd, Signal::SIGCONT);
    let job = succeeded(&cluster, &backup);
    assert_eq!(job["result"]["backup"]["source"]["verified"], true, "{job:#}");
    check(&cluster, &CELLS, &rows);
    at_rest(&cluster);
}

#[test]
fn another_multiadmin_completes_the_restore_of_one_that_stands_still() {
    let (cluster, rows) = with_ledger();
    let proxy = cluster.proxy_to_etcd();
    let second = cluster.second_multiadmin(&proxy);
    let leader = cluster.etcd_get("/cellar/demo/admins/leader");

    let restore = begin_restore(&cluster, &["--latest"]);
    let held = hold_copying(&restore);
    let frozen = cluster.pid("pid/multiadmin.pid");
    signal(frozen, Signal::SIGSTOP);
    release(&held);
    eventually("the other one to lead", || {
        !["", leader.as_str()].contains(&cluster.etcd_get("/cellar/demo/admins/leader").as_str())
    });
    eventually("the restore to take effect", || incarnation(&cluster)["number"] == 2);
    // The first one goes on with what it saw before, and every write of its is refused.
    signal(frozen, Signal::SIGCONT);
    let job = succeeded(&cluster, &restore);
    let shown = run(cluster.command(&["jobs", "show", &restore, "--output", "json"]).args(&second));
    let shown: Value = serde_json::from_str(&shown.stdout).expect("a job");
    assert_eq!(shown["state"], job["state"], "both say the same");
    assert_eq!(result(&job)["leftOut"], Value::Null, "{job:#}");
    let swaps = job["steps"].as_array().expect("steps").iter().filter(|step| step["kind"] == "JOB_KIND_SWAP");
    assert_eq!(swaps.count(), 1, "{job:#}");
    check(&cluster, &CELLS, &rows);
    at_rest(&cluster);
}

#[test]
fn a_backup_waits_for_a_standby_whose_postgresql_stands_still() {
    let (cluster, mut rows) = with_ledger();
    let (backup, held) = hold_backup(&cluster, "zone2", "full");
    let postmaster = cluster.postmaster("zone2");
    let mut servers = children_named(postmaster, "postgres");
    servers.push(postmaster);
    servers.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    rows.push(ledger::insert(&cluster, "meanwhile"));
    eventually("its pooler to see that it does not answer", || {
        cluster.status("zone2").is_some_and(|status| status.streams_from.is_none())
    });
    let _ = cluster.try_cellar(&["backup", "--from", "zone2"]).refused(3);
    release(&held);
    eventually("all files to be copied", || cluster.log_of("zone2", &backup).contains("100.00%)"));
    // pgBackRest still talks to the standby at the end: it waits for an answer.
    assert_eq!(cluster.job(&backup)["state"], "JOB_STATE_RUNNING");
    servers.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    let job = succeeded(&cluster, &backup);
    assert_eq!(job["result"]["backup"]["source"]["verified"], true, "{job:#}");
    check(&cluster, &CELLS, &rows);
    assert_eq!(cluster.postmaster("zone2"), postmaster, "nobody restarted it");
    let _ = cluster.backup("zone2", "incr");
    at_rest(&cluster);
}
