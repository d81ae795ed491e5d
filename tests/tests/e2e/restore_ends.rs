//! Where the WAL ends that a restore replays, when nobody could stop the primary cleanly: what a standby had received or
//! replayed is brought back, or the restore is refused.

use std::path::PathBuf;
use std::time::Duration;

use cellar_tests::{Cluster, command_line, eventually};
use serde_json::Value;

use crate::ledger::{self, archives, check, hold, plan, release, restore, result, rollback};

/// A restore that fails; the ended job.
#[track_caller]
fn failed(cluster: &Cluster, arguments: &[&str]) -> Value {
    let finished = cluster.try_cellar(&[&["restore", "--yes", "--output", "json"], arguments].concat());
    assert_eq!(finished.code, 1, "{finished:?}");
    let job: Value = serde_json::from_str(&finished.stdout).expect("one document of JSON");
    assert_eq!(job["state"], "JOB_STATE_FAILED", "{job:#}");
    job
}

/// Nothing can be archived until the directory that is returned is moved back.
#[track_caller]
fn take_repo_away(cluster: &Cluster) -> (PathBuf, PathBuf) {
    let (repo, away) = (cluster.directory().join("repo"), cluster.directory().join("repo.away"));
    std::fs::rename(&repo, &away).expect("moved away");
    (away, repo)
}

#[track_caller]
fn kill(cluster: &Cluster, cell: &str) {
    cluster.kill_cell(cell);
    eventually(&format!("{cell} to be missed"), || cluster.status(cell).is_none());
}

/// Waits until a standby has replayed what the primary has written.
#[track_caller]
fn caught_up(cluster: &Cluster, standby: &str) {
    let written = cluster.sql(&cluster.primary(), "SELECT pg_current_wal_flush_lsn()");
    eventually("the standby to replay it", || {
        cluster.sql(standby, &format!("SELECT pg_last_wal_replay_lsn() >= '{written}'")) == "t"
    });
}

/// The primary wrote while nothing could be archived. A standby has replayed all of it and recycled the first of its WAL,
/// which is nowhere now: a copy that ends with the archive would lack what the standby has.
#[test]
fn archive_that_ends_before_what_a_standby_has_replayed_is_not_taken_for_all_there_is() {
    let cluster = Cluster::up("zone1,zone2");
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "archived")];
    archives(&cluster);
    let (away, repo) = take_repo_away(&cluster);
    rows.push(ledger::insert(&cluster, "replayed by the standby"));
    let lost = cluster.sql("zone1", "SELECT pg_walfile_name(pg_current_wal_lsn())");
    cluster.sql(
        "zone1",
        "SELECT count(pg_logical_emit_message(false, 'fill', repeat('x', 1000000))) FROM generate_series(1, 320)",
    );
    cluster.sql("zone1", "CHECKPOINT");
    rows.push(ledger::insert(&cluster, "the last"));
    caught_up(&cluster, "zone2");
    cluster.sql("zone2", "CHECKPOINT");
    let wal = PathBuf::from(cluster.instance("zone2").data).join("pg_wal");
    let has = |segment: &str| wal.join(segment).exists();
    eventually("the standby to recycle its WAL", || !has(&lost));
    let mark = ledger::now(&cluster);
    kill(&cluster, "zone1");
    std::fs::rename(&away, &repo).expect("back");

    for target in [&["--latest"][..], &["--to-time", &mark]] {
        let job = failed(&cluster, &[target, &["--onto", "zone2", "--primary-is-dead"]].concat());
        assert_eq!(job["error"]["code"], "WAL_MISSING", "{job:#}");
        let told = job["error"].to_string();
        assert!(told.contains(&lost) && told.contains("pg_promote"), "{job:#}");
        assert_eq!(ledger::rows(&cluster, "zone2"), rows);
    }
    // What the hint says.
    cluster.sql("zone2", "SELECT pg_promote()");
    eventually("zone2 to be recorded", || cluster.primary() == "zone2");
    check(&cluster, &["zone2"], &rows);
}

/// The standby's `pg_wal` has the only copy of the newest rows, and a restore in place empties that directory.
#[test]
fn wal_that_only_the_standby_has_outlives_a_restore_in_place() {
    let cells = ["zone1", "zone2"];
    let cluster = Cluster::up("zone1,zone2");
    cluster.load(5);
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "archived")];
    archives(&cluster);
    rows.push(ledger::insert(&cluster, "received and not archived"));
    check(&cluster, &cells, &rows);
    kill(&cluster, "zone1");

    // The first attempt is interrupted while it copies over the old data.
    let in_place = ["--latest", "--in-place", "--primary-is-dead"];
    let first = ledger::begin_restore(&cluster, &in_place);
    let data = cluster.instance("zone2").data;
    let copies = |pid: i32| {
        let words = command_line(pid);
        words.iter().any(|word| word == "restore") && words.iter().any(|word| word.contains(&data))
    };
    let held = hold("the restore to copy", Duration::from_secs(60), copies, || true);
    cluster.cellar(&["jobs", "cancel", &first]);
    release(&held);
    let job = cluster.ended(&first);
    assert_eq!(job["state"], "JOB_STATE_CANCELED", "{job:#}");

    let job = restore(&cluster, &in_place);
    assert_eq!(result(&job)["cell"], "zone2", "{job:#}");
    check(&cluster, &["zone2"], &rows);
    assert!(!cluster.directory().join("zone2/received-wal").exists(), "it is of no use any more");
}

/// A standby that follows a promotion has the new timeline in its control file only after its next restartpoint.
#[test]
fn rollback_returns_to_the_timeline_that_a_standby_had_followed() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "before the time")];
    archives(&cluster);
    let (mark, wanted) = (ledger::now(&cluster), rows.clone());
    rows.push(ledger::insert(&cluster, "on the first timeline"));
    archives(&cluster);
    caught_up(&cluster, "zone2");
    caught_up(&cluster, "zone3");
    kill(&cluster, "zone1");
    cluster.sql("zone3", "SELECT pg_promote()");
    eventually("zone3 to be recorded", || cluster.primary() == "zone3");
    cluster.wait_streaming("zone2");
    rows.push(ledger::insert(&cluster, "on the second timeline"));
    // The segment in which the timeline begins.
    archives(&cluster);
    rows.push(ledger::insert(&cluster, "and not archived"));
    caught_up(&cluster, "zone2");
    kill(&cluster, "zone3");

    let job = restore(&cluster, &["--to-time", &mark, "--onto", "zone2", "--primary-is-dead"]);
    check(&cluster, &["zone2"], &wanted);
    rollback(&cluster, &job);
    check(&cluster, &["zone2"], &rows);
}

/// A standby that was cut off from the primary knows of nothing newer than what it has, and is not current for that.
#[test]
fn standby_with_the_most_wal_is_chosen_when_the_primary_is_lost() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "archived")];
    archives(&cluster);
    cluster.sql("zone2", "ALTER SYSTEM SET primary_conninfo = ''");
    cluster.sql("zone2", "SELECT pg_reload_conf()");
    // It has all WAL, and replays it late.
    cluster.sql("zone3", "ALTER SYSTEM SET recovery_min_apply_delay = '1h'");
    cluster.sql("zone3", "SELECT pg_reload_conf()");
    eventually("zone2 to be cut off", || {
        cluster.status("zone2").is_some_and(|status| status.streams_from.is_none())
    });
    eventually("its lag not to be known", || {
        cluster.status("zone2").is_some_and(|status| status.replay_lag() == cellar_api::v1::LagClass::Unknown)
    });
    rows.push(ledger::insert(&cluster, "only zone3 receives it"));
    let written = cluster.sql("zone1", "SELECT pg_current_wal_flush_lsn()");
    eventually("zone3 to receive it", || {
        cluster.sql("zone3", &format!("SELECT pg_last_wal_receive_lsn() >= '{written}'")) == "t"
    });
    kill(&cluster, "zone1");
    eventually("zone3 to miss its primary", || {
        cluster
            .status("zone3")
            .is_some_and(|status| status.streams_from.is_none() && status.held_lsn.is_some())
    });

    let told = plan(&cluster, &["--latest", "--onto", "zone2"]);
    assert!(told["warnings"].to_string().contains("--onto zone3"), "{told:#}");
    let told = plan(&cluster, &["--latest"]);
    assert!(!told["warnings"].to_string().contains("--onto zone"), "{told:#}");
    let job = restore(&cluster, &["--latest", "--primary-is-dead"]);
    assert_eq!(result(&job)["cell"], "zone3", "{job:#}");
    check(&cluster, &["zone3"], &rows);
}
