//! Rebuilds: of what is healthy, lost, foreign or deposed, and what the others notice of it.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use cellar_tests::{Cluster, eventually, kill_hard, postgres_user, remove_directory, run, signal, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::ledger;

fn data(cluster: &Cluster, cell: &str) -> PathBuf {
    cluster.directory().join(cell).join("pg_data")
}

/// Something that goes on until it fails or is ended: pgbench with one statement.
struct Load {
    process: Child,
    what: &'static str,
}

impl Load {
    fn begin(cluster: &Cluster, cell: &str, what: &'static str) -> Self {
        let script = cluster.directory().join(format!("{cell}.sql"));
        std::fs::write(&script, format!("{what};\n")).expect("a script");
        let file = script.display().to_string();
        let mut command = cluster.tool("pgbench", cell, &["-n", "-c", "1", "-T", "600", "-f", &file]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("pgbench runs");
        Self { process, what }
    }

    fn end(mut self) {
        let ended = self.process.try_wait().expect("pgbench is ours");
        assert!(ended.is_none(), "{} failed: {ended:?}", self.what);
        self.process.kill().expect("pgbench is ours");
        self.process.wait().expect("pgbench is ours");
    }
}

/// A rebuild that must succeed; the ended job.
fn rebuild(cluster: &Cluster, cell: &str) -> Value {
    let job = cluster.json(&["rebuild", cell]);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    cluster.wait_streaming(cell);
    job
}

fn labels(cluster: &Cluster) -> Vec<String> {
    let listed = cluster.json(&["backups", "list"]);
    let backups = listed["backups"].as_array().expect("backups").iter();
    backups.map(|backup| backup["label"].as_str().expect("a label").to_owned()).collect()
}

fn message(cluster: &Cluster, cell: &str) -> String {
    cluster.status(cell).map(|status| status.message).unwrap_or_default()
}

fn is_broken(cluster: &Cluster, cell: &str) -> bool {
    cluster.status(cell).is_some_and(|status| status.state() == cellar_api::v1::InstanceState::Broken)
}

/// Takes PostgreSQL's data away while its pooler looks elsewhere; the pooler goes on afterwards.
pub(crate) fn lose_disk(cluster: &Cluster, cell: &str, then: impl FnOnce(&Path)) {
    let pooler = cluster.pid(&format!("{cell}/pid/multipooler.pid"));
    signal(pooler, Signal::SIGSTOP);
    kill_hard(cluster.postmaster(cell));
    let data = data(cluster, cell);
    remove_directory(&data);
    then(&data);
    signal(pooler, Signal::SIGCONT);
}

#[test]
fn a_rebuild_is_noticed_by_nobody_else() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    cluster.sql("zone1", "CREATE TABLE t (i serial PRIMARY KEY)");
    cluster.sql("zone1", "CREATE TABLE settled AS SELECT generate_series(1, 1000) AS i");
    for cell in ["zone2", "zone3"] {
        eventually("the table to be replicated", || cluster.try_sql(cell, "TABLE settled LIMIT 1").code == 0);
    }
    let refused = cluster.try_cellar(&["rebuild", "zone1"]).refused(3);
    assert!(refused.contains("primary"), "{refused}");

    let (zone1, zone2) = (cluster.postmaster("zone1"), cluster.postmaster("zone2"));
    let inserts = Load::begin(&cluster, "zone1", "INSERT INTO t DEFAULT VALUES");
    let selects = Load::begin(&cluster, "zone2", "SELECT 1 / (count(*) - 999) FROM settled");

    // A healthy one: what is the same already is kept.
    let job = rebuild(&cluster, "zone3");
    let result = &job["result"]["rebuild"];
    assert_eq!(result["delta"], true, "{job:#}");
    assert_eq!(result["backup"].as_str(), labels(&cluster).last().map(String::as_str), "{job:#}");

    // One whose disk was lost.
    lose_disk(&cluster, "zone3", |_| {});
    eventually("zone3 to say what to do", || {
        is_broken(&cluster, "zone3") && message(&cluster, "zone3").contains("cellar rebuild zone3")
    });
    assert!(!data(&cluster, "zone3").exists(), "nothing is rebuilt before somebody says so");
    let job = rebuild(&cluster, "zone3");
    assert!(!job["result"]["rebuild"]["delta"].as_bool().unwrap_or_default(), "{job:#}");

    // One with somebody else's files in its place: they are kept.
    lose_disk(&cluster, "zone3", |data| {
        std::fs::create_dir(data).unwrap();
        std::fs::write(data.join("thesis.txt"), "the only copy").unwrap();
        assert_eq!(
            run(std::process::Command::new("chown").arg("-R").arg(postgres_user().name).arg(data)).code,
            0
        );
    });
    eventually("zone3 to say that it touches nothing", || {
        is_broken(&cluster, "zone3") && message(&cluster, "zone3").contains("nothing in it was touched")
    });
    let _ = rebuild(&cluster, "zone3");
    let aside = std::fs::read_dir(cluster.directory().join("zone3")).unwrap().flatten();
    let aside: Vec<PathBuf> = aside
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pg_data.aside-"))
        })
        .collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(std::fs::read_to_string(aside[0].join("thesis.txt")).unwrap(), "the only copy");

    inserts.end();
    selects.end();
    eventually("the statements of the killed load to be over", || {
        let others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'";
        cluster.sql("zone1", others) == "0"
    });
    assert_eq!((cluster.postmaster("zone1"), cluster.postmaster("zone2")), (zone1, zone2));
    let rows = cluster.sql("zone1", "SELECT count(*) FROM t");
    assert_ne!(rows, "0", "the load did something");
    eventually("zone3 to have every row", || {
        cluster.try_sql("zone3", "SELECT count(*) FROM t").stdout.trim() == rows
    });
    // The aside directory belongs to no member: a backup of the cell is as good as ever.
    let _ = cluster.backup("zone3", "incr");
}

#[test]
fn a_rebuild_that_failed_says_why_and_can_be_repeated() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone1", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");

    // Without the repo nothing can be restored, and nothing of a healthy standby is touched.
    let repo = cluster.directory().join("repo");
    let away = cluster.directory().join("repo.away");
    std::fs::rename(&repo, &away).unwrap();
    // Before it knows what to restore it touches nothing: the standby goes on.
    let failed = cluster.try_cellar(&["rebuild", "zone2"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.stderr.contains("repo"), "{failed:?}");
    eventually("zone2 to serve again", || {
        cluster.try_sql("zone2", "SELECT count(*) FROM t").stdout.trim() == "1000"
    });

    // Without its data it has nothing to go on with, and says why.
    lose_disk(&cluster, "zone2", |_| {});
    let failed = cluster.try_cellar(&["rebuild", "zone2"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    let broken = wait_for("zone2 to be broken", Duration::from_secs(60), || {
        is_broken(&cluster, "zone2").then(|| message(&cluster, "zone2")).filter(|message| !message.is_empty())
    });
    let status = cluster.cellar(&["status"]);
    assert!(status.contains("broken") && status.contains(&broken), "{broken}\n{status}");
    assert_eq!(cluster.sql("zone1", "SELECT count(*) FROM t"), "1000", "the primary goes on");

    assert!(!repo.exists(), "nobody makes a new repo");
    std::fs::rename(&away, &repo).unwrap();
    let _ = rebuild(&cluster, "zone2");

    // A disk was lost, and the backup's list of files is damaged.
    let backup = repo.join("backup/app").join(&labels(&cluster)[0]);
    let manifests = ["backup.manifest", "backup.manifest.copy"].map(|name| backup.join(name));
    let whole = manifests.each_ref().map(|path| std::fs::read(path).unwrap());
    for (path, text) in manifests.iter().zip(&whole) {
        std::fs::write(path, &text[..text.len() / 2]).unwrap();
    }
    lose_disk(&cluster, "zone2", |_| {});
    eventually("zone2 to say what to do", || message(&cluster, "zone2").contains("cellar rebuild zone2"));
    let failed = cluster.try_cellar(&["rebuild", "zone2"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.stderr.contains("manifest"), "it says what is damaged: {failed:?}");
    let broken = wait_for("zone2 to be broken, and to say why", Duration::from_secs(60), || {
        let message = message(&cluster, "zone2");
        (is_broken(&cluster, "zone2") && message.contains("manifest")).then_some(message)
    });
    let status = cluster.cellar(&["status"]);
    assert!(status.contains("broken") && status.contains("manifest"), "{broken}\n{status}");
    assert_eq!(cluster.sql("zone1", "SELECT count(*) FROM t"), "1000", "the primary goes on");

    for (path, text) in manifests.iter().zip(&whole) {
        std::fs::write(path, text).unwrap();
    }
    let _ = rebuild(&cluster, "zone2");
    assert_eq!(cluster.sql("zone2", "SELECT count(*) FROM t"), "1000");
    let _ = cluster.backup("zone2", "incr");
}

/// The newest backup was taken from the old primary past the point where the new timeline began: it leads nowhere.
#[test]
fn after_a_failover_a_backup_is_chosen_that_leads_to_the_new_timeline() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone1", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    eventually("zone2 to have the table", || cluster.try_sql("zone2", "TABLE t LIMIT 1").code == 0);
    // zone2 is promoted behind everybody's back.
    let pooler = cluster.pid("zone2/pid/multipooler.pid");
    kill_hard(pooler);
    cluster.sql("zone2", "SELECT pg_promote()");
    cluster.sql("zone2", "INSERT INTO t VALUES (2000)");
    cluster.sql("zone1", "CREATE TABLE lost AS SELECT generate_series(1, 10000) AS i");
    eventually("zone2 to be seen down", || cluster.status("zone2").is_none());
    let before = labels(&cluster);
    let job = cluster.json(&["backup", "--from", "zone1", "--allow-primary", "--type", "incr"]);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    let newest = labels(&cluster).last().cloned().unwrap();
    assert!(!before.contains(&newest));

    // Its pooler comes back and tells.
    let _ = cluster.try_cellar(&["up", "--timeout", "10s"]);
    eventually("zone2 to be recorded as primary", || cluster.primary() == "zone2");
    let job = cluster.json(&["rebuild", "zone1", "--no-wait"]);
    // The new timeline's first segment would be archived within a minute.
    cluster.sql("zone2", "SELECT pg_switch_wal()");
    let job = cluster.ended(job["id"].as_str().expect("a job"));
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    cluster.wait_streaming("zone1");
    assert_eq!(job["result"]["rebuild"]["backup"].as_str(), before.last().map(String::as_str), "{job:#}");
    assert_eq!(cluster.sql("zone1", "SELECT count(*) FROM t"), "1001");
    assert_ne!(cluster.try_sql("zone1", "TABLE lost").code, 0, "it has what the new timeline never had");
    // A new one from there, and the next rebuild takes that.
    let _ = cluster.backup("zone1", "incr");
    let job = rebuild(&cluster, "zone1");
    assert_eq!(job["result"]["rebuild"]["backup"].as_str(), labels(&cluster).last().map(String::as_str));
}

#[test]
fn a_standby_that_is_promoted_before_its_rebuild_has_begun_is_left_alone() {
    let cluster = Cluster::up("zone1,zone2");
    ledger::create(&cluster);
    ledger::insert(&cluster, "before");
    cluster.wait_streaming("zone2");
    // The job is given to a standby, which is promoted before its pooler has begun with it.
    let (pooler, postmaster) = (cluster.pid("zone2/pid/multipooler.pid"), cluster.postmaster("zone2"));
    signal(pooler, Signal::SIGSTOP);
    let job = cluster.json(&["rebuild", "zone2", "--no-wait"]);
    let job = ledger::id(&job).to_owned();
    cluster.kill_cell("zone1");
    cluster.sql("zone2", "SELECT pg_promote()");
    signal(pooler, Signal::SIGCONT);
    eventually("zone2 to be recorded", || cluster.primary() == "zone2");
    cluster.sql("zone2", "INSERT INTO ledger (what) VALUES ('acknowledged by the new primary')");
    let ended = cluster.ended(&job);
    assert_eq!(ended["error"]["code"], "IS_PRIMARY", "{ended:#}");
    assert_eq!(cluster.postmaster("zone2"), postmaster);
    let found = cluster.sql("zone2", "SELECT count(*) FROM ledger WHERE what LIKE 'acknowledged%'");
    assert_eq!(found, "1");
}
