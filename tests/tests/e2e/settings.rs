//! Settings of a database, and rolling restarts.

use std::time::Duration;

use cellar_tests::{Cluster, eventually, kill_hard, wait_for};
use serde_json::Value;

use crate::quorum::{CELLS, Ledger, term, wait_for_cohort, with_quorum};

/// The state of a setting in a member; none when it is not listed.
fn state(cluster: &Cluster, cell: &str, name: &str) -> Option<String> {
    let listed = cluster.json(&["settings", "list"]);
    let members = listed["members"].as_array()?;
    let member = members.iter().find(|member| member["cell"] == cell)?;
    let setting = member["settings"].as_array()?.iter().find(|setting| setting["name"] == name)?;
    Some(setting["state"].as_str()?.trim_start_matches("SETTING_STATE_").to_owned())
}

#[track_caller]
fn assert_shown(cluster: &Cluster, cells: &[&str], name: &str, value: &str) {
    for cell in cells {
        assert_eq!(cluster.sql(cell, &format!("SHOW {name}")), value, "{name} in {cell}");
    }
}

/// Tells the primary's value of a setting, once it answers.
#[track_caller]
fn wait_shown(cluster: &Cluster, cell: &str, name: &str, value: &str) {
    eventually(&format!("{name} to be {value} in {cell}"), || {
        cluster.try_sql(cell, &format!("SHOW {name}")).stdout.trim() == value
    });
}

#[track_caller]
fn refused(cluster: &Cluster, setting: &str, code: i32, words: &[&str]) {
    let refused = cluster.try_cellar(&["settings", "set", setting]);
    assert_eq!(refused.code, code, "{setting}: {refused:?}");
    for word in words {
        assert!(refused.stderr.contains(word), "{setting}: {word}: {refused:?}");
    }
}

#[test]
fn settings_are_in_force_in_every_member_and_what_cannot_be_is_refused() {
    let cluster = Cluster::up("zone1,zone2");
    let cells = ["zone1", "zone2"];
    cluster.cellar(&["settings", "set", "Work_Mem=8MB", "app.note=it's"]);
    assert_shown(&cluster, &cells, "work_mem", "8MB");
    assert_shown(&cluster, &cells, "app.note", "it's");
    assert_eq!(state(&cluster, "zone2", "work_mem").as_deref(), Some("IN_FORCE"));

    refused(&cluster, "archive_command=true", 2, &["backups and restores rely on it", "cellar check"]);
    refused(&cluster, "synchronous_standby_names=*", 2, &["cellar durability"]);
    refused(&cluster, "wrok_mem=1MB", 2, &["PostgreSQL has no setting wrok_mem"]);
    refused(&cluster, "session_preload_libraries=auto_explain,nope", 2, &["no session could begin", "nope"]);
    refused(&cluster, "local_preload_libraries=nope", 2, &["no session could begin"]);
    cluster.cellar(&["settings", "set", "session_preload_libraries=auto_explain"]);
    refused(&cluster, "block_size=4096", 2, &["cannot be set"]);
    refused(&cluster, "work_mem=8Mb", 2, &["invalid value for parameter \"work_mem\"", "Valid units"]);
    refused(&cluster, "max_connections=300000", 2, &["is outside the valid range"]);
    refused(&cluster, "superuser_reserved_connections=100", 2, &["leaves nothing"]);
    let unknown = cluster.try_cellar(&["settings", "unset", "jit"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert_shown(&cluster, &cells, "work_mem", "8MB");

    // What one member has of its own is shown, and counts no more once the database is given another value.
    cluster.sql("zone2", "ALTER SYSTEM SET work_mem = '1MB'");
    cluster.sql("zone2", "SELECT pg_reload_conf()");
    eventually("the other value to be shown", || {
        state(&cluster, "zone2", "work_mem").as_deref() == Some("OVERRIDDEN")
    });
    cluster.cellar(&["settings", "set", "work_mem=9MB"]);
    assert_shown(&cluster, &cells, "work_mem", "9MB");
    cluster.cellar(&["settings", "unset", "work_mem", "app.note"]);
    assert_shown(&cluster, &cells, "work_mem", "4MB");
    let audit = cluster.cellar(&["audit", "list"]);
    assert!(audit.contains("ChangeSettings"), "{audit}");

    // A primary that is started again, whoever did it, has no more than its standby can replay.
    let set = cluster.try_cellar(&["settings", "set", "max_connections=150"]);
    assert!(set.code == 0 && set.stderr.contains("cellar restart --rolling"), "{set:?}");
    assert_eq!(state(&cluster, "zone1", "max_connections").as_deref(), Some("WAITS"));
    assert_eq!(state(&cluster, "zone2", "max_connections").as_deref(), Some("RESTART_NEEDED"));
    let before = cluster.postmaster("zone1");
    kill_hard(before);
    wait_shown(&cluster, "zone1", "max_connections", "100");
    cluster.wait_streaming("zone2");
    let primary = cluster.try_cellar(&["restart", "zone1"]);
    assert_eq!(primary.code, 3, "{primary:?}");
    let restarted = cluster.cellar(&["restart", "--rolling"]);
    assert_eq!(restarted.matches("yes").count(), 2, "{restarted}");
    assert_shown(&cluster, &cells, "max_connections", "150");
    assert_eq!(state(&cluster, "zone1", "max_connections").as_deref(), Some("IN_FORCE"));
    let again = cluster.cellar(&["restart", "--rolling"]);
    assert_eq!(again.matches(" no ").count(), 2, "{again}");
}

/// What no PostgreSQL starts with costs a standby, not the primary, and can be taken back.
#[test]
fn rolling_restart_stops_at_the_first_member_that_does_not_come_back_and_goes_on_later() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    cluster.cellar(&["settings", "set", "shared_preload_libraries=no_such_library"]);
    let before = cluster.postmaster("zone1");
    let failed = cluster.try_cellar(&["restart", "--rolling"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.stderr.contains("cellar settings unset"), "{failed:?}");
    assert!(failed.stderr.contains("could not access file \"no_such_library\""), "{failed:?}");
    assert_eq!(cluster.postmaster("zone1"), before, "the primary was not touched");
    let second = cluster.try_cellar(&["restart", "--rolling"]);
    assert!(second.code != 0 && second.stderr.contains("zone2 is not well"), "{second:?}");
    cluster.sql("zone3", "SELECT 1");
    cluster.cellar(&["settings", "unset", "shared_preload_libraries"]);
    cluster.wait_streaming("zone2");
    cluster.cellar(&["settings", "set", "max_worker_processes=9"]);
    let restarted = cluster.cellar(&["restart", "--rolling"]);
    assert_eq!(restarted.matches("yes").count(), 3, "{restarted}");
    assert_shown(&cluster, &CELLS, "max_worker_processes", "9");
    cluster.cellar(&["restart", "zone3"]);
    cluster.wait_streaming("zone3");
}

#[test]
fn what_replay_compares_is_raised_and_lowered_under_quorum_commit_without_a_lost_row() {
    let cluster = with_quorum();
    wait_for_cohort(&cluster);
    let ledger = Ledger::begin(&cluster);
    assert_eq!(ledger.wait_for_write(&CELLS), "zone1");
    let log = |cell: &str| {
        let file = cluster.directory().join(cell).join("log/postgres.log");
        std::fs::read_to_string(file).unwrap_or_default()
    };

    cluster.cellar(&["settings", "set", "max_connections=200", "max_locks_per_transaction=80"]);
    cluster.cellar(&["restart", "--rolling"]);
    assert_shown(&cluster, &CELLS, "max_connections", "200");
    assert_shown(&cluster, &CELLS, "max_locks_per_transaction", "80");
    let primary = cluster.primary();
    assert_ne!(primary, "zone1", "it was moved");
    assert_eq!(term(&cluster), 2, "once, and by nothing else");
    ledger.wait_for_write(&CELLS);
    wait_for_cohort(&cluster);

    // Lower than at first, and one is raised meanwhile.
    cluster.cellar(&["settings", "set", "max_connections=60", "max_worker_processes=12"]);
    cluster.cellar(&["settings", "unset", "max_locks_per_transaction"]);
    cluster.cellar(&["restart", "--rolling"]);
    for (name, value) in
        [("max_connections", "60"), ("max_worker_processes", "12"), ("max_locks_per_transaction", "64")]
    {
        assert_shown(&cluster, &CELLS, name, value);
    }
    assert_eq!(
        (cluster.primary(), term(&cluster)),
        (primary, 2),
        "restarted where it is: that is no failover"
    );
    ledger.wait_for_write(&CELLS);
    for cell in CELLS {
        assert!(
            !log(cell).contains("insufficient parameter settings"),
            "{cell} could not replay:\n{}",
            log(cell)
        );
    }
    wait_for_cohort(&cluster);
    ledger.check(&cluster);
}

/// A member that was promoted with more than another one has: that one takes it by itself.
#[test]
fn failover_in_the_middle_of_a_rolling_restart_stops_no_replay() {
    let cluster = with_quorum();
    wait_for_cohort(&cluster);
    let ledger = Ledger::begin(&cluster);
    ledger.wait_for_write(&CELLS);
    cluster.cellar(&["settings", "set", "max_connections=200"]);
    cluster.cellar(&["restart", "zone2"]);
    assert_shown(&cluster, &["zone2"], "max_connections", "200");
    wait_for_cohort(&cluster);
    cluster.cellar(&["switchover", "--to", "zone2"]);
    ledger.wait_for_write(&["zone2"]);
    for cell in CELLS {
        wait_shown(&cluster, cell, "max_connections", "200");
    }
    wait_for_cohort(&cluster);
    ledger.check(&cluster);
}

#[test]
fn settings_outlive_a_rebuild_a_restore_and_absence_and_new_cells_have_them() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone1", "CREATE TABLE a (i int)");
    // The backup is from before.
    cluster.cellar(&["settings", "set", "max_locks_per_transaction=100", "work_mem=8MB"]);
    cluster.cellar(&["restart", "--rolling"]);
    let has_them = |cells: &[&str]| {
        for cell in cells {
            wait_shown(&cluster, cell, "max_locks_per_transaction", "100");
            wait_shown(&cluster, cell, "work_mem", "8MB");
        }
    };
    cluster.cellar(&["rebuild", "zone2"]);
    has_them(&["zone1", "zone2"]);
    cluster.sql("zone1", "INSERT INTO a VALUES (1)");
    cluster.cellar(&["restore", "--latest", "--yes"]);
    assert_eq!(cluster.sql(&cluster.primary(), "SELECT count(*) FROM a"), "1");
    has_them(&["zone1", "zone2"]);
    cluster.wait_streaming("zone2");

    // One that is away learns of it when it is back.
    cluster.kill_cell("zone2");
    cluster.cellar(&["settings", "set", "work_mem=7MB"]);
    let silent = |listed: &Value| {
        let members = listed["members"].as_array().cloned().unwrap_or_default();
        members.iter().any(|member| member["cell"] == "zone2" && member["silent"] != Value::Null)
    };
    wait_for("zone2 to be called silent", Duration::from_secs(30), || {
        silent(&cluster.json(&["settings", "list"])).then_some(())
    });
    cluster.cellar(&["up"]);
    wait_shown(&cluster, "zone2", "work_mem", "7MB");
    cluster.cellar(&["cells", "add", "zone3"]);
    wait_shown(&cluster, "zone3", "work_mem", "7MB");
    wait_shown(&cluster, "zone3", "max_locks_per_transaction", "100");
}
