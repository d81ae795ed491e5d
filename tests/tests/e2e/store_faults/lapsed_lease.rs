//! A pooler that hears nothing from etcd until its lease has ended, and then does again.

use cellar_tests::{Cluster, eventually, signal};
use nix::sys::signal::Signal;

use super::{CELLS, at_rest, succeeded, wait_for_state, with_ledger};
use crate::ledger::{begin_restore, check, hold_backup, hold_copying, release, result};

#[test]
fn a_backup_goes_on_after_its_lease_has_lapsed() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.load(3);
    let proxy = cluster.proxy_to_etcd();
    cluster.put_pooler_behind(&proxy, "zone2");
    cluster.wait_streaming("zone2");
    let pooler = cluster.pid("zone2/pid/multipooler.pid");

    // It ends while its pooler is cut off, so the outcome has to wait.
    let (backup, held) = hold_backup(&cluster, "zone2", "full");
    proxy.swallow();
    release(&held);
    eventually("the backup to end", || cluster.log_of("zone2", &backup).contains("backup command end"));
    wait_for_state(&cluster, &backup, "LOST");
    proxy.pass();
    proxy.cut();
    let job = succeeded(&cluster, &backup);
    assert_eq!(job["result"]["backup"]["source"]["verified"], true, "{job:#}");
    // The outcome may be written before the status is again, and no job is begun in a cell that does not report.
    eventually("the pooler to report again", || cluster.status("zone2").is_some());

    // The pooler stands still for longer than its lease, and for less than its work may go on without one.
    let (backup, held) = hold_backup(&cluster, "zone2", "full");
    signal(pooler, Signal::SIGSTOP);
    wait_for_state(&cluster, &backup, "LOST");
    signal(pooler, Signal::SIGCONT);
    wait_for_state(&cluster, &backup, "RUNNING");
    release(&held);
    succeeded(&cluster, &backup);
    assert_eq!(cluster.pid("zone2/pid/multipooler.pid"), pooler);
    at_rest(&cluster);
}

#[test]
fn a_restore_goes_on_after_the_leases_of_all_its_poolers_have_lapsed() {
    let (cluster, rows) = with_ledger();
    let proxy = cluster.proxy_to_etcd();
    for cell in ["zone1", "zone2"] {
        cluster.put_pooler_behind(&proxy, cell);
    }
    cluster.wait_streaming("zone2");

    let restore = begin_restore(&cluster, &["--latest"]);
    let held = hold_copying(&restore);
    proxy.swallow();
    eventually("both poolers to be missed", || CELLS.iter().all(|cell| cluster.status(cell).is_none()));
    proxy.pass();
    // Connections on which bytes were lost stay silent for seconds, and the restore is ended soon without its lease.
    proxy.cut();
    eventually("both poolers to report again", || CELLS.iter().all(|cell| cluster.status(cell).is_some()));
    release(&held);
    let job = succeeded(&cluster, &restore);
    assert_eq!(result(&job)["leftOut"], serde_json::Value::Null, "{job:#}");
    for step in job["steps"].as_array().expect("steps") {
        assert_eq!(step["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    }
    check(&cluster, &CELLS, &rows);
    at_rest(&cluster);
}
