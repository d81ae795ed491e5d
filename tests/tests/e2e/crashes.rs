//! Invariant 3: jobs outlive processes. Each process is killed in the middle of a backup that is held
//! there, the job comes to a true end, and the next backup works.

use std::time::Duration;

use cellar_tests::{Cluster, eventually, is_alive, kill_hard, main_process, signal, wait_for};
use nix::sys::signal::Signal;
use tonic::Code;

use crate::ledger::{hold_backup, release};

fn loaded() -> Cluster {
    let cluster = Cluster::up("zone1,zone2");
    // Large enough that a backup takes seconds of copying.
    cluster.load(20);
    cluster
}

#[test]
fn killing_the_pooler_ends_its_pgbackrest_and_the_job_says_so() {
    let cluster = loaded();
    let (id, held) = hold_backup(&cluster, "zone2", "full");
    kill_hard(cluster.pid("zone2/pid/multipooler.pid"));
    eventually("pgBackRest and its workers to die with the pooler", || {
        held.iter().all(|pid| !is_alive(*pid))
    });
    cluster.cellar(&["up"]);
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_FAILED", "{job:#}");
    assert_eq!(job["error"]["code"], "POOLER_RESTARTED", "{job:#}");
    let _ = cluster.backup("zone2", "full");
}

#[test]
fn a_lost_backup_gives_its_place_away_only_after_its_pgbackrest_was_ended() {
    let cluster = loaded();
    let (id, held) = hold_backup(&cluster, "zone2", "full");
    let pooler = cluster.pid("zone2/pid/multipooler.pid");
    let begun = std::time::Instant::now();
    // As a hung disk or a cut connection to etcd: the pooler neither renews its lease nor ends its children.
    signal(pooler, Signal::SIGSTOP);
    let queued = cluster.json(&["backup", "--from", "zone1", "--allow-primary", "--queue", "--no-wait"]);
    let queued = queued["id"].as_str().expect("an id").to_owned();
    wait_for("the backup of the other cell to begin", Duration::from_secs(60), || {
        let ended = cluster.job(&id)["state"] == "JOB_STATE_FAILED";
        let goes_on = cluster.job(&queued)["state"] != "JOB_STATE_PENDING";
        if ended || goes_on {
            let alive: Vec<&i32> = held.iter().filter(|pid| is_alive(**pid)).collect();
            assert!(alive.is_empty(), "processes {alive:?} of the lost backup work on");
        }
        goes_on.then_some(())
    });
    // The lease of 10 s and LOST_TIMEOUT; how much more is measured by the benchmark `dead_cell_blocking`.
    assert!(begun.elapsed() < Duration::from_secs(75), "{:?}", begun.elapsed());
    let job = cluster.ended(&id);
    assert_eq!(job["error"]["code"], "CELL_DOWN", "{job:#}");
    assert_eq!(cluster.ended(&queued)["state"], "JOB_STATE_SUCCEEDED");
    // The frozen pooler goes on as if nothing had been, and does not revive the job.
    signal(pooler, Signal::SIGCONT);
    cluster.wait_streaming("zone2");
    let _ = cluster.backup("zone2", "full");
    assert_eq!(cluster.job(&id), job);
}

#[test]
fn killing_multiadmin_does_not_disturb_the_backup() {
    let cluster = loaded();
    let (id, held) = hold_backup(&cluster, "zone2", "full");
    kill_hard(cluster.pid("pid/multiadmin.pid"));
    let _ = cluster.try_cellar(&["jobs", "show", &id]).refused(4);
    release(&held);
    cluster.cellar(&["up"]);
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    let _ = cluster.backup("zone2", "incr");
}

#[test]
fn killing_pgbackrest_fails_the_job_and_leaves_no_lock() {
    let cluster = loaded();
    let (id, held) = hold_backup(&cluster, "zone2", "full");
    // The main process only: its workers would go on and keep the stanza's lock.
    kill_hard(main_process(&held));
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_FAILED", "{job:#}");
    eventually("nothing of it to be left", || held.iter().all(|pid| !is_alive(*pid)));
    let _ = cluster.backup("zone2", "full");
}

#[test]
fn an_etcd_that_goes_and_comes_back_loses_nothing() {
    let cluster = loaded();
    let (id, held) = hold_backup(&cluster, "zone2", "full");
    kill_hard(cluster.pid("pid/etcd.pid"));
    release(&held);
    // Old news are served for a few seconds, and no longer. The command line would ask again and again, and the backup goes
    // on for 18 s without a word from etcd.
    eventually("multiadmin to say that etcd is away", || {
        let answer = cluster.ask(async |client| {
            let asked = client.list_poolers(cellar_api::v1::ListPoolersRequest::default());
            tokio::time::timeout(Duration::from_secs(1), asked).await
        });
        match answer {
            Ok(Ok(_)) => false,
            Ok(Err(status)) => matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded),
            Err(_) => true,
        }
    });
    cluster.cellar(&["up"]);
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    assert_eq!(job["result"]["backup"]["source"]["verified"], true);
    kill_hard(cluster.pid("pid/etcd.pid"));
    eventually("status to say that etcd is away", || cluster.try_cellar(&["status"]).code == 4);
}

#[test]
fn a_primary_that_dies_in_the_middle_fails_the_job() {
    let cluster = loaded();
    let (id, held) = hold_backup(&cluster, "zone2", "full");
    let server = cluster.pid("zone1/pid/pgbackrest-server.pid");
    cluster.kill_cell("zone1");
    eventually("the primary's TLS server to be gone", || !is_alive(server));
    release(&held);
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_FAILED", "{job:#}");
    cluster.cellar(&["up"]);
    cluster.wait_streaming("zone2");
    let _ = cluster.backup("zone2", "full");
}

/// Every pooler is told to stop at once, and the primary's may end pgBackRest's server before the standby's has ended its
/// backup.
#[test]
fn down_ends_a_backup_as_told_to_stop() {
    let cluster = loaded();
    let (id, held) = hold_backup(&cluster, "zone2", "full");
    let log = cluster.directory().join("zone2/log/multipooler.log");
    std::thread::scope(|scope| {
        let down = scope.spawn(|| cluster.try_cellar(&["down"]));
        eventually("the pooler to be told to stop", || {
            std::fs::read_to_string(&log).is_ok_and(|log| log.contains("multipooler stops"))
        });
        release(&held);
        let _ = down.join().expect("no panic").ok();
    });
    cluster.cellar(&["up"]);
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_FAILED", "the backup ended before: {job:#}");
    assert_eq!(job["error"]["code"], "POOLER_RESTARTED", "{job:#}");
    let message = job["error"]["message"].as_str().unwrap();
    assert!(message.contains("told to stop"), "{message}");
}

/// The job has the lock when its cell comes back, and is claimed before PostgreSQL answers.
#[test]
fn a_backup_that_waits_for_its_cell_is_taken_when_the_cell_streams() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    cluster.load(20);
    let (holder, held) = hold_backup(&cluster, "zone3", "full");
    let waiting = cluster.json(&["backup", "--from", "zone2", "--queue", "--no-wait"]);
    let waiting = waiting["id"].as_str().expect("an id").to_owned();
    cluster.kill_cell("zone2");
    release(&held);
    cluster.cellar(&["jobs", "cancel", &holder]);
    cluster.cellar(&["up"]);
    let job = cluster.ended(&waiting);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    assert_eq!(job["result"]["backup"]["source"]["cell"], "zone2", "{job:#}");
}
