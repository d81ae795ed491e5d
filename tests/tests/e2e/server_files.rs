//! Which files a pgBackRest server of a cell serves: those that it is for.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cellar_tests::{Cluster, Finished, eventually, give_to_postgres, run};
use cellar_tls::ClientTls;

use crate::certificates::{ask_pooler, cell_of_server, repo_command};
use crate::sealed_copies::place;

/// What the multipooler of zone1 says when its server is not kept to its files.
const UNCONFINED: &str = "this kernel has no Landlock";

/// Whether the kernel keeps the server of a cell to its files. If not, the operator is told.
fn is_confined(cluster: &Cluster, cell: &str) -> bool {
    let notes = cluster.status(cell).and_then(|status| status.versions).map(|versions| versions.notes);
    let unconfined = notes.expect("a status").iter().any(|note| note.contains(UNCONFINED));
    if unconfined {
        let told = cluster.try_cellar(&["doctor"]);
        assert!(told.stdout.contains(UNCONFINED), "{told:?}");
    }
    !unconfined
}

fn server_port(cluster: &Cluster, cell: &str) -> u16 {
    let card = cluster.poolers().into_iter().filter_map(|view| view.pooler).find(|card| card.cell == cell);
    u16::try_from(card.expect("a cell").pgbackrest_port).expect("a port")
}

#[test]
fn server_shows_a_member_its_own_cell_and_nothing_beside_it() {
    let cluster = Cluster::up("zone1,zone2");
    let port = server_port(&cluster, "zone1");
    let own = cell_of_server(&cluster, port);
    assert!(own.ends_with("zone1"), "{}", own.display());
    let beside = place(&cluster, "beside");
    let marker = beside.join("marker");
    std::fs::write(&marker, "a marker of this test").expect("a file");
    std::fs::set_permissions(&marker, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    give_to_postgres(&marker);
    // As another member of the cluster.
    let tls = cluster.directory().join("zone2/tls");
    let ask = |directory: &Path, what: &[&str]| -> Finished {
        let (certificate, key) = (tls.join("server.crt"), tls.join("server.key"));
        run(repo_command(&cluster, port, &certificate, &key, "app", directory).args(what))
    };
    let data = ask(&own.join("pg_data"), &["repo-get", "PG_VERSION"]);
    assert!(data.code == 0 && !data.stdout.trim().is_empty(), "the control: {data:?}");

    let (listed, read) = (ask(&beside, &["repo-ls"]), ask(&beside, &["repo-get", "marker"]));
    if !is_confined(&cluster, "zone1") {
        assert!(read.stdout.contains("a marker"), "nothing but the kernel keeps it from that: {read:?}");
        return;
    }
    assert!(listed.code != 0 && !listed.stdout.contains("marker"), "{listed:?}");
    assert!(read.code != 0 && read.stdout.is_empty(), "{read:?}");
    for (of_another, file) in
        [("zone2/tls", "server.crt"), ("multiadmin", "multiadmin.crt"), ("repo", "backup")]
    {
        let directory = cluster.directory().join(of_another);
        assert!(directory.join(file).exists(), "{of_another}/{file}");
        let listed = ask(&directory, &["repo-ls"]);
        assert!(listed.code != 0 && !listed.stdout.contains(file), "{of_another}: {listed:?}");
    }
    // And all that the server is for works.
    let _ = cluster.backup("zone2", "full");
}

#[test]
fn server_has_a_tablespace_as_soon_as_there_is_one() {
    let cluster = Cluster::up("zone1,zone2");
    let create = |name: &str, space: &Path| {
        cluster.sql("zone1", &format!("CREATE TABLESPACE {name} LOCATION '{}'", space.display()));
    };
    // Empty, since on one host the standby has it in the same place. What there is to copy, the primary's server tells.
    create("ts0", &place(&cluster, "ts0"));
    let _ = cluster.cellar(&["backup", "--from", "zone2", "--type", "full"]);

    let port = server_port(&cluster, "zone1");
    let tls = cluster.directory().join("zone1/tls");
    let ask = |directory: &Path| -> Finished {
        let (certificate, key) = (tls.join("server.crt"), tls.join("server.key"));
        run(repo_command(&cluster, port, &certificate, &key, "app", directory).arg("repo-ls"))
    };
    let pooler = ClientTls::from_files(&tls.join("ca.crt"), &tls.join("pooler.crt"), &tls.join("server.key"));
    let pooler = pooler.expect("a client");
    let pooler_port = cluster.poolers().into_iter().filter_map(|view| view.pooler);
    let pooler_port = pooler_port.into_iter().find(|card| card.cell == "zone1").expect("zone1").grpc_port;
    for name in ["ts1", "ts2"] {
        let space = place(&cluster, name);
        if is_confined(&cluster, "zone1") {
            let refused = ask(&space);
            assert!(refused.code != 0, "{name}: {refused:?}");
        }
        create(name, &space);
        // Who backs up another cell has asked this one before, which answers when the server has its files.
        ask_pooler(&pooler, pooler_port).expect("a live status");
        let listed = ask(&space);
        assert!(listed.code == 0 && listed.stdout.contains("PG_"), "{name}: {listed:?}");
    }
    let space = cluster.directory().join("ts1");
    cluster.sql("zone1", "DROP TABLESPACE ts1");
    if is_confined(&cluster, "zone1") {
        eventually("the server to have it no more", || ask(&space).code != 0);
    }
}

#[test]
fn server_has_the_data_that_a_restore_put_in_the_place_of_the_old() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.cellar(&["restore", "--latest", "--onto", "zone1", "--yes"]);
    eventually("zone2 to stream again", || {
        cluster.status("zone2").is_some_and(|status| status.streams_from.as_deref() == Some("zone1"))
    });
    let _ = cluster.backup("zone2", "full");
}
