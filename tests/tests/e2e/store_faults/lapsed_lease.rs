//! A pooler that hears nothing from etcd until its lease has ended, and then does again.

use std::time::{Duration, Instant};

use cellar_tests::{Cluster, Proxy, eventually, signal};
use nix::sys::signal::Signal;

use super::{CELLS, at_rest, succeeded, wait_for_state, with_ledger};
use crate::ledger::{self, begin_restore, check, hold_backup, hold_copying, release, result};

/// For so long a pooler may hear nothing from etcd and still go on with its work: 18 s, of which up to 3 s were over when it
/// last heard. Its lease lasts 10 s.
const MAX_SILENCE: Duration = Duration::from_secs(14);

/// How often a test tries to keep within [`MAX_SILENCE`] on a busy machine.
const ATTEMPTS: u32 = 3;

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
    let (backup, held) = (0..ATTEMPTS)
        .find_map(|_| {
            let (backup, held) = hold_backup(&cluster, "zone2", "full");
            let begun = Instant::now();
            signal(pooler, Signal::SIGSTOP);
            wait_for_state(&cluster, &backup, "LOST");
            signal(pooler, Signal::SIGCONT);
            if begun.elapsed() < MAX_SILENCE {
                return Some((backup, held));
            }
            release(&held);
            let _ = cluster.ended(&backup);
            eventually("the pooler to report again", || cluster.status("zone2").is_some());
            None
        })
        .expect("a backup whose pooler stood still for long enough, and not longer");
    wait_for_state(&cluster, &backup, "RUNNING");
    release(&held);
    succeeded(&cluster, &backup);
    assert_eq!(cluster.pid("zone2/pid/multipooler.pid"), pooler);
    at_rest(&cluster);
}

#[test]
fn a_restore_goes_on_after_the_leases_of_all_its_poolers_have_lapsed() {
    let (cluster, rows) = with_ledger();
    let [first, other] = CELLS.map(|cell| {
        let proxy = cluster.proxy_to_etcd();
        cluster.put_pooler_behind(&proxy, cell);
        proxy
    });
    cluster.wait_streaming("zone2");

    let (restore, held) = (0..ATTEMPTS)
        .find_map(|_| {
            let restore = begin_restore(&cluster, &["--latest"]);
            let held = hold_copying(&restore);
            if cut_off_both(&cluster, &first, &other) < MAX_SILENCE {
                return Some((restore, held));
            }
            let _ = cluster.try_cellar(&["jobs", "cancel", &restore]);
            release(&held);
            let _ = cluster.ended(&restore);
            ledger::wait_for_primary(&cluster);
            cluster.wait_streaming("zone2");
            None
        })
        .expect("a restore whose pooler heard nothing for long enough, and not longer");
    release(&held);
    let job = succeeded(&cluster, &restore);
    assert_eq!(result(&job)["leftOut"], serde_json::Value::Null, "{job:#}");
    for step in job["steps"].as_array().expect("steps") {
        assert_eq!(step["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    }
    check(&cluster, &CELLS, &rows);
    at_rest(&cluster);
}

/// Cuts both poolers off from etcd until neither has a lease, and waits until both report again; for how long that of zone1
/// heard nothing. It has the work, so it is cut off last.
fn cut_off_both(cluster: &Cluster, first: &Proxy, other: &Proxy) -> Duration {
    other.swallow();
    eventually("the other pooler to be missed", || cluster.status("zone2").is_none());
    let begun = Instant::now();
    first.swallow();
    eventually("both poolers to be missed", || CELLS.iter().all(|cell| cluster.status(cell).is_none()));
    // Connections on which bytes were lost stay silent for seconds, and the restore is ended soon without its lease.
    for proxy in [first, other] {
        proxy.pass();
        proxy.cut();
    }
    let silence = begun.elapsed();
    eventually("both poolers to report again", || CELLS.iter().all(|cell| cluster.status(cell).is_some()));
    silence
}
