//! What a stolen certificate opens in etcd: a pooler's its own records, every other one nothing.

use cellar_tests::{Cluster, Finished};

const KEY: &str = "zone1/tls/server.key";

fn as_zone1(cluster: &Cluster, arguments: &[&str]) -> Finished {
    cluster.etcdctl_as("zone1/tls/pooler.crt", KEY, arguments)
}

#[track_caller]
fn denied(finished: &Finished) {
    assert_ne!(finished.code, 0, "it was done: {finished:?}");
    assert!(finished.stderr.contains("permission denied"), "{finished:?}");
}

#[test]
fn a_poolers_certificate_opens_its_own_records_only() {
    let cluster = Cluster::up("zone1,zone2");
    let job = cluster.backup("zone2", "full");
    let job = job["id"].as_str().expect("an id").to_owned();
    let at = |path: &str| format!("/cellar/demo/{path}");
    let before = cluster.etcd_keys();

    // It reads what its work needs, and writes its own status, runs and claims.
    let read = as_zone1(&cluster, &["get", "--keys-only", &at(&format!("jobs/app/{job}"))]).ok();
    assert!(read.contains(&job), "{read}");
    let own = at("runs/app/zone1/00000000-0000-7000-8000-000000000001");
    let _ = as_zone1(&cluster, &["put", &own, "{}"]).ok();
    let _ = as_zone1(&cluster, &["del", &own]).ok();

    // Everything else is closed: jobs, other cells, the topology, the lock, the fence, the revocations, the leader.
    let forged = cluster.etcd_get(&at(&format!("jobs/app/{job}")));
    for path in [
        "jobs/app/00000000-0000-7000-8000-000000000002",
        &format!("jobs/app/{job}"),
        &format!("runs/app/zone2/{job}"),
        &format!("claims/app/zone2/{job}"),
        "status/app/zone2",
        "status/app/zone10",
        "status/web/zone1",
        "cells/zone1",
        "cells/zone9",
        "databases/app",
        "poolers/app/zone1",
        "poolers/app/zone2",
        "locks/app",
        "incarnations/app",
        "leaders/web",
        "revocations/list",
        "admins/leader",
        "audit/x",
    ] {
        denied(&as_zone1(&cluster, &["put", &at(path), &forged]));
        denied(&as_zone1(&cluster, &["del", &at(path)]));
    }
    denied(&as_zone1(&cluster, &["put", "/elsewhere", "x"]));
    denied(&as_zone1(&cluster, &["get", "--prefix", "/cellar/"]));
    denied(&as_zone1(&cluster, &["get", "--prefix", &at("audit/")]));
    denied(&as_zone1(&cluster, &["get", "--prefix", &at("runs/app/zone2/")]));
    // Nor may it let itself in further.
    for arguments in [
        &["role", "grant-permission", "app.zone1", "readwrite", "/cellar/", "--prefix"][..],
        &["user", "grant-role", "app.zone1", "root"],
        &["user", "add", "mallory", "--no-password"],
        &["auth", "disable"],
    ] {
        denied(&as_zone1(&cluster, arguments));
    }
    // multiadmin's opens the cluster's records and no others, and no users either.
    let as_admin = |arguments: &[&str]| {
        cluster.etcdctl_as("multiadmin/multiadmin.crt", "multiadmin/multiadmin.key", arguments)
    };
    denied(&as_admin(&["put", "/elsewhere", "x"]));
    denied(&as_admin(&["user", "list"]));
    // A certificate of the cluster's that is no user of etcd's: replication, pgBackRest, an operator.
    for (certificate, key) in [
        ("zone1/tls/replication.crt", KEY),
        ("zone1/tls/server.crt", KEY),
        ("client/client.crt", "client/client.key"),
    ] {
        let refused = cluster.etcdctl_as(certificate, key, &["get", "--prefix", &at("cells/")]);
        assert_ne!(refused.code, 0, "{certificate}: {refused:?}");
    }
    let without = cluster.etcd_keys();
    let lasting =
        |keys: &[String]| keys.iter().filter(|key| !key.contains("/status/")).cloned().collect::<Vec<_>>();
    assert_eq!(lasting(&without), lasting(&before), "a refused request changed something");

    // A cell that comes later is let in, and one that leaves is shut out.
    let _ = cluster.cellar(&["cells", "add", "zone3"]);
    let as_zone3 =
        |arguments: &[&str]| cluster.etcdctl_as("zone3/tls/pooler.crt", "zone3/tls/server.key", arguments);
    let _ = as_zone3(&["get", "--prefix", &at("cells/")]).ok();
    denied(&as_zone3(&["put", &at("status/app/zone1"), "{}"]));
    let _ = cluster.cellar(&["cells", "remove", "zone3"]);
    assert_ne!(as_zone3(&["get", "--prefix", &at("cells/")]).code, 0);
    // A second `up` changes nothing and shuts nobody out.
    let _ = cluster.cellar(&["up", "--dir", &cluster.directory().display().to_string()]);
    let _ = cluster.backup("zone2", "incr");
}
