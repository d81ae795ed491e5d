//! Cells come and go under load, and nobody else notices.

use std::path::Path;
use std::process::Stdio;

use cellar_tests::{Cluster, eventually, remove_directory};

use crate::rotation::serials;

#[test]
fn a_cell_is_added_and_removed_under_load() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    cluster.load(2);
    let before = cluster.poolers();
    let postmasters: Vec<i32> =
        ["zone1", "zone2", "zone3"].iter().map(|cell| cluster.postmaster(cell)).collect();
    let mut load = cluster
        .tool("pgbench", "zone1", &["-c", "2", "-T", "600", "-n"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pgbench runs");

    cluster.cellar(&["cells", "add", "zone4"]);
    cluster.wait_streaming("zone4");
    let added = cluster.poolers();
    let card = |views: &[cellar_api::v1::PoolerView], cell: &str| {
        views.iter().filter_map(|view| view.pooler.clone()).find(|card| card.cell == cell)
    };
    let zone4 = card(&added, "zone4").expect("zone4 has a record");
    assert_eq!(zone4.index, 3);
    for cell in ["zone1", "zone2", "zone3"] {
        assert_eq!(card(&before, cell), card(&added, cell), "no member's ports moved");
        let config = cluster.directory().join(cell).join("pgbackrest.conf");
        let line = format!("pg4-host-port={}", zone4.pgbackrest_port);
        eventually(&format!("{cell} to have {line} in its config"), || {
            std::fs::read_to_string(&config).is_ok_and(|config| config.contains(&line))
        });
    }
    let job = cluster.backup("zone4", "incr");
    assert_eq!(job["result"]["backup"]["source"]["cell"], "zone4");

    let _ = cluster.try_cellar(&["cells", "remove", "zone1"]).refused(3);
    cluster.cellar(&["cells", "remove", "zone4"]);
    assert_eq!(cluster.poolers().len(), 3);
    cellar_tests::eventually("the others to drop zone4 from their configs", || {
        ["zone1", "zone2", "zone3"].iter().all(|cell| {
            let config = std::fs::read_to_string(cluster.directory().join(cell).join("pgbackrest.conf"));
            config.is_ok_and(|config| !config.contains("pg4-"))
        })
    });
    let _ = cluster.backup("zone3", "incr");
    let now: Vec<i32> = ["zone1", "zone2", "zone3"].iter().map(|cell| cluster.postmaster(cell)).collect();
    assert_eq!(postmasters, now, "nobody was restarted");
    assert!(load.try_wait().expect("pgbench is ours").is_none(), "the load never broke");
    load.kill().expect("pgbench is ours");
    load.wait().expect("pgbench is ours");
}

#[test]
fn a_rebuilt_standby_streams_again() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone1", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    let _ = cluster.try_cellar(&["rebuild", "zone1"]).refused(3);
    cluster.cellar(&["rebuild", "zone2"]);
    cluster.wait_streaming("zone2");
    assert_eq!(cluster.sql("zone2", "SELECT count(*) FROM t"), "1000");
    // A lost disk: the directory is gone, and is not rebuilt until somebody says so.
    cluster.kill_cell("zone2");
    remove_directory(cluster.instance("zone2").data);
    let _ = cluster.try_cellar(&["up", "--timeout", "20s"]);
    eventually("zone2 to say what to do", || {
        cluster.status("zone2").is_some_and(|status| status.message.contains("cellar rebuild zone2"))
    });
    cluster.cellar(&["rebuild", "zone2"]);
    cluster.wait_streaming("zone2");
    assert_eq!(cluster.sql("zone2", "SELECT count(*) FROM t"), "1000");
}

/// The users that etcd knows of a cell's pooler.
fn users(cluster: &Cluster, cell: &str) -> Vec<String> {
    let listed = cluster.etcdctl_as("state/tls/client.crt", "state/tls/client.key", &["user", "list"]).ok();
    let prefix = format!("app.{cell}");
    listed.lines().filter(|user| user.starts_with(&prefix)).map(str::to_owned).collect()
}

#[test]
fn whoever_has_the_key_of_a_removed_cell_is_kept_out_also_when_the_cell_comes_back() {
    let cluster = Cluster::up("zone1,zone2");
    let stolen = cluster.directory().join("stolen");
    std::fs::create_dir(&stolen).expect("a directory");
    for file in ["server.key", "pooler.crt", "replication.crt"] {
        std::fs::copy(cluster.directory().join("zone2/tls").join(file), stolen.join(file)).expect("a copy");
    }
    let key = std::fs::read(stolen.join("server.key")).expect("a key");
    cluster.cellar(&["cells", "remove", "zone2"]);
    assert_eq!(users(&cluster, "zone2"), [""; 0]);
    // The runbook: its certificates are still listed, and all of them go with the one that is named.
    let path = cluster.directory().join("zone2/tls/pooler.crt").display().to_string();
    let (all, replication) = (serials(&cluster), path.replace("pooler.crt", "replication.crt"));
    cluster.cellar(&["certs", "revoke", &all[&path]]);
    let revoked = cluster.try_cellar(&["certs", "revoke", &all[&replication]]);
    assert!(revoked.code == 0 && revoked.stderr.contains("revoked already"), "{revoked:?}");

    cluster.cellar(&["cells", "add", "zone2"]);
    cluster.wait_streaming("zone2");
    let _ = cluster.backup("zone2", "full");
    assert_eq!(users(&cluster, "zone2"), ["app.zone2:1"]);
    let now = std::fs::read(cluster.directory().join("zone2/tls/server.key")).expect("a key");
    assert_ne!(now, key);
    let get = ["get", "--prefix", "/cellar/demo/cells/"];
    assert_ne!(cluster.etcdctl_as("stolen/pooler.crt", "stolen/server.key", &get).code, 0);
    // Adding a cell that is there finishes what was interrupted, and gives no name back.
    cluster.cellar(&["cells", "add", "zone2"]);
    assert_eq!(users(&cluster, "zone2"), ["app.zone2:1"]);
    let _ = cluster.backup("zone2", "incr");
}

#[test]
fn a_removal_that_was_interrupted_is_finished_by_up_or_by_itself() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    let leaves = |cell: &str| {
        let request = cellar_api::v1::RemoveCellRequest { name: cell.to_owned() };
        let removed = cluster.ask(async |client| client.remove_cell(request).await);
        removed.expect("it is no primary");
    };
    // It has left the topology, and its processes and its user are still there.
    leaves("zone3");
    cluster.cellar(&["up"]);
    assert_eq!(users(&cluster, "zone3"), [""; 0]);
    let directory = cluster.directory().join("zone3");
    assert!(directory.join("pg_data").exists());
    // Data that was kept, or that a run left when it was killed, is deleted by the same command.
    cluster.cellar(&["cells", "remove", "zone3", "--delete-data"]);
    assert!(!directory.exists());
    let _ = cluster.try_cellar(&["cells", "remove", "zone3", "--delete-data"]).refused(2);
    let _ = cluster.try_cellar(&["cells", "remove", "signing", "--delete-data"]).refused(2);
    let _ = cluster.backup("zone2", "incr");
}

#[test]
fn a_repository_and_a_cell_are_not_in_one_place_and_the_one_is_not_deleted_with_the_other() {
    let cluster = Cluster::new();
    let repo = cluster.directory().join("zone3");
    let up = |repo: &Path| {
        let repo = repo.display().to_string();
        cluster.try_cellar(&["up", "--cells", "zone1,zone2", "--port-offset", "auto", "--repo", &repo])
    };
    for inside in ["zone2", "zone2/pg_data/repo", "etcd/repo"] {
        let message = up(&cluster.directory().join(inside)).refused(2);
        assert!(message.contains("--repo") && message.contains("lie in one another"), "{message}");
    }
    assert!(!cluster.directory().exists(), "something was made");
    let _ = up(&repo).ok();
    let message = cluster.try_cellar(&["cells", "add", "zone3"]).refused(2);
    assert!(message.contains(&repo.display().to_string()), "{message}");

    // Somebody moves it to the disk of a cell, with a link in its place.
    let moved = cluster.directory().join("zone2/repo");
    std::fs::rename(&repo, &moved).expect("moved");
    std::os::unix::fs::symlink(&moved, &repo).expect("a link");
    for command in [&["cells", "remove", "zone2", "--delete-data"][..], &["down", "--destroy"]] {
        let message = cluster.try_cellar(command).refused(3);
        assert!(message.contains("lies in"), "{message}");
        // Nothing was stopped, or left the topology.
        let _ = cluster.backup("zone2", "incr");
    }
    assert!(moved.join("backup/app/backup.info").exists());
    std::fs::remove_file(&repo).expect("the link");
    std::fs::rename(&moved, &repo).expect("moved back");
    cluster.cellar(&["cells", "remove", "zone2", "--delete-data"]);
    cluster.cellar(&["down", "--destroy"]);
    assert!(repo.join("backup/app/backup.info").exists());
}
