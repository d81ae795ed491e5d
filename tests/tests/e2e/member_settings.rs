//! What one member's settings mean for another: a standby has what the WAL demands, and not what is its primary's alone.

use std::time::Duration;

use cellar_tests::{Cluster, eventually, kill_hard, wait_for};

use crate::sealed_copies::restart;

/// Waits until everything that the primary has written is archived.
fn archive(cluster: &Cluster) {
    let last = cluster.sql("zone1", "SELECT pg_walfile_name(pg_switch_wal())");
    eventually("what was written to be archived", || {
        cluster.sql("zone1", "SELECT last_archived_wal FROM pg_stat_archiver") >= last
    });
}

#[test]
fn settings_that_the_primary_raised_reach_copies_and_members() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone1", "CREATE TABLE a (i int)");
    cluster.sql("zone1", "ALTER SYSTEM SET max_connections = 200");
    cluster.sql("zone1", "ALTER SYSTEM SET max_locks_per_transaction = 100");
    restart(&cluster, "zone1");
    cluster.sql("zone1", "INSERT INTO a VALUES (1)");
    // It stands for seconds only: then the standby is started again with what the primary has.
    let note = wait_for("the status to say why the replay is paused", Duration::from_secs(60), || {
        let message = cluster.status("zone2")?.message;
        message.contains("replay is paused").then_some(message)
    });
    assert!(note.contains("max_connections is 100 here, and the primary has 200"), "{note}");
    archive(&cluster);

    // The backup is from before the change; the WAL behind it demands more.
    let job =
        cluster.json(&["drill", "--on", "zone1", "--max-rate", "0", "--check", "SELECT count(*) = 1 FROM a"]);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    // So does a new member that is made from it.
    cluster.cellar(&["rebuild", "zone2"]);
    assert_eq!(cluster.sql("zone2", "SHOW max_connections"), "200");
    cluster.wait_streaming("zone2");
    eventually("the row to arrive", || cluster.sql("zone2", "SELECT count(*) FROM a") == "1");
    cluster.cellar(&["restore", "--latest", "--yes"]);
    assert_eq!(cluster.sql("zone1", "SELECT count(*) FROM a"), "1");
}

/// What lets them be is in the backup's settings too late, or only on the command line.
#[test]
fn prepared_transactions_are_there_after_a_restore_and_a_crash() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone1", "ALTER SYSTEM SET max_prepared_transactions = 10");
    restart(&cluster, "zone1");
    cluster.sql("zone1", "CREATE TABLE a (i int)");
    cluster.sql("zone1", "BEGIN; INSERT INTO a VALUES (1); PREPARE TRANSACTION 'x'");
    archive(&cluster);
    // The backup is from before the setting, and there is no way back.
    cluster.cellar(&["restore", "--latest", "--in-place", "--yes"]);
    let primary = cluster.primary();
    assert_eq!(cluster.sql(&primary, "SELECT gid FROM pg_prepared_xacts"), "x");
    let before = cluster.postmaster(&primary);
    kill_hard(before);
    let again = || cluster.try_sql(&primary, "SELECT gid FROM pg_prepared_xacts").stdout.trim() == "x";
    eventually("the primary to be there again with it", again);
    cluster.sql(&primary, "COMMIT PREPARED 'x'");
    assert_eq!(cluster.sql(&primary, "SELECT count(*) FROM a"), "1");
}

#[test]
fn superuser_that_may_not_log_in_is_told() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone1", "CREATE ROLE other SUPERUSER; ALTER ROLE postgres NOLOGIN");
    // The copy is of after that, and the database is as it was.
    let failed = cluster.try_cellar(&["restore", "--latest", "--yes"]);
    assert_ne!(failed.code, 0, "{failed:?}");
    assert!(failed.stderr.contains("not permitted to log in"), "{failed:?}");
    let told = || cluster.status("zone1").filter(|status| status.message.contains("ALTER ROLE"));
    let status = wait_for("the status to say what to do", Duration::from_secs(120), told);
    assert!(status.message.contains("not permitted to log in"), "{status:?}");
    let doctor = cluster.try_cellar(&["doctor"]);
    assert!(doctor.code != 0 && doctor.stdout.contains("not permitted to log in"), "{doctor:?}");
}

#[test]
fn paused_replay_is_shown() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone2", "SELECT pg_wal_replay_pause()");
    eventually("status to say it", || cluster.cellar(&["status"]).contains("pg_wal_replay_resume()"));
    cluster.sql("zone2", "SELECT pg_wal_replay_resume()");
    eventually("status to say it no more", || !cluster.cellar(&["status"]).contains("replay is paused"));
}

#[test]
fn member_that_is_rebuilt_or_restored_has_its_own_settings_and_those_of_now() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone1", "ALTER SYSTEM SET primary_slot_name = 'zone1_slot'");
    cluster.sql("zone1", "SELECT pg_create_physical_replication_slot('zone2_slot')");
    cluster.sql("zone2", "ALTER SYSTEM SET primary_slot_name = 'zone2_slot'");
    // Written only, and in no force: no commit would return.
    cluster.sql("zone1", "ALTER SYSTEM SET synchronous_standby_names = 'gone'");
    cluster.cellar(&["backup", "--from", "zone2", "--type", "full"]);
    cluster.cellar(&["rebuild", "zone2"]);
    assert_eq!(cluster.sql("zone2", "SHOW primary_slot_name"), "zone2_slot");
    cluster.wait_streaming("zone2");
    assert_eq!(
        cluster.sql("zone1", "SELECT active FROM pg_replication_slots WHERE slot_name = 'zone2_slot'"),
        "t"
    );

    // The backup has the names of its time. A restore brings back the data, and no setting.
    cluster.sql("zone1", "ALTER SYSTEM RESET synchronous_standby_names");
    cluster.sql("zone1", "ALTER SYSTEM RESET primary_slot_name");
    cluster.sql("zone2", "ALTER SYSTEM SET work_mem = '5MB'");
    cluster.cellar(&["restore", "--latest", "--in-place", "--onto", "zone2", "--yes"]);
    assert_eq!(cluster.sql("zone2", "SHOW synchronous_standby_names"), "");
    assert_eq!(cluster.sql("zone2", "SHOW work_mem"), "5MB");
    cluster.sql("zone2", "CREATE TABLE committed (i int)");
}

/// PostgreSQL calls a WAL receiver streaming before its primary has let it stream.
#[test]
fn member_that_cannot_stream_is_not_called_rebuilt() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone2", "ALTER SYSTEM SET primary_slot_name = 'no_such_slot'");
    let job = cluster.json(&["rebuild", "zone2", "--no-wait"]);
    let id = job["id"].as_str().expect("a job").to_owned();
    let log = cluster.directory().join("zone2/log/postgres.log");
    let refusals = || {
        std::fs::read_to_string(&log).unwrap_or_default().matches("\"no_such_slot\" does not exist").count()
    };
    wait_for("five attempts to stream", Duration::from_secs(120), || {
        let job = cluster.job(&id);
        assert_ne!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
        (refusals() >= 5).then_some(())
    });
    assert!(cluster.status("zone2").is_some_and(|status| status.streams_from.is_none()));
    cluster.sql("zone2", "ALTER SYSTEM RESET primary_slot_name");
    cluster.sql("zone2", "SELECT pg_reload_conf()");
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
}

#[test]
fn primary_whose_configuration_is_not_utf_8_is_started_after_a_crash() {
    let cluster = Cluster::up("zone1");
    let main = cluster.directory().join("zone1/pg_data/postgresql.conf");
    let mut text = std::fs::read(&main).unwrap();
    text.extend_from_slice(b"# f\xfcr alle\n");
    std::fs::write(&main, &text).unwrap();
    let postmaster = cluster.postmaster("zone1");
    kill_hard(postmaster);
    eventually("PostgreSQL to be started again", || cluster.try_sql("zone1", "SELECT 1").code == 0);
    assert!(std::fs::read(&main).unwrap().windows(5).any(|part| part == b"f\xfcr a"));
}

/// A backup's sessions are idle while files are copied: one here, and one that the primary's pgBackRest server opens.
#[test]
fn limits_on_sessions_do_not_end_a_backup() {
    let cluster = Cluster::up("zone1,zone2");
    let limits = |cell: &str| {
        let version: u32 = cluster.sql(cell, "SHOW server_version_num").parse().expect("a number");
        let mut limits = vec!["idle_session_timeout", "idle_in_transaction_session_timeout", "lock_timeout"];
        if version >= 170_000 {
            limits.push("transaction_timeout");
        }
        for name in limits {
            cluster.sql(cell, &format!("ALTER SYSTEM SET {name} = '100ms'"));
        }
        cluster.sql(cell, "SELECT pg_reload_conf()");
        eventually("the limits to hold", || cluster.sql(cell, "SHOW idle_session_timeout") == "100ms");
    };
    limits("zone1");
    limits("zone2");
    // What the catalogs say of the role counts less than what pgBackRest asks for.
    let user = cluster.sql("zone1", "SELECT current_user");
    cluster.sql("zone1", &format!("ALTER ROLE \"{user}\" SET idle_session_timeout = '100ms'"));
    // Shorter than a checkpoint, for which a backup waits in a statement on the primary. Nothing longer is asked from here on.
    cluster.sql("zone1", &format!("ALTER ROLE \"{user}\" SET statement_timeout = '20ms'"));
    let job = cluster.backup("zone2", "full");
    assert_eq!(job["result"]["backup"]["source"]["verified"], true, "{job:#}");
    let _ = cluster.cellar(&["check"]);
    cluster.cellar(&["drill", "--on", "zone2", "--max-rate", "0"]);
    // Nor do they keep a cell from being watched.
    cluster.wait_streaming("zone2");
}

/// What a multipooler that was killed had written and not told PostgreSQL, the next one tells it.
#[test]
fn settings_that_were_written_and_not_loaded_are_loaded_by_the_next_multipooler() {
    let cluster = Cluster::up("zone1,zone2");
    let file = cluster.directory().join("zone2/pg_data/cellar.conf");
    let right = std::fs::read_to_string(&file).unwrap();
    let wrong = right.replace("application_name=''", "application_name=''not_");
    assert_ne!(right, wrong);
    kill_hard(cluster.pid("zone2/pid/multipooler.pid"));
    std::fs::write(&file, &wrong).unwrap();
    cluster.sql("zone2", "SELECT pg_reload_conf()");
    let known = || cluster.sql("zone1", "SELECT string_agg(application_name, ',') FROM pg_stat_replication");
    eventually("the wrong settings to be used", || known().starts_with("not_"));
    std::fs::write(&file, &right).unwrap();
    cluster.cellar(&["up"]);
    eventually("the right ones to be used", || known() == "zone2");

    // What somebody changes while it runs is put back, and loaded.
    let hba = cluster.directory().join("zone2/pg_data/pg_hba.conf");
    let right = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, "local all all peer\n").unwrap();
    cluster.sql("zone2", "ALTER SYSTEM SET ssl = off");
    cluster.sql("zone2", "SELECT pg_reload_conf()");
    eventually("the rules and TLS to be back", || {
        std::fs::read_to_string(&hba).is_ok_and(|text| text == right)
            && cluster.sql("zone2", "SHOW ssl") == "on"
    });
    let log = std::fs::read_to_string(cluster.directory().join("zone2/log/multipooler.log")).unwrap();
    assert!(log.contains("put back") && log.contains("pg_hba.conf"), "{log}");
}
