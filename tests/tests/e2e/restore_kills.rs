//! Killed anywhere, a restore goes on when what died is back, or it ends FAILED with the database as it was:
//! never in between, and the job says which.

pub(crate) mod hold;
mod scene;

use std::path::Path;

use cellar_api::v1::InstanceState;
use cellar_tests::{Cluster, command_line, eventually, is_alive, kill_hard, main_process, wait_for};
use serde_json::Value;

use crate::ledger::{hold, release};
use hold::{
    SHUT_DOWN, control_state, give_up, held_copy, held_recovery, hold_end_of_crash_recovery,
    kill_before_swap, kill_pooler_beside, pooler, private_postmaster, raise,
};
use scene::{
    MOMENT_TIMEOUT, Restore, begin, begin_rollback, begin_to, check_members, cluster, confirm,
    data_directories, directory, fails, incarnation, rows, succeeds,
};

/// Before the point of no return, whatever dies on the chosen cell ends the restore, and nothing has changed.
#[test]
fn what_dies_before_the_point_of_no_return_changes_nothing() {
    let cluster = cluster("zone1,zone2");

    // The pooler, while pgBackRest copies.
    let restore = begin(&cluster);
    let held = held_recovery(&cluster, &restore);
    kill_hard(pooler(&cluster, "zone1"));
    eventually("pgBackRest to die with the pooler", || held.iter().all(|pid| !is_alive(*pid)));
    cluster.cellar(&["up"]);
    fails(&cluster, &restore, "POOLER_RESTARTED");

    // The pooler, while the private PostgreSQL runs.
    let restore = begin(&cluster);
    let postmaster = private_postmaster(&restore.copy(&cluster));
    kill_pooler_beside(&cluster, "zone1", postmaster);
    cluster.cellar(&["up"]);
    fails(&cluster, &restore, "POOLER_RESTARTED");
    assert!(!is_alive(postmaster));

    // pgBackRest itself.
    let restore = begin(&cluster);
    let held = held_recovery(&cluster, &restore);
    kill_hard(main_process(&held));
    eventually("nothing of pgBackRest to be left", || held.iter().all(|pid| !is_alive(*pid)));
    fails(&cluster, &restore, "PGBACKREST_FAILED");

    // The private PostgreSQL.
    let restore = begin(&cluster);
    kill_hard(private_postmaster(&restore.copy(&cluster)));
    fails(&cluster, &restore, "POSTGRES_FAILED");

    // Everything at once.
    let restore = begin(&cluster);
    let _ = held_recovery(&cluster, &restore);
    cluster.kill_everything();
    cluster.cellar(&["up"]);
    fails(&cluster, &restore, "POOLER_RESTARTED");

    let _ = cluster.backup("zone2", "incr");
}

/// What only decides or remembers may go and come back: the restore takes effect all the same.
#[test]
fn multiadmin_and_etcd_may_go_and_come_back() {
    let cluster = cluster("zone1,zone2");

    // etcd, while pgBackRest copies; then multiadmin, while the other cell is rebuilt.
    let restore = begin(&cluster);
    let held = held_recovery(&cluster, &restore);
    kill_hard(cluster.pid("pid/etcd.pid"));
    release(&held);
    eventually("the copy to be whole", || restore.copy(&cluster).join("global/pg_control").exists());
    let raised = raise(&cluster);
    let held = held_copy(&directory(&cluster, "zone2").join("pg_data"));
    kill_hard(cluster.pid("pid/multiadmin.pid"));
    give_up(raised);
    release(&held);
    cluster.cellar(&["up"]);
    succeeds(&cluster, &restore);
    assert_eq!(cluster.job(&restore.id)["result"]["restore"]["leftOut"], Value::Null);

    roll_back(&cluster, &restore);
}

/// A rollback that dies before its point of no return can be asked for again, and every row comes back.
fn roll_back(cluster: &Cluster, restore: &Restore) {
    cluster.sql("zone1", "INSERT INTO t VALUES (7)");
    let kept = directory(cluster, "zone1").join(format!("pg_data.before-{}", restore.id));

    // The pooler, while the kept copy's private PostgreSQL runs.
    let rollback = begin_rollback(cluster, restore);
    let postmaster = private_postmaster(&kept);
    kill_pooler_beside(cluster, "zone1", postmaster);
    cluster.cellar(&["up"]);
    fails(cluster, &rollback, "POOLER_RESTARTED");
    assert!(!is_alive(postmaster));

    // That PostgreSQL itself.
    let rollback = begin_rollback(cluster, restore);
    kill_hard(private_postmaster(&kept));
    fails(cluster, &rollback, "POSTGRES_FAILED");

    // multiadmin while the copy recovers, and the pooler during the swap.
    let rollback = begin_rollback(cluster, restore);
    kill_before_swap(cluster, &rollback, &kept, true);
    cluster.cellar(&["up"]);
    succeeds(cluster, &rollback);
    assert_eq!(rows(cluster, "zone1"), restore.all);
}

/// From the point of no return on, the restore is completed by whoever comes back.
#[test]
fn what_dies_after_the_point_of_no_return_is_completed() {
    let cluster = cluster("zone1,zone2");
    let standby = directory(&cluster, "zone2").join("pg_data");

    // The chosen cell's pooler before it has moved anything; then everything, while the other cell is rebuilt.
    let restore = begin(&cluster);
    kill_before_swap(&cluster, &restore, &restore.copy(&cluster), false);
    assert_eq!(
        data_directories(&cluster, "zone1"),
        ["pg_data".to_owned(), format!("pg_data.restored-{}", restore.id)]
    );
    let raised = raise(&cluster);
    let _ = held_copy(&standby);
    cluster.kill_everything();
    give_up(raised);
    cluster.cellar(&["up"]);
    succeeds(&cluster, &restore);
    confirm(&cluster, &restore);

    // Between the two renames; then the other cell's pooler, while that cell is rebuilt.
    let restore = begin(&cluster);
    kill_before_swap(&cluster, &restore, &restore.copy(&cluster), false);
    let home = directory(&cluster, "zone1");
    std::fs::rename(home.join("pg_data"), home.join(format!("pg_data.before-{}", restore.id))).unwrap();
    let raised = raise(&cluster);
    let held = held_copy(&standby);
    kill_hard(pooler(&cluster, "zone2"));
    eventually("pgBackRest to die with the pooler", || held.iter().all(|pid| !is_alive(*pid)));
    give_up(raised);
    cluster.cellar(&["up"]);
    succeeds(&cluster, &restore);
    let _ = cluster.backup("zone2", "incr");
}

/// A primary that was killed has WAL that nobody has archived: `--latest` has every row that it acknowledged.
#[test]
fn a_primary_that_crashed_just_before_loses_nothing() {
    let cluster = cluster("zone1,zone2");
    cluster.sql("zone1", "INSERT INTO t SELECT generate_series(1, 100000)");
    let all = rows(&cluster, "zone1");
    kill_hard(cluster.postmaster("zone1"));
    let job = cluster.json(&["restore", "--latest", "--yes", "--no-wait"]);
    let id = job["id"].as_str().expect("a job").to_owned();
    // Once more, if it was raised meanwhile: in the middle of planning or fencing.
    let text = std::fs::read_to_string(directory(&cluster, "zone1").join("pg_data/postmaster.pid"));
    if let Some(pid) = text.ok().and_then(|text| text.lines().next()?.trim().parse().ok()) {
        kill_hard(pid);
    }
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    check_members(&cluster, &all);
}

/// One that is killed as its crash recovery ends says in pg_control that it was shut down: it has WAL that nobody has
/// archived all the same.
#[test]
fn a_primary_that_dies_as_its_crash_recovery_ends_loses_nothing() {
    let cluster = cluster("zone1,zone2");
    let data = directory(&cluster, "zone1").join("pg_data");
    let hold = || {
        // A recovery that lasts, and a last segment that begins with a record of its own.
        cluster.sql("zone1", "INSERT INTO t SELECT generate_series(1, 1000000)");
        cluster.sql("zone1", "SELECT pg_switch_wal()");
        cluster.sql("zone1", "INSERT INTO t VALUES (0)");
        let all = rows(&cluster, "zone1");
        hold_end_of_crash_recovery(&cluster, "zone1").map(|held| (all, held))
    };
    let mut missed = Vec::new();
    let caught = (0..5).find_map(|_| hold().map_err(|seen| missed.push(seen)).ok());
    let (all, held) = caught.unwrap_or_else(|| panic!("no recovery was caught as it ended: {missed:?}"));
    let job = cluster.json(&["restore", "--latest", "--yes", "--no-wait"]);
    let id = job["id"].as_str().expect("a job");
    eventually("the fence", || incarnation(&cluster)["fence"] == id);
    assert_eq!(control_state(&data), SHUT_DOWN, "it is as it was held");
    held.into_iter().for_each(kill_hard);
    let job = cluster.ended(id);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    check_members(&cluster, &all);
}

/// PostgreSQL notes without a sync that the history of a timeline is to be archived.
#[test]
fn history_of_the_restored_timeline_is_archived_though_its_note_was_lost() {
    let cluster = cluster("zone1,zone2");
    let restore = begin(&cluster);
    kill_before_swap(&cluster, &restore, &restore.copy(&cluster), false);
    let notes = restore.copy(&cluster).join("pg_wal/archive_status");
    std::fs::remove_file(notes.join("00000002.history.ready")).expect("the note of the history");
    cluster.cellar(&["up"]);
    succeeds(&cluster, &restore);
    assert!(cluster.archive().join("00000002.history").exists());
}

/// In place the private PostgreSQL runs in the cell's own data directory, where the next pooler finds it.
#[test]
fn a_pooler_killed_in_a_recovery_in_place_leaves_a_cell_that_comes_back() {
    let cluster = cluster("zone1,zone2");
    cluster.sql("zone1", "INSERT INTO t SELECT generate_series(1, 100)");
    let all = rows(&cluster, "zone1");
    let restore = begin_to(&cluster, &["--latest", "--onto", "zone2", "--in-place"], all.clone());
    let private = postmaster_in_place(&cluster, "zone2");
    kill_pooler_beside(&cluster, "zone2", private);
    cluster.cellar(&["up"]);
    assert!(!is_alive(private));
    let job = cluster.ended(&restore.id);
    assert_eq!(job["error"]["code"], "POOLER_RESTARTED", "{job:#}");
    cluster.wait_streaming("zone2");
    eventually("the rows to be in both cells", || {
        ["zone1", "zone2"].iter().all(|cell| rows(&cluster, cell) == all)
    });
    cluster.sql("zone1", "INSERT INTO t VALUES (1)");
    let _ = cluster.backup("zone2", "incr");
}

/// What the last attempt in place has left in the data directory does not keep the next one from succeeding: it is the only
/// way back to a primary.
#[test]
fn a_restore_in_place_that_was_cut_short_can_be_asked_for_again() {
    let cluster = cluster("zone1");
    cluster.sql("zone1", "INSERT INTO t SELECT generate_series(1, 300000)");
    let all = rows(&cluster, "zone1");
    let data = directory(&cluster, "zone1").join("pg_data");
    let restore = begin_to(&cluster, &["--latest", "--in-place"], all.clone());
    kill_hard(postmaster_in_place(&cluster, "zone1"));
    let job = cluster.ended(&restore.id);
    assert_eq!(job["error"]["code"], "POSTGRES_FAILED", "{job:#}");
    assert!(data.join("postmaster.pid").exists(), "a server that is killed leaves it");

    let again = || begin_to_unread(&cluster, &["--latest", "--in-place"]);
    let id = again();
    let cell = format!("{}/", directory(&cluster, "zone1").display());
    let of_restore = |pid: i32| {
        let words = command_line(pid);
        words.iter().any(|word| word.starts_with("restore")) && words.iter().any(|word| word.contains(&cell))
    };
    let held = hold("the second restore", MOMENT_TIMEOUT, of_restore, || true);
    wait_for("the status to say that it is restored over", MOMENT_TIMEOUT, || {
        let status = cluster.status("zone1")?;
        (status.state() == InstanceState::Seeding && status.message.contains("in place")).then_some(())
    });
    // Killed before anything is copied, into a data directory that was empty: there are directories, and no file.
    held.iter().for_each(|pid| kill_hard(*pid));
    let job = cluster.ended(&id);
    assert_eq!(job["error"]["code"], "PGBACKREST_FAILED", "{job:#}");
    for entry in std::fs::read_dir(&data).expect("the data").flatten() {
        if entry.file_type().expect("its kind").is_file() {
            std::fs::remove_file(entry.path()).expect("root may");
        } else {
            empty(&entry.path());
        }
    }
    let id = again();
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    check_members(&cluster, &all);
}

/// Removes all files, and leaves the directories.
fn empty(directory: &Path) {
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        if entry.file_type().expect("its kind").is_dir() {
            empty(&entry.path());
        } else {
            std::fs::remove_file(entry.path()).expect("root may");
        }
    }
}

/// Asks for a restore while no row can be read.
fn begin_to_unread(cluster: &Cluster, target: &[&str]) -> String {
    let job = cluster.json(&[&["restore"], target, &["--yes", "--no-wait"]].concat());
    job["id"].as_str().expect("a job").to_owned()
}

/// The postmaster of a private instance in a cell's own data directory.
fn postmaster_in_place(cluster: &Cluster, cell: &str) -> i32 {
    let lock = directory(cluster, cell).join("pg_data/postmaster.pid");
    let sockets = cluster.instance(cell).sockets;
    wait_for("the private PostgreSQL", MOMENT_TIMEOUT, || {
        let text = std::fs::read_to_string(&lock).ok()?;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let pid = lines.first()?.parse().ok().filter(|pid| is_alive(*pid))?;
        lines.get(4).is_some_and(|directory| !directory.is_empty() && *directory != sockets).then_some(pid)
    })
}
