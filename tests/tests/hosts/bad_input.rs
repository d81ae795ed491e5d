//! What an operator may do wrong, and what the commands say then.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cellar_tests::HostsCluster;

#[test]
fn bundle_is_refused_elsewhere_when_it_is_not_whole_and_when_it_is_an_old_one() {
    let Some(cluster) = HostsCluster::specified(3) else { return };
    let _ = cluster.init().ok();
    let elsewhere = cluster.install_from("db2", &cluster.bundle("db1")).refused(3);
    assert!(elsewhere.contains("for the host db1.test of cell zone1"), "{elsewhere}");

    let copy = cluster.hosts.directory("operator").join("copy.bundle");
    let text = std::fs::read(cluster.bundle("db1")).unwrap();
    let private = std::fs::Permissions::from_mode(0o600);
    for length in [text.len() - 1, text.len() / 2, 0] {
        std::fs::write(&copy, &text[..length]).unwrap();
        std::fs::set_permissions(&copy, private.clone()).unwrap();
        let short = cluster.install_from("db1", &copy).refused(3);
        assert!(short.contains("copy it from the operator's machine again"), "{short}");
    }
    assert!(!cluster.host_directory("db1").exists(), "nothing was written");
    std::fs::write(&copy, &text).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = cluster.install_from("db1", &copy).refused(3);
    assert!(exposed.contains("0644") && exposed.contains("cellar cluster bundle"), "{exposed}");

    // Issued again with new keys, it replaces the old one, which is then refused.
    std::fs::set_permissions(&copy, private).unwrap();
    let _ = cluster.install_from("db1", &copy).ok();
    let key = cluster.host_directory("db1").join("zone1/tls/server.key");
    let before = std::fs::read_to_string(&key).unwrap();
    let _ = cluster.cellar(&["cluster", "bundle", "zone1", "--new-keys"]).ok();
    let _ = cluster.install("db1").ok();
    assert_ne!(std::fs::read_to_string(&key).unwrap(), before);
    let old = cluster.install_from("db1", &copy).refused(3);
    assert!(old.contains("a newer one with number 2"), "{old}");
    // Another cluster of the same name: its bundles count from one again, too.
    let other = cluster.hosts.directory("operator").join("other").display().to_string();
    let specification = cluster.hosts.directory("operator").join("cluster.toml").display().to_string();
    let init = ["cellar", "cluster", "init", "--spec", &specification, "--dir", &other];
    for _ in 0..3 {
        let _ = cluster.hosts.run("operator", &init).ok();
    }
    let others = Path::new(&other).join("bundles/zone1.bundle");
    let foreign = cluster.install_from("db1", &others).refused(3);
    assert!(foreign.contains("another cluster that has the name demo"), "{foreign}");
    assert_eq!(cluster.install("db1").code, 0, "its own is taken as before");
    // A directory is an operator's or a host's.
    let host = cluster.host_directory("db1").display().to_string();
    let init = ["cellar", "cluster", "init", "--spec", &specification, "--dir", &host];
    let mixed = cluster.hosts.run("db1", &init).refused(2);
    assert!(mixed.contains("the operator's must be another one"), "{mixed}");
    let state = cluster.host_directory("db2").join("state");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::copy(cluster.directory().join("state/cluster.json"), state.join("cluster.json")).unwrap();
    let mixed = cluster.install("db2").refused(3);
    assert!(mixed.contains("is the operator's directory"), "{mixed}");
    // A record that cannot be read is replaced.
    std::fs::write(cluster.host_directory("db1").join("state/host.json"), "{").unwrap();
    let _ = cluster.on("db1", &["status"]).refused(3);
    let _ = cluster.install("db1").ok();
    assert_eq!(cluster.on("db1", &["status"]).code, 1);
    let unknown = cluster.cellar(&["cluster", "bundle", "zone9"]).refused(2);
    assert!(unknown.contains("zone9"), "{unknown}");
}

#[test]
fn init_names_what_it_refuses_and_goes_on_after_it_was_interrupted() {
    let Some(cluster) = HostsCluster::specified(3) else { return };
    cluster.write_specification("colour = \"red\"\n");
    let unknown = cluster.init().refused(2);
    assert!(unknown.contains("colour"), "{unknown}");
    cluster.write_specification("[[cells]]\nname = \"zone4\"\nhost = \"db9.test\"\n");
    let unresolved = cluster.init().refused(3);
    assert!(unresolved.contains("db9.test of cell zone4 has no address"), "{unresolved}");
    cluster.write_specification("[[cells]]\nname = \"zone4\"\nhost = \"db3\"\n");
    let same = cluster.init().refused(3);
    assert!(same.contains("cells zone3 and zone4 have the same address"), "{same}");
    assert!(!cluster.directory().exists(), "nothing was written");

    cluster.write_specification("");
    let _ = cluster.init().ok();
    // As if it had been killed before the last ones were made.
    let lost = cluster.directory().join("hosts/zone3/zone3/tls/pooler.crt");
    std::fs::remove_file(&lost).unwrap();
    std::fs::remove_file(cluster.bundle("db3")).unwrap();
    let _ = cluster.init().ok();
    assert!(lost.exists() && cluster.bundle("db3").exists());
    cluster.write_specification("etcd = true\nlisten = \"127.0.0.1\"\n");
    let other = cluster.init().refused(3);
    assert!(other.contains("and cells") && other.contains("was asked for"), "{other}");
}

#[test]
fn host_that_is_not_ready_is_told_all_that_is_missing_before_anything_is_written() {
    let Some(cluster) = HostsCluster::specified(1) else { return };
    let _ = cluster.init().ok();
    let repo = cluster.repo();
    std::fs::rename(&repo, repo.with_file_name("away")).unwrap();
    let mut blocker = cluster.hosts.command("db1", "sleep");
    let _ = cluster.hosts.start(blocker.arg("600"), "sleep.log");
    // A port of the cluster that another program of that host has.
    let taken = cluster.hosts.within("db1", || std::net::TcpListener::bind("0.0.0.0:12379").unwrap());
    let refused = cluster.install("db1").refused(3);
    assert!(refused.contains(&format!("{} is not there on this host", repo.display())), "{refused}");
    assert!(refused.contains("port 12379, needed by etcd"), "{refused}");
    assert!(!cluster.host_directory("db1").exists(), "nothing was written");
    drop(taken);
    std::fs::rename(repo.with_file_name("away"), &repo).unwrap();
    let _ = cluster.install("db1").ok();
    let _ = cluster.on("db1", &["start"]).ok();
    let again = cluster.on("db1", &["start"]);
    assert!(again.stderr.contains("runs already"), "{again:?}");
    let _ = cluster.wait().ok();
    for command in [&["down"][..], &["up"], &["certs", "rotate", "--ca"]] {
        let refused = cluster.cellar(command).refused(3);
        assert!(refused.contains("hosts of their own"), "{command:?}: {refused}");
    }
}
