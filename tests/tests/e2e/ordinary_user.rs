//! The whole, by a user who is neither root nor `postgres`.

use std::os::unix::fs::PermissionsExt;

use cellar_tests::{Cluster, bin_dir, ordinary_user};

#[test]
fn an_ordinary_user_runs_a_cluster() {
    // The build directory need not be readable for everybody; an installation is.
    let home = tempfile::Builder::new().prefix("cellar-bin-").tempdir_in("/tmp").expect("a directory");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(home.path(), open.clone()).expect("ours");
    for name in ["cellar", "multiadmin", "multipooler"] {
        let copy = home.path().join(name);
        std::fs::copy(bin_dir().join(name), &copy).expect("built");
        std::fs::set_permissions(&copy, open.clone()).expect("ours");
    }
    let user = ordinary_user();
    let cluster = Cluster::new().as_ordinary(user.clone(), home.path().join("cellar"));
    let _ = cluster.try_up("zone1,zone2").ok();
    cluster.load(1);
    assert_eq!(cluster.sql("zone2", "SELECT pg_is_in_recovery()"), "t");
    assert_eq!(cluster.sql("zone1", "SELECT current_user"), user.name);
    let job = cluster.backup("zone2", "incr");
    assert_eq!(job["result"]["backup"]["source"]["verified"], true);
    cluster.cellar(&["cells", "add", "zone3"]);
    cluster.wait_streaming("zone3");
    cluster.cellar(&["rebuild", "zone2"]);
    cluster.cellar(&["down"]);
    cluster.cellar(&["up"]);
    assert_eq!(cluster.sql("zone1", "SELECT count(*) FROM pgbench_accounts"), "100000");
    cluster.cellar(&["down", "--destroy"]);
}
