//! Bad input and bad days: a clear error, and nothing changed.

use std::net::TcpListener;

use cellar_tests::{Cluster, kill_hard};

#[test]
fn unknown_names_are_refused_with_the_known_ones() {
    let cluster = Cluster::up("zone1,zone2");
    let message = cluster.try_cellar(&["backup", "--from", "zone9"]).refused(2);
    assert!(message.contains("zone9") && message.contains("zone1, zone2"), "{message}");
    let message = cluster.try_cellar(&["backup", "--from", "zone2", "--database", "nosuch"]).refused(2);
    assert!(message.contains("nosuch"), "{message}");
    for hostile in ["../zone1", "-rf", "zone2;rm", "zone2\n", "Zone2", ""] {
        let finished = cluster.try_cellar(&["backup", &format!("--from={hostile}")]);
        assert_eq!(finished.code, 2, "{hostile:?}: {finished:?}");
    }
    let _ = cluster.try_cellar(&["jobs", "show", "00000000-0000-0000-0000-000000000000"]).refused(2);
    let message = cluster.try_cellar(&["cells", "remove", "zone9"]).refused(2);
    assert!(message.contains("zone1"), "{message}");
    let finished = cluster.try_cellar(&["backups", "show", "20200101-000000F"]);
    assert_eq!(finished.code, 2, "{finished:?}");
}

#[test]
fn a_port_in_use_is_named_before_anything_is_written() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    // 15070 + offset is multiadmin's.
    let Some(offset) = port.checked_sub(15070).filter(|offset| *offset < 40_000) else { return };
    let cluster = Cluster::new();
    let finished = cluster.try_cellar(&["up", "--cells", "zone1", "--port-offset", &offset.to_string()]);
    assert_eq!(finished.code, 3, "{finished:?}");
    assert!(finished.stderr.contains(&port.to_string()), "{}", finished.stderr);
    assert!(!cluster.directory().join("ca").exists(), "nothing was written");
}

#[test]
fn a_directory_that_cannot_work_is_refused() {
    let cluster = Cluster::new();
    let deep = cluster.directory().join("x".repeat(100));
    let text = deep.display().to_string();
    let finished = cluster.try_cellar(&["up", "--cells", "zone1", "--dir", &text]);
    assert!(matches!(finished.code, 2 | 3), "{finished:?}");
    assert!(finished.stderr.contains("107"), "{}", finished.stderr);
    assert!(!deep.exists());
}

#[test]
fn a_corrupt_record_is_skipped_and_named() {
    let cluster = Cluster::up("zone1,zone2");
    let key = cluster.etcd_keys().into_iter().find(|key| key.contains("/cells/zone2")).expect("a cell");
    let foreign = key.replace("zone2", "zone7");
    cluster.etcd_put(&foreign, "{\"name\": 7");
    cluster.etcd_put(&format!("{}surprise/x", key.split("cells/").next().expect("a prefix")), "?");
    cellar_tests::eventually("the record to be named", || {
        cluster.try_cellar(&["status"]).stdout.contains(&foreign)
            || cluster.try_cellar(&["status"]).stderr.contains(&foreign)
    });
    let _ = cluster.backup("zone2", "incr");
}

#[test]
fn without_etcd_or_multiadmin_commands_end_with_4() {
    let cluster = Cluster::up("zone1,zone2");
    kill_hard(cluster.pid("pid/etcd.pid"));
    let message = cluster.try_cellar(&["backup", "--from", "zone2"]).refused(4);
    assert!(message.contains("etcd"), "{message}");
    kill_hard(cluster.pid("pid/multiadmin.pid"));
    let _ = cluster.try_cellar(&["status"]).refused(4);
    // PostgreSQL does not care.
    cluster.cellar(&["up"]);
    let _ = cluster.backup("zone2", "incr");
}

/// A repo on a disk of its own, too small: refused before anything starts. Large enough at first and
/// filled later: the backup fails and says why. Mounting needs root.
#[test]
fn a_disk_that_is_too_full_is_named() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("NOT RUN: a small disk can only be mounted by root");
        return;
    }
    let disk = SmallDisk::mount("48m");
    let repo = disk.path().join("repo").display().to_string();
    let cluster = Cluster::new();
    let up = |timeout: &str| {
        cluster.try_cellar(&[
            "up",
            "--cells",
            "zone1,zone2",
            "--port-offset",
            "auto",
            "--repo",
            &repo,
            "--timeout",
            timeout,
        ])
    };
    let message = up("60s").refused(3);
    assert!(message.contains("MiB free") && message.contains("--repo"), "{message}");
    disk.resize("160m");
    let _ = up("120s").ok();
    let filler = disk.path().join("filler");
    let status = std::process::Command::new("dd")
        .args(["if=/dev/zero", "bs=1M", "count=400", "status=none"])
        .arg(format!("of={}", filler.display()))
        .stderr(std::process::Stdio::null())
        .status()
        .expect("dd runs");
    assert!(!status.success(), "the disk is full now");
    let id = cluster.begin_backup("zone2", "full");
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_FAILED", "{job:#}");
    assert_eq!(job["error"]["code"], "DISK_FULL", "{job:#}");
    std::fs::remove_file(filler).expect("ours");
    cellar_tests::eventually("archiving to go on", || {
        cluster.sql("zone1", "SELECT pg_switch_wal()");
        cluster.sql(
            "zone1",
            "SELECT coalesce(last_archived_time > last_failed_time, true) FROM pg_stat_archiver",
        ) == "t"
    });
    let _ = cluster.backup("zone2", "full");
}

/// A file system of its own in memory.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let directory =
            tempfile::Builder::new().prefix("cellar-disk-").tempdir_in("/tmp").expect("a directory");
        let disk = Self(directory);
        disk.run("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "tmpfs"]);
        disk
    }

    fn resize(&self, size: &str) {
        self.run("mount", &["-o", &format!("remount,size={size}")]);
    }

    fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status =
            std::process::Command::new(program).args(arguments).arg(self.path()).status().expect(program);
        assert!(status.success(), "{program} {arguments:?}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process of the cluster may still have a file open there.
        let _ = std::process::Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
