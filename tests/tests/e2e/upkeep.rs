//! What the repo keeps, whether it can be read, and whether WAL arrives.

use std::path::{Path, PathBuf};

use cellar_tests::{Cluster, Finished, as_user, eventually, postgres_user, run};
use serde_json::Value;

use crate::access::{as_client, issue};
use crate::drills;
use crate::ledger::{self, id, label, restore};

fn labels(list: &Value) -> Vec<String> {
    let texts = list.as_array().into_iter().flatten();
    texts.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// What the repo has, oldest first.
fn in_repo(cluster: &Cluster) -> Vec<String> {
    let listed = cluster.json(&["backups", "list"]);
    let mut found: Vec<String> = listed["backups"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|backup| backup["label"].as_str().map(str::to_owned))
        .collect();
    found.sort();
    found
}

/// `--output json` of a command that may fail: the job, and how the command ended.
fn job_of(finished: &Finished) -> Value {
    match serde_json::from_str(&finished.stdout) {
        Ok(job) => job,
        Err(error) => panic!("{error}: {finished:?}"),
    }
}

fn segments(cluster: &Cluster) -> Vec<PathBuf> {
    let directory = cluster.archive().join("0000000100000000");
    let entries = std::fs::read_dir(directory).expect("an archive").flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.retain(|path| path.extension().is_some_and(|suffix| suffix == "zst"));
    found.sort();
    found
}

fn number(path: &Path) -> String {
    path.file_name().and_then(|name| name.to_str()).expect("a name")[..24].to_owned()
}

/// A cluster's default retention keeps two full backups.
#[test]
fn expiry_takes_what_its_dry_run_said_and_a_restore_still_works() {
    let cluster = Cluster::up("zone1,zone2");
    ledger::create(&cluster);
    let first = in_repo(&cluster).pop().expect("the first backup");
    let incremental = label(&cluster.backup("zone2", "incr"));
    assert!(incremental.starts_with(&first), "{incremental} builds on {first}");

    // Nothing is over the retention, and the only full backup cannot go.
    let job = cluster.json(&["expire", "--yes"]);
    assert_eq!(labels(&job["result"]["expire"]["backups"]), [""; 0], "{job:#}");
    let finished = cluster.try_cellar(&["expire", "--backup", &first, "--yes", "--output", "json"]);
    assert_eq!(finished.code, 1, "{finished:?}");
    assert_eq!(job_of(&finished)["error"]["code"], "LAST_BACKUP", "{finished:?}");
    let dry = cluster.json(&["expire", "--backup", &first, "--dry-run"]);
    let warnings = labels(&dry["result"]["expire"]["warnings"]);
    assert!(warnings.iter().any(|warning| warning.contains("no proven backup")), "{dry:#}");
    assert_eq!(in_repo(&cluster), [first.clone(), incremental.clone()]);

    let second = label(&cluster.backup("zone2", "full"));
    let mut rows = vec![ledger::insert(&cluster, "between the fulls")];
    let third = label(&cluster.backup("zone2", "full"));
    rows.push(ledger::insert(&cluster, "after the last full"));
    ledger::archives(&cluster);

    // An operator sees what would go, and takes nothing away.
    let operator = issue(&cluster, "operator", "ci");
    let dry = as_client(&cluster, &operator, &["expire", "--dry-run", "--output", "json"]).ok();
    let dry: Value = serde_json::from_str(&dry).unwrap();
    assert_eq!(dry["result"]["expire"]["dryRun"], true, "{dry:#}");
    assert_eq!(labels(&dry["result"]["expire"]["backups"]), [first.clone(), incremental.clone()], "{dry:#}");
    assert_eq!(labels(&dry["result"]["expire"]["kept"]), [second.clone(), third.clone()], "{dry:#}");
    let refused = as_client(&cluster, &operator, &["expire", "--yes"]).refused(5);
    assert!(refused.contains("role admin"), "{refused}");
    let all = [first.clone(), incremental.clone(), second.clone(), third.clone()];
    assert_eq!(in_repo(&cluster), all);
    // Without a terminal and without --yes nothing is asked for.
    let _ = cluster.try_cellar(&["expire"]).refused(2);
    let unknown = cluster.try_cellar(&["expire", "--backup", "20200101-000000F", "--yes"]);
    assert_eq!(unknown.code, 1, "{unknown:?}");
    assert_eq!(in_repo(&cluster), all);

    // It stands behind a backup as any other that writes to the stanza.
    let (backup, held) = ledger::hold_backup(&cluster, "zone2", "full");
    let busy = cluster.try_cellar(&["expire", "--yes"]).refused(3);
    assert!(busy.contains(&backup), "{busy}");
    cluster.cellar(&["jobs", "cancel", &backup]);
    ledger::release(&held);
    let _ = cluster.ended(&backup);

    // A drill in another cell has what it restores, and once it has ended nothing prevents it.
    let drill = drills::begin(&cluster, &["--on", "zone2", "--backup", &first, "--check", drills::LONG]);
    let _ = drills::in_the_middle(&cluster, "zone2", &drill);
    let finished = cluster.try_cellar(&["expire", "--yes", "--on", "zone1", "--output", "json"]);
    assert_eq!(finished.code, 1, "{finished:?}");
    let message = job_of(&finished)["error"]["message"].to_string();
    assert!(message.contains(&drill) && message.contains(&first), "{message}");
    cluster.cellar(&["jobs", "cancel", &drill]);
    let _ = cluster.ended(&drill);
    assert_eq!(in_repo(&cluster), all);

    let oldest = segments(&cluster).remove(0);
    let done = cluster.json(&["expire", "--yes", "--on", "zone1"]);
    assert_eq!(done["cell"], "zone1", "{done:#}");
    let result = &done["result"]["expire"];
    assert_eq!(labels(&result["backups"]), labels(&dry["result"]["expire"]["backups"]), "{done:#}");
    // With it goes what the canceled backup has left.
    let warnings = labels(&result["warnings"]);
    assert!(warnings.len() == 1 && warnings[0].contains("does not list"), "{done:#}");
    assert_eq!(result["wal"][0]["start"].as_str(), Some(number(&oldest).as_str()), "{done:#}");
    assert_eq!(in_repo(&cluster), [second.clone(), third.clone()]);
    assert!(!oldest.exists(), "{} is still there", oldest.display());
    // The act is in the trail, with who asked and for which job.
    let trail = cluster.cellar(&["audit", "list", "--output", "json"]);
    assert!(trail.contains("\"ExpireBackups\"") && trail.contains(id(&done)), "{trail}");

    // What stays is whole, and leads to the present: the older of the two too.
    let verified = cluster.json(&["verify"]);
    assert_eq!(verified["result"]["verify"]["backups"].as_array().map(Vec::len), Some(2), "{verified:#}");
    let job = restore(&cluster, &["--latest"]);
    ledger::check(&cluster, &["zone1", "zone2"], &rows);
    // Until the restore is confirmed its rollback may need what an expiry would take.
    let open = cluster.try_cellar(&["expire", "--yes"]).refused(3);
    assert!(open.contains(id(&job)) && open.contains("confirm"), "{open}");
    let _ = cluster.json(&["expire", "--dry-run"]);
    cluster.cellar(&["restore", "confirm", id(&job), "--yes"]);
    // The retention is changed while all goes on.
    cluster.cellar(&["up", "--retention-full", "1"]);
    let done = cluster.json(&["expire", "--yes"]);
    assert_eq!(labels(&done["result"]["expire"]["backups"]), [second], "{done:#}");
    assert!(in_repo(&cluster).iter().all(|label| label.starts_with(&third)), "{:?}", in_repo(&cluster));
    let config = cluster.directory().join("zone1/pgbackrest.conf");
    eventually("the config to have the new retention", || {
        std::fs::read_to_string(&config).is_ok_and(|config| config.contains("repo1-retention-full=1\n"))
    });
    ledger::check(&cluster, &["zone1", "zone2"], &rows);
}

#[test]
fn a_damaged_file_and_a_gap_in_the_wal_are_found_and_named() {
    let cluster = Cluster::up("zone1,zone2");
    ledger::create(&cluster);
    let backup = label(&cluster.backup("zone2", "full"));
    for round in 0..3 {
        ledger::insert(&cluster, &format!("round {round}"));
        ledger::archives(&cluster);
    }
    let well = cluster.json(&["verify", "--on", "zone2"]);
    assert_eq!(well["state"], "JOB_STATE_SUCCEEDED", "{well:#}");
    let archives = well["result"]["verify"]["archives"].as_array().cloned().unwrap_or_default();
    assert!(archives.iter().all(|archive| archive["valid"] == true) && archives.len() == 1, "{well:#}");

    // One WAL segment behind the newest backup goes: pgBackRest itself says that all is well.
    let lost = segments(&cluster).into_iter().rev().nth(1).expect("several segments");
    std::fs::remove_file(&lost).expect("the repo is ours");
    let finished = cluster.try_cellar(&["verify", "--output", "json"]);
    assert_eq!(finished.code, 1, "{finished:?}");
    let job = job_of(&finished);
    assert_eq!(job["error"]["code"], "REPO_DAMAGED", "{job:#}");
    let message = job["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains(&number(&lost)) && message.contains(&backup), "{message}");
    let backups = job["result"]["verify"]["backups"].as_array().cloned().unwrap_or_default();
    assert!(backups.iter().all(|backup| backup["valid"] == true) && !backups.is_empty(), "{job:#}");
    // A member that still has it puts it back.
    let zone = cluster.directory().join("zone2");
    let mut push = as_user(&postgres_user(), "pgbackrest");
    push.current_dir(zone.join("pg_data"))
        .arg(format!("--config={}", zone.join("pgbackrest.conf").display()))
        .args(["--stanza=app", "archive-push", &format!("pg_wal/{}", number(&lost))]);
    let _ = run(&mut push).ok();
    let _ = cluster.json(&["verify"]);

    // A file of a backup is not what it was.
    let damaged_file =
        cluster.directory().join("repo/backup/app").join(&backup).join("pg_data/PG_VERSION.zst");
    let mut bytes = std::fs::read(&damaged_file).expect("a backup has it");
    let last = bytes.len() - 1;
    bytes[last] ^= 0xff;
    std::fs::write(&damaged_file, &bytes).expect("the repo is ours");
    let finished = cluster.try_cellar(&["verify"]);
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.stdout.contains("PG_VERSION") && finished.stdout.contains("DAMAGED"), "{finished:?}");
    assert!(finished.stderr.contains(&backup), "{finished:?}");
    bytes[last] ^= 0xff;
    std::fs::write(&damaged_file, &bytes).expect("the repo is ours");
    let _ = cluster.json(&["verify"]);
}

#[test]
fn a_check_sees_wal_arrive_or_says_that_it_does_not() {
    let cluster = Cluster::up("zone1,zone2");
    let before = segments(&cluster).len();
    let job = cluster.json(&["check"]);
    let segment = job["result"]["check"]["segment"].as_str().expect("a segment").to_owned();
    assert_eq!(job["cell"], cluster.primary().as_str(), "{job:#}");
    let after = segments(&cluster);
    assert!(after.len() > before && after.iter().any(|path| number(path) == segment), "{segment} {after:?}");
    // Checks and verifications wait for no backup.
    let (backup, held) = ledger::hold_backup(&cluster, "zone2", "full");
    let _ = cluster.json(&["check"]);
    let _ = cluster.json(&["verify"]);
    ledger::release(&held);
    assert_eq!(cluster.ended(&backup)["state"], "JOB_STATE_SUCCEEDED");

    // The repo is out of reach.
    let (repo, away) = (cluster.directory().join("repo"), cluster.directory().join("repo.away"));
    std::fs::rename(&repo, &away).expect("the repo is ours");
    let finished = cluster.try_cellar(&["check", "--output", "json"]);
    std::fs::rename(&away, &repo).expect("the repo is ours");
    assert_eq!(finished.code, 1, "{finished:?}");
    let job = job_of(&finished);
    assert_eq!(job["error"]["code"], "PGBACKREST_FAILED", "{job:#}");
    assert_ne!(job["error"]["hint"], "", "{job:#}");
    let _ = cluster.json(&["check"]);
    let log = cluster.cellar(&["jobs", "logs", id(&job)]);
    assert!(log.contains("ERROR"), "{log}");
}

/// pgBackRest counts the full backups of all timelines and builds on the newest, though a rollback left it behind.
#[test]
fn what_a_rollback_left_behind_pushes_nothing_out_that_leads_to_the_present() {
    let cells = ["zone1", "zone2"];
    let cluster = Cluster::up("zone1,zone2");
    ledger::create(&cluster);
    let rows = vec![ledger::insert(&cluster, "before the restore")];
    let first = in_repo(&cluster).pop().expect("the first backup");
    let job = restore(&cluster, &["--latest"]);
    ledger::insert(&cluster, "lost with the rollback");
    let behind = [label(&cluster.backup("zone2", "full")), label(&cluster.backup("zone2", "full"))];
    let _ = ledger::rollback(&cluster, &job);
    ledger::check(&cluster, &cells, &rows);

    // The retention of two full backups keeps these two, and one of the rollback's that builds on the second.
    let done = cluster.json(&["expire", "--yes"]);
    assert!(labels(&done["result"]["expire"]["backups"]).contains(&first), "{done:#}");
    let before = in_repo(&cluster);
    assert!(before.len() == 3 && before[2].starts_with(&behind[1]), "{before:?}");
    // Without it the present could not be reached any more.
    let second = ["expire", "--backup", &behind[1]];
    let dry = cluster.json(&[&second[..], &["--dry-run"]].concat());
    let warnings = labels(&dry["result"]["expire"]["warnings"]).join("; ");
    assert!(warnings.contains("refused as things are"), "{dry:#}");
    let finished = cluster.try_cellar(&[&second[..], &["--yes", "--output", "json"]].concat());
    assert_eq!(finished.code, 1, "{finished:?}");
    assert_eq!(job_of(&finished)["error"]["code"], "LAST_BACKUP", "{finished:?}");
    assert_eq!(in_repo(&cluster), before);

    // With a new full one it goes, and what still counts for nothing is told.
    let full = label(&cluster.backup("zone2", "full"));
    let done = cluster.json(&["expire", "--yes"]);
    let warnings = labels(&done["result"]["expire"]["warnings"]).join("; ");
    assert!(warnings.contains(&behind[1]) && warnings.contains("left behind"), "{done:#}");
    let kept = in_repo(&cluster);
    assert!(kept.first() == Some(&behind[1]) && kept.last() == Some(&full), "{kept:?}");
    cluster.cellar(&["expire", "--backup", &behind[1], "--yes"]);
    assert_eq!(in_repo(&cluster), [full]);
    let _ = cluster.json(&["verify"]);
    let _ = restore(&cluster, &["--latest"]);
    ledger::check(&cluster, &cells, &rows);
}
