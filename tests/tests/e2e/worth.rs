//! What a backup is worth, and that whatever chooses among backups goes by it.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_tests::{
    Cluster, Finished, as_user, eventually, kill_hard, postgres_user, processes_with, run, signal, wait_for,
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::ledger::{self, id, label};

/// The backups of the repo, oldest first.
fn backups(cluster: &Cluster) -> Vec<Value> {
    let mut listed = cluster.json(&["backups", "list"])["backups"].as_array().cloned().unwrap_or_default();
    listed.sort_by_key(|backup| backup["label"].to_string());
    listed
}

fn labels(cluster: &Cluster) -> Vec<String> {
    let of = |backup: &Value| backup["label"].as_str().expect("a label").to_owned();
    backups(cluster).iter().map(of).collect()
}

fn proof_mark(cluster: &Cluster, label: &str) -> String {
    let backup = cluster.json(&["backups", "show", label]);
    backup["annotations"]["cellar-proof"].as_str().unwrap_or_default().to_owned()
}

/// pgBackRest by hand, with a cell's config.
pub(crate) fn pgbackrest(cluster: &Cluster, cell: &str, arguments: &[&str]) -> Finished {
    let config = cluster.directory().join(cell).join("pgbackrest.conf");
    let mut command = as_user(&postgres_user(), "pgbackrest");
    command
        .current_dir("/")
        .arg(format!("--config={}", config.display()))
        .arg("--stanza=app")
        .args(arguments);
    run(&mut command)
}

/// A full backup by hand, which no proof has checked; its label.
fn by_hand(cluster: &Cluster, annotations: &[&str]) -> String {
    let before = labels(cluster);
    let annotations: Vec<String> = annotations.iter().map(|note| format!("--annotation={note}")).collect();
    let mut arguments = vec!["--type=full", "--log-level-console=warn"];
    arguments.extend(annotations.iter().map(String::as_str));
    arguments.push("backup");
    let _ = pgbackrest(cluster, "zone2", &arguments).ok();
    labels(cluster).into_iter().find(|label| !before.contains(label)).expect("a new backup")
}

fn texts(value: &Value) -> String {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
}

fn kept(job: &Value) -> String {
    texts(&job["result"]["expire"]["kept"])
}

/// The ended job of a command that fails after it has run.
#[track_caller]
fn failed_job(finished: &Finished) -> Value {
    assert_eq!(finished.code, 1, "{finished:?}");
    serde_json::from_str(&finished.stdout).expect("a job")
}

/// A cluster's default retention keeps two full backups.
#[test]
fn two_unproven_full_backups_do_not_push_out_the_proven_chain() {
    let cluster = Cluster::up("zone1,zone2");
    ledger::create(&cluster);
    let proven = labels(&cluster).pop().expect("the first backup");
    assert_ne!(proof_mark(&cluster, &proven), "");
    let rows = vec![ledger::insert(&cluster, "a row")];
    let (canceled, held) = ledger::hold_backup(&cluster, "zone2", "full");
    cluster.cellar(&["jobs", "cancel", &canceled]);
    ledger::release(&held);
    let _ = cluster.ended(&canceled);
    let unproven = [
        by_hand(&cluster, &[]),
        by_hand(&cluster, &["cellar-cell=zone2", &format!("cellar-job={canceled}")]),
    ];

    // Retention counts proven ones only.
    let job = cluster.json(&["expire", "--yes"]);
    assert!(kept(&job).contains(&proven), "{job:#}");
    let warnings = texts(&job["result"]["expire"]["warnings"]);
    assert!(unproven.iter().all(|label| warnings.contains(label)), "{job:#}");
    // By name it is refused, too: what would stay is not proven.
    let refused = cluster.try_cellar(&["expire", "--backup", &proven, "--yes", "--output", "json"]);
    let error = failed_job(&refused)["error"].clone();
    assert_eq!(error["code"], "LAST_BACKUP", "{error:#}");
    assert!(labels(&cluster).contains(&proven));

    // A plan, a drill and a rebuild take the proven one, though it is older.
    let plan = ledger::plan(&cluster, &["--latest"]);
    assert_eq!(plan["backup"], proven.as_str(), "{plan:#}");
    assert!(plan["why"].to_string().contains(&unproven[1]), "{plan:#}");
    let drill = cluster.json(&["drill", "--on", "zone2", "--skip-amcheck"]);
    assert_eq!(drill["result"]["drill"]["backup"], proven.as_str(), "{drill:#}");
    let rebuilt = cluster.json(&["rebuild", "zone2"]);
    assert_eq!(rebuilt["result"]["rebuild"]["backup"], proven.as_str(), "{rebuilt:#}");
    cluster.wait_streaming("zone2");

    // An incremental one would build on the newest, and so becomes a full one; the repo is told of the canceled job's.
    let taken = cluster.backup("zone2", "incr");
    let result = &taken["result"]["backup"];
    assert_eq!(result["type"], "BACKUP_TYPE_FULL", "{taken:#}");
    assert!(texts(&result["warnings"]).contains(&unproven[1]), "{taken:#}");
    assert_eq!(proof_mark(&cluster, &label(&taken)), id(&taken));
    assert_eq!(proof_mark(&cluster, &unproven[1]), "unproven");
    assert_eq!(proof_mark(&cluster, &unproven[0]), "", "no job is known to have made it");

    // With two proven ones behind them the unproven ones go.
    let newest = label(&cluster.backup("zone2", "full"));
    let job = cluster.json(&["expire", "--yes"]);
    assert_eq!(kept(&job), format!("{}; {newest}", label(&taken)), "{job:#}");
    ledger::check(&cluster, &["zone1", "zone2"], &rows);
}

#[test]
fn proof_outlives_the_record_of_its_job_and_is_written_on_backups_that_are_older_than_the_mark() {
    let cluster = Cluster::up("zone1,zone2");
    let job = cluster.backup("zone2", "full");
    let made = label(&job);
    let cluster_name = cluster.etcd_keys()[0].split('/').nth(2).expect("a cluster").to_owned();
    // As it was before there was a mark.
    let _ =
        pgbackrest(&cluster, "zone2", &["--annotation=cellar-proof=", &format!("--set={made}"), "annotate"])
            .ok();
    assert_eq!(proof_mark(&cluster, &made), "");
    assert_eq!(cluster.json(&["backups", "show", &made])["verified"], true, "by its job's record");
    let next = cluster.backup("zone2", "incr");
    assert_eq!(next["result"]["backup"]["prior"], made.as_str(), "{next:#}");
    assert_eq!(proof_mark(&cluster, &made), id(&job));
    for record in [
        format!("/cellar/{cluster_name}/jobs/app/{}", id(&job)),
        format!("/cellar/{cluster_name}/runs/app/zone2/{}", id(&job)),
    ] {
        cluster.etcd_delete(&record);
    }
    eventually("the job to be forgotten", || cluster.try_cellar(&["jobs", "show", id(&job)]).code != 0);
    let shown = cluster.json(&["backups", "show", &made]);
    assert_eq!(
        (&shown["verified"], &shown["cell"]),
        (&Value::Bool(true), &Value::from("zone2")),
        "{shown:#}"
    );
    let incremental = cluster.backup("zone2", "incr");
    assert_eq!(incremental["result"]["backup"]["type"], "BACKUP_TYPE_INCR", "{incremental:#}");
}

/// As when the first backup's job fails once pgBackRest has done its part.
#[test]
fn up_takes_a_backup_when_the_only_full_one_is_not_proven() {
    let cluster = Cluster::up("zone1,zone2");
    let first = labels(&cluster).pop().expect("the first backup");
    cluster.cellar(&["up"]);
    assert_eq!(labels(&cluster), [first.as_str()], "one that is proven is enough");
    let unproven = ["--annotation=cellar-proof=unproven", &format!("--set={first}"), "annotate"];
    let _ = pgbackrest(&cluster, "zone2", &unproven).ok();
    assert_ne!(cluster.json(&["backups", "show", &first])["verified"], true);
    for _ in 0..2 {
        cluster.cellar(&["up"]);
        let after = labels(&cluster);
        assert_eq!(after.len(), 2, "{after:?}");
        assert_eq!(cluster.json(&["backups", "show", &after[1]])["verified"], true);
    }
}

/// Overwrites two pages of a table's file in one cell; the table has rows in them.
fn damage(cluster: &Cluster, cell: &str) -> PathBuf {
    cluster.sql(
        &cluster.primary(),
        "CREATE TABLE big AS SELECT g, repeat('x', 500) f FROM generate_series(1, 20000) g",
    );
    cluster.sql(&cluster.primary(), "CHECKPOINT");
    let path = cluster.sql(&cluster.primary(), "SELECT pg_relation_filepath('big')");
    eventually("the standby to have it", || {
        cluster.try_sql(cell, "SELECT count(*) FROM big").stdout.trim() == "20000"
    });
    let file = cluster.directory().join(cell).join("pg_data").join(path);
    // A standby's checkpoint does nothing before it has replayed one of the primary's.
    eventually("the standby to have written it", || {
        cluster.sql(cell, "CHECKPOINT");
        let written = std::fs::read(&file).unwrap_or_default();
        written.len() > 52 * 8192
            && [50, 51].iter().all(|page| written[page * 8192..][..8192].contains(&b'x'))
    });
    let mut bytes = std::fs::read(&file).expect("the cell is ours");
    bytes[50 * 8192 + 100..52 * 8192].fill(0x5a);
    // In place: the server has the file open.
    use std::os::unix::fs::FileExt;
    let open = std::fs::OpenOptions::new().write(true).open(&file).expect("the cell is ours");
    open.write_all_at(&bytes[50 * 8192..52 * 8192], 50 * 8192).expect("the cell is ours");
    file
}

#[test]
fn backup_with_page_errors_fails_its_job_and_nothing_begins_from_it() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    let sound = label(&cluster.backup("zone3", "full"));
    let file = damage(&cluster, "zone2");
    let job =
        failed_job(&cluster.try_cellar(&["backup", "--from", "zone2", "--type", "full", "--output", "json"]));
    assert_eq!(job["error"]["code"], "PAGE_ERRORS", "{job:#}");
    let result = &job["result"]["backup"];
    assert_eq!(
        (&result["pageErrors"], &result["source"]["verified"]),
        (&true.into(), &true.into()),
        "{job:#}"
    );
    let damaged = label(&job);
    let shown = cluster.try_cellar(&["backup", "--from", "zone2", "--type", "full"]);
    assert!(shown.stdout.contains("FOUND") && shown.stderr.contains("wrong checksums"), "{shown:?}");
    let second = labels(&cluster).pop().expect("backups");
    assert!(cluster.cellar(&["backups", "list"]).contains("page errors"));
    assert_eq!(proof_mark(&cluster, &damaged), id(&job), "it is proven");

    // The two do not push out the sound ones.
    let expired = cluster.json(&["expire", "--yes"]);
    assert!(kept(&expired).contains(&sound), "{expired:#}");
    assert_eq!(ledger::plan(&cluster, &["--latest"])["backup"], sound.as_str());
    let named = ledger::plan(&cluster, &["--to-backup", &damaged]);
    assert!(texts(&named["warnings"]).contains("wrong checksums"), "{named:#}");
    // A drill of one finds it whatever else it passes.
    let drill = failed_job(&cluster.try_cellar(&[
        "drill",
        "--on",
        "zone3",
        "--backup",
        &second,
        "--skip-amcheck",
        "--output",
        "json",
    ]));
    assert_eq!(drill["error"]["code"], "CHECK_FAILED", "{drill:#}");
    assert!(drill["error"]["message"].to_string().contains("page checksums"), "{drill:#}");

    // The cell is rebuilt from the sound one, which repairs it, and an incremental one does not build on damage.
    let rebuilt = cluster.json(&["rebuild", "zone2"]);
    assert_eq!(rebuilt["result"]["rebuild"]["backup"], sound.as_str(), "{rebuilt:#}");
    cluster.wait_streaming("zone2");
    eventually("zone2 to have the table", || {
        cluster.try_sql("zone2", "SELECT count(*) FROM big").stdout.trim() == "20000"
    });
    cluster.sql("zone2", "CHECKPOINT");
    let pages = std::fs::read(&file).expect("the cell is ours");
    assert!(
        !pages[50 * 8192 + 100..52 * 8192].iter().all(|byte| *byte == 0x5a),
        "the damaged pages are still there"
    );
    let next = cluster.backup("zone2", "incr");
    assert_eq!(next["result"]["backup"]["type"], "BACKUP_TYPE_FULL", "{next:#}");
    assert!(texts(&next["result"]["backup"]["warnings"]).contains(&second), "{next:#}");
    // A new member begins from a sound one.
    cluster.cellar(&["cells", "add", "zone4"]);
    cluster.wait_streaming("zone4");
    assert_eq!(cluster.sql("zone4", "SELECT count(f) FROM big"), "20000");
}

/// A pooler sees the drills of its own cell only; multiadmin says what the others found.
#[test]
fn drill_that_failed_in_another_cell_counts_wherever_a_backup_is_chosen() {
    let cluster = Cluster::up("zone1,zone2");
    let older = label(&cluster.backup("zone2", "full"));
    let newer = label(&cluster.backup("zone2", "full"));
    let onto = ["--latest", "--onto", "zone1"];
    assert_eq!(ledger::plan(&cluster, &onto)["backup"], newer.as_str());
    let checked =
        ["drill", "--on", "zone2", "--backup", &newer, "--skip-amcheck", "--output", "json", "--check"];
    let drill = |check: &str| cluster.try_cellar(&[&checked[..], &[check]].concat());
    assert_eq!(failed_job(&drill("SELECT false"))["error"]["code"], "CHECK_FAILED");
    let plan = ledger::plan(&cluster, &onto);
    assert_eq!(plan["backup"], older.as_str(), "{plan:#}");
    assert!(plan["why"].to_string().contains("drill"), "{plan:#}");
    let _ = drill("SELECT true").ok();
    assert_eq!(ledger::plan(&cluster, &onto)["backup"], newer.as_str(), "the last drill passed");
}

#[test]
fn new_member_is_not_made_from_a_backup_with_page_errors() {
    let cluster = Cluster::up("zone1,zone2");
    let _ = damage(&cluster, "zone2");
    let job =
        failed_job(&cluster.try_cellar(&["backup", "--from", "zone2", "--type", "full", "--output", "json"]));
    // The only other backup goes behind Cellar's back.
    let first = labels(&cluster).remove(0);
    let _ = pgbackrest(&cluster, "zone2", &[&format!("--set={first}"), "expire"]).ok();
    assert_eq!(labels(&cluster), [label(&job)]);
    let refused = failed_job(&cluster.try_cellar(&["rebuild", "zone2", "--output", "json"]));
    assert_eq!(refused["error"]["code"], "UNKNOWN_BACKUP", "{refused:#}");
    assert!(refused["error"]["message"].to_string().contains("wrong checksums"), "{refused:#}");
    // Nothing was stopped for it.
    cluster.wait_streaming("zone2");
    // It can still expire nothing, and the way out that the hint names works.
    let taken = cluster.json(&["backup", "--from", "zone1", "--allow-primary", "--type", "full"]);
    let rebuilt = cluster.json(&["rebuild", "zone2"]);
    assert_eq!(rebuilt["result"]["rebuild"]["backup"], label(&taken).as_str(), "{rebuilt:#}");
}

#[test]
fn names_that_make_a_manifest_unreadable_are_refused_before_anything_is_written() {
    let cluster = Cluster::up("zone1,zone2");
    let before = labels(&cluster);
    let refused = |what: &str| {
        let job = failed_job(
            &cluster.try_cellar(&["backup", "--from", "zone2", "--type", "full", "--output", "json"]),
        );
        assert_eq!(job["error"]["code"], "UNSUPPORTED", "{job:#}");
        let error = job["error"].to_string();
        assert!(error.contains(what) && error.contains("rename"), "{error}");
        assert_eq!(labels(&cluster), before);
    };
    cluster.sql("zone1", "CREATE DATABASE \"new\nline\"");
    eventually("zone2 to have it", || {
        cluster.try_sql("zone2", "SELECT count(*) FROM pg_database WHERE datname LIKE 'new%'").stdout.trim()
            == "1"
    });
    refused("new\\\\nline");
    cluster.sql("zone1", "ALTER DATABASE \"new\nline\" RENAME TO \"a={\"\"b\"\":1} [x]\r\"");
    eventually("zone2 to have it renamed", || {
        cluster.try_sql("zone2", "SELECT count(*) FROM pg_database WHERE datname LIKE 'new%'").stdout.trim()
            == "0"
    });
    let odd = cluster.directory().join("zone2/pg_data/base/odd\nname");
    std::fs::write(&odd, "x").expect("the cell is ours");
    refused("odd\\\\nname");
    std::fs::remove_file(&odd).expect("the cell is ours");
    let _ = cluster.backup("zone2", "incr");
    let _ = cluster.json(&["verify"]);
}

fn owned_by_postgres(file: &Path) {
    let cell = std::fs::metadata(file.parent().expect("a directory")).expect("the cell is ours");
    use std::os::unix::fs::MetadataExt;
    chown(file, Some(cell.uid()), Some(cell.gid())).expect("the cell is ours");
}

/// A file of the primary's is not seen by the cell that is backed up. pgBackRest writes a manifest that it cannot load.
#[test]
fn backup_counts_only_when_its_manifest_can_be_loaded_again() {
    let cluster = Cluster::up("zone1,zone2");
    let odd = cluster.directory().join("zone1/pg_data/odd\nname");
    std::fs::write(&odd, "x").expect("the cell is ours");
    owned_by_postgres(&odd);
    let job =
        failed_job(&cluster.try_cellar(&["backup", "--from", "zone2", "--type", "full", "--output", "json"]));
    assert_eq!(job["error"]["code"], "PROOF_FAILED", "{job:#}");
    std::fs::remove_file(&odd).expect("the cell is ours");
    let unloadable = labels(&cluster).pop().expect("backups");
    assert_eq!(proof_mark(&cluster, &unloadable), "unproven");
    // Nothing can build on it.
    let next = cluster.backup("zone2", "incr");
    assert_eq!(next["result"]["backup"]["type"], "BACKUP_TYPE_FULL", "{next:#}");
    let verified = failed_job(&cluster.try_cellar(&["verify", "--output", "json"]));
    assert!(verified["error"]["message"].to_string().contains(&unloadable), "{verified:#}");
    cluster.cellar(&["expire", "--backup", &unloadable, "--yes"]);
    let _ = cluster.json(&["verify"]);
}

#[test]
fn verify_finds_a_listed_backup_of_which_nothing_or_no_manifest_is_left() {
    let cluster = Cluster::up("zone1,zone2");
    let lost = label(&cluster.backup("zone2", "full"));
    let _ = cluster.backup("zone2", "full");
    let _ = cluster.json(&["verify"]);
    let (repo, away) = (cluster.directory().join("repo/backup/app"), cluster.directory().join("away"));
    for gone in [repo.join(&lost), repo.join(&lost).join("backup.manifest")] {
        std::fs::rename(&gone, &away).expect("the repo is ours");
        let job = failed_job(&cluster.try_cellar(&["verify", "--output", "json"]));
        std::fs::rename(&away, &gone).expect("the repo is ours");
        assert_eq!(job["error"]["code"], "REPO_DAMAGED", "{job:#}");
        assert!(job["error"]["message"].to_string().contains(&lost), "{job:#}");
    }
    let _ = cluster.json(&["verify"]);
}

#[test]
fn after_the_newest_full_backup_expired_by_name_an_incremental_one_is_taken_all_the_same() {
    let cluster = Cluster::up("zone1,zone2");
    let newest = label(&cluster.backup("zone2", "full"));
    cluster.cellar(&["expire", "--backup", &newest, "--yes"]);
    let taken = cluster.backup("zone2", "incr");
    let backup = &taken["result"]["backup"];
    if backup["type"] == "BACKUP_TYPE_FULL" {
        // pgBackRest 2.45 builds on no backup that is older than the newest that it ever had.
        assert!(texts(&backup["warnings"]).contains("expired"), "{taken:#}");
    } else {
        // 2.60 builds on the full backup before.
        assert!(backup["prior"].as_str().is_some_and(|prior| prior != newest), "{taken:#}");
        assert_eq!(backup["source"]["verified"], true, "{taken:#}");
    }
    let next = cluster.backup("zone2", "incr");
    assert_eq!(next["result"]["backup"]["type"], "BACKUP_TYPE_INCR", "{next:#}");
}

#[test]
fn unreadable_repo_is_not_an_empty_one_and_a_takeover_that_waits_for_it_can_be_canceled() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.load(20);
    let (job, held) = ledger::hold_backup(&cluster, "zone2", "full");
    let repo = cluster.directory().join("repo/backup");
    let close =
        |mode| std::fs::set_permissions(&repo, std::fs::Permissions::from_mode(mode)).expect("it is ours");
    let mode = std::fs::metadata(&repo).expect("it is ours").permissions().mode() & 0o7777;
    kill_hard(cluster.pid("zone2/pid/multipooler.pid"));
    held.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    close(0);
    let listed = cluster.try_cellar(&["backups", "list"]);
    assert!(listed.code != 0 && listed.stderr.contains("cannot be read"), "{listed:?}");
    let up = cluster.try_cellar(&["up"]);
    assert!(up.code != 0 && up.stderr.contains("the repository cannot be read"), "{up:?}");
    let log = cluster.directory().join("zone2/log/multipooler.log");
    wait_for("the takeover to find the repo unreadable", Duration::from_secs(60), || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("the repo cannot be read yet").then_some(())
    });
    assert_eq!(cluster.job(&job)["state"], "JOB_STATE_RUNNING");
    cluster.cellar(&["jobs", "cancel", &job]);
    let ended = cluster.ended(&job);
    assert_eq!(ended["state"], "JOB_STATE_CANCELED", "{ended:#}");
    assert!(ended["error"]["message"].to_string().contains("not proven"), "{ended:#}");
    close(mode);
    // Its multipooler has just been started, and `up` did not wait for it.
    cluster.wait_streaming("zone2");
    let _ = cluster.backup("zone2", "full");

    // One that is not mounted is no empty one either.
    let (repo, away) = (cluster.directory().join("repo"), cluster.directory().join("repo.away"));
    std::fs::rename(&repo, &away).expect("it is ours");
    let listed = cluster.try_cellar(&["backups", "list"]);
    std::fs::rename(&away, &repo).expect("it is ours");
    assert!(listed.code != 0 && listed.stderr.contains("has nothing of stanza"), "{listed:?}");
}

/// The bytes that are done move only when a file is complete.
#[test]
fn progress_names_the_file_that_is_being_copied() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.load(20);
    let data = cluster.directory().join("zone2/pg_data/base");
    let job = cluster.begin_backup("zone2", "full");
    let reads = |pid: &i32| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|target| target.starts_with(&data))
    };
    let held = wait_for("pgBackRest to read a file of the cell", Duration::from_secs(60), || {
        let running = processes_with("pgbackrest", &format!("{job}.conf"));
        running.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
        if running.iter().any(reads) {
            return Some(running);
        }
        running.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
        None
    });
    let progress = wait_for("the progress to name it", Duration::from_secs(30), || {
        let progress = cluster.job(&job)["progress"].clone();
        progress["file"].as_str().is_some_and(|file| !file.is_empty()).then_some(progress)
    });
    ledger::release(&held);
    let (file, bytes) = (progress["file"].to_string(), progress["fileBytes"].to_string());
    assert!(
        file.contains("base/") && bytes.trim_matches('"').parse::<u64>().is_ok_and(|n| n > 0),
        "{progress:#}"
    );
    assert_eq!(cluster.ended(&job)["state"], "JOB_STATE_SUCCEEDED");
}

/// 500 newer jobs, or a loss of etcd's data, may take the record away.
#[test]
fn restore_whose_job_is_forgotten_can_be_rolled_back() {
    let cluster = Cluster::up("zone1,zone2");
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "before the restore")];
    ledger::archives(&cluster);
    let job = ledger::restore(&cluster, &["--latest"]);
    ledger::insert(&cluster, "lost with the rollback");
    let keys = cluster.etcd_keys();
    let of_job = |key: &&String| {
        let is_record = key.contains("/jobs/") || key.contains("/runs/");
        is_record
            && (key.ends_with(id(&job))
                || job["steps"].to_string().contains(key.rsplit('/').next().unwrap_or("?")))
    };
    keys.iter().filter(of_job).for_each(|key| cluster.etcd_delete(key));
    eventually("the job to be forgotten", || cluster.try_cellar(&["jobs", "show", id(&job)]).code != 0);
    let _ = ledger::rollback(&cluster, &job);
    rows.push(ledger::insert(&cluster, "after the rollback"));
    rows.sort_by_key(|row| row.split(' ').next().and_then(|id| id.parse::<u64>().ok()));
    ledger::check(&cluster, &["zone1", "zone2"], &rows);
}
