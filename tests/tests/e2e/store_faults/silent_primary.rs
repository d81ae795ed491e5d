//! A primary that goes on while its pooler is dead cannot be fenced.

use cellar_tests::{eventually, kill_hard};

use super::{CELLS, at_rest, wait_for_state, with_ledger};
use crate::ledger::{self, begin_restore, check, hold_backup, release};

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
    assert!(message.contains("zone1") && message.contains("could not be fenced"), "{job:#}");
    rows.push(ledger::insert(&cluster, "PostgreSQL goes on"));
    cluster.cellar(&["up"]);
    check(&cluster, &CELLS, &rows);
    at_rest(&cluster);
}
