//! Processes that stand still (SIGSTOP): their connections stay open, and nobody answers.

use cellar_tests::{Cluster, children_named, eventually, run, signal};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{at_rest, incarnation, succeeded};
use crate::ledger::{self, begin_restore, check, hold_backup, hold_copying, release, result};

#[test]
fn an_etcd_that_stands_still_in_a_backup_ends_no_job() {
    let cells = ["zone1", "zone2"];
    let cluster = Cluster::up("zone1,zone2");
    cluster.load(2);
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "before")];
    let (backup, held) = hold_backup(&cluster, "zone2", "full");
    let etcd = cluster.pid("pid/etcd.pid");
    signal(etcd, Signal::SIGSTOP);
    // Its keepalive finds out that nobody answers.
    eventually("status to say that etcd is away", || cluster.try_cellar(&["status"]).code == 4);
    rows.push(
        cluster.sql("zone1", "INSERT INTO ledger (what) VALUES ('meanwhile') RETURNING id || ' ' || what"),
    );
    release(&held);
    signal(etcd, Signal::SIGCONT);
    let job = succeeded(&cluster, &backup);
    assert_eq!(job["result"]["backup"]["source"]["verified"], true, "{job:#}");
    check(&cluster, &cells, &rows);
    at_rest(&cluster);
}

#[test]
fn another_multiadmin_completes_the_restore_of_one_that_stands_still() {
    let cells = ["zone1", "zone2"];
    let cluster = Cluster::up("zone1,zone2");
    cluster.load(2);
    ledger::create(&cluster);
    let rows = vec![ledger::insert(&cluster, "before")];
    let proxy = cluster.proxy_to_etcd();
    let second = cluster.second_multiadmin(&proxy);
    let leader = cluster.etcd_get("/cellar/demo/admins/leader");

    let restore = begin_restore(&cluster, &["--latest"]);
    let held = hold_copying(&cluster, &restore);
    let frozen = cluster.pid("pid/multiadmin.pid");
    signal(frozen, Signal::SIGSTOP);
    release(&held);
    let shown = |id: &str| {
        let finished =
            run(&mut cluster.command(&["jobs", "show", id, "--admin", &second, "--output", "json"]));
        serde_json::from_str::<Value>(&finished.stdout).unwrap_or_default()
    };
    eventually("the other one to lead", || {
        !["", leader.as_str()].contains(&cluster.etcd_get("/cellar/demo/admins/leader").as_str())
    });
    eventually("the restore to take effect", || incarnation(&cluster)["number"] == 2);
    // The first one goes on with what it saw before, and every write of its is refused.
    signal(frozen, Signal::SIGCONT);
    let job = succeeded(&cluster, &restore);
    assert_eq!(shown(&restore)["state"], job["state"]);
    assert_eq!(result(&job)["leftOut"], Value::Null, "{job:#}");
    let swaps = job["steps"].as_array().expect("steps").iter().filter(|step| step["kind"] == "JOB_KIND_SWAP");
    assert_eq!(swaps.count(), 1, "{job:#}");
    check(&cluster, &cells, &rows);
    at_rest(&cluster);
}

#[test]
fn a_standby_whose_postgresql_stands_still_is_neither_backed_up_nor_lost() {
    let cells = ["zone1", "zone2"];
    let cluster = Cluster::up("zone1,zone2");
    cluster.load(2);
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "before")];
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
    // The files are copied whether PostgreSQL answers or not.
    let job = cluster.ended(&backup);
    assert!(
        ["JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED"].iter().any(|state| job["state"] == *state),
        "{job:#}"
    );
    if job["state"] == "JOB_STATE_SUCCEEDED" {
        assert_eq!(job["result"]["backup"]["source"]["verified"], true, "{job:#}");
    }
    servers.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    check(&cluster, &cells, &rows);
    assert_eq!(cluster.postmaster("zone2"), postmaster, "nobody restarted it");
    let _ = cluster.backup("zone2", "incr");
    at_rest(&cluster);
}
