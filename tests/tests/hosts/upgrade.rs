//! The programs of hosts are exchanged, one host after the other, while a database is written to.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cellar_tests::{
    Finished, HOLD_TIMEOUT, HostsCluster, Ledger, binary, command_line, eventually, is_alive, release, run,
    wait_until,
};

/// How long what follows an upgrade may take: a lease of etcd, a job that is closed, rows that arrive.
const END_TIMEOUT: Duration = Duration::from_secs(120);

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
    ledger: Ledger,
}

impl Scene {
    #[track_caller]
    fn new() -> Option<Self> {
        let mut scene = Self { cluster: HostsCluster::specified(3)?, ledger: Ledger::default() };
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
        scene.ledger = Ledger::create(&scene.cluster, "db1");
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

    /// Begins to upgrade a host to programs of which this one does not begin: it waits for the file `go`. Returns when it
    /// does, so the upgrade stands still in the middle.
    #[track_caller]
    fn upgrade_held_at(&self, host: &str, name: &str) -> Child {
        let held = self.place(&format!("held-{host}-{name}"));
        std::fs::create_dir(&held).unwrap();
        for other in PROGRAMS.iter().filter(|other| **other != name) {
            std::fs::hard_link(self.place("new").join(other), held.join(other)).unwrap();
        }
        let (program, go) = (self.place("new").join(name), self.place("go"));
        script(
            &held.join(name),
            &format!(
                "#!/bin/sh\n[ \"$1\" = --version ] && exec {program} --version\nuntil [ -e {go} ]; do sleep 0.05; done\nexec {program} \"$@\"\n",
                program = program.display(),
                go = go.display()
            ),
        );
        let mut command = self.command(host, "cellar");
        command.args(["host", "--dir"]).arg(self.cluster.host_directory(host));
        command.args(["upgrade", "--timeout", "10m", "--from"]).arg(&held);
        let mut upgrade =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let script = self.bin(host).join(name);
        let waits = |pid: &i32| command_line(*pid).get(1).is_some_and(|word| Path::new(word) == script);
        wait_until("the upgrade to come to what does not begin", HOLD_TIMEOUT, || {
            if let Some(status) = upgrade.try_wait().unwrap() {
                return Err(format!("it has ended: {status}"));
            }
            let is_there = self.cluster.hosts.processes(host).iter().any(waits);
            if is_there { Ok(()) } else { Err("it is not there yet".to_owned()) }
        });
        upgrade
    }
}

#[test]
fn hosts_are_upgraded_in_turn_under_load_and_postgresql_does_not_notice() {
    let Some(scene) = Scene::new() else { return };
    let cluster = &scene.cluster;
    let before = scene.start_times();
    let (id, written) = scene.ledger.while_writing(cluster, || {
        let _ = scene.upgrade("db1", "new").ok();
        scene.assert_in_place("db1");
        // One in the middle of its backup.
        let (id, held) = cluster.hold_backup("db2");
        let _ = scene.upgrade("db2", "new").ok();
        scene.assert_in_place("db2");
        // What copied has ended with the multipooler that had started it.
        assert!(held.iter().all(|pid| !is_alive(*pid)), "{held:?}");
        // And one whose etcd a package has replaced.
        let etcd = scene.running("db3", "etcd");
        std::fs::remove_file(scene.bin("db3").join("etcd")).unwrap();
        std::fs::copy("/usr/bin/etcd", scene.bin("db3").join("etcd")).unwrap();
        let said = scene.upgrade("db3", "new");
        assert!(said.stderr.contains("etcd, multiadmin, multipooler of cell zone3 started anew"), "{said:?}");
        scene.assert_in_place("db3");
        assert_ne!(scene.running("db3", "etcd"), etcd);
        id
    });
    assert_eq!(written.failures, [""; 0], "of {} rows", written.count);
    assert_eq!(scene.start_times(), before, "PostgreSQL was started again");
    assert!(written.count > 0, "nothing was written");
    scene.ledger.wait_for_all(cluster, &BTreeSet::new(), END_TIMEOUT);
    for host in cluster.database_hosts() {
        for name in PROGRAMS {
            assert!(scene.has_content_of(&host, name, "new"), "{host} {name}");
            assert!(!scene.bin(&host).join(format!("{name}.previous")).exists());
        }
        let processes = ["etcd", "multiadmin", "multipooler"].map(|name| scene.running(&host, name));
        let again = scene.upgrade(&host, "new");
        assert!(again.stderr.contains("runs the programs that are in place"), "{again:?}");
        assert_eq!(["etcd", "multiadmin", "multipooler"].map(|name| scene.running(&host, name)), processes);
    }
    // It could not go on, and says why.
    let ended = cluster.ended(&id, END_TIMEOUT);
    cluster.check_backup("db2", &ended);
    assert_eq!(ended["state"], "JOB_STATE_FAILED", "{ended:#}");
    assert_eq!(ended["error"]["code"], "POOLER_RESTARTED", "{ended:#}");
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
    // Nothing is left that keeps good ones from being installed. A job that has nothing to do with the host goes on.
    let (id, held) = cluster.hold_backup("db3");
    let _ = scene.upgrade("db2", "new").ok();
    scene.assert_in_place("db2");
    release(&held);
    let ended = cluster.ended(&id, END_TIMEOUT);
    assert_eq!(ended["state"], "JOB_STATE_SUCCEEDED", "{ended:#}");
    cluster.check_backup("db3", &ended);
}

#[test]
fn a_host_is_upgraded_only_while_no_other_is_and_all_others_are_well() {
    let Some(scene) = Scene::new() else { return };
    let cluster = &scene.cluster;
    let programs = |host: &str| ["etcd", "multiadmin", "multipooler"].map(|name| scene.running(host, name));
    let (of_db1, of_db2) = (programs("db1"), programs("db2"));
    // While one has its turn, the next is told whose it is.
    let first = scene.upgrade_held_at("db1", "multiadmin");
    let refused = scene.upgrade("db2", "new").refused(3);
    assert!(refused.contains("the host of cell zone1 is being upgraded"), "{refused}");
    assert_eq!(programs("db2"), of_db2);
    std::fs::write(scene.place("go"), "").unwrap();
    let first: Finished = first.wait_with_output().unwrap().into();
    let _ = first.ok();
    let _ = scene.upgrade("db1", "new").ok();
    scene.assert_in_place("db1");
    assert!(programs("db1").iter().zip(&of_db1).skip(1).all(|(now, before)| now != before));
    let _ = scene.on("db3", &["stop"]).ok();
    eventually("zone3 to be down", || cluster.status("zone3").is_none());
    let refused = scene.upgrade("db2", "new").refused(3);
    assert!(refused.contains("cell zone3") && refused.contains("db3.test"), "{refused}");
    assert_eq!(programs("db2"), of_db2);
    assert!(scene.has_content_of("db2", "multipooler", "old"));
    // The host that is down itself may be upgraded: it comes up with the new programs.
    let _ = scene.upgrade("db3", "new").ok();
    scene.assert_in_place("db3");
    let _ = scene.upgrade("db2", "new").ok();
    scene.assert_in_place("db2");
    let _ = cluster.wait().ok();
}

#[test]
fn an_upgrade_that_is_killed_in_the_middle_is_finished_or_taken_back_by_the_next_one() {
    let Some(scene) = Scene::new() else { return };
    let cluster = &scene.cluster;
    let before = scene.start_times();
    let kill_in_the_middle = |host: &str, name: &str| {
        let mut upgrade = scene.upgrade_held_at(host, name);
        upgrade.kill().unwrap();
        let _ = upgrade.wait().unwrap();
        // What was well is kept until the next one has ended well.
        for name in ["multiadmin", "multipooler"] {
            let kept = std::fs::read(scene.bin(host).join(format!("{name}.previous"))).unwrap();
            assert!(kept == std::fs::read(scene.place("old").join(name)).unwrap(), "{host} {name}");
        }
    };
    let ((), written) = scene.ledger.while_writing(cluster, || {
        // multipooler does not run any more: the same host goes on at once.
        kill_in_the_middle("db1", "multipooler");
        let _ = scene.upgrade("db1", "new").ok();
        // multiadmin does not, and the record says until its lease has ended that the host is being upgraded.
        kill_in_the_middle("db2", "multiadmin");
        wait_until("another host to have its turn", END_TIMEOUT, || {
            let finished = scene.upgrade("db3", "new");
            if finished.code == 0 {
                return Ok(());
            }
            let is_told = finished.stderr.contains("the host of cell zone2 is being upgraded");
            assert!(finished.code == 3 && is_told, "{finished:?}");
            Err(finished.stderr)
        });
        // The next attempt is no better, and puts back what ran before the first.
        let failed = scene.upgrade("db2", "broken");
        assert_eq!(failed.code, 1, "{failed:?}");
        assert!(failed.stderr.contains("the programs of before run again and are well"), "{failed:?}");
        for name in ["multiadmin", "multipooler"] {
            assert!(scene.has_content_of("db2", name, "old"), "{name}");
        }
        scene.assert_in_place("db2");
        let _ = scene.upgrade("db2", "new").ok();
    });
    assert_eq!(written.failures, [""; 0], "of {} rows", written.count);
    assert!(written.count > 0, "nothing was written");
    scene.ledger.wait_for_all(cluster, &BTreeSet::new(), END_TIMEOUT);
    assert_eq!(scene.start_times(), before, "PostgreSQL was started again");
    for host in cluster.database_hosts() {
        scene.assert_in_place(&host);
        for name in PROGRAMS {
            assert!(scene.has_content_of(&host, name, "new"), "{host} {name}");
            assert!(!scene.bin(&host).join(format!("{name}.previous")).exists(), "{host} {name}");
        }
    }
    let _ = cluster.wait().ok();
    cluster.back_up("zone2");
    // What was kept long ago, by one that was interrupted and whose programs a start of the machine took into use.
    let kept = scene.bin("db1").join("multipooler.previous");
    std::fs::copy(scene.place("old").join("multipooler"), kept).unwrap();
    let failed = scene.upgrade("db1", "broken");
    assert!(failed.code == 1 && failed.stderr.contains("run again and are well"), "{failed:?}");
    assert!(scene.has_content_of("db1", "multipooler", "new"), "{failed:?}");
}
