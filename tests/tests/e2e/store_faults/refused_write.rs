//! An etcd that is full refuses every write, and keeps leases alive.

use std::time::Duration;

use cellar_tests::{Cluster, eventually, wait_for};

use super::{at_rest, run_record, succeeded};
use crate::ledger::{hold_backup, release};

/// So often a pooler has said that an outcome cannot be written.
fn refusals(cluster: &Cluster, cell: &str) -> usize {
    let log = std::fs::read_to_string(cluster.directory().join(cell).join("log/multipooler.log"));
    log.unwrap_or_default().matches("the outcome cannot be written yet").count()
}

#[test]
fn an_outcome_that_a_full_etcd_refuses_is_written_when_there_is_room() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.load(3);
    let (backup, held) = hold_backup(&cluster, "zone2", "full");
    // Less than etcd's file has when it is empty.
    cluster.limit_etcd(4096);
    release(&held);
    // Every two seconds: for longer than a lease lasts.
    wait_for("the outcome to be refused", Duration::from_secs(60), || {
        (refusals(&cluster, "zone2") >= 7).then_some(())
    });
    assert_eq!(run_record(&cluster, "zone2", &backup)["state"], "JOB_STATE_RUNNING");
    // Whoever asks is told what is the matter, and what to do.
    for (command, code) in [
        (&["backup", "--from", "zone1", "--allow-primary", "--queue"][..], 3),
        (&["doctor"], 1),
        (&["status"], 0),
    ] {
        let parts = ["etcd's database is full", "etcdctl compact", "etcdctl defrag", "etcdctl alarm disarm"];
        eventually(&format!("{command:?} to end with {code} and to say {parts:?}"), || {
            let said = cluster.try_cellar(command);
            let text = format!("{}{}", said.stdout, said.stderr);
            said.code == code && parts.iter().all(|part| text.contains(part))
        });
    }
    cluster.limit_etcd(0);
    cluster.disarm_etcd();
    let job = succeeded(&cluster, &backup);
    assert_eq!(job["result"]["backup"]["source"]["verified"], true, "{job:#}");
    let _ = cluster.backup("zone2", "incr");
    at_rest(&cluster);
}
