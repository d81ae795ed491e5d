//! Restores on bad days. Before the point of no return whatever fails leaves the database as it was; after it the
//! cells that were away come back as standbys, whatever they were before.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cellar_tests::{
    Cluster, as_user, eventually, kill_hard, postgres_user, processes_with, remove_directory, run, wait_for,
};
use serde_json::Value;

use crate::ledger::{
    self, archives, begin_restore, beside, check, hold_backup, hold_copying, id, plan, release, restore,
    result, rollback, step,
};

/// No restore is under way, and nothing of one is left.
#[track_caller]
fn no_trace(cluster: &Cluster, cells: &[&str]) {
    let incarnation = cluster.etcd_get("/cellar/demo/incarnations/app");
    assert!(!incarnation.contains("fence"), "{incarnation}");
    for cell in cells {
        assert_eq!(beside(cluster, cell), [""; 0], "in {cell}");
    }
    let copies = processes_with("postgres", "pg_data.restored-");
    let root = cluster.directory().display().to_string();
    let ours =
        copies.iter().filter(|pid| cellar_tests::command_line(**pid).iter().any(|word| word.contains(&root)));
    assert_eq!(ours.count(), 0, "an instance of a copy still runs");
}

/// A failed restore: rows, streaming and archiving are what they were, and the primary is the same.
#[track_caller]
fn as_before(cluster: &Cluster, cells: &[&str], primary: &str, rows: &[String]) {
    // Asked of PostgreSQL itself: the status in etcd may be a second old, from before the fence.
    eventually("the primary to answer again", || {
        let answer = cluster.try_sql(primary, "SELECT pg_is_in_recovery()");
        answer.code == 0 && answer.stdout.trim() == "f"
    });
    assert_eq!(cluster.primary(), primary);
    check(cluster, cells, rows);
    archives(cluster);
    no_trace(cluster, cells);
}

/// `cellar restore --output json` that fails; the ended job.
#[track_caller]
fn failed_restore(cluster: &Cluster, arguments: &[&str]) -> Value {
    let finished = cluster.try_cellar(&[&["restore", "--yes", "--output", "json"], arguments].concat());
    assert_eq!(finished.code, 1, "{finished:?}");
    let job: Value = serde_json::from_str(&finished.stdout).expect("one document of JSON");
    assert_eq!(job["state"], "JOB_STATE_FAILED", "{job:#}");
    job
}

/// The largest file below a directory.
fn largest(directory: &Path) -> (u64, PathBuf) {
    let entries = std::fs::read_dir(directory).expect("a directory").flatten();
    entries
        .map(|entry| match entry.metadata().expect("it is there") {
            meta if meta.is_dir() => largest(&entry.path()),
            meta => (meta.len(), entry.path()),
        })
        .max()
        .unwrap_or((0, directory.to_owned()))
}

#[test]
fn what_fails_before_the_point_of_no_return_changes_nothing() {
    let cells = ["zone1", "zone2"];
    let cluster = Cluster::up("zone1,zone2");
    cluster.load(5);
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "the first")];
    let backup = ledger::label(&cluster.backup("zone2", "full"));
    rows.push(ledger::insert(&cluster, "after the backup"));
    let primary = "zone1";

    // A file of the backup is damaged in the repo.
    let repo = cluster.directory().join("repo");
    let (size, damaged_file) = largest(&repo.join("backup/app").join(&backup).join("pg_data/base"));
    assert!(size > 100_000, "{} has {size} bytes", damaged_file.display());
    let file = File::options().read(true).write(true).open(&damaged_file).expect("the repo is ours");
    let mut good = [0; 512];
    file.read_exact_at(&mut good, size / 2).expect("a large file");
    file.write_all_at(&good.map(|byte| !byte), size / 2).expect("a large file");
    let job = failed_restore(&cluster, &["--latest"]);
    assert_eq!(job["error"]["code"], "REPO_DAMAGED", "{job:#}");
    assert_eq!(step(&job, "RECOVER")["state"], "JOB_STATE_FAILED", "{job:#}");
    as_before(&cluster, &cells, primary, &rows);
    file.write_all_at(&good, size / 2).expect("a large file");

    // While one is under way nothing else begins, and it can be canceled.
    let first = begin_restore(&cluster, &["--latest"]);
    let held = hold_copying(&first);
    for other in [&["restore", "--latest", "--yes"][..], &["restore", "--latest", "--onto", "zone2", "--yes"]]
    {
        let message = cluster.try_cellar(other).refused(3);
        assert!(message.contains(&first), "{other:?} does not name {first}: {message}");
    }
    let _ = cluster.try_cellar(&["backup", "--from", "zone2"]).refused(3);
    let _ = cluster.try_cellar(&["rebuild", "zone2"]).refused(3);
    // Reading goes on in the standby, and nobody takes writes.
    assert_eq!(ledger::rows(&cluster, "zone2"), rows);
    assert_ne!(cluster.try_sql("zone1", "INSERT INTO ledger (what) VALUES ('lost')").code, 0);
    cluster.cellar(&["jobs", "cancel", &first]);
    release(&held);
    let job = cluster.ended(&first);
    assert_eq!(job["state"], "JOB_STATE_CANCELED", "{job:#}");
    assert_eq!(step(&job, "RECOVER")["state"], "JOB_STATE_CANCELED", "{job:#}");
    // Whoever sees it end may go on at once, while the standby still looks for its primary.
    let _ = cluster.backup("zone2", "incr");
    as_before(&cluster, &cells, primary, &rows);
    rows.push(ledger::insert(&cluster, "after the cancel"));

    // The repo goes while it is copied from.
    let first = begin_restore(&cluster, &["--latest"]);
    let held = hold_copying(&first);
    let away = cluster.directory().join("repo.away");
    std::fs::rename(&repo, &away).expect("the repo is ours");
    release(&held);
    let job = cluster.ended(&first);
    std::fs::rename(&away, &repo).expect("the repo is ours");
    assert_eq!(job["state"], "JOB_STATE_FAILED", "{job:#}");
    assert_eq!(step(&job, "RECOVER")["state"], "JOB_STATE_FAILED", "{job:#}");
    assert_ne!(job["error"]["code"], "INTERNAL", "{job:#}");
    as_before(&cluster, &cells, primary, &rows);
    rows.push(ledger::insert(&cluster, "after the repo came back"));

    // A backup goes first: a restore is refused, or waits for it.
    let (backup, held) = hold_backup(&cluster, "zone2", "full");
    let message = cluster.try_cellar(&["restore", "--latest", "--yes"]).refused(3);
    assert!(message.contains(&backup), "{message}");
    let queued = begin_restore(&cluster, &["--latest", "--queue"]);
    let job = cluster.job(&queued);
    assert_eq!(job["state"], "JOB_STATE_PENDING", "{job:#}");
    assert_eq!(job["waitsFor"], serde_json::json!([backup]), "{job:#}");
    release(&held);
    let (backup, job) = (cluster.ended(&backup), cluster.ended(&queued));
    assert_eq!(backup["state"], "JOB_STATE_SUCCEEDED", "{backup:#}");
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    assert!(backup["endTime"].as_str() <= job["startTime"].as_str(), "{backup:#} {job:#}");
    check(&cluster, &cells, &rows);

    // Its confirmation deletes what was kept, once and for all.
    for cell in cells {
        assert_eq!(beside(&cluster, cell), [format!("pg_data.before-{queued}")], "in {cell}");
    }
    let confirmed = cluster.json(&["restore", "confirm", &queued, "--yes"]);
    assert_eq!(confirmed["kind"], "JOB_KIND_CONFIRM", "{confirmed:#}");
    assert_eq!(confirmed["state"], "JOB_STATE_SUCCEEDED", "{confirmed:#}");
    no_trace(&cluster, &cells);
    let message = cluster.try_cellar(&["restore", "confirm", &queued, "--yes"]).refused(3);
    assert!(message.contains(id(&confirmed)), "{message}");
    let message = cluster.try_cellar(&["restore", "rollback", &queued, "--yes"]).refused(3);
    assert!(message.contains("confirmed"), "{message}");
    // What never took effect has nothing to confirm either, and no other job is a restore.
    let _ = cluster.try_cellar(&["restore", "confirm", &first, "--yes"]).refused(3);
    let _ = cluster.try_cellar(&["restore", "rollback", &first, "--yes"]).refused(3);
    let _ = cluster.try_cellar(&["restore", "rollback", id(&backup), "--yes"]).refused(2);
    check(&cluster, &cells, &rows);
}

/// Asks an instance by itself, not through multiadmin, whether it recovers; nothing when it does not answer.
struct Watched {
    sockets: String,
    port: String,
}

impl Watched {
    fn new(cluster: &Cluster, cell: &str) -> Self {
        let instance = cluster.instance(cell);
        Self { sockets: instance.sockets, port: instance.port.to_string() }
    }

    fn ask(&self, sql: &str) -> Option<String> {
        let mut psql = as_user(&postgres_user(), "psql");
        psql.args(["-h", &self.sockets, "-p", &self.port, "-d", "postgres", "-XAtqc", sql]);
        let finished = run(&mut psql);
        (finished.code == 0).then(|| finished.stdout.trim().to_owned())
    }
}

/// `cellar up` in the background.
fn bring_up(cluster: &Cluster) -> Child {
    let mut command = cluster.command(&["up"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("cellar runs")
}

/// The file that makes a standby at the next start may lie beside a running primary, as after a demotion that was begun
/// by hand and given up.
#[test]
fn primary_beside_which_a_standbys_file_lies_is_fenced_all_the_same() {
    let cells = ["zone1", "zone2"];
    let cluster = Cluster::up("zone1,zone2");
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "the first")];
    let _ =
        run(as_user(&postgres_user(), "touch").arg(cluster.directory().join("zone1/pg_data/standby.signal")))
            .ok();
    rows.push(ledger::insert(&cluster, "it writes on"));
    cluster.cellar(&["restore", "--latest", "--onto", "zone2", "--yes"]);
    check(&cluster, &cells, &rows);
}

#[test]
fn cells_that_were_away_come_back_as_standbys_of_what_was_restored() {
    let cells = ["zone1", "zone2", "zone3"];
    let cluster = Cluster::up("zone1,zone2,zone3");
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "the first")];

    // The primary's pooler is dead and its PostgreSQL is not: nobody could fence it.
    kill_hard(cluster.pid("zone1/pid/multipooler.pid"));
    eventually("the pooler to be missed", || cluster.status("zone1").is_none());
    for onto in ["zone1", "zone2"] {
        let _ = cluster.try_cellar(&["restore", "--latest", "--onto", onto, "--yes"]).refused(3);
    }
    let message = cluster.try_cellar(&["restore", "--latest", "--yes"]).refused(3);
    assert!(message.contains("the primary in zone1") && message.contains("cannot be fenced"), "{message}");
    rows.push(ledger::insert(&cluster, "PostgreSQL does not care"));
    cluster.cellar(&["up"]);
    check(&cluster, &cells, &rows);
    no_trace(&cluster, &cells);

    // A standby is down: it is left out, and returns by itself.
    let mark = ledger::now(&cluster);
    let wanted = rows.clone();
    ledger::insert(&cluster, "after the time");
    cluster.kill_cell("zone3");
    eventually("zone3 to be missed", || cluster.status("zone3").is_none());
    let job = restore(&cluster, &["--to-time", &mark]);
    assert_eq!(result(&job)["leftOut"], serde_json::json!(["zone3"]), "{job:#}");
    check(&cluster, &["zone1", "zone2"], &wanted);
    rows = wanted;
    rows.push(ledger::insert(&cluster, "while zone3 is away"));
    cluster.cellar(&["up"]);
    check(&cluster, &cells, &rows);
    assert_eq!(beside(&cluster, "zone3"), [format!("pg_data.before-{}", id(&job))], "kept for a rollback");

    // The primary itself is down. The last row is not archived, but the chosen standby received it; a later one
    // nobody did.
    archives(&cluster);
    rows.push(ledger::insert(&cluster, "received and not archived"));
    check(&cluster, &cells, &rows);
    for cell in ["zone2", "zone3"] {
        // Nobody receives the next row.
        cluster.sql(cell, "ALTER SYSTEM SET primary_conninfo = ''");
        cluster.sql(cell, "SELECT pg_reload_conf()");
    }
    eventually("nobody to receive", || {
        cluster.sql("zone1", "SELECT count(*) FROM pg_stat_replication") == "0"
    });
    ledger::insert(&cluster, "only the old primary has it");
    let watched = Watched::new(&cluster, "zone1");
    cluster.kill_cell("zone1");
    eventually("zone1 to be missed", || cluster.status("zone1").is_none());
    let told = plan(&cluster, &["--latest", "--onto", "zone2"]);
    assert!(told["warnings"].to_string().contains("zone1"), "{told:#}");
    let latest = ["--latest", "--onto", "zone2"];
    let message = cluster.try_cellar(&[&["restore", "--yes"], &latest[..]].concat()).refused(3);
    assert!(message.contains("cannot be fenced") && message.contains("--primary-is-dead"), "{message}");
    let job = restore(&cluster, &[&latest[..], &["--primary-is-dead"]].concat());
    assert_eq!(result(&job)["leftOut"], serde_json::json!(["zone1"]), "{job:#}");
    assert_eq!(result(&job)["notFenced"], "zone1", "{job:#}");
    assert_eq!(cluster.primary(), "zone2");
    check(&cluster, &["zone2", "zone3"], &rows);
    rows.push(ledger::insert(&cluster, "while zone1 is away"));

    // It returns, and whenever it answers it is a standby.
    let mut up = bring_up(&cluster);
    let mut answers = 0;
    wait_for("zone1 to be rebuilt", Duration::from_secs(240), || {
        if let Some(recovers) = watched.ask("SELECT pg_is_in_recovery()") {
            assert_eq!(recovers, "t", "the old primary is one again");
            answers += 1;
            let written = watched.ask("INSERT INTO ledger (what) VALUES ('to the wrong one')");
            assert_eq!(written, None, "the old primary takes writes");
        }
        let ended = up.try_wait().expect("it is ours").is_some();
        (ended && answers > 0).then_some(())
    });
    check(&cluster, &cells, &rows);
    assert_eq!(beside(&cluster, "zone1").len(), 2, "its data before both restores is kept");
    archives(&cluster);
    let _ = cluster.backup("zone1", "incr");
}

/// A file system of its own in memory, mounted where a cluster is going to be.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) fn mount(path: &Path, size: &str) -> Self {
        std::fs::create_dir_all(path).expect("a directory");
        let options = format!("size={size},mode=755");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).status();
        assert!(status.expect("mount runs").success());
        Self(path.to_owned())
    }

    fn free(&self) -> u64 {
        nix::sys::statvfs::statvfs(&self.0)
            .map(|s| s.blocks_available() * s.fragment_size())
            .expect("mounted")
    }

    /// Leaves so many bytes.
    pub(crate) fn leave(&self, bytes: u64) -> PathBuf {
        let filler = self.0.join("filler");
        let count = (self.free() - bytes) >> 20;
        let status = Command::new("dd")
            .args(["if=/dev/zero", "bs=1M", "status=none", &format!("count={count}")])
            .arg(format!("of={}", filler.display()))
            .status();
        assert!(status.expect("dd runs").success());
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process of the cluster may still have a file open there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Without room for both the old and the new data only a restore in place is possible, which cannot be rolled back.
/// Mounting needs root.
#[test]
fn in_place_is_for_want_of_room_and_final() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("NOT RUN: a small disk can only be mounted by root");
        return;
    }
    let cluster = Cluster::new();
    let disk = SmallDisk::mount(cluster.directory(), "900m");
    let _ = cluster.try_up("zone1").ok();
    let cells = ["zone1"];
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "the first")];
    archives(&cluster);
    let mark = ledger::now(&cluster);
    let wanted = rows.clone();
    rows.push(ledger::insert(&cluster, "after the time"));

    let told = plan(&cluster, &["--to-time", &mark]);
    let needed: u64 = told["cells"][0]["neededBytes"].as_str().and_then(|n| n.parse().ok()).expect("bytes");
    let filler = disk.leave(needed - (20 << 20));
    for command in [["restore", "--plan"], ["restore", "--yes"]] {
        let message = cluster.try_cellar(&[&command[..], &["--to-time", &mark]].concat()).refused(3);
        assert!(message.contains(&needed.to_string()) && message.contains("--in-place"), "{message}");
    }
    check(&cluster, &cells, &rows);

    let told = plan(&cluster, &["--to-time", &mark, "--in-place"]);
    assert_eq!(
        told["cells"][0]["action"],
        "is stopped, restored over the old data, which is lost, and becomes the primary",
        "{told:#}"
    );
    assert!(told["warnings"].to_string().contains("the old data is lost"), "{told:#}");
    let job = restore(&cluster, &["--to-time", &mark, "--in-place"]);
    assert!(result(&job)["kept"].is_null() || result(&job)["kept"] == false, "{job:#}");
    check(&cluster, &cells, &wanted);
    no_trace(&cluster, &cells);
    for after in ["rollback", "confirm"] {
        let message = cluster.try_cellar(&["restore", after, id(&job), "--yes"]).refused(3);
        assert!(message.contains("in place"), "{message}");
    }
    archives(&cluster);

    // With room the old data is kept again.
    std::fs::remove_file(filler).expect("ours");
    let later = restore(&cluster, &["--latest"]);
    assert_eq!(result(&later)["kept"], true, "{later:#}");
    check(&cluster, &cells, &wanted);
    rollback(&cluster, &later);
    check(&cluster, &cells, &wanted);
    no_trace(&cluster, &cells);
}

/// Whether the archive has a file that pgBackRest does not compress.
fn is_archived(repo: &Path, name: &str) -> bool {
    let versions = std::fs::read_dir(repo.join("archive/app")).expect("the archive").flatten();
    versions.filter(|version| version.path().is_dir()).any(|version| version.path().join(name).exists())
}

/// A standby was promoted while nothing could be archived, and was lost with its disk: the archive does not know of its
/// timeline, and etcd does.
#[test]
fn a_restore_passes_over_a_timeline_that_only_etcd_knows_of() {
    let cluster = Cluster::up("zone1,zone2");
    ledger::create(&cluster);
    let rows = vec![ledger::insert(&cluster, "before the promotion")];
    archives(&cluster);
    cluster.kill_cell("zone1");
    let (repo, away) = (cluster.directory().join("repo"), cluster.directory().join("away"));
    std::fs::rename(&repo, &away).expect("moved away");
    cluster.sql("zone2", "SELECT pg_promote()");
    eventually("zone2 to be recorded", || cluster.primary() == "zone2");
    cluster.kill_cell("zone2");
    // A disk that is lost.
    remove_directory(cluster.instance("zone2").data);
    std::fs::rename(&away, &repo).expect("back");
    assert!(!is_archived(&repo, "00000002.history"));

    let _ = cluster.try_cellar(&["up", "--timeout", "15s"]);
    // zone2 is the recorded primary: its multipooler says that no data is there to be fenced.
    eventually("both to report", || ["zone1", "zone2"].iter().all(|cell| cluster.status(cell).is_some()));
    let job = restore(&cluster, &["--latest", "--timeline", "1", "--onto", "zone1"]);
    assert_eq!(result(&job)["recovery"]["timeline"], 3, "{job:#}");
    assert_eq!(cluster.primary(), "zone1");
    cluster.cellar(&["rebuild", "zone2"]);
    check(&cluster, &["zone1", "zone2"], &rows);
    archives(&cluster);
    // Standbys ask for the history of every timeline, so it is in the archive now.
    assert!(is_archived(&repo, "00000002.history"));
}
