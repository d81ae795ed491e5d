//! A cell that another machine has taken over, and records of another cluster.

use cellar_tests::{Cluster, eventually, is_alive, kill_hard};

const CLAIM: &str = "/cellar/demo/claims/app/zone1/00000000-0000-0000-0000-000000000000";

/// The processes of the cell whose data would contradict that of the other machine end, and the machine says which one has
/// the cell. It does not take the cell back, also when the other one does not live.
#[test]
fn primary_of_a_cell_that_another_machine_has_taken_over_is_stopped_and_stays_so() {
    let cluster = Cluster::up("zone1,zone2");
    let (pooler, postmaster) = (cluster.pid("zone1/pid/multipooler.pid"), cluster.postmaster("zone1"));
    assert!(cluster.etcd_get(CLAIM).starts_with("\"1 "), "{}", cluster.etcd_get(CLAIM));
    cluster.etcd_put(CLAIM, "\"2 e db9 (machine id 0123)\"");
    eventually("the primary to be stopped", || !is_alive(postmaster));
    eventually("the multipooler to end", || !is_alive(pooler));
    let said = std::fs::read_to_string(cluster.directory().join("zone1/log/multipooler.log")).unwrap();
    assert!(said.contains("taken over by db9 (machine id 0123)"), "{said}");
    eventually("the cell to be shown as down", || cluster.status("zone1").is_none());

    let _ = cluster.try_cellar(&["up", "--timeout", "15s"]);
    let note = cluster.directory().join("zone1/state/not-claimed");
    eventually("it to say so again", || {
        std::fs::read_to_string(&note).is_ok_and(|text| text.contains("db9") && text.contains("host remove"))
    });
    assert_ne!(cluster.pid("zone1/pid/multipooler.pid"), pooler, "it was started");
    assert!(cluster.status("zone1").is_none());
    assert_eq!(cluster.etcd_get(CLAIM), "\"2 e db9 (machine id 0123)\"");
    assert_ne!(cluster.try_sql("zone1", "SELECT 1").code, 0, "PostgreSQL is not started");
    assert!(cluster.status("zone2").is_some(), "the other cell goes on");

    // An operator gives the cell to this machine.
    std::fs::write(cluster.directory().join("zone1/state/claims.json"), "{}").unwrap();
    kill_hard(cluster.pid("zone1/pid/multipooler.pid"));
    cluster.cellar(&["up"]);
    assert!(cluster.etcd_get(CLAIM).starts_with("\"3 "), "{}", cluster.etcd_get(CLAIM));
    assert!(!note.exists());
    assert_eq!(cluster.primary(), "zone1");
}

/// etcd's data was replaced by that of another cluster of the same name.
#[test]
fn nothing_is_done_with_the_records_of_another_cluster() {
    let cluster = Cluster::up("zone1,zone2");
    let key = "/cellar/demo/databases/app";
    let ours = cluster.etcd_get(key);
    let record: serde_json::Value = serde_json::from_str(&ours).unwrap();
    let id = record["clusterId"].as_str().unwrap().to_owned();
    let state = std::fs::read_to_string(cluster.directory().join("state/cluster.json")).unwrap();
    assert!(state.contains(&id), "{state}");
    let others = "01890a5d-ac96-774b-bcce-b302099a8057";
    cluster.etcd_put(key, &ours.replace(&id, others));
    let refused = cluster.try_cellar(&["backup", "--from", "zone2"]).refused(3);
    assert!(refused.contains(others) && refused.contains(&id), "{refused}");
    let status = "/cellar/demo/status/app/zone2";
    eventually("the multipooler to say so", || cluster.etcd_get(status).contains(others));
    let refused = cluster.try_cellar(&["up", "--timeout", "30s"]).refused(3);
    assert!(refused.contains(others), "{refused}");
    assert_eq!(cluster.sql("zone1", "SELECT 1"), "1", "PostgreSQL goes on");

    // One that starts now writes nothing at all.
    let pooler = cluster.pid("zone2/pid/multipooler.pid");
    let claim = cluster.etcd_get(&CLAIM.replace("zone1", "zone2"));
    assert!(claim.starts_with("\"1 "), "{claim}");
    let log = cluster.directory().join("zone2/log/multipooler.log");
    let refusals =
        || std::fs::read_to_string(&log).unwrap().matches("of another cluster of this name").count();
    kill_hard(pooler);
    let before = refusals();
    let _ = cluster.try_cellar(&["up", "--timeout", "30s"]).refused(3);
    eventually("it to refuse", || refusals() > before);
    assert_ne!(cluster.pid("zone2/pid/multipooler.pid"), pooler);
    eventually("its status to be gone", || cluster.etcd_get(status).is_empty());
    assert_eq!(cluster.etcd_get(&CLAIM.replace("zone1", "zone2")), claim, "nor does it claim the cell");
    cluster.etcd_put(key, &ours);
    cluster.wait_streaming("zone2");
    let _ = cluster.backup("zone2", "incr");
}

/// Each says what to write or to delete, and with that the cell goes on.
#[test]
fn damaged_claim_and_damaged_memory_of_it_say_how_to_go_on() {
    let cluster = Cluster::up("zone1,zone2");
    let claim = CLAIM.replace("zone1", "zone2");
    let directory = cluster.directory().join("zone2");
    let note = directory.join("state/not-claimed");
    cluster.etcd_put(&claim, "damaged");
    eventually("the multipooler that runs to say so", || {
        let said = std::fs::read_to_string(&note).unwrap_or_default();
        said.contains(&claim)
            && said.contains("delete the record")
            && said.contains("docs/troubleshooting.md")
    });
    cluster.etcd_delete(&claim);
    eventually("the claim to be written again", || cluster.etcd_get(&claim).starts_with("\"1 "));
    eventually("it to say so no longer", || !note.exists());

    let memory = directory.join("state/claims.json");
    kill_hard(cluster.pid("zone2/pid/multipooler.pid"));
    std::fs::write(&memory, "{").unwrap();
    let _ = cluster.try_cellar(&["up", "--timeout", "15s"]);
    eventually("it to say so", || {
        let said = std::fs::read_to_string(directory.join("log/multipooler.log")).unwrap_or_default();
        said.contains("claims.json is damaged") && said.contains("write {} into the file")
    });
    std::fs::write(&memory, "{}").unwrap();
    cluster.cellar(&["up"]);
    assert!(cluster.etcd_get(&claim).starts_with("\"2 "), "{}", cluster.etcd_get(&claim));
}
