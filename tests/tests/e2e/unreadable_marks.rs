//! What cannot be read says nothing: neither that data is from before a restore, nor that it is the present.

use cellar_api::v1::InstanceState;
use cellar_tests::{Cluster, eventually, kill_hard};

/// PostgreSQL of a cell goes on while `spoil` has its effect, is not started once it is dead, and is after `repair`.
fn neither_stopped_nor_started(
    cluster: &Cluster,
    cell: &str,
    named: &str,
    spoil: impl Fn(),
    repair: impl Fn(),
) {
    let says = |state: InstanceState| {
        cluster.status(cell).is_some_and(|status| status.state() == state && status.message.contains(named))
    };
    let before = cluster.postmaster(cell);
    spoil();
    eventually("status to name what cannot be read", || says(InstanceState::Running));
    assert_eq!(cluster.postmaster(cell), before, "PostgreSQL of {cell} goes on");
    kill_hard(before);
    eventually("status to say why it is not started", || says(InstanceState::Down));
    assert_ne!(cluster.try_sql(cell, "SELECT 1").code, 0);
    repair();
    eventually("PostgreSQL to be started", || cluster.try_sql(cell, "SELECT 1").code == 0);
}

#[test]
fn unreadable_mark_or_record_neither_stops_nor_starts_postgresql() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.cellar(&["restore", "--latest", "--yes"]);
    cluster.wait_streaming("zone2");
    for cell in ["zone1", "zone2"] {
        let mark = cluster.directory().join(cell).join("pg_data/cellar.incarnation");
        let good = std::fs::read(&mark).unwrap();
        let write = |content: &[u8]| std::fs::write(&mark, content).unwrap();
        let spoil = || write(&good[..good.len() / 2]);
        neither_stopped_nor_started(&cluster, cell, "cellar.incarnation", spoil, || write(&good));
    }
    let keys = cluster.etcd_keys();
    let key = keys.iter().find(|key| key.contains("/incarnations/")).expect("a record of the restore");
    let good = cluster.etcd_get(key);
    let spoil = || cluster.etcd_put(key, &good[..good.len() / 2]);
    neither_stopped_nor_started(&cluster, "zone1", key, spoil, || cluster.etcd_put(key, &good));
    assert_eq!(cluster.primary(), "zone1");
    cluster.wait_streaming("zone2");
    let _ = cluster.backup("zone2", "incr");
}
