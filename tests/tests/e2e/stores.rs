//! Repositories in an S3 store: everything that a cluster does with its repository, credentials that are replaced while it
//! runs, and that they are nowhere but in the private files of each cell.

use std::collections::BTreeSet;
use std::time::Duration;

use cellar_tests::{Cluster, run, wait_for};

use crate::secrets::{Watch, all_answers, files_with};

use self::server::S3Server;

mod server;

/// Texts that are found nowhere by accident.
const FIRST: (&str, &str) = ("AKIAFIRSTq7Zk2", "first-secret/Jw4kQz9f+Xt2mB8vLr5n");
const SECOND: (&str, &str) = ("AKIASECONDm3Vx", "second-secret/Hy6pRd1c+Gs7wK0jTe4u");

fn credentials((key, secret): (&str, &str)) -> String {
    format!("AWS_ACCESS_KEY_ID={key}\nAWS_SECRET_ACCESS_KEY={secret}\n")
}

/// The source of a backup was proven.
fn proven(job: &serde_json::Value, cell: &str) {
    let source = &job["result"]["backup"]["source"];
    assert_eq!((&source["cell"], &source["verified"]), (&cell.into(), &true.into()), "{job:#}");
}

#[test]
fn a_cluster_keeps_its_repository_in_an_s3_store() {
    let store = S3Server::start();
    store.keys.add(FIRST.0, FIRST.1);
    let url = store.url("/cellar/demo");
    let file = store.write_private("first.env", &credentials(FIRST));
    let watch = Watch::begin(FIRST.1);
    let cluster = Cluster::new();
    let up = ["up", "--cells", "zone1,zone2", "--port-offset", "auto", "--repo", &url];
    let begun = cluster.try_cellar(&[&up[..], &["--repo-credentials-file", &file]].concat());
    let mut said = format!("{}{}", begun.stdout, begun.stderr);
    let _ = begun.ok();
    assert!(store.objects().join("cellar/demo/backup/app/backup.info").exists());
    assert!(!cluster.directory().join("repo").exists(), "a directory was made for it");
    assert!(cluster.cellar(&["status"]).contains(&url));

    // Backups of a named standby, with proof; a restore to a time.
    cluster.load(1);
    proven(&cluster.backup("zone2", "incr"), "zone2");
    let time = cluster.sql("zone1", "SELECT now()");
    cluster.sql("zone1", "CREATE TABLE late AS SELECT 1 AS i");
    cluster.sql("zone1", "SELECT pg_switch_wal()");
    cluster.cellar(&["drill", "--skip-amcheck", "--max-rate", "0"]);
    cluster.cellar(&["rebuild", "zone2"]);
    let restored = cluster.json(&["restore", "--to-time", &time.replacen(' ', "T", 1), "--yes"]);
    assert_eq!(restored["state"], "JOB_STATE_SUCCEEDED", "{restored:#}");
    let found =
        cluster.sql(&cluster.primary(), "SELECT to_regclass('late') IS NULL, count(*) FROM pgbench_accounts");
    assert_eq!(found, "t|100000");
    cluster.cellar(&["restore", "confirm", restored["id"].as_str().expect("an id"), "--yes"]);
    cluster.wait_streaming("zone2");
    cluster.cellar(&["verify"]);
    cluster.cellar(&["cells", "add", "zone3"]);

    // Other credentials, while everything runs.
    store.keys.add(SECOND.0, SECOND.1);
    let second = store.write_private("second.env", &credentials(SECOND));
    let pids = ["zone1", "zone2"]
        .map(|cell| (cluster.postmaster(cell), cluster.pid(&format!("{cell}/pid/multipooler.pid"))));
    said += &cluster.cellar(&["up", "--repo-credentials-file", &second]);
    wait_for("the new credentials in each config", Duration::from_secs(20), || {
        let has = |cell: &str| {
            let config = std::fs::read_to_string(cluster.directory().join(cell).join("pgbackrest.conf"));
            config.is_ok_and(|text| text.contains(SECOND.1) && !text.contains(FIRST.1))
        };
        ["zone1", "zone2", "zone3"].iter().all(|cell| has(cell)).then_some(())
    });
    store.keys.withdraw(FIRST.0);
    cluster.cellar(&["check"]);
    proven(&cluster.backup("zone2", "full"), "zone2");
    let same = ["zone1", "zone2"]
        .map(|cell| (cluster.postmaster(cell), cluster.pid(&format!("{cell}/pid/multipooler.pid"))));
    assert_eq!(same, pids, "something was restarted");

    // Credentials that the store does not take are named as the cause.
    store.keys.withdraw(SECOND.0);
    for command in [&["backup", "--from", "zone2"][..], &["backups", "list"], &["drill"]] {
        let told = cluster.try_cellar(command);
        assert!(told.code != 0 && told.stderr.contains("--repo-credentials-file"), "{command:?}: {told:?}");
        assert!(!told.stderr.contains("install the same version"), "{command:?}: {told:?}");
        said += &told.stderr;
    }
    store.keys.add(SECOND.0, SECOND.1);
    proven(&cluster.backup("zone2", "incr"), "zone2");

    // They are in the private files of the cells and of `cellar`, and nowhere else.
    let seen = watch.end();
    assert!(seen.rounds > 100, "{} rounds", seen.rounds);
    assert_eq!((seen.in_arguments, seen.in_environment), (BTreeSet::new(), BTreeSet::new()));
    let answers = all_answers(&cluster) + &said;
    let directory = cluster.directory();
    for secret in [FIRST.1, SECOND.1] {
        assert!(!answers.contains(secret), "in an answer or in etcd");
        for path in files_with(directory, secret) {
            let is_config = path.extension().is_some_and(|end| end == "conf");
            assert!(is_config || path.ends_with("secrets/repo-credentials"), "{}", path.display());
            let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).expect("the file"));
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
    }
    assert!(files_with(directory, SECOND.1).contains(&directory.join("state/secrets/repo-credentials")));

    let kept = cluster.try_cellar(&["down", "--destroy"]);
    assert!(
        format!("{}{}", kept.stdout, kept.stderr).contains(&url),
        "it says that it left the repository: {kept:?}"
    );
    assert!(store.objects().join("cellar/demo/backup/app/backup.info").exists());
}

#[test]
fn what_cannot_be_a_store_is_refused_before_anything_is_started() {
    let store = S3Server::start();
    let cluster = Cluster::new();
    let url = store.url("/cellar/demo");
    let file = store.write_private("first.env", &credentials(FIRST));
    let refused = |arguments: &[&str], code| {
        let said = cluster.try_cellar(&[&["up", "--port-offset", "auto"], arguments].concat()).refused(code);
        assert!(!said.contains(FIRST.1), "{said}");
        said
    };
    let with_secret = url.replace("s3://", &format!("s3://{}:{}@", FIRST.0, FIRST.1));
    assert!(refused(&["--repo", &with_secret], 2).contains("looks like a secret"));
    assert!(refused(&["--repo", "s3://backups/p"], 2).contains("region"));
    assert!(refused(&["--repo", &url], 3).contains("AWS_ACCESS_KEY_ID"));
    let open = store.write_private("open.env", &credentials(FIRST));
    let _ = run(std::process::Command::new("chmod").args(["644", &open])).ok();
    assert!(refused(&["--repo", &url, "--repo-credentials-file", &open], 3).contains("chmod 600"));
    assert!(refused(&["--repo-credentials-file", &file], 3).contains("in no store"));
    let version = run(std::process::Command::new("pgbackrest").arg("version")).ok();
    if version.contains("2.45") {
        let sftp = "sftp://u@localhost/p?host-key-hash-type=sha256&private-key-file=/k";
        let said = refused(&["--repo", sftp], 3);
        assert!(said.contains("2.46") && said.contains("2.45"), "{said}");
    }
    assert!(!cluster.directory().join("state").exists(), "something was begun");
}
