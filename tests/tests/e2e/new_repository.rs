//! A repository that was lost or replaced: `cellar up` begins the new one.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cellar_tests::Cluster;

/// Deletes everything in the repository, as a replaced disk would.
fn empty(repo: &Path) {
    for entry in std::fs::read_dir(repo).expect("the repository") {
        std::fs::remove_dir_all(entry.expect("an entry").path()).expect("removed");
    }
}

fn repo(cluster: &Cluster) -> PathBuf {
    cluster.directory().join("repo")
}

fn backups(cluster: &Cluster) -> usize {
    cluster.json(&["backups", "list"])["backups"].as_array().map_or(0, Vec::len)
}

#[test]
fn up_takes_a_first_backup_in_a_repository_that_was_replaced() {
    let cluster = Cluster::up("zone1,zone2");
    assert_eq!(backups(&cluster), 1);
    // The second time, too: an earlier first backup's job is remembered and says nothing about this repository.
    for _ in 0..2 {
        empty(&repo(&cluster));
        cluster.cellar(&["up"]);
        assert_eq!(backups(&cluster), 1);
        cluster.cellar(&["check"]);
        let _ = cluster.backup("zone2", "incr");
    }
}

#[test]
fn up_works_again_after_its_first_backups_have_failed() {
    let cluster = Cluster::up("zone1,zone2");
    let repo = repo(&cluster);
    empty(&repo);
    // Where the stanza would go, nothing can be written.
    let stanzas = repo.join("backup");
    std::fs::create_dir(&stanzas).expect("created");
    std::fs::set_permissions(&stanzas, std::fs::Permissions::from_mode(0o555)).expect("chmod");
    for _ in 0..2 {
        let failed = cluster.try_cellar(&["up"]).refused(1);
        assert!(failed.contains("the stanza cannot be looked up or created"), "{failed}");
    }
    std::fs::remove_dir(&stanzas).expect("removed");
    cluster.cellar(&["up"]);
    assert_eq!(backups(&cluster), 1);
}
