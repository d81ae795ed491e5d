//! A repository that was lost or replaced: `cellar up` begins the new one.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_api::v1::{InstanceState, Role};
use cellar_tests::{Cluster, as_user, eventually, kill_hard, postgres_user, run, wait_for};

/// Deletes everything in the repository, as a replaced disk would.
fn empty(repo: &Path) {
    for entry in std::fs::read_dir(repo).expect("the repository") {
        std::fs::remove_dir_all(entry.expect("an entry").path()).expect("removed");
    }
}

fn repo(cluster: &Cluster) -> PathBuf {
    cluster.directory().join("repo")
}

fn backups(cluster: &Cluster) -> usize {
    cluster.json(&["backups", "list"])["backups"].as_array().map_or(0, Vec::len)
}

/// As where a file system is not mounted: an empty directory of the same owner.
fn unmount(repo: &Path, away: &Path) {
    std::fs::rename(repo, away).expect("moved away");
    std::fs::create_dir(repo).expect("created");
    let owner = std::fs::metadata(away).expect("the repository");
    std::os::unix::fs::chown(repo, Some(owner.uid()), Some(owner.gid())).expect("chown");
}

#[test]
fn up_takes_a_first_backup_in_a_repository_that_was_replaced() {
    let cluster = Cluster::up("zone1,zone2");
    assert_eq!(backups(&cluster), 1);
    // The second time, too: an earlier first backup's job is remembered and says nothing about this repository.
    for _ in 0..2 {
        empty(&repo(&cluster));
        cluster.cellar(&["up"]);
        assert_eq!(backups(&cluster), 1);
        cluster.cellar(&["check"]);
        let _ = cluster.backup("zone2", "incr");
    }
    lost_files_are_made_again(&cluster);
}

/// What docs/troubleshooting.md says of a repository that has lost `backup.info` or `archive.info`, each with its copy.
fn lost_files_are_made_again(cluster: &Cluster) {
    let repo = repo(cluster);
    for kind in ["backup", "archive"] {
        let before = backups(cluster);
        for file in ["info", "info.copy"] {
            std::fs::remove_file(repo.join(kind).join("app").join(format!("{kind}.{file}")))
                .expect("removed");
        }
        for command in [&["backups", "list"][..], &["backup", "--from", "zone2"]] {
            let told = cluster.try_cellar(command);
            assert!(told.code != 0 && told.stderr.contains("docs/troubleshooting.md"), "{kind}: {told:?}");
            assert!(!told.stderr.contains("create the stanza first"), "{kind}: {told:?}");
        }
        let commands = format!(
            "set -e; cd {}\n\
             mv backup/app backup/app.kept && mv archive/app archive/app.kept\n\
             pgbackrest --config={} --stanza=app stanza-create\n\
             cp -n backup/app/backup.info* backup/app.kept/ && cp -n archive/app/archive.info* archive/app.kept/\n\
             rm -r backup/app archive/app\n\
             mv backup/app.kept backup/app && mv archive/app.kept archive/app",
            repo.display(),
            cluster.directory().join("zone1/pgbackrest.conf").display()
        );
        let _ = run(as_user(&postgres_user(), "bash").args(["-c", &commands])).ok();
        // It finds the backups that are there.
        let job = cluster.backup("zone2", "full");
        assert_eq!(job["result"]["backup"]["source"]["verified"], true, "{job:#}");
        assert_eq!(backups(cluster), before + 1, "{kind}");
        cluster.cellar(&["verify"]);
    }
}

#[test]
fn up_works_again_after_its_first_backups_have_failed() {
    let cluster = Cluster::up("zone1,zone2");
    let repo = repo(&cluster);
    empty(&repo);
    // Where the stanza would go, nothing can be written.
    let stanzas = repo.join("backup");
    std::fs::create_dir(&stanzas).expect("created");
    std::fs::set_permissions(&stanzas, std::fs::Permissions::from_mode(0o555)).expect("chmod");
    for _ in 0..2 {
        let failed = cluster.try_cellar(&["up"]).refused(1);
        assert!(failed.contains("the stanza cannot be looked up or created"), "{failed}");
    }
    std::fs::remove_dir(&stanzas).expect("removed");
    cluster.cellar(&["up"]);
    assert_eq!(backups(&cluster), 1);
}

#[test]
fn a_repository_that_is_not_mounted_is_not_begun_anew_when_the_primary_restarts() {
    let cluster = Cluster::up("zone1,zone2");
    let (repo, away) = (repo(&cluster), cluster.directory().join("away"));
    unmount(&repo, &away);
    // Nor by a schedule, which does not know which repository is wanted.
    let full = ["backup", "--from", "zone1", "--type", "full", "--allow-primary"];
    cluster.cellar(&[&["schedules", "set", "nightly", "--cron", "* * * * *"][..], &full].concat());
    kill_hard(cluster.postmaster("zone1"));
    let told = || cluster.status("zone1").filter(|status| status.message.contains("not mounted"));
    let status = wait_for("it to be told", Duration::from_secs(60), told);
    assert_eq!((status.state(), status.role()), (InstanceState::Running, Role::Primary), "{status:?}");
    cluster.sql("zone1", "CREATE TABLE meanwhile ()");
    let failures = || -> u64 {
        cluster.sql("zone1", "SELECT failed_count FROM pg_stat_archiver").parse().expect("a number")
    };
    let before = failures();
    cluster.sql("zone1", "SELECT pg_switch_wal()");
    eventually("archiving to be tried", || failures() > before);
    let failed = wait_for("the scheduled backup to fail", Duration::from_secs(150), || {
        let jobs = cluster.json(&["jobs", "list"]);
        let ended = jobs["jobs"].as_array()?.iter().find(|job| job["state"] == "JOB_STATE_FAILED")?;
        Some(ended["error"].clone())
    });
    assert!(failed["message"].as_str().is_some_and(|text| text.contains("not mounted")), "{failed:#}");
    cluster.cellar(&["schedules", "remove", "nightly"]);
    assert_eq!(std::fs::read_dir(&repo).expect("the directory").count(), 0, "something was written there");

    std::fs::remove_dir(&repo).expect("empty");
    std::fs::rename(&away, &repo).expect("back");
    eventually("it to be seen", || cluster.status("zone1").is_some_and(|status| status.message.is_empty()));
    cluster.cellar(&["check"]);
    let _ = cluster.backup("zone2", "incr");
}

/// A standby that was never restored from the repository, and is promoted where the repository is not mounted.
#[test]
fn a_promoted_standby_begins_no_repository_where_the_old_one_is_not_mounted() {
    let cluster = Cluster::up("zone1,zone2");
    let (repo, away) = (repo(&cluster), cluster.directory().join("away"));
    cluster.kill_cell("zone1");
    unmount(&repo, &away);
    cluster.sql("zone2", "SELECT pg_promote()");
    let told = || cluster.status("zone2").filter(|status| status.message.contains("not mounted"));
    let status = wait_for("it to be told", Duration::from_secs(60), told);
    assert_eq!((status.state(), status.role()), (InstanceState::Running, Role::Primary), "{status:?}");
    assert_eq!(cluster.primary(), "zone2");
    assert_eq!(std::fs::read_dir(&repo).expect("the directory").count(), 0, "something was written there");

    std::fs::remove_dir(&repo).expect("empty");
    std::fs::rename(&away, &repo).expect("back");
    eventually("it to be seen", || cluster.status("zone2").is_some_and(|status| status.message.is_empty()));
    cluster.cellar(&["check"]);
}
