//! Killed anywhere, a restore goes on when what died is back, or it ends FAILED with the database as it was:
//! never in between, and the job says which.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use cellar_tests::{
    Cluster, command_line, eventually, is_alive, kill_hard, main_process, processes_with, signal, wait_for,
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Longest wait for a moment of a restore.
const MOMENT: Duration = Duration::from_secs(60);

/// What the table holds: how many rows, and the sum of their numbers.
fn rows(cluster: &Cluster, cell: &str) -> String {
    cluster.sql(cell, "SELECT count(*) || ' ' || coalesce(sum(i), 0) FROM t")
}

fn cells(cluster: &Cluster) -> Vec<String> {
    cluster.poolers().into_iter().filter_map(|view| Some(view.pooler?.cell)).collect()
}

fn directory(cluster: &Cluster, cell: &str) -> PathBuf {
    cluster.directory().join(cell)
}

/// Directories of a cell whose names begin with `pg_data`.
fn data_directories(cluster: &Cluster, cell: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory(cluster, cell)).expect("a cell's directory");
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("pg_data")).collect();
    names.sort();
    names
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

fn incarnation(cluster: &Cluster) -> Value {
    serde_json::from_str(&cluster.etcd_get("/cellar/demo/incarnations/app")).unwrap_or(Value::Null)
}

fn number(cluster: &Cluster) -> u64 {
    incarnation(cluster)["number"].as_u64().unwrap_or(1)
}

/// A step of a driven job, once it is there.
fn step(cluster: &Cluster, id: &str, kind: &str, cell: &str) -> String {
    wait_for(&format!("{kind} of {cell} to be recorded"), MOMENT, || {
        let job = cluster.job(id);
        let state = job["state"].as_str().unwrap_or_default().to_owned();
        let found = job["steps"].as_array().and_then(|steps| {
            let mine = |step: &&Value| step["kind"] == format!("JOB_KIND_{kind}") && step["cell"] == cell;
            Some(steps.iter().find(mine)?["id"].as_str()?.to_owned())
        });
        assert!(found.is_some() || !is_terminal(&state), "{job:#}");
        found
    })
}

fn is_terminal(state: &str) -> bool {
    matches!(state, "JOB_STATE_SUCCEEDED" | "JOB_STATE_FAILED" | "JOB_STATE_CANCELED")
}

/// A restore under way, and what the table may hold when it has ended.
struct Restore {
    id: String,
    /// Rows at the target.
    at: String,
    /// Rows when it began.
    all: String,
    /// The incarnation when it began.
    number: u64,
    /// The cell that had the primary.
    cell: String,
}

/// Some rows, a moment, some more rows: a restore to the moment is begun.
fn begin(cluster: &Cluster) -> Restore {
    let cell = cluster.primary();
    cluster.sql(&cell, "INSERT INTO t SELECT generate_series(1, 100)");
    let at = rows(cluster, &cell);
    let time = cluster.sql(
        &cell,
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    );
    cluster.sql(&cell, "INSERT INTO t SELECT generate_series(1000, 1100)");
    begin_to(cluster, &["--to-time", &time], at)
}

fn begin_to(cluster: &Cluster, target: &[&str], at: String) -> Restore {
    let cell = cluster.primary();
    let (all, number) = (rows(cluster, &cell), number(cluster));
    let job = cluster.json(&[&["restore"], target, &["--yes", "--no-wait"]].concat());
    let id = job["id"].as_str().expect("a job").to_owned();
    Restore { id, at, all, number, cell }
}

fn begin_rollback(cluster: &Cluster, of: &Restore) -> Restore {
    let cell = cluster.primary();
    let (all, number) = (rows(cluster, &cell), number(cluster));
    let job = cluster.json(&["restore", "rollback", &of.id, "--yes", "--no-wait"]);
    let id = job["id"].as_str().expect("a job").to_owned();
    Restore { id, at: of.all.clone(), all, number, cell }
}

/// A cluster with an empty table.
fn cluster(names: &str) -> Cluster {
    let cluster = Cluster::up(names);
    cluster.sql("zone1", "CREATE TABLE t (i int)");
    cluster
}

/// Exactly one member is a primary, all others stream from it, and everybody has these rows.
fn check_members(cluster: &Cluster, expected: &str) {
    let primary = cluster.primary();
    let all = cells(cluster);
    for cell in all.iter().filter(|cell| **cell != primary) {
        cluster.wait_streaming(cell);
        eventually(&format!("{cell} to have the rows of {primary}"), || {
            cluster.try_sql(cell, "SELECT count(*) || ' ' || coalesce(sum(i), 0) FROM t").stdout.trim()
                == expected
        });
    }
    assert_eq!(rows(cluster, &primary), expected, "in the primary {primary}");
    for cell in &all {
        let recovers = cluster.sql(cell, "SELECT pg_is_in_recovery()");
        assert_eq!(recovers, if *cell == primary { "f" } else { "t" }, "{cell}, where {primary} is recorded");
    }
}

/// The directories of every cell become these, and nothing private is left.
fn check_files(cluster: &Cluster, id: &str, expected: &[String]) {
    for cell in cells(cluster) {
        let mut seen = Vec::new();
        let tidy = || {
            seen = data_directories(cluster, &cell);
            (seen == expected && is_empty(&directory(cluster, &cell).join("tmp"))).then_some(())
        };
        wait_for(
            &format!("{cell} to hold {expected:?} and no private directory"),
            Duration::from_secs(30),
            tidy,
        );
    }
    eventually("no process of the copy to be left", || {
        processes_with("postgres", &format!("restored-{id}")).is_empty()
            && processes_with("pgbackrest", &format!("restored-{id}")).is_empty()
    });
}

/// The job's end is checked against everything that can be seen. True when it took effect.
fn check_end(cluster: &Cluster, restore: &Restore) -> bool {
    let job = cluster.ended(&restore.id);
    let succeeded = job["state"] == "JOB_STATE_SUCCEEDED";
    let record = incarnation(cluster);
    assert_eq!(record["fence"], Value::Null, "{record}");
    if succeeded {
        assert_eq!(number(cluster), restore.number + 1, "{record}");
        assert_eq!(record["job"], restore.id.as_str(), "{record}");
        assert_eq!(job["result"]["restore"]["incarnation"], restore.number + 1, "{job:#}");
        assert_eq!(cluster.primary(), job["result"]["restore"]["cell"].as_str().unwrap(), "{job:#}");
        check_members(cluster, &restore.at);
        let mut expected = vec!["pg_data".to_owned()];
        if job["kind"] == "JOB_KIND_RESTORE" {
            expected.push(format!("pg_data.before-{}", restore.id));
        }
        check_files(cluster, &restore.id, &expected);
    } else {
        assert_eq!(job["state"], "JOB_STATE_FAILED", "{job:#}");
        let message = job["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("the database is as it was before"), "{job:#}");
        assert_ne!(job["error"]["code"], "INTERNAL", "{job:#}");
        assert_eq!(number(cluster), restore.number, "{record}");
        assert_eq!(cluster.primary(), restore.cell, "{job:#}");
        check_members(cluster, &restore.all);
        let kept = restore.kept_before(cluster);
        check_files(cluster, &restore.id, &kept);
    }
    succeeded
}

impl Restore {
    /// What a failed one must leave: the old copy of an earlier restore, if there is one.
    fn kept_before(&self, cluster: &Cluster) -> Vec<String> {
        let mut expected = vec!["pg_data".to_owned()];
        let record = incarnation(cluster);
        if record["keptIn"].is_string() {
            expected.push(format!("pg_data.before-{}", record["job"].as_str().expect("a job")));
        }
        expected
    }

    fn copy(&self, cluster: &Cluster) -> PathBuf {
        directory(cluster, &self.cell).join(format!("pg_data.restored-{}", self.id))
    }
}

fn succeeds(cluster: &Cluster, restore: &Restore) {
    assert!(check_end(cluster, restore), "it had to take effect: {:#}", cluster.job(&restore.id));
}

/// Ends FAILED with this code, and nothing has changed.
fn fails(cluster: &Cluster, restore: &Restore, code: &str) {
    assert!(!check_end(cluster, restore), "it had to fail: {:#}", cluster.job(&restore.id));
    let job = cluster.job(&restore.id);
    assert_eq!(job["error"]["code"], code, "{job:#}");
}

fn confirm(cluster: &Cluster, restore: &Restore) {
    cluster.cellar(&["restore", "confirm", &restore.id, "--yes"]);
    check_files(cluster, &restore.id, &["pg_data".to_owned()]);
}

/// pgBackRest's restore, stopped in the middle of copying into `data`: its processes.
fn held_copy(data: &Path) -> Vec<i32> {
    let cell = data.parent().expect("a cell's directory").display().to_string();
    let held = wait_for("pgBackRest to copy", MOMENT, || {
        let restores = |pid: &i32| command_line(*pid).iter().any(|word| word.starts_with("restore"));
        let running: Vec<i32> =
            processes_with("pgbackrest", &format!("{cell}/")).into_iter().filter(restores).collect();
        let copies = !is_empty(&data.join("base/1")) && !data.join("global/pg_control").exists();
        (copies && !running.is_empty()).then(|| {
            for pid in &running {
                signal(*pid, Signal::SIGSTOP);
            }
            running
        })
    });
    // It writes pg_control last.
    assert!(!data.join("global/pg_control").exists(), "held too late");
    let main = main_process(&held);
    assert!(is_alive(main));
    held
}

fn held_recovery(cluster: &Cluster, restore: &Restore) -> Vec<i32> {
    let copy = restore.copy(cluster);
    held_copy(&copy)
}

fn release(held: &[i32]) {
    for pid in held {
        signal(*pid, Signal::SIGCONT);
    }
}

/// The postmaster of a private instance, as soon as it is there.
fn private_postmaster(data: &Path) -> i32 {
    let pid = wait_for("a private PostgreSQL", MOMENT, || {
        let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        is_alive(pid).then_some(pid)
    });
    assert!(is_alive(pid));
    pid
}

/// `cellar up`, which ends when all is well again; the test goes on meanwhile.
fn raise(cluster: &Cluster) -> Child {
    let mut command = cluster.command(&["up"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("cellar runs")
}

/// Ends an `up` whose cluster was taken from under it, however it fares.
fn give_up(mut raised: Child) {
    let _ = raised.kill();
    raised.wait().expect("cellar is ours");
}

fn pooler(cluster: &Cluster, cell: &str) -> i32 {
    cluster.pid(&format!("{cell}/pid/multipooler.pid"))
}

/// Kills the pooler of the restored cell right after the next incarnation was recorded, before it has acted on it.
/// multiadmin, which records it, is stopped meanwhile, or dies.
fn kill_before_swap(cluster: &Cluster, restore: &Restore, data: &Path, dies: bool) {
    let _ = private_postmaster(data);
    let recover = step(cluster, &restore.id, "RECOVER", &restore.cell);
    let admin = cluster.pid("pid/multiadmin.pid");
    if dies {
        kill_hard(admin);
    } else {
        signal(admin, Signal::SIGSTOP);
    }
    let run = format!("/cellar/demo/runs/app/{}/{recover}", restore.cell);
    wait_for("the recovery to end", MOMENT, || {
        cluster.etcd_get(&run).contains(r#""state":"JOB_STATE_SUCCEEDED""#).then_some(())
    });
    let pid = pooler(cluster, &restore.cell);
    signal(pid, Signal::SIGSTOP);
    assert_eq!(number(cluster), restore.number, "not decided yet");
    let raised = dies.then(|| raise(cluster));
    if !dies {
        signal(admin, Signal::SIGCONT);
    }
    wait_for("the next incarnation", MOMENT, || (number(cluster) == restore.number + 1).then_some(()));
    kill_hard(pid);
    if let Some(raised) = raised {
        give_up(raised);
    }
}

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
    kill_hard(pooler(&cluster, "zone1"));
    assert!(is_alive(postmaster), "it was to be there still");
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
    eventually("status to say that etcd is away", || cluster.try_cellar(&["status"]).code == 4);
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
    kill_hard(pooler(cluster, "zone1"));
    assert!(is_alive(postmaster), "it was to be there still");
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
