//! A primary that goes on while its pooler is dead cannot be fenced.

use cellar_tests::{Cluster, eventually, kill_hard};
use serde_json::Value;

use super::{CELLS, at_rest, incarnation, wait_for_state, with_ledger};
use crate::ledger::{self, begin_restore, check, hold_backup, id, plan, release, restore, result};

#[test]
fn a_queued_restore_gives_up_when_the_primary_runs_and_cannot_be_fenced() {
    let (cluster, mut rows) = with_ledger();

    let (backup, held) = hold_backup(&cluster, "zone2", "full");
    let restore = begin_restore(&cluster, &["--latest", "--onto", "zone2", "--queue"]);
    wait_for_state(&cluster, &restore, "PENDING");
    kill_hard(cluster.pid("zone1/pid/multipooler.pid"));
    eventually("the pooler to be missed", || cluster.status("zone1").is_none());
    release(&held);
    // Its files from the primary came through the server that died with the pooler.
    let backup = cluster.ended(&backup);
    assert_eq!(backup["state"], "JOB_STATE_FAILED", "{backup:#}");

    let job = cluster.ended(&restore);
    assert_eq!(job["state"], "JOB_STATE_FAILED", "{job:#}");
    assert_eq!(job["error"]["code"], "CELL_DOWN", "{job:#}");
    let message = job["error"]["message"].as_str().expect("a message");
    assert!(message.contains("zone1") && message.contains("cannot be fenced"), "{job:#}");
    rows.push(ledger::insert(&cluster, "PostgreSQL goes on"));
    cluster.cellar(&["up"]);
    check(&cluster, &CELLS, &rows);
    at_rest(&cluster);
}

/// Two of three hosts are silent, and the third has lost the primary's stream: nobody sees that the primary runs.
#[test]
fn a_primary_that_nobody_sees_is_left_unfenced_only_at_the_operators_word() {
    let cells = ["zone1", "zone2", "zone3"];
    let cluster = Cluster::up(&cells.join(","));
    ledger::create(&cluster);
    let rows = vec![ledger::insert(&cluster, "before the restore")];
    let restored = restore(&cluster, &["--latest", "--onto", "zone2"]);
    check(&cluster, &cells, &rows);
    let before = incarnation(&cluster);
    let latest = &["restore", "--latest", "--onto", "zone1", "--yes"][..];
    let rollback = &["restore", "rollback", id(&restored), "--yes"][..];
    let vouching = |command: &[&str]| {
        cluster.try_cellar(&[command, &["--primary-is-dead", "--output", "json"]].concat())
    };

    // While all report such a word is false: without it the primary is fenced.
    for command in [latest, rollback] {
        let message = vouching(command).refused(2);
        assert!(message.contains("the primary in zone2 is not dead"), "{message}");
    }
    for cell in ["zone2", "zone3"] {
        kill_hard(cluster.pid(&format!("{cell}/pid/multipooler.pid")));
        eventually("the pooler to be missed", || cluster.status(cell).is_none());
    }
    // A standby streams from it, so it runs, whatever anybody says.
    for command in [latest, rollback] {
        let message = vouching(command).refused(3);
        assert!(message.contains("zone1 streams from it"), "{message}");
    }

    cluster.sql("zone1", "ALTER SYSTEM SET primary_conninfo = ''");
    cluster.sql("zone1", "SELECT pg_reload_conf()");
    eventually("zone1 to stream no more", || {
        cluster.status("zone1").is_some_and(|status| status.streams_from.is_none())
    });
    ledger::insert(&cluster, "nobody sees it");
    for command in [latest, rollback] {
        let message = cluster.try_cellar(command).refused(3);
        assert!(message.contains("the primary in zone2 cannot be fenced"), "{message}");
        assert!(message.contains("--primary-is-dead"), "{message}");
    }
    // A plan changes nothing, so it is made. It says what the restore is going to need.
    let told = plan(&cluster, &["--latest", "--onto", "zone1"]);
    assert_eq!(told["silentPrimary"], "zone2", "{told:#}");
    assert!(told["warnings"].to_string().contains("--primary-is-dead"), "{told:#}");
    assert_eq!(incarnation(&cluster), before, "nothing was changed");
    ledger::insert(&cluster, "it takes writes all the time");

    // The operator stops it, and says so.
    kill_hard(cluster.postmaster("zone2"));
    let ended: Value = serde_json::from_str(&vouching(rollback).ok()).expect("a job");
    assert_eq!(ended["state"], "JOB_STATE_SUCCEEDED", "{ended:#}");
    assert_eq!(ended["deadPrimary"]["cell"], "zone2", "{ended:#}");
    assert_eq!(result(&ended)["notFenced"], "zone2", "{ended:#}");
    let shown = cluster.cellar(&["jobs", "show", id(&ended)]);
    assert!(shown.contains("vouched for as dead in zone2"), "{shown}");
    check(&cluster, &["zone1"], &rows);
    cluster.cellar(&["up"]);
    check(&cluster, &cells, &rows);
}
