//! Drills: a backup is restored where nobody sees it, checked and removed; the live instance goes on untouched.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cellar_tests::{
    Cluster, command_line, eventually, give_to_postgres, is_alive, kill_hard, processes_with, wait_for,
};
use serde_json::Value;

use crate::ledger;
use crate::restore_bad_days::SmallDisk;

/// Longest wait for a moment of a drill.
const MOMENT: Duration = Duration::from_secs(60);

/// A check that would take ten minutes: the drill stands in the middle for as long as a test wants.
pub(crate) const LONG: &str = "SELECT true FROM pg_sleep(600)";

/// Not as a drill is usually run, but as it ends soonest.
const HASTE: [&str; 4] = ["--nice", "0", "--max-rate", "0"];

pub(crate) fn begin(cluster: &Cluster, arguments: &[&str]) -> String {
    let job = cluster.json(&[&["drill", "--no-wait"], &HASTE[..], arguments].concat());
    job["id"].as_str().expect("a job").to_owned()
}

fn home(cluster: &Cluster, cell: &str, id: &str) -> PathBuf {
    cluster.directory().join(cell).join("drills").join(id)
}

/// A drill that has its private PostgreSQL and runs its first SQL check: the postmaster.
pub(crate) fn in_the_middle(cluster: &Cluster, cell: &str, id: &str) -> i32 {
    wait_for("the drill to run its check", MOMENT, || {
        let job = cluster.job(id);
        assert!(
            ["JOB_STATE_PENDING", "JOB_STATE_RUNNING"].iter().any(|state| job["state"] == *state),
            "{job:#}"
        );
        (job["progress"]["phase"] == "running check 1 of 1").then_some(())
    });
    let text = std::fs::read_to_string(home(cluster, cell, id).join("data/postmaster.pid")).expect("it runs");
    let pid = text.lines().next().and_then(|line| line.trim().parse().ok()).expect("a pid");
    assert!(is_alive(pid));
    pid
}

/// Processes that name a directory below `drills` or work there.
fn drill_processes(cluster: &Cluster, cell: &str) -> Vec<i32> {
    let drills = cluster.directory().join(cell).join("drills");
    let needle = drills.display().to_string();
    let all = std::fs::read_dir("/proc").expect("processes").flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let works_there =
                std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&drills));
            works_there || command_line(*pid).iter().any(|word| word.contains(&needle))
        })
        .collect()
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Nothing of any drill is left in a cell, now or in a moment.
fn no_trace(cluster: &Cluster, cell: &str) {
    let cell_directory = cluster.directory().join(cell);
    wait_for("every trace of the drill to be gone", Duration::from_secs(30), || {
        let left = [entries(&cell_directory.join("drills")), entries(&cell_directory.join("tmp"))].concat();
        (left.is_empty() && drill_processes(cluster, cell).is_empty()).then_some(())
    });
}

/// Timeline histories in the repo's archive.
fn histories(cluster: &Cluster) -> BTreeSet<String> {
    let archive = cluster.directory().join("repo/archive/app");
    let of = |name: &String| entries(&archive.join(name));
    let all = entries(&archive).iter().flat_map(of).collect::<Vec<_>>();
    all.into_iter().filter(|name| name.ends_with(".history")).collect()
}

/// What a drill must leave as it is.
#[derive(Debug, PartialEq)]
struct Untouched {
    postmasters: Vec<i32>,
    started: Vec<String>,
    archiving: String,
    failed_archivings: String,
    receivers: String,
    histories: BTreeSet<String>,
}

fn untouched(cluster: &Cluster) -> Untouched {
    let cells = ["zone1", "zone2"];
    let started = |cell: &&str| cluster.sql(cell, "SELECT pg_postmaster_start_time()");
    Untouched {
        postmasters: cells.iter().map(|cell| cluster.postmaster(cell)).collect(),
        started: cells.iter().map(started).collect(),
        archiving: cluster
            .sql("zone2", "SELECT current_setting('archive_mode') || current_setting('archive_command')"),
        failed_archivings: cluster.sql("zone1", "SELECT failed_count FROM pg_stat_archiver"),
        receivers: cluster.sql("zone1", "SELECT string_agg(application_name, ',') FROM pg_stat_replication"),
        histories: histories(cluster),
    }
}

/// The TCP ports on which the process or one that it has forked listens.
fn listens(cluster: &Cluster, cell: &str) -> Vec<String> {
    let mut inodes = BTreeSet::new();
    for pid in drill_processes(cluster, cell) {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let link = std::fs::read_link(entry.path()).unwrap_or_default().display().to_string();
            inodes.extend(
                link.strip_prefix("socket:[").and_then(|rest| Some(rest.strip_suffix(']')?.to_owned())),
            );
        }
    }
    assert!(!inodes.is_empty(), "it has at least the socket of its own directory");
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|file| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines
        })
        .filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // 0A is LISTEN.
            fields.get(3) == Some(&"0A") && fields.get(9).is_some_and(|inode| inodes.contains(*inode))
        })
        .collect()
}

fn newest(cluster: &Cluster) -> Value {
    let listed = cluster.json(&["backups", "list"]);
    listed["backups"].as_array().and_then(|backups| backups.last()).expect("a backup").clone()
}

fn check<'a>(job: &'a Value, name: &str) -> &'a Value {
    let checks = job["result"]["drill"]["checks"].as_array();
    checks
        .and_then(|checks| checks.iter().find(|check| check["name"] == name))
        .unwrap_or_else(|| panic!("no check {name}: {job:#}"))
}

#[test]
fn a_drill_proves_the_newest_backup_and_says_when() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone1", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    let _ = cluster.backup("zone2", "incr");
    cluster.sql("zone1", "INSERT INTO t VALUES (1001)");
    ledger::archives(&cluster);
    let before = untouched(&cluster);
    let backup = newest(&cluster);
    assert_eq!(backup["lastDrill"], Value::Null, "{backup:#}");

    let (rows, mode) = ("SELECT count(*) = 1001 FROM t", "SELECT current_setting('archive_mode') = 'off'");
    let job = cluster.json(&["drill", "--check", rows, "--check", mode, "--max-rate", "0"]);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    assert_eq!(job["cell"], "zone2", "a standby: {job:#}");
    let drill = &job["result"]["drill"];
    assert_eq!(drill["backup"], backup["label"]);
    for name in ["pg_amcheck", rows, mode, "page checksums"] {
        assert_eq!(check(&job, name)["passed"], true, "{job:#}");
    }
    assert_eq!(drill["checks"].as_array().unwrap().len(), 4, "{job:#}");
    let proven = newest(&cluster);
    assert_eq!(proven["lastDrill"]["passed"], true, "{proven:#}");
    assert_eq!(proven["lastDrill"]["job"], job["id"]);
    assert_eq!(proven["lastDrill"]["cell"], "zone2");
    assert_eq!(proven["lastDrill"]["readableMillis"], drill["readableMillis"]);
    assert_eq!(proven["lastDrill"]["time"], job["endTime"]);

    // A check that does not hold, one that holds and one that writes, one that is no SQL, and two that would run a program.
    let (wrong, bad) = ("SELECT count(*) = 5 FROM t", "SELECT nonsense");
    let writes = "INSERT INTO t VALUES (2000) RETURNING i = 2000";
    let trace = cluster.directory().join("zone2/tmp/trace");
    let ran = [
        format!("\\! touch {}", trace.display()),
        format!("COPY (SELECT 1) TO PROGRAM 'touch {}'", trace.display()),
    ];
    let cast = "SELECT ('hunt' || 'er2')::int = i FROM t";
    // What every aggregate gives for a table that is empty.
    let null = "SELECT sum(i) > 0 FROM t WHERE i > 5000";
    let checks = [
        "--check", wrong, "--check", rows, "--check", writes, "--check", bad, "--check", cast, "--check",
        null,
    ];
    let checks = [&checks[..], &["--check", &ran[0], "--check", &ran[1]]].concat();
    let failed =
        cluster.try_cellar(&[&["drill", "--skip-amcheck", "--output", "json"][..], &HASTE, &checks].concat());
    assert_eq!(failed.code, 1, "{failed:?}");
    let job = newest_job(&cluster);
    assert_eq!(job["state"], "JOB_STATE_FAILED", "{job:#}");
    assert_eq!(job["error"]["code"], "CHECK_FAILED", "{job:#}");
    assert!(!check(&job, wrong)["passed"].as_bool().unwrap_or_default(), "{job:#}");
    assert_eq!(check(&job, rows)["passed"], true, "{job:#}");
    assert!(!check(&job, bad)["passed"].as_bool().unwrap_or_default(), "{job:#}");
    assert!(!check(&job, null)["passed"].as_bool().unwrap_or_default(), "{job:#}");
    assert!(check(&job, bad)["detail"].as_str().unwrap().contains("nonsense"), "{job:#}");
    assert_eq!(check(&job, writes)["passed"], true, "{job:#}");
    // Everybody who may see jobs sees these details, so nothing of the data is in them.
    assert_eq!(check(&job, wrong)["detail"], "row 1 of 1 does not begin with true", "{job:#}");
    let leaked = check(&job, cast)["detail"].as_str().unwrap();
    assert!(leaked.contains("22P02") && !leaked.contains("hunter2"), "{job:#}");
    // Nor is it in the log, into which the copy's server writes.
    let log = cluster.cellar(&["jobs", "logs", job["id"].as_str().unwrap()]);
    assert!(log.contains("selected new timeline ID") && !log.contains("hunter2"), "{log}");
    for program in &ran {
        let name: String = program.chars().take(80).collect();
        assert!(!check(&job, &name)["passed"].as_bool().unwrap_or_default(), "{job:#}");
    }
    assert!(!trace.exists(), "a check ran a program");

    // A connection string in place of a database's name does not lead to the live instance.
    let live = format!("host={}", cluster.directory().join("zone2/pg_sockets").display());
    let elsewhere = ["--check", "SELECT pg_is_in_recovery()", "--check-database", &live];
    let failed = cluster.try_cellar(&[&["drill", "--skip-amcheck"][..], &HASTE, &elsewhere].concat());
    assert_eq!(failed.code, 1, "{failed:?}");
    let detail = check(&newest_job(&cluster), "SELECT pg_is_in_recovery()")["detail"].to_string();
    assert!(detail.contains("host=") && detail.contains("does not exist"), "{detail}");
    assert_eq!(check(&job, "page checksums")["passed"], true, "{job:#}");
    assert!(!newest(&cluster)["lastDrill"]["passed"].as_bool().unwrap_or_default());

    let unknown = cluster.try_cellar(&["drill", "--backup", "20200101-000000F"]);
    assert!(unknown.code != 0 && unknown.stderr.contains("UNKNOWN_BACKUP"), "{unknown:?}");
    assert_eq!(untouched(&cluster), before);
    no_trace(&cluster, "zone2");
}

fn newest_job(cluster: &Cluster) -> Value {
    let jobs = cluster.json(&["jobs", "list"]);
    let id = jobs["jobs"][0]["id"].as_str().expect("a job").to_owned();
    cluster.job(&id)
}

#[test]
fn a_drill_is_seen_by_nobody_and_leaves_no_trace() {
    let cluster = Cluster::up("zone1,zone2");
    let before = untouched(&cluster);

    let id = begin(&cluster, &["--skip-amcheck", "--check", LONG]);
    let postmaster = in_the_middle(&cluster, "zone2", &id);
    assert_eq!(listens(&cluster, "zone2"), Vec::<String>::new());
    let connections = "SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('client backend', 'walsender') \
        AND pid <> pg_backend_pid() AND application_name NOT IN ('cellar', 'zone2')";
    eventually("nobody but Cellar to be connected to the live instances", || {
        ["zone1", "zone2"].iter().all(|cell| cluster.sql(cell, connections) == "0")
    });
    assert_eq!(untouched(&cluster), before);
    // A backup of the very cell does not wait for it.
    let _ = cluster.backup("zone2", "incr");
    assert_eq!(cluster.job(&id)["state"], "JOB_STATE_RUNNING");

    // The pooler dies, and the copy's PostgreSQL would live on.
    kill_hard(cluster.pid("zone2/pid/multipooler.pid"));
    assert!(is_alive(postmaster));
    cluster.cellar(&["up"]);
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_FAILED", "{job:#}");
    assert_eq!(job["error"]["code"], "POOLER_RESTARTED", "{job:#}");
    no_trace(&cluster, "zone2");
    assert!(!is_alive(postmaster));
    assert_eq!(untouched(&cluster), before);

    // Canceled while a check runs: nobody wants to wait for its end.
    let id = begin(&cluster, &["--skip-amcheck", "--check", LONG]);
    let _ = in_the_middle(&cluster, "zone2", &id);
    cluster.cellar(&["jobs", "cancel", &id]);
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_CANCELED", "{job:#}");
    no_trace(&cluster, "zone2");
    assert_eq!(untouched(&cluster), before);

    // Nobody is forgotten when the cluster goes down in the middle of a check.
    let id = begin(&cluster, &["--skip-amcheck", "--check", LONG]);
    let postmaster = in_the_middle(&cluster, "zone2", &id);
    cluster.cellar(&["down"]);
    assert!(!is_alive(postmaster), "the copy's PostgreSQL goes down with its cluster");
    no_trace(&cluster, "zone2");

    // Nor when its pooler is gone, which would have ended it.
    cluster.cellar(&["up"]);
    let id = begin(&cluster, &["--skip-amcheck", "--check", LONG]);
    let postmaster = in_the_middle(&cluster, "zone2", &id);
    kill_hard(cluster.pid("zone2/pid/multipooler.pid"));
    assert!(is_alive(postmaster));
    cluster.cellar(&["down"]);
    assert!(!is_alive(postmaster), "it goes on after its cluster has gone down");
    let left = processes_with("postgres", &cluster.directory().join("zone2").display().to_string());
    assert_eq!(left, Vec::<i32>::new());
}

/// Canceled while pgBackRest copies, far below what it could: at 1 MiB/s it would take half a minute.
#[test]
fn a_drill_keeps_its_rate_and_ends_when_told() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.load(2);
    let _ = cluster.backup("zone2", "incr");
    let size = newest(&cluster)["sizeBytes"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(size > 45 << 20, "{size}");
    let drill = |rate: &str| {
        let job = cluster.json(&["drill", "--skip-amcheck", "--nice", "0", "--max-rate", rate]);
        assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
        job["result"]["drill"]["restoreMillis"].as_str().unwrap().parse::<u64>().unwrap()
    };
    let (slow, fast) = (drill("4MiB"), drill("0"));
    // At that rate it takes 11 s or more. On a busy machine pgBackRest may write for a moment before it is paused.
    assert!(slow >= 9000, "{size} bytes in {slow} ms is much more than 4 MiB/s");
    assert!(fast < slow / 2 || fast < 4000, "it has to be able to be faster: {fast} ms against {slow} ms");

    let job = cluster.json(&["drill", "--no-wait", "--max-rate", "1MiB"]);
    let id = job["id"].as_str().expect("a job").to_owned();
    wait_for("files to be copied", MOMENT, || {
        home(&cluster, "zone2", &id).join("data/base/1").exists().then_some(())
    });
    cluster.cellar(&["jobs", "cancel", &id]);
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_CANCELED", "{job:#}");
    no_trace(&cluster, "zone2");
}

/// PostgreSQL opens a standby only once it knows all transactions that run, and a checkpoint does not write down more than 64
/// subtransactions of one.
#[test]
fn a_copy_that_postgresql_never_opens_is_no_matter_of_missing_wal() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone1", "CREATE TABLE t (i int)");
    let many = "BEGIN; DO $$ BEGIN FOR i IN 1..100 LOOP BEGIN INSERT INTO t VALUES (i); EXCEPTION WHEN OTHERS THEN NULL; END; \
        END LOOP; END $$; SELECT pg_sleep(600)";
    let mut session = cluster.tool("psql", "zone1", &["-XAtqc", many]);
    let mut session = session.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("psql runs");
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    eventually("the transaction to be open", || cluster.sql("zone1", sleeps) == "1");
    let _ = cluster.backup("zone2", "full");
    let job = cluster.ended(&begin(&cluster, &[]));
    assert_eq!(job["error"]["code"], "UNSUPPORTED", "{job:#}");
    assert!(job["error"]["message"].as_str().is_some_and(|text| text.contains("subtransactions")), "{job:#}");
    cluster
        .sql("zone1", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    session.wait().expect("it is ours");
}

/// Somebody waits for the plan of a restore, and nobody for a drill.
#[test]
fn a_restore_is_planned_while_a_drill_goes_on() {
    let cluster = Cluster::up("zone1");
    let job = cluster.json(&["drill", "--no-wait", "--max-rate", "1MiB"]);
    let id = job["id"].as_str().expect("a job").to_owned();
    wait_for("files to be copied", MOMENT, || {
        home(&cluster, "zone1", &id).join("data/base/1").exists().then_some(())
    });
    let plan = cluster.json(&["restore", "--plan", "--latest"]);
    assert_eq!((&plan["state"], &plan["cell"]), (&"JOB_STATE_SUCCEEDED".into(), &"zone1".into()), "{plan:#}");
    assert_eq!(cluster.job(&id)["state"], "JOB_STATE_RUNNING", "the drill was to go on");
    cluster.cellar(&["jobs", "cancel", &id]);
}

/// The biggest file below a directory.
fn biggest(directory: &Path) -> PathBuf {
    let mut found: Option<(u64, PathBuf)> = None;
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
            let metadata = entry.metadata().expect("metadata");
            if metadata.is_dir() {
                left.push(entry.path());
            } else if found.as_ref().is_none_or(|(size, _)| *size < metadata.len()) {
                found = Some((metadata.len(), entry.path()));
            }
        }
    }
    found.expect("a file").1
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(file).expect("a file");
    file.write_all_at(bytes, at).expect("written");
}

#[test]
fn damage_is_found() {
    let cluster = Cluster::up("zone1,zone2");
    cluster
        .sql("zone1", "CREATE TABLE t AS SELECT i, repeat('x', 100) AS x FROM generate_series(1, 20000) i");

    // A page of the standby whose file the backup copies as it is.
    let path = cluster.sql("zone1", "SELECT pg_relation_filepath('t')");
    cluster.sql("zone1", "CHECKPOINT");
    eventually("zone2 to have the table", || {
        cluster.try_sql("zone2", "SELECT count(*) FROM t").stdout.trim() == "20000"
    });
    eventually("zone2 to have written the table", || {
        let _ = cluster.sql("zone2", "CHECKPOINT");
        let file = Path::new(&cluster.instance("zone2").data).join(&path);
        let written = std::fs::read(file).unwrap_or_default();
        written.len() > 20 * 8192 && written[10 * 8192..11 * 8192].contains(&b'x')
    });
    overwrite(&Path::new(&cluster.instance("zone2").data).join(&path), 10 * 8192 + 4000, b"damaged");
    // The backup itself says so, and a drill that may choose takes one without page errors.
    let finished = cluster.try_cellar(&["backup", "--from", "zone2", "--type", "full"]);
    assert_eq!(finished.code, 1, "{finished:?}");
    assert_eq!(newest_job(&cluster)["error"]["code"], "PAGE_ERRORS");
    let damaged = newest(&cluster);
    let sound = cluster.json(&[&["drill"][..], &HASTE].concat());
    assert_ne!(sound["result"]["drill"]["backup"], damaged["label"], "{sound:#}");
    let named = damaged["label"].as_str().expect("a label");
    let failed = cluster.try_cellar(&[&["drill", "--backup", named][..], &HASTE].concat());
    assert_eq!(failed.code, 1, "{failed:?}");
    let job = newest_job(&cluster);
    assert_eq!(job["error"]["code"], "CHECK_FAILED", "{job:#}");
    assert_eq!(job["result"]["drill"]["backup"], damaged["label"], "{job:#}");
    assert!(!check(&job, "page checksums")["passed"].as_bool().unwrap_or_default(), "{job:#}");
    assert!(!check(&job, "pg_amcheck")["passed"].as_bool().unwrap_or_default(), "{job:#}");
    assert!(!newest(&cluster)["lastDrill"]["passed"].as_bool().unwrap_or_default());

    // A file in the repo that is not what the manifest says.
    let label = damaged["label"].as_str().unwrap();
    let file = biggest(&cluster.directory().join("repo/backup/app").join(label).join("pg_data/base"));
    let middle = std::fs::metadata(&file).unwrap().len() / 2;
    overwrite(&file, middle, b"not what was written");
    let failed = cluster.try_cellar(&[&["drill", "--backup", label][..], &HASTE].concat());
    assert_eq!(failed.code, 1, "{failed:?}");
    let job = newest_job(&cluster);
    assert_eq!(job["error"]["code"], "REPO_DAMAGED", "{job:#}");
    let listed = newest(&cluster);
    assert_eq!(listed["lastDrill"]["job"], job["id"], "{listed:#}");
    assert!(!listed["lastDrill"]["passed"].as_bool().unwrap_or_default(), "{listed:#}");
    no_trace(&cluster, "zone2");
}

/// A copy grows beside the live instance, which must not run out of room for it. Mounting needs root.
#[test]
fn a_drill_ends_before_the_disk_is_full() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("NOT RUN: a small disk can only be mounted by root");
        return;
    }
    let cluster = Cluster::up("zone1,zone2");
    let drills = cluster.directory().join("zone2/drills");
    let disk = SmallDisk::mount(&drills, "700m");
    give_to_postgres(&drills);
    let id = begin(&cluster, &["--on", "zone2", "--skip-amcheck", "--check", LONG]);
    let postmaster = in_the_middle(&cluster, "zone2", &id);
    let filler = disk.leave(200 << 20);
    let job = cluster.ended(&id);
    assert_eq!(job["error"]["code"], "DISK_FULL", "{job:#}");
    assert!(!is_alive(postmaster), "the copy is stopped");
    std::fs::remove_file(filler).expect("ours");
    no_trace(&cluster, "zone2");

    let _filler = disk.leave(400 << 20);
    let failed = cluster.try_cellar(&["drill", "--on", "zone2", "--max-rate", "0"]);
    assert!(failed.code != 0 && failed.stderr.contains("are left to the database"), "{failed:?}");
}
