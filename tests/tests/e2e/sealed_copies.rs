//! A copy that is recovered or checked is sealed off: it reaches nothing outside its own directories, and nothing that
//! the database's own configuration says has an effect on it.

use std::path::{Path, PathBuf};
use std::process::Command;

use cellar_tests::{Cluster, eventually, run};
use serde_json::Value;

/// A drill of a large database must not take more than this beside the live one.
const MAX_RSS_KIB: u64 = 300 << 10;

/// As it ends soonest.
const HASTE: [&str; 4] = ["--nice", "0", "--max-rate", "0"];

/// A directory for a tablespace, that PostgreSQL's user owns.
pub(crate) fn place(cluster: &Cluster, name: &str) -> PathBuf {
    let place = cluster.directory().join(name);
    let owner = cluster.directory().join("zone1");
    let mut make = Command::new("install");
    make.args(["-d", "-m", "700"]).arg(&place);
    let _ = run(&mut make).ok();
    let mut give = Command::new("chown");
    give.arg(format!("--reference={}", owner.join("pg_data").display())).arg(&place);
    let _ = run(&mut give).ok();
    place
}

/// Waits until everything that was written so far is in the archive.
fn archive(cluster: &Cluster) {
    let last = cluster.sql("zone1", "SELECT pg_walfile_name(pg_switch_wal())");
    eventually("what was written to be archived", || {
        cluster.sql("zone1", "SELECT last_archived_wal FROM pg_stat_archiver") >= last
    });
}

/// Takes a full backup of the primary, as soon as its pooler has seen that it was started again.
fn back_up_primary(cluster: &Cluster) {
    let backup = ["backup", "--from", "zone1", "--allow-primary", "--type", "full"];
    eventually("the primary to be backed up", || cluster.try_cellar(&backup).code == 0);
}

/// The postmaster of a drill that runs its only check.
fn postmaster_of_drill(cluster: &Cluster, id: &str) -> i32 {
    crate::drills::in_the_middle(cluster, "zone1", id)
}

fn drill(cluster: &Cluster, arguments: &[&str]) -> Value {
    let _ = cluster.try_cellar(&[&["drill"][..], &HASTE, arguments].concat());
    newest_job(cluster)
}

fn newest_job(cluster: &Cluster) -> Value {
    let jobs = cluster.json(&["jobs", "list"]);
    let id = jobs["jobs"][0]["id"].as_str().expect("a job").to_owned();
    cluster.job(&id)
}

/// Everything below a directory with the time of its last change.
fn picture(directory: &Path) -> Vec<(PathBuf, std::time::SystemTime)> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
            let metadata = entry.metadata().expect("metadata");
            found.push((entry.path(), metadata.modified().expect("a time")));
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Stops a cell's PostgreSQL cleanly, and waits until its pooler has started it again.
pub(crate) fn restart(cluster: &Cluster, cell: &str) {
    let postmaster = cluster.postmaster(cell);
    let _ = run(Command::new("kill").args(["-INT", &postmaster.to_string()])).ok();
    eventually("PostgreSQL to be started again", || {
        let path = cluster.directory().join(cell).join("pg_data/postmaster.pid");
        let pid = std::fs::read_to_string(path).ok();
        let pid = pid.and_then(|text| text.lines().next()?.trim().parse::<i32>().ok());
        pid.is_some_and(|pid| pid != postmaster) && cluster.try_sql(cell, "SELECT 1").code == 0
    });
}

/// The rows of table `t` that a restart reads from disk.
fn rows_after_restart(cluster: &Cluster) -> String {
    restart(cluster, "zone1");
    cluster.sql(
        "zone1",
        "SELECT string_agg(v || '=' || n, ',' ORDER BY v) FROM (SELECT v, count(*) AS n FROM t GROUP BY v) s",
    )
}

#[test]
fn drill_never_writes_to_a_tablespace_that_was_made_after_the_backup() {
    let cluster = Cluster::up("zone1");
    let place = place(&cluster, "made-after");
    let sql = |sql: &str| cluster.sql("zone1", sql);
    sql(&format!("CREATE TABLESPACE ts1 LOCATION '{}'", place.display()));
    sql("CREATE TABLE t (id int, v text) WITH (autovacuum_enabled = off) TABLESPACE ts1");
    sql("INSERT INTO t SELECT g, 'a' FROM generate_series(1, 20000) g");
    archive(&cluster);
    sql("INSERT INTO t SELECT g, 'b' FROM generate_series(20001, 40000) g");
    sql("VACUUM FREEZE t");
    sql("CHECKPOINT");
    let before = picture(&place);

    let job = drill(&cluster, &["--on", "zone1"]);
    assert_eq!(job["error"]["code"], "UNSUPPORTED", "{job:#}");
    let message = job["error"]["message"].as_str().expect("a message");
    assert!(message.contains(&place.display().to_string()), "{message}");
    assert_eq!(picture(&place), before, "the drill wrote outside its directory");
    assert_eq!(rows_after_restart(&cluster), "a=20000,b=20000");

    // A restore is refused in its plan, before anything is stopped.
    let refused = cluster.try_cellar(&["restore", "--latest", "--yes"]);
    assert!(refused.code == 3 && refused.stderr.contains("UNSUPPORTED"), "{refused:?}");
    assert!(refused.stderr.contains(&place.display().to_string()), "{refused:?}");

    // A backup that has the tablespace can be drilled: its files are mapped below the drill's directory.
    back_up_primary(&cluster);
    let before = picture(&place);
    let job = drill(&cluster, &["--on", "zone1", "--check", "SELECT count(*) = 40000 FROM t"]);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    assert_eq!(picture(&place), before, "the drill wrote outside its directory");

    // What was made and dropped again after the backup is in the WAL all the same, and in no catalog.
    let gone = self::place(&cluster, "made-and-dropped");
    sql(&format!("CREATE TABLESPACE ts2 LOCATION '{}'", gone.display()));
    sql("DROP TABLESPACE ts2");
    archive(&cluster);
    let before = picture(&gone);
    let job = drill(&cluster, &["--on", "zone1"]);
    assert_eq!(job["error"]["code"], "UNSUPPORTED", "{job:#}");
    assert_eq!(picture(&gone), before);
}

/// Everything that the database's configuration and catalogs may say to make a copy act outside, wait, refuse, or be large.
#[test]
fn drill_is_not_touched_by_what_the_database_is_configured_to_do() {
    let cluster = Cluster::up("zone1");
    let outside = place(&cluster, "outside");
    let at = |name: &str| outside.join(name).display().to_string();
    let sql = |sql: &str| cluster.sql("zone1", sql);
    sql("CREATE TABLE t AS SELECT g AS i FROM generate_series(1, 1000) g");
    for (name, value) in [
        ("recovery_end_command", format!("touch {}", at("end"))),
        ("archive_cleanup_command", format!("touch {}", at("cleanup"))),
        ("external_pid_file", at("main.pid")),
        ("logging_collector", "on".to_owned()),
        ("log_directory", at("log")),
        ("hot_standby", "off".to_owned()),
        ("shared_buffers", "3GB".to_owned()),
        ("default_transaction_read_only", "on".to_owned()),
        ("wal_level", "logical".to_owned()),
        ("max_connections", "150".to_owned()),
        ("max_prepared_transactions", "20".to_owned()),
        ("track_commit_timestamp", "on".to_owned()),
        ("lc_messages", "C".to_owned()),
        ("recovery_min_apply_delay", "1h".to_owned()),
    ] {
        sql(&format!("ALTER SYSTEM SET {name} = '{value}'"));
    }
    let main = cluster.directory().join("zone1/pg_data/postgresql.conf");
    let mut text = std::fs::read(&main).unwrap();
    // Not UTF-8, and still a comment to PostgreSQL.
    text.extend_from_slice(b"# f\xfcr alle\nrecovery_end_command = 'false'\n");
    std::fs::write(&main, text).unwrap();
    restart(&cluster, "zone1");
    let writes = |statement: &str| sql(&format!("SET TRANSACTION READ WRITE; {statement}"));
    writes(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no DDL today''; END'",
    );
    writes("ALTER DATABASE postgres SET default_transaction_read_only = on");
    writes("ALTER ROLE cellar_monitor SET statement_timeout = '1ms'");
    writes("CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()");
    back_up_primary(&cluster);
    writes("INSERT INTO t VALUES (1001)");
    // No commit returns any more, so it is the last.
    sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
    sql("SELECT pg_reload_conf()");
    cluster.cellar(&["check"]);
    let logs = picture(&outside.join("log")).len();

    let rows = "SELECT count(*) = 1001 FROM t";
    let id =
        crate::drills::begin(&cluster, &["--on", "zone1", "--check", crate::drills::LONG, "--skip-amcheck"]);
    let postmaster = postmaster_of_drill(&cluster, &id);
    // Shared pages count once for each process, so the true sum is smaller.
    let rss: u64 = cellar_tests::children_named(postmaster, "postgres")
        .into_iter()
        .chain([postmaster])
        .map(|pid| u64::from(cellar_tests::rss_kib(pid)))
        .sum();
    assert!(rss < MAX_RSS_KIB, "{rss} KiB");
    cluster.cellar(&["jobs", "cancel", &id]);
    let _ = cluster.ended(&id);

    let written = "INSERT INTO t VALUES (2000) RETURNING i = 2000";
    let job = drill(&cluster, &["--on", "zone1", "--check", rows, "--check", written]);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    for trace in ["end", "cleanup"] {
        assert!(!outside.join(trace).exists(), "the copy ran a command of the database's: {trace}");
    }
    assert!(outside.join("main.pid").exists(), "the live server's pid file is gone");
    assert_eq!(picture(&outside.join("log")).len(), logs, "the copy wrote a log of its own outside");

    // A restore has the member's own settings again.
    sql("ALTER SYSTEM RESET synchronous_standby_names");
    sql("ALTER SYSTEM RESET hot_standby");
    sql("SELECT pg_reload_conf()");
    let _ = cluster.cellar(&["restore", "--latest", "--yes"]);
    eventually("the restored primary to answer", || cluster.try_sql("zone1", "SELECT 1").code == 0);
    let shown = "SELECT current_setting('shared_buffers') || current_setting('max_connections') || current_setting('track_commit_timestamp') || current_setting('external_pid_file')";
    assert_eq!(sql(shown), format!("3GB150on{}", at("main.pid")));
    assert_eq!(sql("SELECT count(*) FROM t"), "1001");
    assert!(!outside.join("end").exists());
}

/// The System V segments and the files of `/dev/shm` that PostgreSQL's user has.
fn shared_memory(postmaster: i32) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{postmaster}/maps")).unwrap();
    maps.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let path = *fields.get(5)?;
            (path.starts_with("/SYSV") || path.starts_with("/dev/shm/PostgreSQL"))
                .then(|| fields[4].to_owned())
        })
        .collect()
}

fn segments() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    table.lines().skip(1).filter_map(|line| Some(line.split_whitespace().nth(1)?.to_owned())).collect()
}

#[test]
fn killed_copy_leaves_no_shared_memory() {
    let cluster = Cluster::up("zone1");
    let id =
        crate::drills::begin(&cluster, &["--on", "zone1", "--check", crate::drills::LONG, "--skip-amcheck"]);
    let postmaster = postmaster_of_drill(&cluster, &id);
    let memory = shared_memory(postmaster);
    assert_eq!(
        memory.len(),
        1,
        "the segment that keeps two servers apart, and nothing in /dev/shm: {memory:?}"
    );
    assert!(segments().contains(&memory[0]));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(postmaster), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let _ = cluster.ended(&id);
    eventually("its memory to be removed", || !segments().contains(&memory[0]));
}

#[test]
fn recovery_that_lacks_wal_ends_in_time_and_the_database_is_as_before() {
    let cluster = Cluster::up("zone1");
    cluster.sql("zone1", "CREATE TABLE t AS SELECT 1 AS i");
    for _ in 0..3 {
        archive(&cluster);
        cluster.sql("zone1", "INSERT INTO t VALUES (2)");
    }
    archive(&cluster);
    let job = cluster.json(&["restore", "--latest", "--yes", "--no-wait"]);
    let id = job["id"].as_str().unwrap().to_owned();
    let archived = cluster.directory().join("repo/archive/app");
    // While it copies it has not fetched any WAL.
    let held = crate::ledger::hold_copying(&id);
    // The segment before the newest: without it the end cannot be reached.
    let mut files: Vec<PathBuf> = picture(&archived).into_iter().map(|(path, _)| path).collect();
    files.retain(|path| {
        path.file_name().is_some_and(|name| name.len() > 40 && !name.to_string_lossy().contains("backup"))
    });
    files.sort();
    let missing = files[files.len() - 2].clone();
    std::fs::rename(&missing, missing.with_extension("away")).unwrap();
    crate::ledger::release(&held);
    let job = cellar_tests::wait_for("the restore to end", std::time::Duration::from_secs(120), || {
        let job = cluster.job(&id);
        (job["state"] == "JOB_STATE_FAILED").then_some(job)
    });
    assert_eq!(job["error"]["code"], "WAL_MISSING", "{job:#}");
    eventually("the primary to take writes again", || {
        cluster.try_sql("zone1", "INSERT INTO t VALUES (3)").code == 0
    });
}
