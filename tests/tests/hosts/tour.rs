//! From a specification to a proven backup over hosts, and what a database does there.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cellar_tests::{HostsCluster, cell_of};

/// Every file below a directory.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found
}

/// The private keys that a directory or a file holds, each as its text.
fn keys(place: &Path) -> BTreeSet<String> {
    let texts = if place.is_dir() { files(place) } else { vec![place.to_owned()] };
    let texts = texts.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    let text: String = texts.collect::<String>().replace("\\n", "\n");
    let blocks = text.split("-----BEGIN PRIVATE KEY-----").skip(1);
    blocks.map(|block| block.split("-----END").next().unwrap().to_owned()).collect()
}

#[test]
fn bundles_make_a_cluster_over_three_hosts_and_each_holds_its_own_keys_only() {
    let Some(cluster) = HostsCluster::specified(3) else { return };
    let _ = cluster.init().ok();
    let authority = keys(&cluster.directory().join("ca"));
    let operators = keys(&cluster.directory().join("client"));
    assert_eq!((authority.len(), operators.len()), (1, 1));
    let mut seen: BTreeSet<String> = authority.union(&operators).cloned().collect();
    for host in cluster.database_hosts() {
        let bundle = cluster.bundle(&host);
        assert_eq!(std::fs::metadata(&bundle).unwrap().permissions().mode() & 0o777, 0o600);
        let own = keys(&bundle);
        assert_eq!(own.len(), 3, "etcd, multiadmin and the cell");
        assert!(own.is_disjoint(&seen), "{host} has a key of somebody else");
        seen.extend(own.iter().cloned());

        let said = cluster.install(&host);
        assert!(said.stderr.contains("next:"), "{said:?}");
        assert_eq!(keys(&cluster.host_directory(&host)), own);
        let again = cluster.install(&host);
        assert!(again.stderr.contains("is in") && again.stderr.contains("already"), "{again:?}");
        // Nothing runs yet, and the table says so.
        let stopped = cluster.on(&host, &["status"]);
        assert_eq!(stopped.code, 1);
        assert_eq!(stopped.stdout.matches("does not run").count(), 4, "{stopped:?}");
        let _ = cluster.on(&host, &["start"]).ok();
    }
    let _ = cluster.wait().ok();
    for host in cluster.database_hosts() {
        let running = cluster.on(&host, &["status"]).ok();
        for part in ["etcd", "multiadmin", "multipooler", "PostgreSQL"] {
            assert!(running.contains(part), "{host}: {running}");
        }
    }
    let job = cluster.back_up("zone3");
    let directory = job["result"]["backup"]["source"]["dataDirectory"].as_str().unwrap();
    assert_eq!(Path::new(directory), cluster.host_directory("db3").join("zone3/pg_data"));
    // New keys are taken up by what runs, which is not restarted; the cluster is as well as before.
    let (before, old) = (cluster.on("db2", &["status"]).ok(), keys(&cluster.host_directory("db2")));
    let _ = cluster.cellar(&["cluster", "bundle", "zone2", "--new-keys"]).ok();
    let _ = cluster.install("db2").ok();
    assert!(keys(&cluster.host_directory("db2")).is_disjoint(&old));
    let _ = cluster.wait().ok();
    cluster.back_up("zone2");
    assert_eq!(cluster.on("db2", &["status"]).ok(), before, "the same processes");

    let kept = cluster.on("db3", &["remove"]);
    assert!(kept.stderr.contains("kept:"), "{kept:?}");
    assert!(keys(&cluster.host_directory("db3")).is_empty(), "its keys are gone");
    assert!(cluster.host_directory("db3").join("zone3/pg_data/PG_VERSION").exists(), "its data is not");
    let _ = cluster.on("db3", &["status"]).refused(4);
    // The bundle is still good: the host comes back with its data.
    let _ = cluster.install("db3").ok();
    let _ = cluster.on("db3", &["start"]).ok();
    let _ = cluster.wait().ok();
}

#[test]
fn a_database_over_hosts_is_drilled_rebuilt_restored_and_rolled_back() {
    let Some(cluster) = HostsCluster::well(3) else { return };
    cluster.create_rows(100);
    cluster.back_up("zone2");
    let _ = cluster.cellar(&["drill", "--on", "zone3", "--check", "select count(*) = 100 from ledger"]).ok();
    let _ = cluster.cellar(&["rebuild", "zone3"]).ok();
    cluster.wait_for_rows("db3", 100);
    let point = cluster.sql("db1", "SELECT pg_create_restore_point('before')");
    assert_eq!(point.code, 0, "{point:?}");
    let _ = cluster.sql("db1", "DELETE FROM ledger WHERE id > 10").ok();
    let _ = cluster.sql("db1", "SELECT pg_switch_wal()").ok();
    let restored = cluster.json(&["restore", "--to-name", "before", "--yes"]);
    let id = restored["id"].as_str().unwrap();
    for host in cluster.database_hosts() {
        cluster.wait_for_rows(&host, 100);
    }
    let _ = cluster.cellar(&["restore", "rollback", id, "--yes"]).ok();
    for host in cluster.database_hosts() {
        cluster.wait_for_rows(&host, 10);
    }
}

#[test]
fn a_cell_on_a_fourth_host_is_added_and_removed_also_by_the_specification() {
    let Some(cluster) = HostsCluster::well_of(3, 4) else { return };
    let directory = cluster.host_directory("db4");
    let add =
        ["cells", "add", "zone4", "--host", "db4.test", "--host-directory", directory.to_str().unwrap()];
    let added = cluster.cellar(&add);
    assert!(added.stderr.contains("cellar host install zone4.bundle"), "{added:?}");
    // Repeated, it finishes what was begun.
    let _ = cluster.cellar(&add).ok();
    let _ = cluster.install("db4").ok();
    let _ = cluster.on("db4", &["start"]).ok();
    let _ = cluster.wait().ok();
    cluster.back_up(&cell_of("db4"));
    let taken = cluster.cellar(&["cells", "add", "zone5", "--host", "db4.test"]).refused(3);
    assert!(taken.contains("zone4 and zone5"), "{taken}");
    // What is known of a cell stands, whoever adds it once more.
    let first = cluster.host_directory("db1").display().to_string();
    let again = ["cells", "add", "zone1", "--host", "db1.test", "--host-directory", &first];
    let _ = cluster.cellar(&again).ok();
    let known = std::fs::read_to_string(cluster.directory().join("state/cluster.json")).unwrap();
    let known: serde_json::Value = serde_json::from_str(&known).unwrap();
    let cells = known["cells"].as_array().unwrap();
    let members = cells.iter().filter(|cell| cell["host"]["etcd"] == true).count();
    assert_eq!(members, 3, "{known}");

    // The specification has three cells still.
    let specification = cluster.specification();
    let apply = |more: &[&str]| {
        cluster.cellar(&[&["cluster", "apply", "--spec", specification.to_str().unwrap()], more].concat())
    };
    let differences = || cluster.json(&["cluster", "diff", "--spec", specification.to_str().unwrap()]);
    let specified = std::fs::read_to_string(&specification).unwrap();
    let more_kept = specified.replace("[repo]\n", "[repo]\nretention_full = 14\n");
    std::fs::write(&specification, more_kept.replace("db2.test", "db9.test")).unwrap();
    let refused = apply(&["--yes"]).refused(3);
    assert!(
        refused.contains("cells.zone2.host is db2.test") && refused.contains("cellar cells remove zone2")
    );
    // The primary's cell stays, and nothing else is done before that is found.
    let (before, cells) = more_kept.split_once("[[cells]]").unwrap();
    let others = cells.split_once("[[cells]]").unwrap().1;
    std::fs::write(&specification, format!("{before}[[cells]]{others}")).unwrap();
    let refused = apply(&["--yes"]).refused(3);
    assert!(refused.contains("cells.zone1 is the primary"), "{refused}");
    assert_eq!(cluster.json(&["databases", "list"])["databases"][0]["database"]["retention"]["full"], 7);
    std::fs::write(&specification, &more_kept).unwrap();
    let expected = serde_json::json!({
        "changes": [
            { "change": "retention", "from": 7, "to": 14 },
            { "change": "removeCell", "cell": "zone4" },
        ],
        "refused": [],
        "left": [],
    });
    let dry_run = apply(&["--dry-run", "--output", "json"]).ok();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&dry_run).unwrap(), expected);
    assert_eq!(differences(), expected, "nothing was changed");

    let before = keys(&cluster.bundle("db4"));
    let _ = apply(&["--yes"]).ok();
    assert_eq!(cluster.json(&["databases", "list"])["databases"][0]["database"]["retention"]["full"], 14);
    assert!(!cluster.bundle("db4").exists() && !cluster.directory().join("hosts/zone4").exists());
    let _ = cluster.on("db4", &["remove", "--delete-data"]).ok();
    assert!(!directory.join("zone4").exists());
    let _ = cluster.wait().ok();
    assert_eq!(apply(&[]).ok().trim(), "the cluster is as specified");
    // Its host may still have its keys: a new cell of that name has others.
    let zone4 = format!(
        "[[cells]]\nname = \"zone4\"\nhost = \"db4.test\"\ndirectory = \"{}\"\n",
        directory.display()
    );
    // An addition that ends when the topology has the cell and the operator's directory does not know it.
    let state = cluster.directory().join("state/cluster.json");
    let known = std::fs::read(&state).unwrap();
    std::fs::write(&specification, format!("{more_kept}{zone4}")).unwrap();
    let _ = apply(&["--yes"]).ok();
    std::fs::write(&state, known).unwrap();
    std::fs::write(&specification, &more_kept).unwrap();
    assert_eq!(differences()["changes"], serde_json::json!([{ "change": "removeCell", "cell": "zone4" }]));
    let _ = apply(&["--yes"]).ok();
    assert_eq!(apply(&[]).ok().trim(), "the cluster is as specified");
    assert!(!cluster.json(&["cells", "list"]).to_string().contains("zone4"));

    std::fs::write(&specification, more_kept + &zone4).unwrap();
    let added = apply(&["--yes"]);
    assert!(added.stderr.contains("cellar host install zone4.bundle"), "{added:?}");
    assert!(keys(&cluster.bundle("db4")).is_disjoint(&before));
    let _ = cluster.install("db4").ok();
    let _ = cluster.on("db4", &["start"]).ok();
    let _ = cluster.wait().ok();
    assert_eq!(differences()["changes"], serde_json::json!([]));
}
