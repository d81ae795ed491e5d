//! A data directory whose files lie on several disks: known before anything is done, and either handled or refused.

use std::path::{Path, PathBuf};
use std::process::Command;

use cellar_tests::{Cluster, run};

use crate::sealed_copies::place;

/// A directory that is mounted at another place, as long as the value lives.
struct Mounted(PathBuf);

impl Mounted {
    fn at(source: &Path, target: &Path) -> Self {
        let _ = run(Command::new("mount").arg("--bind").arg(source).arg(target)).ok();
        Self(target.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

fn move_to(from: &Path, to: &Path) {
    let _ = run(Command::new("cp").arg("--archive").arg("--no-target-directory").arg(from).arg(to)).ok();
    std::fs::remove_dir_all(from).unwrap();
}

#[test]
fn restore_of_a_mounted_data_directory_is_refused_before_the_fence() {
    let cluster = Cluster::up("zone1");
    cluster.sql("zone1", "CREATE TABLE t AS SELECT 1 AS i");
    cluster.cellar(&["down"]);
    let disk = place(&cluster, "disk");
    let data = cluster.directory().join("zone1/pg_data");
    move_to(&data, &disk);
    let _ = run(Command::new("install").args(["-d", "-m", "700"]).arg(&data)).ok();
    let mounted = Mounted::at(&disk, &data);
    cluster.cellar(&["up"]);

    for plan in [&["restore", "--latest", "--plan"][..], &["restore", "--latest", "--yes"]] {
        let refused = cluster.try_cellar(plan);
        assert_eq!(refused.code, 3, "{refused:?}");
        assert!(
            refused.stderr.contains("UNSUPPORTED") && refused.stderr.contains("mount point"),
            "{refused:?}"
        );
        assert!(refused.stderr.contains("--in-place"), "{refused:?}");
    }
    cluster.sql("zone1", "INSERT INTO t VALUES (2)");
    // What the hint says works.
    cluster.cellar(&["restore", "--latest", "--in-place", "--yes"]);
    assert_eq!(cluster.sql("zone1", "SELECT count(*) FROM t"), "2");
    cluster.cellar(&["down"]);
    drop(mounted);
}

#[test]
fn wal_on_another_disk_stays_there() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone1", "CREATE TABLE t AS SELECT 1 AS i");
    cluster.cellar(&["down"]);
    let mut places = Vec::new();
    for cell in ["zone1", "zone2"] {
        let disk = place(&cluster, &format!("wal-{cell}"));
        let wal = cluster.directory().join(cell).join("pg_data/pg_wal");
        move_to(&wal, &disk);
        std::os::unix::fs::symlink(&disk, &wal).unwrap();
        places.push((wal, disk));
    }
    cluster.cellar(&["up"]);
    cluster.wait_streaming("zone2");
    let stays = || {
        for (wal, disk) in &places {
            assert_eq!(std::fs::read_link(wal).ok().as_ref(), Some(disk));
        }
    };
    cluster.cellar(&["rebuild", "zone2"]);
    stays();
    cluster.cellar(&["backup", "--from", "zone2", "--type", "full"]);
    cluster.cellar(&["drill", "--on", "zone2", "--max-rate", "0"]);

    let refused = cluster.try_cellar(&["restore", "--latest", "--yes"]);
    assert!(refused.code == 3 && refused.stderr.contains("pg_wal"), "{refused:?}");
    cluster.cellar(&["restore", "--latest", "--in-place", "--onto", "zone1", "--yes"]);
    assert_eq!(cluster.sql("zone1", "SELECT count(*) FROM t"), "1");
    cluster.wait_streaming("zone2");
    stays();
}
