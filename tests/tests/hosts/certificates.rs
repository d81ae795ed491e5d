//! Keys and certificates of hosts: replaced, and revoked when they were stolen.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_tests::{Finished, HostsCluster, block_on, eventually, wait_until};
use cellar_tls::{CertificateInfo, ClientTls, ProbeProtocol, probe};

/// How long a revocation may take to reach every server, on a busy machine.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(60);

/// Copies what a thief takes from a host.
fn steal(cluster: &HostsCluster, directory: &Path, name: &str) -> PathBuf {
    let stolen = cluster.hosts.directory("operator").join(name);
    std::fs::create_dir(&stolen).unwrap();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        std::fs::copy(entry.path(), stolen.join(entry.file_name())).unwrap();
    }
    stolen
}

/// The serial number of a certificate, by the end of its path in the operator's directory.
#[track_caller]
fn serial(cluster: &HostsCluster, path: &str) -> String {
    let list = cluster.json(&["certs", "list"]);
    let certificates = list["certificates"].as_array().unwrap();
    let found = certificates.iter().find(|one| one["path"].as_str().unwrap().ends_with(path));
    found.unwrap_or_else(|| panic!("{path}: {list}"))["serial"].as_str().unwrap().to_owned()
}

/// `etcdctl` that asks the member of one host with what was stolen.
#[track_caller]
fn ask_etcd(cluster: &HostsCluster, host: &str, stolen: &Path, certificate: &str, key: &str) -> Finished {
    let tls = ["ca.crt", certificate, key].map(|name| stolen.join(name));
    let timeouts = ["--dial-timeout=5s", "--command-timeout=5s"];
    let question = ["get", "--keys-only", "--prefix", "/cellar/demo/cells/"];
    cluster.etcdctl_as(tls, &[host], &[&timeouts[..], &question].concat())
}

/// PostgreSQL of a host, as the standby whose key was stolen.
#[track_caller]
fn stream(cluster: &HostsCluster, host: &str, port: &str, stolen: &Path) -> Finished {
    let file = |name: &str| stolen.join(name).display().to_string();
    let target = format!(
        "host={host}.test port={port} user=cellar_replication dbname=postgres replication=true sslmode=verify-ca sslrootcert={} sslcert={} sslkey={}",
        file("ca.crt"),
        file("replication.crt"),
        file("server.key"),
    );
    cluster.hosts.run("operator", &["psql", "-X", "-c", "IDENTIFY_SYSTEM", &target])
}

/// What a member of etcd answers to who presents this certificate.
#[track_caller]
fn answer_of_etcd(cluster: &HostsCluster, host: &str, files: [PathBuf; 3]) -> Result<(), String> {
    cellar_tls::install_ring_provider();
    let [ca, certificate, key] = files;
    let client = ClientTls::from_files(&ca, &certificate, &key).unwrap().rustls_config().unwrap();
    let (name, address) = (format!("{host}.test"), (cluster.hosts.address(host), 12379).into());
    let probed = cluster
        .hosts
        .within("operator", || block_on(probe(address, &name, ProbeProtocol::Grpc, client, REFUSAL_TIMEOUT)));
    probed.map_err(|error| error.to_string())?.accepted
}

/// Waits until a member of etcd ends the connection of who presents what was stolen, before anything was asked. It answers
/// to the operator.
#[track_caller]
fn assert_refused(cluster: &HostsCluster, host: &str, stolen: &Path, certificate: &str, key: &str) {
    let files = ["ca.crt", certificate, key].map(|name| stolen.join(name));
    wait_until(&format!("etcd of {host} to refuse {}", stolen.display()), REFUSAL_TIMEOUT, || {
        match answer_of_etcd(cluster, host, files.clone()) {
            Ok(()) => Err("it is accepted".to_owned()),
            Err(why) if why.contains("close_notify") || why.contains("eof") => Ok(()),
            Err(why) => Err(why),
        }
    });
    let own = ["ca/ca.crt", "state/tls/client.crt", "state/tls/client.key"];
    assert_eq!(answer_of_etcd(cluster, host, own.map(|name| cluster.directory().join(name))), Ok(()));
}

/// The users that etcd knows.
#[track_caller]
fn users(cluster: &HostsCluster) -> Vec<String> {
    let told = cluster.etcdctl(&["db1", "db2", "db3"], &["user", "list"]).ok();
    told.lines().map(str::to_owned).collect()
}

#[test]
fn what_was_stolen_from_a_host_is_revoked_once_the_hosts_use_other_keys() {
    let Some(cluster) = HostsCluster::well(3) else { return };
    let of_cell = steal(&cluster, &cluster.host_directory("db2").join("zone2/tls"), "of-cell");
    let as_cell = |host: &str| ask_etcd(&cluster, host, &of_cell, "pooler.crt", "server.key");
    let _ = as_cell("db1").ok();
    let _ = stream(&cluster, "db1", "25432", &of_cell).ok();
    let of_zone2 = serial(&cluster, "hosts/zone2/zone2/tls/server.crt");

    let former = CertificateInfo::from_file(&of_cell.join("pooler.crt")).unwrap().common_name;
    let known = users(&cluster);
    assert!(known.contains(&former), "{former} is not in {known:?}");

    // Nobody installs anything: it is said, and nothing is cut off.
    let waits = cluster.cellar(&["certs", "revoke", &of_zone2, "--timeout", "8s"]).refused(4);
    for said in ["nothing is revoked", "zone1.bundle", "zone2.bundle", "zone3.bundle", "host install"] {
        assert!(waits.contains(said), "{said}: {waits}");
    }
    let _ = as_cell("db1").ok();
    for host in cluster.database_hosts() {
        let _ = cluster.install(&host).ok();
    }
    let revoked = cluster.cellar(&["certs", "revoke", &of_zone2]);
    assert!(revoked.stderr.contains("accept pgbackrest:1 and no longer pgbackrest"), "{revoked:?}");
    let _ = revoked.ok();
    for host in cluster.database_hosts() {
        assert_refused(&cluster, &host, &of_cell, "pooler.crt", "server.key");
    }
    let left = users(&cluster);
    assert!(!left.contains(&former) && left.len() == known.len(), "{former} is in {left:?}");
    wait_until("PostgreSQL to refuse the stolen key", REFUSAL_TIMEOUT, || {
        let answer = stream(&cluster, "db1", "25432", &of_cell);
        let is_refused = answer.code != 0 && answer.stderr.contains("certificate revoked");
        if is_refused { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    let _ = cluster.wait().ok();
    cluster.back_up("zone2");
    cluster.back_up("zone3");
    // Every multiadmin is known to etcd by its new name, that of zone2 too.
    let client = cluster.directory().join("client").display().to_string();
    for host in cluster.database_hosts() {
        let address = format!("{host}.test:15070");
        let asked = ["cellar", "--admin", &address, "--client-dir", &client, "cells", "list"];
        let _ = cluster.hosts.run("operator", &asked).ok();
    }

    // multiadmin has the same name afterwards: etcd's members are told of the certificate by their hosts' multipoolers.
    let of_admin = steal(&cluster, &cluster.host_directory("db3").join("multiadmin"), "of-admin");
    let as_admin = |host: &str| ask_etcd(&cluster, host, &of_admin, "multiadmin.crt", "multiadmin.key");
    let of_zone3 = serial(&cluster, "hosts/zone3/multiadmin/multiadmin.crt");
    let waits = cluster.cellar(&["certs", "revoke", &of_zone3, "--timeout", "4s"]).refused(4);
    assert!(waits.contains("zone3.bundle") && !waits.contains("zone1.bundle"), "{waits}");
    let _ = as_admin("db1").ok();
    let _ = cluster.install("db3").ok();
    let _ = cluster.cellar(&["certs", "revoke", &of_zone3]).ok();
    for host in cluster.database_hosts() {
        assert_refused(&cluster, &host, &of_admin, "multiadmin.crt", "multiadmin.key");
        // A bundle that was issued before has an older list.
        let _ = cluster.install(&host).ok();
        assert_refused(&cluster, &host, &of_admin, "multiadmin.crt", "multiadmin.key");
    }
    // Of a certificate that is not known nobody can tell whose hosts used it: all get another name.
    let unknown = "0123456789abcdef0123456789abcdef";
    let waits = cluster.cellar(&["certs", "revoke", unknown, "--unknown", "--timeout", "4s"]).refused(4);
    for bundle in ["zone1.bundle", "zone2.bundle", "zone3.bundle"] {
        assert!(waits.contains(bundle), "{bundle}: {waits}");
    }
    for host in cluster.database_hosts() {
        let _ = cluster.install(&host).ok();
    }
    let revoked = cluster.cellar(&["certs", "revoke", unknown]);
    assert!(revoked.stderr.contains("accept pgbackrest:2 and no longer pgbackrest:1"), "{revoked:?}");
    let _ = revoked.ok();
    // A person's is revoked at once.
    let given = cluster.hosts.directory("operator").join("given").display().to_string();
    let _ = cluster.cellar(&["certs", "issue", "--role", "viewer", "--name", "ci", "--out", &given]).ok();
    let of_ci = serial_of(&cluster, &given);
    let as_ci = || {
        let words = ["cellar", "cells", "list", "--admin", "db1.test:15070", "--client-dir", &given];
        cluster.hosts.run("operator", &words)
    };
    let _ = as_ci().ok();
    let _ = cluster.cellar(&["certs", "revoke", &of_ci]).ok();
    eventually("multiadmin to refuse it", || as_ci().stderr.contains("is revoked"));
    let again = cluster.cellar(&["certs", "revoke", &of_ci]);
    assert!(again.stderr.contains("it is revoked"), "{again:?}");
    let _ = cluster.wait().ok();
    host_in_other_hands_is_switched_off_and_its_key_is_revoked(&cluster);
}

/// One host that is off holds up nobody; what it lacks is told until it has it.
#[track_caller]
fn host_in_other_hands_is_switched_off_and_its_key_is_revoked(cluster: &HostsCluster) {
    let stolen = steal(cluster, &cluster.host_directory("db2").join("zone2/tls"), "of-cell-again");
    let as_cell = |host: &str| ask_etcd(cluster, host, &stolen, "pooler.crt", "server.key");
    let of_zone2 = serial(cluster, "hosts/zone2/zone2/tls/server.crt");
    cluster.hosts.kill_all("db2");
    eventually("zone2 not to report", || cluster.status("zone2").is_none());
    let _ = as_cell("db1").ok();
    let waits = cluster.cellar(&["certs", "revoke", &of_zone2, "--timeout", "4s"]).refused(4);
    assert!(waits.contains("cell zone1: its multipooler uses certificates"), "{waits}");
    for host in ["db1", "db3"] {
        let _ = cluster.install(host).ok();
    }
    let revoked = cluster.cellar(&["certs", "revoke", &of_zone2]);
    for said in ["the host of cell zone2 is not known to use", "zone2.bundle", "and no longer pgbackrest:2"] {
        assert!(revoked.stderr.contains(said), "{said}: {revoked:?}");
    }
    assert!(!revoked.stderr.contains("the host of cell zone1"), "{revoked:?}");
    let _ = revoked.ok();
    for host in ["db1", "db3"] {
        assert_refused(cluster, host, &stolen, "pooler.crt", "server.key");
    }
    cluster.back_up("zone3");
    // It is on again, with what it had.
    let _ = cluster.on("db2", &["start"]).ok();
    let lacks = "cell zone2: its host was off when a certificate was revoked";
    let told = cluster.cellar(&["doctor"]);
    assert!(told.stdout.contains(lacks), "{told:?}");
    let _ = cluster.install("db2").ok();
    let _ = cluster.wait().ok();
    assert_refused(cluster, "db2", &stolen, "pooler.crt", "server.key");
    cluster.back_up("zone2");
    eventually("nothing to be left of it", || cluster.cellar(&["doctor"]).code == 0);
}

/// The serial number of a certificate that was issued last into a directory.
#[track_caller]
fn serial_of(cluster: &HostsCluster, directory: &str) -> String {
    let issued = cluster.json(&["certs", "list"]);
    let text = std::fs::read_to_string(Path::new(directory).join("client.crt")).unwrap();
    let copies = issued["certificates"].as_array().unwrap().iter();
    let mut found = copies.filter(|one| {
        one["path"].as_str().is_some_and(|path| std::fs::read_to_string(path).is_ok_and(|copy| copy == text))
    });
    found.next().unwrap()["serial"].as_str().unwrap().to_owned()
}

#[test]
fn keys_of_all_hosts_are_rotated_and_what_is_not_installed_is_told() {
    let Some(cluster) = HostsCluster::well(3) else { return };
    let _ = cluster.cellar(&["doctor"]).ok();
    let running = |host: &str| cluster.on(host, &["status"]).ok();
    let before = cluster.database_hosts().iter().map(|host| running(host)).collect::<Vec<_>>();
    let key = |host: &str, path: &str| std::fs::read(cluster.host_directory(host).join(path)).unwrap();
    let keys = |host: &str| {
        let cell = cellar_tests::cell_of(host);
        ["etcd/tls/server.key", "multiadmin/multiadmin.key", &format!("{cell}/tls/server.key")]
            .map(|path| key(host, path))
    };
    let old = cluster.database_hosts().iter().map(|host| keys(host)).collect::<Vec<_>>();
    let own = std::fs::read(cluster.directory().join("client/client.key")).unwrap();
    let of_etcd = serial(&cluster, "hosts/zone1/etcd/tls/server.crt");
    let rotated = cluster.cellar(&["certs", "rotate"]);
    assert!(
        rotated.stderr.contains("scp") && rotated.stderr.contains("cellar host install zone3.bundle"),
        "{rotated:?}"
    );
    assert_ne!(std::fs::read(cluster.directory().join("client/client.key")).unwrap(), own);

    let told = cluster.cellar(&["doctor"]);
    assert_eq!(told.code, 1, "{told:?}");
    for cell in ["zone1", "zone2", "zone3"] {
        assert!(
            told.stdout.contains(&format!("problem: cell {cell}: its etcd uses the certificate")),
            "{told:?}"
        );
        assert!(
            told.stdout.contains(&format!("`cellar host install {cell}.bundle && rm {cell}.bundle`")),
            "{told:?}"
        );
    }
    // Here its key is another one already; the host uses it still.
    let waits = cluster.cellar(&["certs", "revoke", &of_etcd, "--timeout", "4s"]).refused(4);
    assert!(waits.contains("cell zone1: its etcd uses") && !waits.contains("cell zone2"), "{waits}");
    for host in cluster.database_hosts() {
        let _ = cluster.install(&host).ok();
    }
    eventually("every host to use the newest", || cluster.cellar(&["doctor"]).code == 0);
    let _ = cluster.cellar(&["certs", "revoke", &of_etcd]).ok();
    for ((host, old), before) in cluster.database_hosts().iter().zip(&old).zip(&before) {
        let new = keys(host);
        assert!(old.iter().all(|key| !new.contains(key)), "{host}");
        assert_eq!(running(host), *before, "the same processes");
    }
    cluster.back_up("zone2");
    // One host alone.
    let (of_db1, of_db2) = (keys("db1"), keys("db2"));
    let _ = cluster.cellar(&["certs", "rotate", "zone2"]).ok();
    for host in ["db1", "db2"] {
        let _ = cluster.install(host).ok();
    }
    assert_eq!(keys("db1"), of_db1);
    assert!(keys("db2").iter().all(|key| !of_db2.contains(key)));
    eventually("db2 to use them", || cluster.cellar(&["doctor"]).code == 0);
    let refused = cluster.cellar(&["certs", "rotate", "--ca"]).refused(3);
    assert!(refused.contains("certs rotate --ca"), "{refused}");
}
