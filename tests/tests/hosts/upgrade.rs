//! The programs of hosts are exchanged, one host after the other, while a database is written to.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use cellar_tests::{Finished, HostsCluster, binary, cell_of, command_line, eventually, run};

const PROGRAMS: [&str; 3] = ["cellar", "multiadmin", "multipooler"];

/// Makes executable what `text` is.
fn script(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A cluster on three hosts of which each has programs of its own, and new ones in the directories `new` and `broken` of
/// the operator's machine.
struct Scene {
    cluster: HostsCluster,
}

impl Scene {
    #[track_caller]
    fn new() -> Option<Self> {
        let scene = Self { cluster: HostsCluster::specified(3)? };
        let [old, new, broken] = ["old", "new", "broken"].map(|name| scene.place(name));
        for directory in [&old, &new, &broken] {
            std::fs::create_dir(directory).unwrap();
        }
        for name in PROGRAMS {
            // Without what debuggers need, a copy is small.
            let stripped = Command::new("strip").arg("-o").arg(old.join(name)).arg(binary(name)).status();
            assert!(stripped.unwrap().success(), "strip: install the Debian package binutils");
            // What follows the end of a program is not read: it is another file with the same program.
            let mut text = std::fs::read(old.join(name)).unwrap();
            text.extend(b"new");
            std::fs::write(new.join(name), &text).unwrap();
            std::fs::set_permissions(new.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::hard_link(new.join("multiadmin"), broken.join("multiadmin")).unwrap();
        script(
            &broken.join("multipooler"),
            "#!/bin/sh\n[ \"$1\" = --version ] && echo multipooler 9.9.9 && exit\necho no such thing >&2\nexit 1\n",
        );
        let _ = scene.cluster.init().ok();
        for host in scene.cluster.database_hosts() {
            let bin = scene.bin(&host);
            std::fs::create_dir(&bin).unwrap();
            for name in PROGRAMS {
                std::fs::hard_link(old.join(name), bin.join(name)).unwrap();
            }
            std::fs::copy("/usr/bin/etcd", bin.join("etcd")).unwrap();
            let bundle = scene.cluster.bundle(&host).display().to_string();
            let _ = run(scene.command(&host, "cellar").args(["host", "install", &bundle])).ok();
            let _ = scene.on(&host, &["start"]).ok();
        }
        let _ = scene.cluster.wait().ok();
        let _ = scene.cluster.sql("db1", "CREATE TABLE ledger (id serial PRIMARY KEY)").ok();
        Some(scene)
    }

    fn place(&self, name: &str) -> PathBuf {
        self.cluster.hosts.directory("operator").join(name)
    }

    /// Where a host has its programs.
    fn bin(&self, host: &str) -> PathBuf {
        self.cluster.hosts.directory(host).join("bin")
    }

    fn command(&self, host: &str, name: &str) -> Command {
        let bin = self.bin(host);
        let mut command = self.cluster.hosts.command(host, bin.join(name));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = std::iter::once(bin).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(places).unwrap());
        command
    }

    /// `cellar host` of a host's own program.
    #[track_caller]
    fn on(&self, host: &str, arguments: &[&str]) -> Finished {
        let directory = self.cluster.host_directory(host);
        run(self.command(host, "cellar").args(["host", "--dir"]).arg(directory).args(arguments))
    }

    #[track_caller]
    fn upgrade(&self, host: &str, from: &str) -> Finished {
        let from = self.place(from).display().to_string();
        self.on(host, &["upgrade", "--from", &from])
    }

    /// The processes that run a program of a host, each with the inode of the file that it runs.
    fn running(&self, host: &str, name: &str) -> Vec<(i32, u64)> {
        let runs = |pid: &i32| {
            let line = command_line(*pid);
            line.first().is_some_and(|program| Path::new(program) == self.bin(host).join(name))
        };
        let pids = self.cluster.hosts.processes(host).into_iter().filter(runs);
        pids.filter_map(|pid| Some((pid, std::fs::metadata(format!("/proc/{pid}/exe")).ok()?.ino())))
            .collect()
    }

    /// Every program of a host runs once, from the file that is in its place.
    #[track_caller]
    fn assert_in_place(&self, host: &str) {
        for name in ["etcd", "multiadmin", "multipooler"] {
            let file = self.bin(host).join(name).metadata().unwrap().ino();
            let running = self.running(host, name);
            assert!(matches!(&running[..], [(_, inode)] if *inode == file), "{host} {name}: {running:?}");
        }
    }

    /// When the PostgreSQL of each host was started.
    #[track_caller]
    fn start_times(&self) -> Vec<String> {
        let asked = "SELECT extract(epoch from pg_postmaster_start_time())";
        self.cluster.database_hosts().iter().map(|host| self.cluster.sql(host, asked).ok()).collect()
    }

    fn has_content_of(&self, host: &str, name: &str, directory: &str) -> bool {
        let read = |path: PathBuf| std::fs::read(path).unwrap();
        read(self.bin(host).join(name)) == read(self.place(directory).join(name))
    }

    /// A backup from a cell that has begun to copy.
    #[track_caller]
    fn backup_at_work(&self, host: &str) -> String {
        let ballast =
            "CREATE TABLE ballast AS SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 200000) i";
        let _ = self.cluster.sql("db1", ballast).ok();
        let cell = cell_of(host);
        let jobs = self.cluster.host_directory(host).join(&cell).join("jobs").display().to_string();
        let begun = self.cluster.json(&["backup", "--from", &cell, "--type", "full", "--no-wait"]);
        let id = begun["id"].as_str().unwrap().to_owned();
        eventually("pgBackRest to work", || {
            let works = self.cluster.hosts.processes(host).iter().any(|pid| {
                let line = command_line(*pid);
                line.iter().any(|word| word.contains(&jobs))
                    && line.last().is_some_and(|word| word == "backup")
            });
            let state = self.cluster.json(&["jobs", "show", &id])["state"].clone();
            works || state != "JOB_STATE_RUNNING" && state != "JOB_STATE_PENDING"
        });
        id
    }
}

#[test]
fn hosts_are_upgraded_in_turn_under_load_and_postgresql_does_not_notice() {
    let Some(scene) = Scene::new() else { return };
    let cluster = &scene.cluster;
    let before = scene.start_times();
    let stop = AtomicBool::new(false);
    let (count, id) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                count += usize::from(cluster.sql("db1", "INSERT INTO ledger DEFAULT VALUES").code == 0);
            }
            count
        });
        let work = || {
            let _ = scene.upgrade("db1", "new").ok();
            scene.assert_in_place("db1");
            // One in the middle of its backup.
            let id = scene.backup_at_work("db2");
            let _ = scene.upgrade("db2", "new").ok();
            scene.assert_in_place("db2");
            // And one whose etcd a package has replaced.
            let etcd = scene.running("db3", "etcd");
            std::fs::remove_file(scene.bin("db3").join("etcd")).unwrap();
            std::fs::copy("/usr/bin/etcd", scene.bin("db3").join("etcd")).unwrap();
            let said = scene.upgrade("db3", "new");
            assert!(
                said.stderr.contains("etcd, multiadmin, multipooler of cell zone3 started anew"),
                "{said:?}"
            );
            scene.assert_in_place("db3");
            assert_ne!(scene.running("db3", "etcd"), etcd);
            id
        };
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let count = writer.join().unwrap();
        (count, worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    assert_eq!(scene.start_times(), before, "PostgreSQL was started again");
    assert!(count > 0, "nothing was written");
    for host in cluster.database_hosts() {
        cluster.wait_for_rows(&host, count);
        for name in PROGRAMS {
            assert!(scene.has_content_of(&host, name, "new"), "{host} {name}");
            assert!(!scene.bin(&host).join(format!("{name}.previous")).exists());
        }
        let processes = ["etcd", "multiadmin", "multipooler"].map(|name| scene.running(&host, name));
        let again = scene.upgrade(&host, "new");
        assert!(again.stderr.contains("runs the programs that are in place"), "{again:?}");
        assert_eq!(["etcd", "multiadmin", "multipooler"].map(|name| scene.running(&host, name)), processes);
    }
    let mut ended = cluster.json(&["jobs", "show", &id]);
    eventually("the interrupted job to be closed", || {
        ended = cluster.json(&["jobs", "show", &id]);
        ended["state"] != "JOB_STATE_RUNNING"
    });
    let label = ended["result"]["backup"]["label"].as_str();
    match ended["state"].as_str() {
        Some("JOB_STATE_SUCCEEDED") => drop(cluster.json(&["backups", "show", label.unwrap()])),
        Some("JOB_STATE_FAILED") => assert!(label.is_none(), "{ended}"),
        _ => panic!("{ended}"),
    }
    cluster.back_up("zone2");
}

#[test]
fn programs_that_do_not_come_up_are_put_back_and_the_next_hosts_are_left_alone() {
    let Some(scene) = Scene::new() else { return };
    let cluster = &scene.cluster;
    let before = scene.start_times();
    let processes = |host: &str| ["etcd", "multiadmin", "multipooler"].map(|name| scene.running(host, name));
    let of_db2 = processes("db2");
    // What is no program at all is found before anything has changed.
    let multipooler = scene.place("broken").join("multipooler");
    let ends_at_once = std::fs::read_to_string(&multipooler).unwrap();
    script(&multipooler, "nothing");
    let refused = scene.upgrade("db2", "broken").refused(3);
    assert!(refused.contains("multipooler cannot be run"), "{refused}");
    assert_eq!(processes("db2"), of_db2);

    script(&multipooler, &ends_at_once);
    let failed = scene.upgrade("db2", "broken");
    assert_eq!(failed.code, 1, "{failed:?}");
    for said in [
        "multipooler of cell zone2 is not well with the new programs",
        "no such thing",
        "the programs of before run again and are well",
    ] {
        assert!(failed.stderr.contains(said), "{said}: {failed:?}");
    }
    for name in ["multiadmin", "multipooler"] {
        assert!(scene.has_content_of("db2", name, "old"), "{name}");
    }
    scene.assert_in_place("db2");
    let _ = cluster.wait().ok();
    assert_eq!(scene.start_times(), before, "PostgreSQL was started again");
    cluster.back_up("zone2");
    // Nothing is left that keeps good ones from being installed.
    let _ = scene.upgrade("db2", "new").ok();
    scene.assert_in_place("db2");
}

#[test]
fn a_host_is_upgraded_only_while_no_other_is_and_all_others_are_well() {
    let Some(scene) = Scene::new() else { return };
    let cluster = &scene.cluster;
    let programs = |host: &str| ["etcd", "multiadmin", "multipooler"].map(|name| scene.running(host, name));
    let (of_db1, of_db2) = (programs("db1"), programs("db2"));
    // Both at once: one has its turn, the other is told whose it is.
    let both = std::thread::scope(|scope| {
        let both = ["db1", "db2"].map(|host| scope.spawn(|| scene.upgrade(host, "new")));
        both.map(|one| one.join().unwrap())
    });
    let codes = both.each_ref().map(|finished| finished.code);
    let (done, refused) = match codes {
        [0, 3] => ("db1", &both[1]),
        [3, 0] => ("db2", &both[0]),
        _ => panic!("{both:?}"),
    };
    let turn = format!("the host of cell {} is being upgraded", cell_of(done));
    assert!(refused.stderr.contains(&turn), "{refused:?}");
    let (other, untouched) = if done == "db1" { ("db2", of_db2) } else { ("db1", of_db1) };
    assert_eq!(programs(other), untouched);

    let _ = scene.on("db3", &["stop"]).ok();
    eventually("zone3 to be down", || cluster.status("zone3").is_none());
    let refused = scene.upgrade(other, "new").refused(3);
    assert!(refused.contains("cell zone3") && refused.contains("db3.test"), "{refused}");
    assert_eq!(programs(other), untouched);
    assert!(scene.has_content_of(other, "multipooler", "old"));
    // The host that is down itself may be upgraded: it comes up with the new programs.
    let _ = scene.upgrade("db3", "new").ok();
    scene.assert_in_place("db3");
    let _ = scene.upgrade(other, "new").ok();
    scene.assert_in_place(other);
    let _ = cluster.wait().ok();
}
