//! Several versions of PostgreSQL on one host.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cellar_tests::{Cluster, Namespace, run};

/// Where Debian has each version's programs.
const VERSIONS: &str = "/usr/lib/postgresql";

/// This host after the package of a newer version was installed beside the present one. The programs of the newer one
/// tell their version and can do nothing else.
fn host_with_newer_version() -> (tempfile::TempDir, Namespace) {
    let versions = tempfile::Builder::new().prefix("cellar-pg-").tempdir_in("/tmp").expect("a directory");
    let open =
        |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("ours");
    open(versions.path());
    let _ = run(std::process::Command::new("cp").args(["-a", "-T", VERSIONS]).arg(versions.path())).ok();
    let newer = versions.path().join("99/bin");
    std::fs::create_dir_all(&newer).expect("ours");
    for program in ["initdb", "pg_ctl", "postgres", "pg_controldata", "pg_basebackup"] {
        let path = newer.join(program);
        std::fs::write(&path, format!("#!/bin/sh\necho '{program} (PostgreSQL) 99.0'; exit 1\n"))
            .expect("ours");
        open(&path);
    }
    let namespace = Namespace::with_directory(versions.path(), Path::new(VERSIONS));
    (versions, namespace)
}

#[test]
fn database_keeps_the_programs_of_its_version_when_a_newer_one_is_installed() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.cellar(&["down"]);
    let (_versions, namespace) = host_with_newer_version();
    let cluster = cluster.inside(&namespace);
    cluster.cellar(&["up"]);
    cluster.cellar(&["backup", "--from", "zone2"]);
    cluster.cellar(&["drill", "--on", "zone2", "--skip-amcheck"]);
    cluster.cellar(&["rebuild", "zone2"]);
    cluster.cellar(&["restore", "--latest", "--yes"]);
    let _ = cluster.cellar(&["doctor"]);
}
