//! A primary that is lost while something is restored.

use std::time::Duration;

use cellar_tests::{Cluster, eventually, kill_hard, release, wait_for};
use serde_json::Value;

use crate::quorum::{CELLS, Ledger, leadership, others, wait_for_cohort, with_quorum};
use crate::rebuild::lose_disk;
use crate::restore_kills::hold::held_copy;

fn begin(cluster: &Cluster, command: &[&str]) -> String {
    let job = cluster.json(&[command, &["--no-wait"]].concat());
    job["id"].as_str().expect("a job").to_owned()
}

/// Everything of the primary's cell is lost while pgBackRest copies what is restored onto one of the cells. The primary was
/// stopped before by the restore, which gives all that was acknowledged.
#[track_caller]
fn cell_is_lost_during_restore(onto: impl Fn(&str) -> &'static str) -> Value {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    let onto = onto(primary);
    let job = begin(&cluster, &["restore", "--latest", "--onto", onto, "--yes"]);
    let held = held_copy(&cluster.directory().join(onto).join(format!("pg_data.restored-{job}")));
    kill_hard(cluster.pid(&format!("{primary}/pid/multipooler.pid")));
    release(&held);
    let ended = cluster.ended(&job);
    cluster.cellar(&["up"]);
    wait_for_cohort(&cluster);
    let _ = ledger.wait_for_write(&CELLS);
    ledger.check(&cluster);
    ended
}

#[test]
fn a_restore_onto_a_cell_that_is_lost_fails_and_another_member_leads() {
    let ended = cell_is_lost_during_restore(|primary| {
        CELLS.into_iter().find(|cell| *cell == primary).expect("one of them")
    });
    assert_eq!(ended["state"], "JOB_STATE_FAILED", "{ended:#}");
    let why = ended["error"]["message"].as_str().unwrap_or_default();
    assert!(why.contains("the database is as it was before"), "{ended:#}");
}

#[test]
fn a_restore_onto_a_standby_goes_on_without_the_cell_of_the_old_primary() {
    let ended = cell_is_lost_during_restore(|primary| others(primary)[1]);
    assert_eq!(ended["state"], "JOB_STATE_SUCCEEDED", "{ended:#}");
}

#[test]
fn the_primary_is_lost_while_a_standby_is_rebuilt() {
    let cluster = with_quorum();
    let ledger = Ledger::begin(&cluster);
    let primary = ledger.wait_for_write(&CELLS);
    let [stays, rebuilt] = others(primary)[..] else { panic!("two standbys") };
    // With its data there would be little to copy.
    lose_disk(&cluster, rebuilt, |_| ());
    let job = begin(&cluster, &["rebuild", rebuilt]);
    let held = held_copy(&cluster.directory().join(rebuilt).join("pg_data"));
    // It acknowledges rows that are in `stays` alone beside it.
    let _ = ledger.wait_for_write(&[primary]);
    cluster.kill_cell(primary);
    wait_for("the one that has all rows to lead", Duration::from_secs(40), || {
        (leadership(&cluster)["cell"] == stays).then_some(())
    });
    release(&held);
    // The other one helps it to acknowledge again.
    assert_eq!(ledger.wait_for_write(&others(primary)), stays);
    let ended = cluster.ended(&job);
    assert_eq!(ended["state"], "JOB_STATE_SUCCEEDED", "it streams from the new primary: {ended:#}");
    cluster.cellar(&["up"]);
    eventually("all to stream", || cluster.try_cellar(&["status"]).code == 0);
    wait_for_cohort(&cluster);
    ledger.check(&cluster);
}
