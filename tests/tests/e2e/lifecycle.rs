//! Up, load, back up each standby with its proof, down, up again: the main road.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use cellar_tests::{Cluster, command_line, eventually, is_alive, kill_hard, run, signal};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::ledger;

/// Lines of pgBackRest's own log that name a copied file, split into those from `data` on this host
/// and the others.
fn copied(log: &str, data: &str) -> (u64, u64) {
    let mut counts = (0, 0);
    for line in log.lines().filter(|line| line.contains("DETAIL: backup file ")) {
        let file = line.split("backup file ").nth(1).unwrap_or_default();
        if file.starts_with(&format!("{data}/")) {
            counts.0 += 1;
        } else {
            counts.1 += 1;
        }
    }
    counts
}

fn check_proof(cluster: &Cluster, cell: &str, job: &Value) {
    let source = &job["result"]["backup"]["source"];
    let data = cluster.instance(cell).data;
    assert_eq!(source["cell"], cell);
    assert_eq!(source["dataDirectory"], data.as_str());
    assert_eq!(source["verified"], true);
    let log = cluster.log_of(cell, job["id"].as_str().unwrap());
    let (local, elsewhere) = copied(&log, &data);
    assert!(local > 0, "nothing was copied from {data}:\n{log}");
    assert_eq!(source["filesFromSource"], local.to_string());
    assert_eq!(source["filesFromPrimary"], elsewhere.to_string());
    assert!(elsewhere < 30, "{elsewhere} files from the primary");
    assert!(!log.contains("unable to check pg"));
}

#[test]
fn a_cluster_keeps_its_data_and_every_standby_can_be_backed_up() {
    let cluster = Cluster::bootstrapped("zone1,zone2,zone3");
    cluster.load(2);
    let rows = cluster.sql("zone1", "SELECT count(*) FROM pgbench_accounts");
    assert_eq!(rows, "200000");
    for cell in ["zone1", "zone2", "zone3"] {
        let watching = "SELECT string_agg(DISTINCT usename, ',') FROM pg_stat_activity WHERE application_name = 'cellar' AND query LIKE 'SELECT r.standby,%'";
        eventually("its pooler to watch as the role that may do nothing else", || {
            cluster.sql(cell, watching) == "cellar_monitor"
        });
    }
    for (cell, backup_type) in [("zone2", "full"), ("zone3", "incr"), ("zone2", "diff")] {
        // Something to copy, so that the proof has something to count.
        cluster.sql("zone1", "UPDATE pgbench_branches SET bbalance = bbalance + 1");
        let job = cluster.backup(cell, backup_type);
        check_proof(&cluster, cell, &job);
    }
    let listed = cluster.json(&["backups", "list"]);
    let backups = listed["backups"].as_array().unwrap();
    assert_eq!(backups.len(), 4, "the bootstrap's and three more: {listed:#}");
    assert!(backups.iter().any(|backup| backup["cell"] == "zone3" && backup["verified"] == true));

    let modes = std::process::Command::new("find")
        .arg(cluster.directory())
        .args([
            "(",
            "-name",
            "*.key",
            "-o",
            "-name",
            "pgbackrest.conf",
            "-o",
            "-name",
            "*.log",
            ")",
            "-perm",
            "/007",
        ])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&modes.stdout), "", "everybody may read these");

    let postmaster = cluster.postmaster("zone2");
    cluster.cellar(&["down"]);
    assert!(!is_alive(postmaster));
    cluster.cellar(&["up"]);
    assert_eq!(cluster.sql("zone1", "SELECT count(*) FROM pgbench_accounts"), rows);
    assert_eq!(cluster.sql("zone3", "SELECT pg_is_in_recovery()"), "t");
    // Nothing to do the second time, and nobody is restarted for it.
    let postmaster = cluster.postmaster("zone2");
    cluster.cellar(&["up"]);
    assert_eq!(cluster.postmaster("zone2"), postmaster);
    cluster.cellar(&["down", "--destroy"]);
    assert!(!cluster.directory().exists(), "destroyed means gone");
}

/// Paths are compared by what they lead to. Flags of etcd that the environment holds are not its own.
#[test]
fn cluster_is_the_same_through_a_symbolic_link() {
    let place = tempfile::tempdir().unwrap();
    // The OS user of PostgreSQL must be able to pass.
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let link = place.path().join("link");
    let cluster = Cluster::new();
    std::os::unix::fs::symlink(cluster.directory(), &link).unwrap();
    let mut up = cluster.command(&["up", "--cells", "zone1,zone2", "--port-offset", "auto", "--auto-renew"]);
    let _ = run(up.env("ETCD_NAME", "other")).ok();
    let through_link = |arguments: &[&str]| run(cluster.command(arguments).env("CELLAR_DIR", &link)).ok();
    let processes = || {
        let daemons =
            ["pid/etcd.pid", "pid/multiadmin.pid", "zone1/pid/multipooler.pid", "zone2/pid/multipooler.pid"];
        let mut all: Vec<i32> = daemons.into_iter().map(|file| cluster.pid(file)).collect();
        all.extend(["zone1", "zone2"].map(|cell| cluster.postmaster(cell)));
        all
    };
    let before = processes();
    through_link(&["up"]);
    assert_eq!(processes(), before, "nothing is started twice");
    through_link(&["down"]);
    assert!(!before.iter().any(|pid| is_alive(*pid)), "everything has ended");
    cluster.cellar(&["up"]);
    let before = processes();
    let _ = cluster.backup("zone2", "incr");
    through_link(&["down", "--destroy"]);
    assert!(!before.iter().any(|pid| is_alive(*pid)), "everything has ended");
    assert!(!cluster.directory().exists(), "nothing is left, the keys for renewal included");
}

#[test]
fn postgresql_outlives_its_pooler_and_is_adopted() {
    let cluster = Cluster::up("zone1,zone2");
    let (pooler, postmaster) = (cluster.pid("zone2/pid/multipooler.pid"), cluster.postmaster("zone2"));
    let server = cluster.pid("zone2/pid/pgbackrest-server.pid");
    kill_hard(pooler);
    eventually("the TLS server to die with its pooler", || !is_alive(server));
    assert!(is_alive(postmaster), "PostgreSQL must not notice");
    cluster.cellar(&["up"]);
    assert_eq!(cluster.postmaster("zone2"), postmaster, "adopted, not restarted");
    assert_ne!(cluster.pid("zone2/pid/multipooler.pid"), pooler);
    let _ = cluster.backup("zone2", "incr");
}

/// `kill` without an option asks a postmaster for a smart shutdown, which waits for all sessions to end.
#[test]
fn what_was_told_to_shut_down_is_not_kept_halfway() {
    let cluster = Cluster::up("zone1,zone2");
    let started = |cell: &str| cluster.try_sql(cell, "SELECT pg_postmaster_start_time()").stdout;
    let again = |cell: &str, before: &str| {
        let now = started(cell);
        !now.is_empty() && now != before
    };
    let before = started("zone2");
    signal(cluster.postmaster("zone2"), Signal::SIGTERM);
    eventually("the standby to be started again", || again("zone2", &before));
    cluster.wait_streaming("zone2");
    // A client may take its time, and the status says what is awaited.
    let mut client = cluster.tool("psql", "zone1", &["-XAtqc", "SELECT pg_sleep(600)"]);
    let mut client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("psql");
    eventually("the client to be connected", || {
        cluster.sql("zone1", "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'")
            == "1"
    });
    let (before, postmaster) = (started("zone1"), cluster.postmaster("zone1"));
    signal(postmaster, Signal::SIGTERM);
    eventually("the status to tell", || {
        cluster.status("zone1").is_some_and(|status| status.message.contains("waits for its clients"))
    });
    let refused = cluster.try_cellar(&["backup", "--from", "zone2"]).refused(3);
    assert!(refused.contains("NO_PRIMARY") || refused.contains("does not answer"), "{refused}");
    client.kill().expect("it runs");
    let _ = client.wait();
    signal(postmaster, Signal::SIGINT);
    eventually("the primary to be started again", || again("zone1", &before));
    cluster.wait_streaming("zone2");
    let _ = cluster.backup("zone2", "incr");
}

#[test]
fn what_died_is_started_again_by_up() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone1", "CREATE TABLE kept AS SELECT 42 AS answer");
    for file in
        ["pid/etcd.pid", "pid/multiadmin.pid", "zone1/pid/multipooler.pid", "zone2/pid/multipooler.pid"]
    {
        kill_hard(cluster.pid(file));
    }
    kill_hard(cluster.postmaster("zone1"));
    kill_hard(cluster.postmaster("zone2"));
    cluster.cellar(&["up"]);
    assert_eq!(cluster.sql("zone1", "SELECT answer FROM kept"), "42");
    cluster.wait_streaming("zone2");
}

#[test]
fn what_was_lost_is_written_again_or_named() {
    let cluster = Cluster::up("zone1,zone2");

    // Without its record a pooler leaves its instance alone, and takes no job.
    cluster.etcd_delete("/cellar/demo/poolers/app/zone2");
    cluster.cellar(&["up"]);
    let _ = cluster.backup("zone2", "incr");

    // Nor is there no cluster, because the command line's own files are gone.
    std::fs::remove_dir_all(cluster.directory().join("client")).expect("it is there");
    let message = cluster.try_cellar(&["backups", "list"]).refused(4);
    assert!(message.contains("client/endpoint is missing") && message.contains("`cellar up`"), "{message}");
    cluster.cellar(&["up"]);
    cluster.cellar(&["backups", "list"]);

    let state = cluster.directory().join("state/cluster.json");
    let aside = cluster.directory().join("state/aside");
    std::fs::rename(&state, &aside).expect("it is there");
    for command in [&["up"][..], &["down", "--destroy"], &["doctor"]] {
        let message = cluster.try_cellar(command).refused(1);
        assert!(message.contains("it is missing") && message.contains("cluster.json.copy"), "{message}");
    }
    std::fs::copy(cluster.directory().join("cluster.json.copy"), &state).expect("the copy");
    cluster.cellar(&["up"]);
    let read = |file| std::fs::read_to_string(file).expect("a state");
    assert_eq!(read(&state), read(&aside));
    std::fs::remove_file(&aside).expect("it is there");

    // A record that cannot be read is of a cell that is there, and the primary's cell is never removed.
    let (record, postmaster) = ("/cellar/demo/cells/zone1", cluster.postmaster("zone1"));
    let recorded = cluster.etcd_get(record);
    cluster.etcd_put(record, "{");
    let message = cluster.try_cellar(&["up"]).refused(1);
    assert!(message.contains(record), "{message}");
    cluster.etcd_delete(record);
    cluster.cellar(&["up"]);
    assert_eq!((cluster.etcd_get(record), cluster.postmaster("zone1")), (recorded, postmaster));
}

#[test]
fn no_command_works_on_another_cluster_than_the_one_that_is_named() {
    let cluster = Cluster::up("zone1");
    // Its directory is named by the environment, as after `eval "$(cellar env)"`.
    for command in [
        &["status"][..],
        &["restore", "--latest", "--yes"],
        &["expire", "--yes"],
        &["backup", "--from", "zone1", "--allow-primary"],
        &["jobs", "list"],
        &["certs", "list"],
        &["env"],
    ] {
        let message = cluster.try_cellar(&[command, &["--cluster", "other"]].concat()).refused(2);
        assert!(message.contains("is called demo, not other"), "{command:?}: {message}");
    }
    cluster.cellar(&["status", "--cluster", "demo"]);
}

#[test]
fn failure_of_a_job_is_told_also_when_nobody_reads_the_answer() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.load(5);
    let mut command = cluster.command(&["backup", "--from", "zone2", "--type", "full"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("cellar");
    drop(child.stdout.take());
    // Its pgBackRest, so that the job does not end before it is canceled.
    let directory = cluster.directory().display().to_string();
    let backs_up = |pid: i32| {
        let words = command_line(pid);
        words.iter().any(|word| word == "backup") && words.iter().any(|word| word.contains(&directory))
    };
    let held = ledger::hold("the backup to run", Duration::from_secs(60), backs_up, || true);
    let listed = cluster.json(&["jobs", "list"]);
    let mut jobs = listed["jobs"].as_array().expect("jobs").iter();
    let ended = ["JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELED"];
    let open = jobs.find(|job| !ended.iter().any(|state| job["state"] == *state)).expect("the backup's job");
    cluster.cellar(&["jobs", "cancel", ledger::id(open)]);
    ledger::release(&held);
    assert_eq!(child.wait().expect("a child").code(), Some(1));
}

#[test]
fn doctor_sees_that_a_cell_is_mounted_read_only() {
    let cluster = Cluster::up("zone1");
    let doctor = cluster.command(&["doctor"]);
    // A mount that only this process sees.
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    let namespace: &[&str] = if nix::unistd::Uid::effective().is_root() { &[] } else { &["--map-root-user"] };
    let mut command = std::process::Command::new("unshare");
    command.args(namespace).args(["--mount", "sh", "-c", script]);
    command.arg(cluster.directory().join("zone1")).arg(doctor.get_program()).args(doctor.get_args());
    command.envs(doctor.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let finished = run(&mut command);
    assert_eq!(finished.code, 1, "{finished:?}");
    let problem = format!(
        "{} is on a file system that is mounted read-only",
        cluster.directory().join("zone1").display()
    );
    assert!(finished.stdout.contains(&problem), "{finished:?}");
}

#[test]
fn ci_can_use_a_cluster_without_knowing_where_it_is() {
    let cluster = Cluster::bootstrapped("zone1");
    let exports = cluster.cellar(&["env"]);
    assert!(exports.contains("PGHOST=") && exports.contains("PGPORT="), "{exports}");
    let finished = cluster.try_cellar(&["exec", "--", "sh", "-c", "test -n \"$PGPORT\" && exit 7"]);
    assert_eq!(finished.code, 7, "{finished:?}");
    let status = cluster.cellar(&["status"]);
    assert!(status.contains("zone1") && status.contains("primary"), "{status}");
}
